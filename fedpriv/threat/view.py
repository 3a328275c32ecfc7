"""View: what one adversary legitimately holds, with `simulate`, a differentiable replay of the client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from fedpriv.base.errors import CapabilityError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Array, Examples, Flat, Labels, Nested, Scalar, Tensor, Tensors
from fedpriv.data.kind import Kind
from fedpriv.data.kinds.default import kind_of
from fedpriv.defense.codec import Codec
from fedpriv.defense.protocol import Protocol
from fedpriv.defense.stations import Defense, Plan, labels
from fedpriv.defense.wire import Delivery
from fedpriv.federation.replay import divides_by_public_constant, stand_ins
from fedpriv.models.model import Model, Moments
from fedpriv.procedure.procedure import Procedure
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.capability import Capability
from fedpriv.threat.exchange import Letter
from fedpriv.threat.knowledge import Auxiliary, Generator
from fedpriv.threat.lab import Lab
from fedpriv.threat.question import Question
from fedpriv.threat.static import Inputs, StandIn, Static

AnyQuestion = TypeVar("AnyQuestion", bound=Question)


class Own(NamedTuple):
    """The examples of an adversary that is a client itself, or several peers.

    Attributes:
      x: `[m, *input_shape]` float32.
      y: `[m]` int.
      slot: which of the clients behind the view it is, from 0 in the replay's order; None if it is not among them.
    """

    x: np.ndarray
    y: np.ndarray
    slot: int | None


@dataclass(frozen=True, eq=False, kw_only=True)
class View:
    """One adversary's holdings after one round. Contains nothing of the truth (a test walks every reference).

    Attributes:
      adversary: whose view this is.
      kind: `update` (one client's message, decoded), `sum` (a weighted sum over clients), `released` (the sum
        after server-side defenses, as it moved the public model), `shares` (ring elements only), `model` (among peers,
        a model that was sent, as its difference to a model that the adversary holds, which is not where it came from).
      round: round number, from 0.
      model: the model's functions.
      weights: `[d]` float, the model the clients received.
      observed: `[d]` in the model's precision: the update, or the weighted mean of the updates for `sum` and
        `released`; None for `shares`.
      visible: which coordinates of `observed` the adversary holds, bool `[d]`, where a protocol hides the others (they
        are 0 in `observed`, and in what `simulate` gives); None is all of them.
      procedure: the local procedure, or None if unknown to this adversary.
      num_examples: example counts by client behind the view, or None if unknown.
      clients: how many clients are behind it; None where that is secret (a released mean of a cohort of random size,
        for an adversary that does not know 'num_examples').
      labels: targets `[n]` if the adversary knows them, else None.
      defenses: the defenses it knows to run (for replay); empty if it knows none.
      states: the state of each of those defenses' links, as broadcast that round.
      plan: public facts of the federation.
      client_rate: client learning rate of that round.
      payloads: for parties of a protocol, the messages they hold besides.
      batch_statistics: for an adversary that knows them, mean and biased variance `[c]` of the client's batch at
        the input of each batch normalization, at `weights`; see `Model.moments`.
      pseudonym: what the adversary calls whoever sent the update; equal in two rounds only if it can link them. None
        for a sum, which nobody in particular sent.
      members: what the adversary calls the clients behind the view, in the order of `num_examples`; equal in two rounds
        if they are the same. None where it cannot tell who they are, or does not know them again.
      own: its own examples, if it is a client itself. They are not looked for: `simulate` adds them.
      told: what knowledge that is not built in has filled in, by name.
      letter: among peers, what the adversary knows beside a model it was sent.
      data_kind: what examples are, which is public; None goes by the model's input shape.
      question: what is asked, where the goal asks something: the public part of it.
      lab: where it trains models of its own, if it holds data to do so.
    """

    adversary: Adversary
    kind: Literal["update", "sum", "released", "shares", "model"]
    round: int
    model: Model
    weights: np.ndarray
    observed: np.ndarray | None
    plan: Plan
    visible: np.ndarray | None = None
    clients: int | None = 1
    procedure: Procedure | None = None
    num_examples: tuple[int, ...] | None = None
    labels: np.ndarray | None = None
    defenses: tuple[Defense, ...] = ()
    states: tuple[Nested, ...] = ()
    client_rate: float | None = None
    payloads: tuple[Delivery, ...] | None = None
    batch_statistics: Moments | None = None
    question: Question | None = None
    lab: Lab | None = None
    pseudonym: str | None = None
    members: tuple[str, ...] | None = None
    own: Own | None = None
    letter: Letter | None = None
    told: Mapping[str, Any] = field(default_factory=dict)
    data_kind: Kind = None  # type: ignore[assignment]  # filled in below

    def __post_init__(self) -> None:
        if self.data_kind is None:
            object.__setattr__(self, "data_kind", kind_of(self.model.input_shape))

    @property
    def total_examples(self) -> int:
        """n, the number of examples looked for: those behind the view, but for the adversary's own.

        Raises:
          CapabilityError: this adversary does not know it.
        """
        if self.num_examples is None:
            raise CapabilityError(
                f"the number of examples is unknown to {self.describe()} Use an adversary that knows 'num_examples'"
            )
        return self.static.total_examples

    @property
    def update_size(self) -> int:
        """d."""
        return self.model.spec.size

    @cached_property
    def running_statistics(self) -> tuple[tuple[Array, Array], ...] | None:
        """What batch normalizations are evaluated with, `((mean, variance), ...)`; see `Model.statistics`."""
        return self.model.statistics(self.weights)

    @cached_property
    def moments_of_batch(self) -> Moments | None:
        """Mean and biased variance `[c]` of the client's batch at the input of each batch normalization, in turn.

        Known (`batch_statistics`), or read off an update that carries them: that of one client after one local step,
        of a model with running statistics, which no defense is known to have changed. Else None.
        """
        procedure, sent = self.procedure, self.model.sent
        if self.batch_statistics is not None or sent is None or self.observed is None or procedure is None:
            return self.batch_statistics
        alone = self.kind == "update" and self.clients == 1 and not self.defenses and self.visible is None
        if not alone or not self.num_examples:
            return None
        n = self.num_examples[0]
        if procedure.local_steps(n) != 1 or (procedure.batch_size or n) < n:  # of which examples, nobody is told
            return None
        spec = self.model.spec
        weights, update = (
            [tf.constant(a) for a in spec.unflatten_numpy(np.asarray(flat, spec.dtype))]
            for flat in (self.weights, self.observed)
        )
        return tuple((mean.numpy(), variance.numpy()) for mean, variance in sent(weights, update))

    @cached_property
    def capabilities(self) -> frozenset[Capability]:
        """What this view offers an attack."""
        have = set()
        if self.observed is not None and self.kind != "model":
            have.add(Capability.REAL_UPDATE)
            if self.visible is None:
                have.add(Capability.WHOLE_UPDATE)
        if self.clients == 1 and self.kind == "update":
            have.add(Capability.SINGLE_CLIENT)
        if self.labels is not None:
            have.add(Capability.LABELS)
        if self.num_examples is not None:
            have.add(Capability.NUM_EXAMPLES)
        if self.procedure is not None:
            have.add(Capability.PROCEDURE)
            if self.num_examples and all(self.procedure.local_steps(n) == 1 for n in self.num_examples):
                have.add(Capability.SINGLE_STEP)
        if self.model.task.softmax:
            have.add(Capability.SOFTMAX)
        if self.model.classifier_bias() is not None:
            have.add(Capability.CLASSIFIER_BIAS)
        if self.lab is not None:
            have.add(Capability.LAB)
        if self.moments_of_batch is not None:
            have.add(Capability.BATCH_STATISTICS)
        if self.running_statistics is not None:
            have.add(Capability.RUNNING_STATISTICS)
        if self.adversary.held(Auxiliary):
            have.add(Capability.AUXILIARY)
        if self.adversary.held(Generator):
            have.add(Capability.GENERATOR)
        return frozenset(have)

    def asked(self, kind: type[AnyQuestion]) -> AnyQuestion:
        """The question, which must be of this kind.

        Raises:
          CapabilityError: nothing is asked, or something else.
        """
        if not isinstance(self.question, kind):
            there = "no question" if self.question is None else f"a question of goal '{self.question.goal}'"
            raise CapabilityError(f"this view comes with {there}, not a {kind.__name__}; pose one with Goal.pose")
        return self.question

    def describe(self) -> str:
        """One sentence: whose view, of what."""
        article = "an" if self.adversary.position[:1] in "aeio" else "a"
        many = "a secret number of" if self.clients is None else self.clients
        what = {
            "update": "one client's update",
            "sum": f"the sum of {many} clients' updates",
            "released": f"the released mean of {many} clients' updates",
            "shares": "secret shares only",
            "model": f"the mean of {many} peers' models, but not where they began"
            if self.clients != 1
            else "a peer's model, but not where it began",
        }[self.kind]
        whose, knows = f"{article} {self.adversary.position}", sorted(self.adversary.knows)
        if self.visible is not None:
            what += f", {np.count_nonzero(self.visible)} of its {self.visible.size} coordinates,"
        return f"{whose} holding {what} of round {self.round}, knowing {knows}."

    def simulate(self, x: Examples, y: Labels, draws: Tensors = ()) -> Flat:
        """What `observed` would have been, had the clients held `x` and `y`. Pure, traceable, differentiable.

        Args:
          x: `[n, *input_shape]` float, n = `total_examples`, clients one after the other.
          y: targets `[n]`, or relaxed ones (such as probabilities `[n, num_classes]`); see `Task`.
          draws: what a model that draws is taken to have drawn, as `Static.simulate` takes it; () for the means.

        Returns:
          `[d]` float: the replayed update (or weighted mean of updates), 0 where `visible` says that the adversary
          holds nothing. The batch order of the real client is unknown, so batches are taken in the order given, the
          same in every epoch.

        Raises:
          CapabilityError: the adversary does not know the procedure or the number of examples.
          ParameterError: `x`, `y` or `draws` has another number of examples.
        """
        dtype = self.model.spec.dtype
        rate = 0.0 if self.client_rate is None else self.client_rate
        return self.static.simulate(
            tf.constant(self.weights, dtype), tf.constant(rate, dtype), x, y, self.inputs(), draws=draws
        )

    def simulate_from(
        self, weights: Flat, client_rate: Scalar | float, x: Examples, y: Labels, by_epoch: bool = False
    ) -> Flat:
        """`simulate` from other weights `[d]` and another rate. With `by_epoch`, `x` and `y` have a leading axis of
        local epochs, and each epoch is replayed on examples of its own: for attacks that do not know which example
        was in which batch.
        """
        return self.static.simulate(weights, client_rate, x, y, self.inputs(), by_epoch)

    @cached_property
    def static(self) -> Static:
        """What of this view may shape a graph that serves others too; a graph takes the rest as tensors."""
        found = []
        for label, defense in zip(labels(self.defenses), self.defenses, strict=True):
            for link in defense.parts():
                stand_in = link.replay()
                if stand_in is not None or isinstance(link, Protocol | Codec):
                    found.append(StandIn(label, stand_in))
        return Static(
            model=self.model,
            plan=self.plan,
            procedure=self.procedure,
            num_examples=self.num_examples,
            stand_ins=tuple(found),
            fixed_denominator=self.kind == "released" and divides_by_public_constant(self.defenses, self.plan),
            released=self.kind == "released",
            own_slot=None if self.own is None else self.own.slot,
            data_kind=self.data_kind,
            reckons_draws=bool(self.model.draws) and "defense" in self.adversary.knows,
        )

    def inputs(self) -> Inputs:
        """This view's arrays that a replay takes besides weights and rate."""
        states = tuple(tf.nest.map_structure(_array, s) for _, s in stand_ins(self.defenses, self.states))
        visible = None if self.visible is None else self.visible.astype(self.model.spec.dtype)
        if self.own is None or self.own.slot is None:
            return Inputs(states, visible=visible)
        return Inputs(states, self.own.x, self.own.y.astype(self.model.task.target_dtype), visible)


def _array(leaf: Tensor | Array | float) -> np.ndarray:
    """A state's leaf as a graph takes it: a Python float is a float32, as TensorFlow has it."""
    return np.asarray(leaf, np.float32) if isinstance(leaf, float) else np.asarray(leaf)
