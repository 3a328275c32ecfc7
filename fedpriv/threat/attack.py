"""Attack: a function of a View. Finding: what it claims to have found."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fedpriv.base.errors import CapabilityError
from fedpriv.base.plugin import Plugin
from fedpriv.threat.replays import measured

if TYPE_CHECKING:
    from fedpriv.threat.dossier import Dossier
    from fedpriv.threat.knowledge import Knowledge
    from fedpriv.threat.view import View


class Capability(enum.Enum):
    """What an attack may need of its view; the value says it in words."""

    REAL_UPDATE = "a real-valued update or sum of updates (not ring elements or ciphertext)"
    SINGLE_CLIENT = "the update of a single client (not a sum over clients)"
    LABELS = "the examples' labels"
    NUM_EXAMPLES = "the number of examples behind the update"
    PROCEDURE = "the local training procedure (needed to replay it)"
    SINGLE_STEP = "an update made by one local step (a gradient up to scale)"
    SOFTMAX = "a classifier trained by softmax cross-entropy (task 'classes')"
    CLASSIFIER_BIAS = "a bias in the last layer of a softmax classifier"
    BATCH_STATISTICS = "the batch-norm statistics of the client's batch (an adversary that knows 'batch_statistics')"
    LAB = "data of its own, to calibrate or train on (auxiliary data)"
    RUNNING_STATISTICS = (
        "a model that normalizes with trained batch-norm running statistics (none, or the initial mean 0 and variance "
        "1, say nothing about the data)"
    )
    AUXILIARY = "auxiliary data of the same kind (an adversary that knows 'auxiliary(data=...)')"
    GENERATOR = "a generator of examples of the same kind (an adversary that knows 'generator(...)')"


@dataclass(frozen=True)
class Finding:
    """An attack's claim. Arrays are in the attack's own order; scoring matches them one-to-one.

    Attributes:
      x: reconstructions `[n, *input_shape]`, float32, or None.
      y: labels `[n]` int, or None if it claims none.
      objective: the attack's own final objective (lower is better), its only way to choose among restarts.
      evaluations: gradient evaluations spent, over all restarts.
      seconds: wall-clock of the attack, without compilation when `compile_seconds` tells it apart.
      compile_seconds: one-off tracing and compilation.
      restarts: how many starts were made.
      history: `[k, 2]` of (evaluations so far, objective) for the chosen restart, or None.
      path: `[k, n, *input_shape]` float32, the examples at the rows of `history`, if the attack was asked to keep them.
      confidence: `[m]` float, for goals that ask yes or no: higher is surer of yes; one for each that was asked about.
      guess: bool `[m]`, the answers, where the attack sets a threshold of its own; None if it only ranks.
      measures: numbers that the attack wants in tables, by name, such as its own rank or residual.
      extra: anything else, by name.
      replayed: labels of the known defenses that the attack's replay took into account; measured by `Attack.run`.
    """

    x: np.ndarray | None = None
    y: np.ndarray | None = None
    objective: float = float("nan")
    evaluations: int = 0
    seconds: float = 0.0
    compile_seconds: float = 0.0
    restarts: int = 1
    history: np.ndarray | None = None
    path: np.ndarray | None = None
    confidence: np.ndarray | None = None
    guess: np.ndarray | None = None
    measures: dict[str, float] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    replayed: tuple[str, ...] = ()


class Attack(Plugin):
    """Base of all attacks: parameters, the capabilities needed, and `run`.

    Override `attack`, which gets one view, or `attack_dossier`, which gets all that its adversary holds, or both.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset()
    #: Rounds that it must have listened in.
    least_rounds: ClassVar[int] = 1
    #: Names of the goals whose questions it answers; the first is meant where none is named.
    goals: ClassVar[tuple[str, ...]] = ("reconstruction", "labels")

    def requirements(self) -> frozenset[Capability]:
        """What it needs of each view with these parameters."""
        return self.needs

    def brings(self) -> tuple[Knowledge, ...]:
        """What it knows through its parameters and not from its adversary, such as auxiliary data.

        The trial adds it to the threat line, since whoever makes the attack must have it.
        """
        return ()

    def equipped(self, view: View) -> Attack:
        """This attack with what the adversary holds where its parameters say `held`; called before `attack`."""
        return self

    @classmethod
    def remembers(cls) -> bool:
        """Whether it attacks a whole dossier rather than one view."""
        return cls.attack_dossier is not Attack.attack_dossier

    def require(self, view: View) -> None:
        """Raises CapabilityError naming what the view lacks."""
        missing = sorted(self.requirements() - view.capabilities, key=lambda c: c.name)
        if missing:
            raise CapabilityError(
                f"attack '{self.name}' needs {'; and '.join(c.value for c in missing)}, which this view does not "
                f"give: {view.describe()} Choose another attack, or an adversary that has it."
            )

    def run(self, held: View | Dossier, seed: int = 0) -> Finding:
        """Attacks one view, or all that an adversary holds; the same seed gives the same finding on one machine.

        Raises:
          CapabilityError: it lacks something this attack needs, or has several pages for an attack on one.
        """
        from fedpriv.threat.dossier import Dossier

        dossier = held if isinstance(held, Dossier) else Dossier.of(held)
        if len(dossier.rounds) < self.least_rounds:
            raise CapabilityError(
                f"attack '{self.name}' needs views of {self.least_rounds} rounds, but this is {dossier.describe()} "
                "Let the adversary listen in more rounds, or choose another attack."
            )
        for view in dossier.pages:
            self.require(view)
        equipped = self.equipped(dossier.pages[0])
        with measured() as replayed:
            if self.remembers():
                finding = equipped.attack_dossier(dossier, seed)
            else:
                finding = equipped.attack(dossier.only(f"attack '{self.name}'"), seed)
        return replace(finding, replayed=tuple(sorted(replayed)))

    def attack(self, view: View, seed: int) -> Finding:
        """The attack on one view; called with the needs met."""
        raise CapabilityError(f"attack '{self.name}' has no method 'attack'; write one, or 'attack_dossier'")

    def attack_dossier(self, dossier: Dossier, seed: int) -> Finding:
        """The attack on all views of one adversary; called with the needs met on each of them."""
        return self.attack(dossier.only(f"attack '{self.name}'"), seed)
