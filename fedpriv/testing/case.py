"""Case: small known updates that an attack is checked on. The kit's own are made from data inside the package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np

from fedpriv.base import registry
from fedpriv.base.errors import ParameterError, did_you_mean
from fedpriv.base.lazy import tf
from fedpriv.base.types import Array, KerasModel
from fedpriv.data.dataset import Dataset
from fedpriv.data.embedded import fashion_small
from fedpriv.data.loading import load as load_data
from fedpriv.models import load as load_model
from fedpriv.models.keras_model import from_keras
from fedpriv.models.model import Model
from fedpriv.procedure.procedure import Procedure
from fedpriv.procedure.selection import Selection
from fedpriv.rounds.exposure import Exposure, single_steps
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.dossier import Dossier
from fedpriv.threat.observation import Episode, Observation
from fedpriv.threat.view import View


@dataclass(frozen=True, eq=False)
class Case:
    """Observations of one kind, at least two, whose views differ in weights, examples and labels only.

    Attributes:
      name: how to call it in messages.
      observations: what an attack is run on, and the truth it is judged by; episodes, for attacks on several rounds.
    """

    name: str
    observations: tuple[Observation | Episode, ...]

    def __post_init__(self) -> None:
        if len(self.observations) < 2:
            raise ParameterError(
                f"case '{self.name}' has {len(self.observations)} observations; give at least 2, so that what is "
                "found can be told from what is always answered"
            )
        pages = [page for o in self.observations for page in pages_of(o.held)]
        if len({page.static for page in pages}) > 1:
            raise ParameterError(
                f"case '{self.name}' mixes views of several kinds; make all observations with one model, one procedure "
                "and one number of examples"
            )

    @classmethod
    def of(cls, exposure: Exposure, name: str = "own", over_rounds: bool = False) -> Case:
        """All observations of `exposure`; `over_rounds` makes an episode of each trial's.

        Raises:
          ParameterError: fewer than two.
        """
        if over_rounds:
            return cls(name, tuple(e for trial in range(exposure.trials) for e in exposure.episodes(trial)))
        return cls(name, tuple(exposure))


def pages_of(held: View | Dossier) -> tuple[View, ...]:
    """The views that an attack is given."""
    return held.pages if isinstance(held, Dossier) else (held,)


def _images(side: int, first: int = 23) -> Dataset:
    """Fashion-MNIST at `side` pixels, a divisor of 28, by averaging; from the image number `first` on."""
    train, _ = fashion_small()
    block = 28 // side
    x = train.floats(slice(first, first + 64)).reshape(-1, side, block, side, block, 1).mean((2, 4))
    return Dataset(f"fashion_{side}", x.astype(np.float32), train.y[first : first + 64], 10)


def _perceptron(side: int, hidden: int, activation: str, bias: bool = True) -> Model:
    """One hidden layer; weights uniform in [-0.5, 0.5], so that second derivatives are of use."""

    def build() -> KerasModel:
        layers = tf.keras.layers

        def weights() -> dict[str, Any]:
            uniform = tf.keras.initializers.RandomUniform
            return {"kernel_initializer": uniform(-0.5, 0.5), "bias_initializer": uniform(-0.5, 0.5)}

        return tf.keras.Sequential(
            [
                tf.keras.Input((side, side, 1)),
                layers.Flatten(),
                layers.Dense(hidden, activation, name="hidden", **weights()),
                layers.Dense(10, name="logits", use_bias=bias, **weights()),
            ]
        )

    return from_keras(build, f"perceptron_{activation}_{hidden}", (side, side, 1), 10, verify=False)


def _normalized(data: Dataset) -> tuple[Model, np.ndarray]:
    """A convolution, batch normalization with the statistics of `data`, and the logits; and its weights `[d]`."""

    def building(mean: Array | float, variance: Array | float) -> Callable[[], KerasModel]:
        def build() -> KerasModel:
            layers, constant = tf.keras.layers, tf.keras.initializers.Constant
            return tf.keras.Sequential(
                [
                    tf.keras.Input(data.input_shape),
                    layers.Conv2D(8, 3, strides=2, padding="same", name="conv"),
                    layers.BatchNormalization(
                        name="norm",
                        moving_mean_initializer=constant(mean),
                        moving_variance_initializer=constant(variance),
                    ),
                    layers.Activation("sigmoid"),
                    layers.Flatten(),
                    layers.Dense(10, name="logits"),
                ]
            )

        return build

    untrained = from_keras(building(0.0, 1.0), "normalized", data.input_shape, 10, batch_norm="eval", verify=False)
    weights = untrained.initial_weights(0)
    assert untrained.moments is not None
    moments = untrained.moments(untrained.spec.unflatten(tf.constant(weights)), tf.constant(data.floats()))
    ((mean, variance),) = [(m.numpy(), v.numpy()) for m, v in moments]
    trained = from_keras(building(mean, variance), "normalized", data.input_shape, 10, batch_norm="eval", verify=False)
    return trained, weights


def _single() -> Exposure:
    return Exposure(_perceptron(7, 48, "sigmoid"), _images(7), trials=2)


def _single_relu() -> Exposure:
    return Exposure(_perceptron(7, 64, "relu"), _images(7), trials=2)


def _batch() -> Exposure:
    return Exposure(_perceptron(14, 128, "relu"), _images(14), trials=2, batch=4)


def _labels() -> Exposure:
    return Exposure(
        _perceptron(7, 64, "sigmoid"), _images(7), trials=2, batch=2, adversary=Adversary().knowing("labels")
    )


def _fedavg() -> Exposure:
    return Exposure(_perceptron(7, 64, "sigmoid"), _images(7), trials=2, batch=2, procedure=single_steps(3))


def _clothes() -> Exposure:
    return Exposure(_perceptron(28, 16, "sigmoid"), _images(28), trials=2)


def _running_statistics() -> Exposure:
    data = _images(7)
    model, weights = _normalized(data.take(np.arange(32, 64)))
    return Exposure(model, data, trials=2, weights=weights)


def _batch_statistics() -> Exposure:
    data = _images(7)
    model, weights = _normalized(data.take(np.arange(32, 64)))
    return Exposure(model, data, trials=2, weights=weights, adversary=Adversary().knowing("batch_statistics"))


def _text() -> Exposure:
    data, _ = load_data("sentences(tokenizer=characters,length=8)")
    long = np.flatnonzero((data.x != 0).all(axis=1))
    both = [long[0], long[data.y[long] != data.y[long[0]]][0]]  # of two authors
    return Exposure(load_model("gpt(width=32,heads=2)", data), data.take(np.array(both)), trials=2)


def _sums() -> Exposure:
    """Cohorts of two out of three clients, whose sums over three rounds can be told apart; the model hardly moves."""
    procedure = Procedure.fedsgd(learning_rate=1e-6, weighting="uniform")
    secure = registry.defenses.create("secret_sharing")
    sums = Exposure(
        _perceptron(7, 64, "relu"),
        _images(7),
        trials=2,
        cohort=2,
        clients=3,
        rounds=3,
        selection="fedpriv.testing.case:InTurn",
        procedure=procedure,
        defenses=(secure,),
    )
    return sums


class InTurn(Selection):
    """Leaves out one client after the other."""

    name: ClassVar[str] = "in_turn"
    fixed_size: ClassVar[bool] = True

    def draw(self, population: int, seed: int, round_number: int) -> np.ndarray:
        """All but one."""
        return np.delete(np.arange(population), round_number % population)

    def expected(self, population: int) -> float:
        """One less than there are."""
        return population - 1.0

    def largest(self, population: int) -> int:
        """One less than there are."""
        return population - 1


#: The kit's cases, in the order in which one is looked for, and what each is. All but `text` are of Fashion-MNIST
#: images made smaller; all are of a few thousand weights and of two clients that have never been seen before.
CASES: dict[str, str] = {
    "single": "one 7x7 image, one step, a sigmoid layer",
    "single_relu": "one 7x7 image, one step, a ReLU layer",
    "batch": "four 14x14 images of four classes, one step, a ReLU layer",
    "clothes": "one 28x28 image, one step, a sigmoid layer",
    "fedavg": "two 7x7 images, three full-batch steps, a sigmoid layer",
    "labels": "two 7x7 images, one step, a sigmoid layer; the adversary knows the labels",
    "running_statistics": "one 7x7 image, one step, a convolution with trained batch-norm statistics",
    "batch_statistics": "the same; the adversary also knows the batch-norm statistics of the client's batch",
    "text": "eight letters of a sentence, one step, a decoder of two blocks",
    "sums": "three rounds' secure sums over two of three clients with one 7x7 image each, a ReLU layer",
}

#: Those for attacks that remember, and for no others.
OVER_ROUNDS = frozenset({"sums"})

_MAKERS: dict[str, Callable[[], Exposure]] = {
    "single": _single,
    "single_relu": _single_relu,
    "batch": _batch,
    "clothes": _clothes,
    "fedavg": _fedavg,
    "labels": _labels,
    "running_statistics": _running_statistics,
    "batch_statistics": _batch_statistics,
    "text": _text,
    "sums": _sums,
}


@cache
def own_case(name: str) -> Case:
    """One of CASES, made once a process.

    Raises:
      ParameterError: there is none of that name.
    """
    if name not in _MAKERS:
        raise ParameterError(f"the kit has no case '{name}'.{did_you_mean(name, _MAKERS)}")
    return Case.of(_MAKERS[name](), name, name in OVER_ROUNDS)
