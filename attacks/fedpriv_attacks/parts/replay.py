"""Replay: what an attack takes the client to have done with the dummy examples.

`exact` asks the view, which knows the local steps, batches and known defenses. The others stand in for it where the
exact replay is too long to differentiate, or where the batch order it needs is unknown.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from fedpriv.base.errors import CapabilityError
from fedpriv.base.lazy import tf
from fedpriv.base.seeds import Purpose, graph_seed
from fedpriv.base.types import Config, Examples, Flat, Labels, Scalar, Tensor
from fedpriv.models.draws import drawn
from fedpriv.threat.attack import Capability
from fedpriv.threat.replays import DRAWS, note
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

    def unknowns(self, static: Static) -> np.ndarray:
        """As `variables`, for views like these."""
        return self.variables()

    def together(self) -> Replay:
        """What takes its place where views of several rounds are matched together.

        Raises:
          CapabilityError: it replays one round alone.
        """
        return self

    def compared(self, static: Static) -> list[int]:
        """Which of the model's weight tensors it replays, so that an objective may compare them."""
        return list(range(len(static.model.spec.shapes)))

    def draws_of(self, static: Static, own: Flat) -> tuple[Tensor, ...]:
        """The model's draws that its variables `[m]` stand for, `[passes, n, *shape]` each; () for their means."""
        return ()

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
    """The view's own replay: local steps, batches in the order given, known defenses, and what the model draws.

    Nobody tells an attacker what a model with dropout or PRECODE drew. Of the ways to go on, `mean` knows nothing of
    it: the model that is evaluated. `own` takes the mean of replays with draws of the attacker's own, an estimate of
    the expected update. `joint` looks for the draws along with the examples, masks relaxed to [0, 1] (Scheliga, Mäder,
    Seeland 2022, "Dropout is NOT All You Need to Prevent Gradient Leakage", arXiv 2208.06163). `omit` compares only
    the layers before the first that draws, of PRECODE before its encoder (Scheliga, Mäder, Seeland 2022, "Combining
    Variational Modeling with Partial Gradient Perturbation to Prevent Deep Gradient Leakage", arXiv 2208.04767).
    """

    kind: ClassVar[str] = "exact"

    draws: Literal["auto", "mean", "own", "joint", "omit"] = Field(
        default="auto",
        description="what the client's draws are taken for, where the model draws (dropout, PRECODE): `mean`, `own`, "
        "`joint` or `omit`, see `Exact`; `auto` is `joint` for an adversary that knows the defense, else `mean`.",
    )
    samples: Annotated[int, Field(ge=1)] = Field(default=8, description="replays of `own`, each with other draws.")

    def config(self) -> Config:
        """As of any part; results from before models drew stay valid."""
        config = super().config()
        for name in ("draws", "samples"):
            if getattr(self, name) == type(self).model_fields[name].default:
                del config[name]
        return config

    def together(self) -> Replay:
        """Of several rounds, in each of which the clients drew anew: their means, unless others were asked for."""
        if self.draws == "joint":
            raise CapabilityError(
                f"replay '{self.kind}(draws=joint)' looks for one round's draws, but several are matched together, "
                "each with draws of its own; use draws=mean or draws=own, or match one round"
            )
        return self.with_(draws="mean") if self.draws == "auto" else self

    def way(self, static: Static) -> str:
        """What the draws are taken for here.

        Raises:
          CapabilityError: the adversary does not know the defense that it is to reckon with, or there is none.
        """
        if not static.model.draws:
            if self.draws in ("own", "joint", "omit"):
                raise CapabilityError(
                    f"replay '{self.kind}(draws={self.draws})' reckons with what a model draws, but model "
                    f"'{static.model.name}' draws nothing; use draws=auto, the default, which fits models with and "
                    "without draws"
                )
            return "mean"
        if self.draws == "auto":
            # An adversary's own examples stand among those replayed, with draws that are not looked for.
            return "joint" if static.reckons_draws and static.own_slot is None else "mean"
        if self.draws != "mean" and not static.reckons_draws:
            raise CapabilityError(
                f"replay '{self.kind}(draws={self.draws})' reckons with what model '{static.model.name}' draws, but "
                "the adversary does not know the defense; let it know 'defense', or use draws=mean"
            )
        return self.draws

    def unknowns(self, static: Static) -> np.ndarray:
        """Of `joint`, a number for each value drawn: of a mask the logit's distance from its mean's."""
        if self.way(static) != "joint":
            return np.zeros(0)
        each = sum(int(np.prod(d.shape)) for d in static.model.draws)
        return np.zeros(static.passes * static.total_examples * each)

    def compared(self, static: Static) -> list[int]:
        """Of `omit`, the tensors before the first layer that draws."""
        everything = super().compared(static)
        if self.way(static) != "omit":
            return everything
        before = [d.before for d in static.model.draws]
        if None in before or not min(b or 0 for b in before):
            raise CapabilityError(
                f"replay '{self.kind}(draws=omit)' compares the layers before those that draw, but model "
                f"'{static.model.name}' has none, or its order of layers is unknown; use draws=joint"
            )
        return everything[: min(b for b in before if b is not None)]

    def draws_of(self, static: Static, own: Flat) -> tuple[Tensor, ...]:
        """Of `joint`, masks in (0, 1) and normal values as they are."""
        if self.way(static) != "joint":
            return ()
        head, draws = (static.passes, static.total_examples), static.model.draws
        parts = tf.split(own, [int(np.prod([*head, *d.shape])) for d in draws])
        return tuple(
            tf.reshape(tf.sigmoid(part + math.log(d.keep / (1 - d.keep))) if d.law == "keep" else part, head + d.shape)
            for part, d in zip(parts, draws)
        )

    def __call__(self, static: Static, sent: Sent, x: Examples, y: Labels, own: Flat) -> Flat:
        """`view.simulate`, with draws."""

        def replayed(draws: tuple[Tensor, ...] = ()) -> Flat:
            return static.simulate(sent.weights, sent.rate, x, y, sent.inputs, draws=draws)

        way = self.way(static)
        if way == "omit":
            note([DRAWS + static.model.name])
        if way != "own":
            return replayed(self.draws_of(static, own))
        passes, n, dtype = static.passes, static.total_examples, static.model.spec.dtype
        found = []
        for i in range(self.samples):  # the same in every evaluation, as an optimizer needs them
            seed = tf.constant(graph_seed(i, Purpose.ATTACK), tf.int64)
            values = drawn(static.model.draws, seed, passes * n, dtype)
            found.append(replayed(tuple(tf.reshape(v, [passes, n, *v.shape[1:]]) for v in values)))
        return tf.add_n(found) / self.samples


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
