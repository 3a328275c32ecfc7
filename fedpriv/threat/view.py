"""View: what one adversary legitimately holds, with `simulate`, a differentiable replay of the client."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np

from fedpriv.base.errors import CapabilityError
from fedpriv.base.lazy import tf
from fedpriv.defense.stations import Defense, Plan
from fedpriv.federation.client import replay_cohort
from fedpriv.models.model import Model, Moments
from fedpriv.procedure.procedure import Procedure
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.attack import Capability
from fedpriv.threat.lab import Lab
from fedpriv.threat.question import Question

AnyQuestion = TypeVar("AnyQuestion", bound=Question)


@dataclass(frozen=True, eq=False)
class View:
    """One adversary's holdings after one round. Contains nothing of the truth (a test walks every reference).

    Attributes:
      adversary: whose view this is.
      kind: `update` (one client's message, decoded), `sum` (a weighted sum over clients), `released` (the sum
        after server-side defenses, as it moved the public model), `shares` (ring elements only).
      round: round number, from 0.
      model: the model's functions.
      weights: `[d]` float, the model the clients received.
      observed: `[d]` in the model's precision: the update, or the weighted mean of the updates for `sum` and
        `released`; None for `shares`.
      procedure: the local procedure, or None if unknown to this adversary.
      num_examples: example counts by client behind the view, or None if unknown.
      clients: how many clients are behind it.
      labels: `[n]` int if the adversary knows them, else None.
      defenses: the defenses it knows to run (for replay); empty if it knows none.
      states: the state of each of those, as broadcast that round.
      plan: public facts of the federation.
      client_rate: client learning rate of that round.
      shares: for an aggregator coalition, `{party: {client: uint64 [d + 1]}}`.
      batch_statistics: for an adversary that knows them, mean and biased variance `[c]` of the client's batch at
        the input of each batch normalization, at `weights`; see `Model.moments`.
      question: what is asked, where the goal asks something: the public part of it.
      lab: where it trains models of its own, if it holds data to do so.
    """

    adversary: Adversary
    kind: Literal["update", "sum", "released", "shares"]
    round: int
    model: Model
    weights: np.ndarray
    observed: np.ndarray | None
    plan: Plan
    clients: int = 1
    procedure: Procedure | None = None
    num_examples: tuple[int, ...] | None = None
    labels: np.ndarray | None = None
    defenses: tuple[Defense, ...] = ()
    states: tuple[Any, ...] = ()
    client_rate: float | None = None
    shares: dict[int, dict[int, np.ndarray]] | None = None
    batch_statistics: Moments | None = None
    question: Question | None = None
    lab: Lab | None = None

    @property
    def total_examples(self) -> int:
        """n, the number of examples behind the view.

        Raises:
          CapabilityError: this adversary does not know it.
        """
        if self.num_examples is None:
            raise CapabilityError(
                f"the number of examples is unknown to {self.describe()} Use an adversary that knows 'num_examples'"
            )
        return sum(self.num_examples)

    @property
    def update_size(self) -> int:
        """d."""
        return self.model.spec.size

    @cached_property
    def capabilities(self) -> frozenset[Capability]:
        """What this view offers an attack."""
        have = set()
        if self.observed is not None:
            have.add(Capability.REAL_UPDATE)
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
        if self.model.classifier_bias() is not None:
            have.add(Capability.CLASSIFIER_BIAS)
        if self.lab is not None:
            have.add(Capability.LAB)
        if self.batch_statistics is not None:
            have.add(Capability.BATCH_STATISTICS)
        if self.model.has_trained_statistics:
            have.add(Capability.RUNNING_STATISTICS)
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
        what = {
            "update": "one client's update",
            "sum": f"the sum of {self.clients} clients' updates",
            "released": f"the released mean of {self.clients} clients' updates",
            "shares": "secret shares only",
        }[self.kind]
        return (
            f"a {self.adversary.position} holding {what} of round {self.round}, knowing {sorted(self.adversary.knows)}."
        )

    def simulate(self, x: Any, y: Any) -> Any:
        """What `observed` would have been, had the clients held `x` and `y`. Pure, traceable, differentiable.

        Args:
          x: `[n, *input_shape]` float, n = sum(num_examples), clients one after the other.
          y: labels `[n]` int or probabilities `[n, num_classes]` float.

        Returns:
          `[d]` float: the replayed update (or weighted mean of updates). The batch order of the real client is
          unknown, so batches are taken in the order given, the same in every epoch.

        Raises:
          CapabilityError: the adversary does not know the procedure or the number of examples.
          ParameterError: `x` or `y` has another number of examples.
        """
        dtype = self.model.spec.dtype
        rate = 0.0 if self.client_rate is None else self.client_rate
        return self.simulate_from(tf.constant(self.weights, dtype), tf.constant(rate, dtype), x, y)

    def simulate_from(self, weights: Any, client_rate: Any, x: Any, y: Any, by_epoch: bool = False) -> Any:
        """`simulate` as a function of tensors only, so that one compiled attack serves many views.

        Two views with equal `static_key` may share a graph of this function. With `by_epoch`, `x` and `y` have a
        leading axis of local epochs, and each epoch is replayed on examples of its own: for attacks that do not
        know which example was in which batch.
        """
        return replay_cohort(self, weights, client_rate, x, y, by_epoch)

    def static_key(self) -> tuple[Hashable, ...]:
        """What `simulate_from` depends on besides its arguments."""
        replayed = [(d.replay(), s) for d, s in zip(self.defenses, self.states)]
        known = tuple((type(d), repr(d.config())) for d, _ in replayed if d is not None)
        leaves = [np.asarray(a) for d, s in replayed if d is not None for a in _leaves(s)]
        states = tuple((a.shape, str(a.dtype), a.tobytes()) for a in leaves)
        rescaled = self.kind == "released" and any(d.fixed_denominator for d in self.defenses)
        return (self.model, self.procedure, self.num_examples, known, states, self.plan, rescaled)


def _leaves(state: Any) -> list[Any]:
    if isinstance(state, dict):
        state = [state[k] for k in sorted(state)]
    return [leaf for s in state for leaf in _leaves(s)] if isinstance(state, tuple | list) else [state]
