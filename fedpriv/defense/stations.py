"""Stations of a round, and Defense: an object that acts at some of them.

      SERVER                         CLIENT (x cohort)                              SERVER
  weights -> broadcast -> batch -> gradient -> update -> message ====> aggregate -> step -> weights'

A defense overrides the methods of the stations it acts at and leaves the others alone; the engine calls only
what is overridden. All but the message station are pure TensorFlow functions traced into the engine's graph.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fedpriv.base.plugin import Plugin
from fedpriv.defense.domain import Domain, Real
from fedpriv.models.spec import Spec

if TYPE_CHECKING:
    from fedpriv.account.ledger import Claim
    from fedpriv.procedure.procedure import Sampling


class Station(enum.Enum):
    """Where on the line a defense acts or an adversary taps."""

    BROADCAST = "broadcast"
    BATCH = "batch"
    GRADIENT = "gradient"
    UPDATE = "update"
    MESSAGE = "message"
    AGGREGATE = "aggregate"


@dataclass(frozen=True)
class Plan:
    """What is fixed about a federation before its first round; defenses check themselves against it.

    Attributes:
      spec: the flat update's layout.
      population: K, the number of clients.
      cohort: the largest cohort a round can have (for Poisson sampling the population).
      expected_cohort: the mean cohort size.
      sampling: how cohorts are drawn.
      weighting: `examples` or `uniform`.
      max_examples: largest number of examples of any client.
      rounds: planned number of rounds, or None when open.
    """

    spec: Spec
    population: int
    cohort: int
    expected_cohort: float
    sampling: Sampling
    weighting: str
    max_examples: int
    rounds: int | None = None


@dataclass(frozen=True)
class Context:
    """What a station's function may use, inside the graph.

    Attributes:
      plan: static facts.
      state: this defense's own state (tensors), as the server broadcast it.
      seed: int32 `[2]`, unique to (run, round, client, station, local step); feed it to stateless ops only.
      num_examples: int32 scalar, the client's example count (0 at server stations).
      count: int32 scalar at the aggregate station and in `next_state`, clients that took part (0 elsewhere).
    """

    plan: Plan
    state: Any
    seed: Any
    num_examples: Any = 0
    count: Any = 0


class Defense(Plugin):
    """Base of all defenses. Override the stations you act at.

    Every station on the way out and at the client runs the defenses in the order of the federation's list, the
    aggregate station in reverse. Values at the seams are flat float vectors `[d]`. Metrics are dicts of scalar
    tensors; the engine reports their cohort mean, filed under the defense's label (`labels`).

    Station functions are traced into a graph as they stand, without AutoGraph: where the way depends on a tensor's
    value, write `tf.where` or `tf.cond`, not Python's `if`.
    """

    #: What it takes and gives on the way from update to message.
    takes: ClassVar[Domain] = Real()
    gives: ClassVar[Domain] = Real()
    #: Whether `gradient` wants per-example gradients `[b, d]` instead of their mean `[d]`.
    per_example: ClassVar[bool] = False
    #: Whether the station functions are deterministic, so that `View.simulate` can replay them exactly.
    replayable: ClassVar[bool] = True
    #: Whether all its randomness is at the aggregate station: then `replay` is exact for whoever sees messages, or
    #: their sum before that station.
    noise_at_server: ClassVar[bool] = False
    #: Whether `update` never lengthens its input's L2 norm, so that a bound set before it still holds after it.
    contractive: ClassVar[bool] = False
    #: Whether its guarantee needs the server to divide the sum by a public constant (the expected cohort size)
    #: instead of the cohort's own weight, which one client's presence would change.
    fixed_denominator: ClassVar[bool] = False
    #: Whether what `next_state` reads is itself covered by this defense's claims; if not, a state that changes
    #: from round to round carries unprotected data into later rounds, and the ledger gives no number.
    private_state: ClassVar[bool] = False
    #: Name of the attack that knows about this defense, if one ships; reports warn where there is none.
    adaptive_attack: ClassVar[str] = ""

    def check(self, plan: Plan) -> None:
        """Raises StackError or ParameterError if this defense cannot work in that federation."""

    def initial_state(self, plan: Plan) -> Any:
        """State kept by the server between rounds: a (possibly nested) tuple of arrays; default none."""
        return ()

    def broadcast(self, weights: Any, context: Context) -> Any:
        """Acts on the weights `[d]` the server sends; returns weights `[d]`."""
        raise NotImplementedError

    def batch(self, x: Any, y: Any, context: Context) -> tuple[Any, Any]:
        """Acts on one batch `x [b, ...]` float, `y [b]` int or `[b, classes]` float; returns the same kinds."""
        raise NotImplementedError

    def gradient(self, gradient: Any, context: Context) -> tuple[Any, dict[str, Any]]:
        """Acts on one local step's gradient, `[d]`, or `[b, d]` if `per_example`; returns (the same, metrics)."""
        raise NotImplementedError

    def update(self, update: Any, context: Context) -> tuple[Any, dict[str, Any]]:
        """Acts on one client's finished model delta `[d]`; returns (update `[d]`, metrics)."""
        raise NotImplementedError

    def aggregate(self, total: Any, context: Context) -> tuple[Any, dict[str, Any]]:
        """Acts on the decoded weighted sum of updates `[d]`; returns (sum `[d]`, metrics)."""
        raise NotImplementedError

    def next_state(self, state: Any, metrics: dict[str, Any], context: Context) -> Any:
        """State for the next round, from this round's metrics; default unchanged.

        Args:
          state: this round's, as arrays.
          metrics: what this defense reported, by its own names: cohort means of the client stations' metrics, and
            the aggregate station's. A round that no client finished has no client metrics, and only defenses with
            a `private_state` are asked then, since skipping them would tell that the cohort was empty.
          context: with `count`, the clients that took part.

        Returns:
          The same structure of arrays; they are cast to the dtypes of the initial state.
        """
        return state

    def claims(self, plan: Plan) -> list[Claim]:
        """Formal privacy claims of one round of this defense, for the ledger; default none."""
        return []

    def replay(self) -> Defense | None:
        """The deterministic stand-in that `View.simulate` runs for an adversary who knows this defense.

        None leaves the station out (the default for noise, whose mean is zero).
        """
        return self if self.replayable else None

    def acts_at(self, station: Station) -> bool:
        """Whether this defense overrides that station."""
        return getattr(type(self), station.value, None) is not getattr(Defense, station.value, None)

    @property
    def stations(self) -> list[Station]:
        """Stations this defense acts at."""
        return [s for s in Station if self.acts_at(s)]


def labels(defenses: Sequence[Defense]) -> list[str]:
    """What each defense's metrics are filed under: its name, numbered from the second of that name on."""
    made: list[str] = []
    for defense in defenses:
        name = defense.name or type(defense).__name__
        repeats = sum(label.partition("#")[0] == name for label in made)
        made.append(f"{name}#{repeats + 1}" if repeats else name)
    return made


def state_array(leaf: Any) -> np.ndarray:
    """A state's leaf as an array that a graph takes without changing its precision; a Python float is a float32."""
    return np.asarray(leaf, np.float32) if isinstance(leaf, float) else np.asarray(leaf)
