"""Replay: what an attack takes the client to have done with the dummy examples.

`exact` asks the view, which knows the local steps, batches and known defenses. The others stand in for it where the
exact replay is too long to differentiate, or where the batch order it needs is unknown.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from fedpriv.base.lazy import tf
from fedpriv.base.types import Examples, Flat, Labels, Scalar
from fedpriv.threat.attack import Capability
from fedpriv.threat.static import Inputs, Static
from fedpriv_attacks.parts.component import Component


class Sent(NamedTuple):
    """What every replay starts from; tensors.

    Attributes:
      weights: `[d]`, the broadcast model.
      update: `[d]`, the observed update.
      rate: scalar, the client's learning rate.
      inputs: what else of the view a replay takes, such as the defenses' states.
    """

    weights: Flat
    update: Flat
    rate: Scalar
    inputs: Inputs = Inputs()


class Replay(Component):
    """Simulates an update from dummy examples."""

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.PROCEDURE, Capability.NUM_EXAMPLES})

    def copies(self, static: Static) -> int:
        """How many dummy batches of `n` examples it takes; one unless it says otherwise."""
        return 1

    def variables(self) -> np.ndarray:
        """Starting values `[m]` of variables of its own, optimized along with the examples."""
        return np.zeros(0)

    @abstractmethod
    def __call__(self, static: Static, sent: Sent, x: Examples, y: Labels, own: Flat) -> Flat:
        """The simulated update `[d]`; traceable, differentiable in `x`, `y` and `own`.

        Args:
          static: what the views that this graph serves share.
          sent: tensors.
          x: `[copies * n, *input_shape]`.
          y: `[copies * n]` int or `[copies * n, num_classes]`.
          own: `[m]`, its own variables.
        """


class Exact(Replay):
    """The view's own replay: local steps, batches in the order given, and known defenses."""

    kind: ClassVar[str] = "exact"

    def __call__(self, static: Static, sent: Sent, x: Examples, y: Labels, own: Flat) -> Flat:
        """`view.simulate`."""
        return static.simulate(sent.weights, sent.rate, x, y, sent.inputs)


class OneGradient(Replay):
    """The update taken for one gradient at the broadcast weights, scaled by the number of local steps.

    What attacks written for FedSGD do when they are given a FedAvg update (Geiping et al. 2020, arXiv 2003.14053,
    compare it with unrolling). Cheap, and wrong by as much as the client's weights moved.
    """

    kind: ClassVar[str] = "one_gradient"

    def __call__(self, static: Static, sent: Sent, x: Examples, y: Labels, own: Flat) -> Flat:
        """-(rate x steps) times the gradient of the whole batch."""
        return _single_step(static, sent, sent.weights, x, y)


class Surrogate(Replay):
    """The update taken for one gradient at a point between the weights before and after training.

    Zhu, Yao, Blaschko 2023, "Surrogate Model Extension (SME): A Fast and Accurate Weight Update Attack on Federated
    Learning", ICML, arXiv 2306.00127. The surrogate weights are w + a (w' - w), with `a` optimized along with the
    examples. One gradient an evaluation, however many local steps the client made.
    """

    kind: ClassVar[str] = "surrogate"
    paper: ClassVar[str] = "Zhu, Yao, Blaschko 2023, arXiv 2306.00127"

    start: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.5,
        description="where `a` starts; 0 is the broadcast model, 1 the returned one.",
    )
    speed: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=0.1,
        description="how far one unit of the optimizer's variable moves `a`; SME gives `a` its own, smaller learning "
        "rate.",
    )

    def variables(self) -> np.ndarray:
        """`a` in units of `speed`."""
        return np.array([self.start / self.speed])

    def __call__(self, static: Static, sent: Sent, x: Examples, y: Labels, own: Flat) -> Flat:
        """-(rate x steps) times the gradient at the surrogate weights."""
        a = tf.clip_by_value(own[0] * tf.cast(self.speed, own.dtype), 0.0, 1.0)
        return _single_step(static, sent, sent.weights + a * sent.update, x, y)


class Epochs(Replay):
    """The exact replay with dummy examples of its own for every local epoch.

    Dimitrov, Balunovic, Konstantinov, Vechev 2022, "Data Leakage in Federated Averaging", TMLR, arXiv 2206.12395. A
    client shuffles its examples every epoch, and which example was in which batch is unknown. With one dummy batch
    an epoch, tied together by the order-invariant prior `epoch_consistency` and matched and averaged at the end, no
    order has to be guessed. With full batches or a single epoch there is no order, and one copy is enough.
    """

    kind: ClassVar[str] = "epochs"
    paper: ClassVar[str] = "Dimitrov et al. 2022, arXiv 2206.12395"

    def copies(self, static: Static) -> int:
        """One an epoch, if the client's batches depend on the order."""
        p = static.procedure
        assert p is not None
        assert static.num_examples is not None
        ordered = any(p.steps_per_epoch(n) > 1 for n in static.num_examples)
        epochs = max(-(-p.local_steps(n) // p.steps_per_epoch(n)) for n in static.num_examples)
        return epochs if ordered else 1

    def __call__(self, static: Static, sent: Sent, x: Examples, y: Labels, own: Flat) -> Flat:
        """`view.simulate` with one batch of examples an epoch."""
        copies, n = self.copies(static), static.total_examples
        if copies == 1:
            return static.simulate(sent.weights, sent.rate, x, y, sent.inputs)
        by_epoch = tf.reshape(x, [copies, n, *x.shape[1:]])
        return static.simulate(
            sent.weights, sent.rate, by_epoch, tf.reshape(y, [copies, n, *y.shape[1:]]), sent.inputs, by_epoch=True
        )


def _single_step(static: Static, sent: Sent, weights: Flat, x: Examples, y: Labels) -> Flat:
    """The update of one SGD step on all examples at once, as long as the client's local steps together."""
    procedure, counts = static.procedure, static.num_examples
    assert procedure is not None
    assert counts is not None
    steps = float(np.average([procedure.local_steps(n) for n in counts], weights=counts))
    client = procedure.client.model_copy(update={"kind": "sgd"})
    once = procedure.model_copy(
        update={"batch_size": None, "local_epochs": 1, "max_local_steps": None, "client": client}
    )
    return replace(static, procedure=once).simulate(weights, sent.rate * steps, x, y, sent.inputs)
