"""Stations of a round, and Defense: an object that acts at some of them.

      SERVER                                CLIENT (x cohort)                                          SERVER
  weights -> broadcast -> data -> batch -> gradient -> update -> encode -> message ===> aggregate -> step -> weights'

`model` stands before the line: a defense may replace the model. A defense overrides the methods of the stations it
acts at and leaves the others alone; the line calls only what is overridden. Station functions are pure TensorFlow,
traced into the engine's graph.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from fedpriv.base.errors import StackError
from fedpriv.base.plugin import Plugin
from fedpriv.base.types import Array, Examples, Flat, Labels, Nested, Scalar, Tensor
from fedpriv.defense.claim import Claim
from fedpriv.defense.context import Context
from fedpriv.defense.domain import Domain, Real
from fedpriv.defense.mixture import Mixture
from fedpriv.defense.noise import Noise
from fedpriv.defense.passed import Passed
from fedpriv.defense.plan import Plan
from fedpriv.defense.transformation import Transformation
from fedpriv.models.example_gradients import ExampleClip
from fedpriv.models.model import Model
from fedpriv.models.spec import Spec

__all__ = ["Context", "Defense", "Plan", "Station", "labels", "state_array"]


class Station(enum.Enum):
    """Where on the line a defense acts or an adversary taps."""

    MODEL = "model"
    BROADCAST = "broadcast"
    DATA = "data"
    BATCH = "batch"
    GRADIENT = "gradient"
    UPDATE = "update"
    ENCODE = "encode"
    MESSAGE = "message"
    AGGREGATE = "aggregate"
    STEP = "step"


#: Stations that this class cannot give an author: sending is a protocol's, which runs on the host.
_NOT_FUNCTIONS = {
    "message": "no line calls it; a defense that sends messages derives from fedpriv.defense.protocol.Protocol",
    "next_state": "no line calls it; give the next state back with Passed(value, state=...) from a server's station",
    "contractive": "nothing reads it; say what the defense makes of a bound by overriding maps(given, plan)",
    "gives": "nothing reads it; say what the defense gives by overriding maps(given, plan)",
    "fixed_denominator": "nothing reads it; it follows from noise(plan) with where='aggregate'",
}


class Defense(Plugin):
    """Base of all defenses. Override the stations you act at.

    Every station on the way out and at the client runs the defenses in the order of the federation's list, the
    aggregate and step stations in reverse. A station returns the value alone, or a `fedpriv.defense.passed.Passed`
    with a tally, a log, or a state besides. What a station may use is `fedpriv.defense.context.Context`.

    Station functions are traced into a graph as they stand, without AutoGraph: where the way depends on a tensor's
    value, write `tf.where` or `tf.cond`, not Python's `if`.
    """

    #: What it takes on the way from update to message.
    takes: ClassVar[Domain] = Real()
    #: Whether `gradient` wants per-example gradients `[b, d]` instead of their mean `[d]`.
    per_example: ClassVar[bool] = False
    #: Whether the station functions are deterministic, so that `View.simulate` can replay them exactly.
    replayable: ClassVar[bool] = True
    #: Whether `update` sends some coordinates and leaves out the others.
    sparsifies: ClassVar[bool] = False
    #: Whether what it leaves out is drawn anew each round, alike for all clients and whatever the update.
    draws_coordinates: ClassVar[bool] = False
    #: Whether `update` sends fewer bits, by a message of its own; a line may have one such defense.
    compresses: ClassVar[bool] = False
    #: Whether a line may have it once alone, since a second one would undo or repeat what the first did.
    only_once: ClassVar[bool] = False
    #: Whether clients check with it what they were sent: then its log has `alarm`, 1 where a client alarms, and `warn`
    #: says so.
    alarms: ClassVar[bool] = False
    #: Whether it works otherwise for another number of planned rounds, so that no run goes on under another plan.
    plans_rounds: ClassVar[bool] = False
    #: The attack that knows about this defense, if one ships: a name, which then counts as having considered it, or an
    #: attack with a part that does, such as `dlg(objective=consistent)`, which counts where it is seen to do so.
    adaptive_attack: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in set(vars(cls).get("__annotations__", ())) & {s.value for s in Station}:
            raise StackError(
                f"defense {cls.__name__} has a parameter '{name}', which is the name of a station; rename it"
            )
        for name, why in _NOT_FUNCTIONS.items():
            if name in vars(cls):
                raise StackError(f"defense {cls.__name__} defines '{name}', but {why}")

    def parts(self) -> tuple[Defense, ...]:
        """The links this defense puts on the line, in order; most are one link, themselves."""
        return (self,)

    def check(self, plan: Plan) -> None:
        """Raises StackError or ParameterError if this defense cannot work in that federation."""

    def initial_state(self, plan: Plan) -> Nested:
        """State kept by the server between rounds: a (possibly nested) tuple of arrays; default none."""
        return ()

    def broadcast_state(self, state: Nested) -> Nested:
        """What clients, and whoever sees what they are told, get of the server's state; by default all of it.

        Noise that is kept from round to round stays with the server: give `()` in its place, or leave it out.
        """
        return state

    def rounds_limit(self, plan: Plan) -> int | None:
        """The most rounds it works for in that federation; None for any number."""
        return None

    def initial_client_state(self, plan: Plan) -> Nested:
        """State that each client keeps for itself between the rounds it takes part in; default none."""
        return ()

    def tallies(self, plan: Plan) -> Mapping[str, float]:
        """Names of the tallies it may report, with a bound on their absolute value; default none."""
        return {}

    def warn(self, log: Mapping[str, float]) -> str:
        """What a user must be told of a round in which this defense's log had these means, a sentence a line; or ""."""
        return ""

    def refusal(self, received: Mapping[int, np.ndarray], number: int) -> str:
        """Why clients refuse to take part in a round, once they have compared what they got; by default "".

        Args:
          received: weights `[d]` that each client got, by id; clients compare over a channel of their own.
          number: of the round, from 0.
        """
        return ""

    def notes(self, plan: Plan) -> Sequence[str]:
        """What a user should know of it in this federation beforehand, as sentences without a full stop."""
        return ()

    def fitted(self, part: Defense, given: Domain, plan: Plan, protocol: Any) -> Defense:
        """One of this defense's parts as it goes on the line, where it depends on what stands around it.

        The line asks before it looks whether the part takes what arrives, and before `settled`.

        Args:
          part: one of `parts()`.
          given: what a contribution is before it.
          plan: public facts of the run.
          protocol: the `fedpriv.defense.protocol.Protocol` of the line, not yet settled, or None.
        """
        return part

    def check_fitted(self, links: Sequence[Defense], plan: Plan) -> None:
        """As `check`, for a defense of several parts, which stand on the line as `links`."""
        self.check(plan)

    def settled(self, given: Domain, plan: Plan, speaker: str) -> Defense:
        """This link with what it leaves open filled in from its place on the line; by default itself.

        The line asks once, before all else, and works with what it gets: a codec may so take its range from the bound
        that arrives, and a protocol the ring that its codec gives.

        Args:
          given: what a contribution is before this link.
          plan: public facts of the run.
          speaker: the defense in whose name to complain.

        Raises:
          ParameterError, StackError: it cannot be known here.
        """
        return self

    def maps(self, given: Domain, plan: Plan) -> Domain:
        """What a contribution is after this defense, for one that was `given` before; by default its bounds are lost.

        A bound that is stated is relied on: sensitivities and claims follow from it. The engine checks it on every
        client's update.
        """
        loses = self.acts_at(Station.UPDATE) or (self.acts_at(Station.ENCODE) and isinstance(given, Real))
        return Real() if loses else given

    def decoded(self, given: Domain, plan: Plan) -> Domain:
        """For one that encodes: what the server holds of a contribution after decoding; by default bounds are lost."""
        return Real() if self.acts_at(Station.ENCODE) else given

    def noise(self, plan: Plan) -> Noise | None:
        """The noise this defense adds, or None."""
        return None

    def keeps_noise(self) -> bool:
        """Whether noise that was in an update before this defense is as large in it afterwards, where anything is.

        By default what acts on updates does not: it may shorten, round or choose among them.
        """
        return not self.acts_at(Station.UPDATE)

    def begins(self, weights: Flat, own: Nested, plan: Plan) -> Flat:
        """The weights `[d]` that a client begins its local steps from, for those it was sent and its own state.

        For one by which clients keep weights to themselves. Updates are differences to what this gives.
        """
        return weights

    def noise_by_tensor(self, weights: Sequence[Array], steps: int) -> tuple[float, ...] | None:
        """For one whose noise's size follows from the weights: its standard deviation in an update, by tensor.

        Args:
          weights: those that the client was sent, in the spec's shapes.
          steps: local steps behind the update, at rate 1.

        Returns:
          One a tensor, of a coordinate, for those coordinates that have any; None, the default, where `noise` says it.
        """
        return None

    def noise_by_coordinate(self, sent: Flat, deviations: Flat, spec: Spec) -> Flat:
        """For the same: the standard deviation of the noise at each coordinate of `sent [d]`, as far as that tells.

        Args:
          sent: what the server holds of an update, or a multiple of it; traceable.
          deviations: each coordinate's as `noise_by_tensor` has it, `[d]`.
          spec: of the update.

        Returns:
          `[d]`: 0 where it was sent without noise, infinite where what was sent tells nothing; by default as given.
        """
        return deviations

    def cells(self, sent: Flat, spec: Spec, examples: int | None = None) -> tuple[Flat, Flat] | None:
        """For one that sends less of an update than it was: between what bounds the update lay, `([d], [d])`.

        Coordinate by coordinate, for the server to hold `sent [d]`, in update units; infinite where nothing is known.
        Traceable. None, the default, where its message does not tell. `examples` is how many are behind a single step,
        where that is known.
        """
        return None

    def withheld(self, spec: Spec) -> np.ndarray | None:
        """For one by which clients keep coordinates to themselves: which they are, bool `[d]`; by default None.

        Whatever stands after it, at the stations that it acts at these coordinates are 0: neither noise nor signs are
        sent for them.
        """
        return None

    def shortens(self) -> bool:
        """Whether what `update` leaves out is shorter than what it was given, whatever came before.

        Protocols that send it later need that. By default what `sparsifies` does.
        """
        return self.sparsifies

    def mixture(self) -> Mixture | None:
        """For one that trains on mixtures of examples in place of them: how these are made; by default None."""
        return None

    def transformation(self) -> Transformation | None:
        """For one that trains on transformed examples in place of them: how these are made; by default None."""
        return None

    @classmethod
    def leaves_cells(cls) -> bool:
        """Whether this defense overrides `cells`."""
        return cls.cells is not Defense.cells

    def model(self, model: Model, plan: Plan | None) -> Model:
        """The model trained in place of `model`."""
        raise NotImplementedError

    def broadcast(self, weights: Flat, context: Context) -> Flat | Passed:
        """Acts on the weights `[d]` the server sends; gives weights `[d]`."""
        raise NotImplementedError

    def data(self, x: Examples, y: Labels, context: Context) -> tuple[Examples, Labels] | Passed:
        """Acts on all of a client's examples, once a round: `x [m, ...]`, `y [m]`; gives as many of the same kinds."""
        raise NotImplementedError

    def batch(self, x: Examples, y: Labels, context: Context) -> tuple[Examples, Labels] | Passed:
        """Acts on one batch `x [b, ...]`, `y [b]` or `[b, classes]`; gives (x, y) of the same kinds."""
        raise NotImplementedError

    def gradient(self, gradient: Tensor, context: Context) -> Tensor | Passed:
        """Acts on one local step's gradient, `[d]`, or `[b, d]` if `per_example`; gives the same."""
        raise NotImplementedError

    def update(self, update: Flat, context: Context) -> Flat | Passed:
        """Acts on one client's finished model delta `[d]`; gives the same."""
        raise NotImplementedError

    def encode(self, contribution: Tensor, context: Context) -> Tensor | Passed:
        """Acts on a contribution: the weighted update, the client's weight, then the tallies over their bounds,
        `[d + 1 + t]`; float32, or integers from the first codec on. Gives the same length.
        """
        raise NotImplementedError

    def decode(self, total: Tensor, count: Scalar, plan: Plan) -> Tensor:
        """Undoes `encode` on the sum of `count` contributions; by default nothing is undone."""
        return total

    def aggregate(self, total: Flat, context: Context) -> Flat | Passed:
        """Acts on the decoded weighted sum of updates `[d]`; gives the same."""
        raise NotImplementedError

    def step(self, weights: Flat, context: Context) -> Flat | Passed:
        """Acts on the weights `[d]` after the server's step, before they are released; gives weights `[d]`."""
        raise NotImplementedError

    def example_clip(self, plan: Plan) -> ExampleClip | None:
        """How the client clips examples' own gradients before it adds them up; by default it does not.

        Who gives one acts first at the gradient station, and gets there `[d]`, the clipped sum over the public size of
        a batch, in place of the mean; the sum is made without holding each example's own.
        """
        return None

    def records_per_user(self) -> int | None:
        """How many examples of one user it is to be given at most, a bound that the federation enforces; or None."""
        return None

    def claims(self, plan: Plan, contribution: Real) -> list[Claim]:
        """Formal privacy claims of a run of this defense, for the ledger; default none.

        Args:
          plan: public facts of the run.
          contribution: what one client's decoded contribution to the sum is; its `l2` is the bound that noise on the
            sum has to cover, rounding in codecs included.
        """
        return []

    def replay(self) -> Defense | None:
        """The deterministic stand-in that `View.simulate` runs for an adversary who knows this defense.

        None leaves the station out (the default for noise, whose mean is zero).
        """
        return self if self.replayable else None

    def released(self, mean: Flat, state: Nested) -> Flat:
        """For a stand-in whose clients send in other units: what the server makes of their mean `[d]` in releasing it.

        Args:
          mean: replayed, of what clients send, over the public denominator where there is one.
          state: as broadcast in that round.
        """
        return mean

    def acts_at(self, station: Station) -> bool:
        """Whether this defense overrides that station."""
        return getattr(type(self), station.value, None) is not getattr(Defense, station.value, None)

    @property
    def stations(self) -> list[Station]:
        """Stations this defense acts at."""
        return [s for s in Station if any(part.acts_at(s) for part in self.parts())]


def labels(defenses: Sequence[Defense]) -> list[str]:
    """What each defense's reports are filed under: its name, numbered from the second of that name on."""
    made: list[str] = []
    for defense in defenses:
        name = defense.name or type(defense).__name__
        repeats = sum(label.partition("#")[0] == name for label in made)
        made.append(f"{name}#{repeats + 1}" if repeats else name)
    return made


def state_array(leaf: Tensor | Array | float) -> np.ndarray:
    """A state's leaf as an array that a graph takes without changing its precision; a Python float is a float32."""
    return np.asarray(leaf, np.float32) if isinstance(leaf, float) else np.asarray(leaf)
