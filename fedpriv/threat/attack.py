"""Attack: a function of a View. Finding: what it claims to have found."""

from __future__ import annotations

import enum
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fedpriv.base.errors import CapabilityError
from fedpriv.base.plugin import Plugin

if TYPE_CHECKING:
    from fedpriv.threat.view import View


class Capability(enum.Enum):
    """What an attack may need of its view; the value says it in words."""

    REAL_UPDATE = "a real-valued update or sum of updates (not ring elements or ciphertext)"
    SINGLE_CLIENT = "the update of a single client (not a sum over clients)"
    LABELS = "the examples' labels"
    NUM_EXAMPLES = "the number of examples behind the update"
    PROCEDURE = "the local training procedure (needed to replay it)"
    SINGLE_STEP = "an update made by one local step (a gradient up to scale)"
    CLASSIFIER_BIAS = "a bias in the model's last layer"
    BATCH_STATISTICS = "the batch-norm statistics of the client's batch (an adversary that knows 'batch_statistics')"
    LAB = "data of its own, to calibrate or train on (auxiliary data)"
    RUNNING_STATISTICS = (
        "a model that normalizes with trained batch-norm running statistics (none, or the initial mean 0 and variance "
        "1, say nothing about the data)"
    )


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


class Attack(Plugin):
    """Base of all attacks: parameters, the capabilities needed, and `run`."""

    needs: ClassVar[frozenset[Capability]] = frozenset()
    #: Names of the goals whose questions it answers; the first is meant where none is named.
    goals: ClassVar[tuple[str, ...]] = ("reconstruction", "labels")
    #: Whether it works through `View.simulate`, and so through every defense that its adversary knows.
    adapts: ClassVar[bool] = False

    def requirements(self) -> frozenset[Capability]:
        """What it needs of a view with these parameters."""
        return self.needs

    def require(self, view: View) -> None:
        """Raises CapabilityError naming what the view lacks."""
        missing = sorted(self.requirements() - view.capabilities, key=lambda c: c.name)
        if missing:
            raise CapabilityError(
                f"attack '{self.name}' needs {'; and '.join(c.value for c in missing)}, which this view does not "
                f"give: {view.describe()} Choose another attack, or an adversary that has it."
            )

    def run(self, view: View, seed: int = 0) -> Finding:
        """Attacks `view`; the same seed gives the same finding on one machine.

        Raises:
          CapabilityError: the view lacks something this attack needs.
        """
        self.require(view)
        return self.attack(view, seed)

    @abstractmethod
    def attack(self, view: View, seed: int) -> Finding:
        """The attack itself; called with the needs met."""
