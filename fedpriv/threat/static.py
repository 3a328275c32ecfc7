"""Static: what a graph that serves many views may be shaped by; it holds nothing of any single view."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from fedpriv.base.errors import CapabilityError, ParameterError, SharedGraphError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Array, Examples, Flat, Labels, Nested, Scalar, Tensor, Tensors
from fedpriv.data.kind import Kind
from fedpriv.data.kinds.default import kind_of
from fedpriv.defense.stations import Defense, Plan
from fedpriv.federation.replay import Replayed, passes, replay_cohort
from fedpriv.models.model import Model
from fedpriv.procedure.procedure import Procedure
from fedpriv.threat.replays import DRAWS, note

#: Fields of a View that are its own, and where a component gets them instead.
OF_ONE_VIEW = {
    "observed": "the observed update is a tensor: `scene.update` for a prior, `sent.update` for a replay",
    "weights": "the broadcast weights are a tensor: `scene.weights` for a prior, `sent.weights` for a replay",
    "client_rate": "the learning rate is a tensor: `sent.rate` for a replay",
    "states": "the defenses' states are tensors: `sent.inputs.states`",
    "labels": "known labels come in as `y`",
    "visible": "which coordinates are held is a tensor: `sent.inputs.visible`",
    "own": "a client's own examples are tensors: `sent.inputs`",
    "batch_statistics": "arrays read off a view come in through `Prior.tensors(view)`, as `scene.tensors`",
    "told": "arrays read off a view come in through `Prior.tensors(view)`, as `scene.tensors`",
    "payloads": "arrays read off a view come in through `Prior.tensors(view)`, as `scene.tensors`",
    "round": "numbers read off a view come in through `Prior.tensors(view)`, as `scene.tensors`",
    "pseudonym": "it says who sent one update, which a graph for many must not depend on",
    "members": "it says who is behind one view, which a graph for many must not depend on",
    "letter": "it came with one message, which a graph for many must not depend on",
    "adversary": "what it knows decides on the attack, outside the graph",
}


class Inputs(NamedTuple):
    """A view's tensors (or arrays) that a replay takes besides weights and rate.

    Attributes:
      states: the state of each known defense that has a stand-in, as broadcast that round.
      own_x: `[m, *input_shape]`, the examples of the adversary itself, if it is one of the clients; else none.
      own_y: `[m]` int, their labels.
      visible: `[d]` of 1 and 0, the coordinates that the adversary holds; None where it holds all. A replay gives 0 at
        the others, as the observed update does.
    """

    states: tuple[Nested, ...] = ()
    own_x: Examples | Array | None = None
    own_y: Labels | Array | None = None
    visible: Tensor | Array | None = None


class StandIn(NamedTuple):
    """A known defense in a replay.

    Attributes:
      label: of the defense, as in `fedpriv.defense.stations.labels`.
      defense: what the replay runs in its place; None for a protocol, whose sum is replayed as a sum.
    """

    label: str
    defense: Defense | None


@dataclass(frozen=True, eq=False)
class Static:
    """The part of a view that it shares with others; equal and hashed by what is in it.

    Attributes:
      model: the model's functions.
      plan: public facts of the federation.
      procedure: the local procedure, or None if unknown.
      num_examples: example counts by client, or None if unknown.
      stand_ins: the known defenses as a replay takes them into account, in order; noise is not.
      fixed_denominator: whether the sum was divided by the plan's expected cohort rather than by the clients' weights.
      released: whether it is what the server released, in whose units a replay then is.
      own_slot: which of the clients is the adversary itself, or None.
      data_kind: what examples are, which is public; None goes by the model's input shape.
      reckons_draws: whether the adversary knows that the model's draws are a defense, and may take them for unknowns.
    """

    model: Model
    plan: Plan
    procedure: Procedure | None = None
    num_examples: tuple[int, ...] | None = None
    stand_ins: tuple[StandIn, ...] = ()
    fixed_denominator: bool = False
    released: bool = False
    own_slot: int | None = None
    data_kind: Kind = None  # type: ignore[assignment]  # filled in below
    reckons_draws: bool = False

    def __post_init__(self) -> None:
        if self.data_kind is None:
            object.__setattr__(self, "data_kind", kind_of(self.model.input_shape))

    def __getattr__(self, name: str) -> Any:
        if name in OF_ONE_VIEW:
            raise SharedGraphError(
                f"'{name}' belongs to one view, but this graph serves many, and would give all of them the first "
                f"one's; {OF_ONE_VIEW[name]}"
            )
        raise AttributeError(f"'Static' has no attribute '{name}'")

    @cached_property
    def _key(self) -> tuple[Hashable, ...]:
        known = tuple((label, type(d), None if d is None else repr(d.config())) for label, d in self.stand_ins)
        counts, units = (self.num_examples, self.own_slot), (self.fixed_denominator, self.released)
        return (self.model, self.plan, self.procedure, counts, known, units, self.data_kind, self.reckons_draws)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def total_examples(self) -> int:
        """n, the number of examples looked for: those behind the view but for the adversary's own.

        Raises:
          CapabilityError: the adversary does not know it.
        """
        if self.num_examples is None:
            raise CapabilityError(
                "the number of examples is unknown to this adversary; use one that knows 'num_examples'"
            )
        return sum(n for slot, n in enumerate(self.num_examples) if slot != self.own_slot)

    def simulate(
        self,
        weights: Flat,
        rate: Scalar | float,
        x: Examples,
        y: Labels,
        inputs: Inputs,
        by_epoch: bool = False,
        draws: Tensors = (),
    ) -> Flat:
        """What the clients would have sent, had they held `x` and `y`. Pure, traceable, differentiable.

        Args:
          weights: `[d]`, the broadcast weights.
          rate: scalar client learning rate.
          x: `[n, *input_shape]`, n = `total_examples`, clients one after the other; with `by_epoch` a leading axis of
            local epochs, each replayed on examples of its own.
          y: labels `[n]` int or probabilities `[n, num_classes]`; with `by_epoch` likewise.
          inputs: `View.inputs`, as tensors or arrays.
          by_epoch: see x.
          draws: of a model that draws, one tensor `[passes, n, *shape]` a draw of `model.draws`, taken for what the
            clients drew; without them the model goes by their means.

        Returns:
          `[d]`, the update or the weighted mean of updates.

        Raises:
          CapabilityError: the adversary does not know the procedure or the number of examples.
          ParameterError: `x`, `y` or `draws` has another number of examples.
        """
        if draws and self.own_slot is not None:
            raise CapabilityError("a replay with draws takes no examples of the adversary's own; leave the draws out")
        if self.own_slot is not None and self.num_examples is not None:
            x, y = self._with_own(x, y, inputs, by_epoch)
        update = replay_cohort(self._replayed(), weights, rate, x, y, inputs.states, by_epoch, draws)
        note(label for label, _ in self.stand_ins)
        if draws:
            note([DRAWS + self.model.name])
        return update if inputs.visible is None else update * tf.cast(inputs.visible, update.dtype)

    @property
    def passes(self) -> int:
        """How often the clients went through their examples, at most; in each pass a model drew anew.

        Raises:
          CapabilityError: the adversary does not know the procedure or the number of examples.
        """
        return passes(self._replayed())

    def _replayed(self) -> Replayed:
        return Replayed(
            model=self.model,
            plan=self.plan,
            procedure=self.procedure,
            num_examples=self.num_examples,
            defenses=tuple(d for _, d in self.stand_ins if d is not None),
            fixed_denominator=self.fixed_denominator,
            released=self.released,
        )

    def _with_own(self, x: Examples, y: Labels, inputs: Inputs, by_epoch: bool) -> tuple[Examples, Labels]:
        """`x` and `y` with the adversary's own examples where they belong."""
        assert self.num_examples is not None
        dtype, axis = self.model.spec.dtype, int(by_epoch)
        x, y = tf.cast(x, dtype), tf.convert_to_tensor(y)
        if x.shape[axis] != self.total_examples or y.shape[axis] != self.total_examples:
            raise ParameterError(
                f"examples or labels of shape {list(x.shape)}, {list(y.shape)} given to a replay that looks for "
                f"{self.total_examples} examples besides the adversary's own; give one row an example"
            )
        target = self.model.task.target_dtype
        own_x, own_y = tf.cast(inputs.own_x, dtype), tf.cast(inputs.own_y, target)
        relaxed = own_y.dtype.is_integer and not y.dtype.is_integer
        own_y = tf.cast(self.model.task.soften(own_y) if relaxed else own_y, y.dtype)
        if by_epoch:
            own_x, own_y = (tf.repeat(a[None], other.shape[0], 0) for a, other in ((own_x, x), (own_y, y)))
        place = sum(self.num_examples[: self.own_slot])

        def inserted(given: Tensor, own: Tensor) -> Tensor:
            before, after = tf.split(given, [place, given.shape[axis] - place], axis)
            return tf.concat([before, own, after], axis)

        return inserted(x, own_x), inserted(y, own_y)
