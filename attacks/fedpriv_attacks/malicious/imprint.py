"""Imprint: units that all take one measurement of an example, each above a threshold of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy.special import ndtri

from fedpriv.base.errors import ModelError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.seeds import Purpose, generator
from fedpriv.base.types import Examples, Tensor, Tensors
from fedpriv.models.model import Model, Moments
from fedpriv.models.spec import Spec
from fedpriv.procedure.procedure import Procedure
from fedpriv.threat.acts import Occasion
from fedpriv.threat.knowledge import Auxiliary

Measured = Literal["mean", "random"]
Quantiles = Literal["held", "normal", "uniform"]

#: Names of the module's tensors: of one whose units fire above their threshold, and of one with two thresholds.
CUMULATIVE, SPARSE = "imprint", "sparse_imprint"
#: The same behind a convolution whose channels are sets for one client each.
SETS, SPARSE_SETS = "imprint_sets", "sparse_imprint_sets"
#: Mean and standard deviation of an image's mean brightness, where nothing else is known.
BRIGHTNESS = (0.45, 0.2)
#: Standard deviations within which the outermost thresholds of a normal distribution lie.
_OUTERMOST = 8.0
#: Examples on which the rest of the model is tried.
_PROBES = 64


@dataclass(frozen=True)
class Ladder:
    """A measurement and its thresholds.

    Attributes:
      direction: `[inputs]`; the measurement of an example x is direction . x.
      thresholds: `[bins + 1]`, rising. Bin i holds measurements between the i-th and the next one.
      spread: standard deviation of the measurement.
    """

    direction: np.ndarray
    thresholds: np.ndarray
    spread: float


def ladder(
    who: str,
    occasion: Occasion,
    inputs: int,
    bins: int,
    measurement: Measured,
    quantiles: Quantiles,
    mean: float | None,
    spread: float | None,
    seed: int,
) -> Ladder:
    """The measurement and thresholds between which examples fall with equal probability.

    Args:
      who: for errors, such as `act 'robbing_the_fed'`.
      occasion: what the adversary knows at that time.
      inputs: values of an example.
      bins: k.
      measurement: `mean` of an example's values, or a `random` direction of length 1.
      quantiles: of auxiliary data if `held`, else of a `normal`; or of a `uniform` distribution.
      mean, spread: of the measurement (of `uniform`: mean and standard deviation); None where to be assumed.
      seed: of a random direction.

    Raises:
      ParameterError: nothing says where the measurement lies.
    """
    if measurement == "mean":
        direction = np.full(inputs, 1 / inputs)
    else:
        direction = generator(seed, Purpose.ATTACK).normal(size=inputs)
        direction /= np.linalg.norm(direction)
    inside = np.arange(1, bins) / bins
    held = examples(occasion) if quantiles == "held" and mean is None and spread is None else None
    if held is not None:
        values = held.reshape(len(held), -1) @ direction
        mean, spread = float(values.mean()), float(values.std())
        if spread == 0:
            raise ParameterError(
                f"{who}: all {len(values)} auxiliary examples measure the same, so they fill one bin; use "
                "measurement=random, or other data"
            )
        middle = np.quantile(values, inside)
        # Ties in the data would make bins of no width.
        middle += np.arange(bins - 1) * 1e-7 * spread
        ends = values.min() - 3 * spread, values.max() + 3 * spread
    else:
        mean, spread = _assumed(who, occasion, inputs, measurement, mean, spread)
        if quantiles == "uniform":
            half = np.sqrt(3.0) * spread
            middle, ends = mean + half * (2 * inside - 1), (mean - half, mean + half)
        else:
            middle = mean + spread * ndtri(inside)
            ends = mean - _OUTERMOST * spread, mean + _OUTERMOST * spread
    return Ladder(direction, np.concatenate([[ends[0]], middle, [ends[1]]]), spread)


def _assumed(
    who: str, occasion: Occasion, inputs: int, measurement: Measured, mean: float | None, spread: float | None
) -> tuple[float, float]:
    image = occasion.model is not None and len(occasion.model.input_shape) == 3
    if image and measurement == "mean":
        usual: tuple[float, float] | None = BRIGHTNESS
    elif image:
        usual = None
    else:  # independent values of mean 0 and variance 1
        usual = 0.0, 1 / np.sqrt(inputs) if measurement == "mean" else 1.0
    if usual is None and (mean is None or spread is None):
        raise ParameterError(
            f"{who}: measurement={measurement} of images lies where only data tells; give mean and spread of it, use "
            "measurement=mean, or let the adversary know auxiliary(data=...)"
        )
    usual = usual or (0.0, 1.0)
    return usual[0] if mean is None else mean, usual[1] if spread is None else spread


def examples(occasion: Occasion, most: int = 4096) -> np.ndarray | None:
    """The examples that the adversary holds, `[m, *input_shape]`, or None."""
    held = sorted((k for k in occasion.knowledge if isinstance(k, Auxiliary)), key=str)
    if not held or occasion.model is None:
        return None
    return held[0].load(occasion.model)[0][:most]


def probes(occasion: Occasion, model: Model, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Examples and targets to try the rest of a model on: held ones, or noise."""
    draws = generator(seed, Purpose.ATTACK)
    x = examples(occasion)
    if x is None:
        shape = (_PROBES, *model.input_shape)
        x = draws.uniform(0, 1, shape) if len(model.input_shape) == 3 else draws.normal(0, 1, shape)
    x = np.asarray(x[:_PROBES], model.spec.dtype)
    task = model.task
    y = draws.integers(0, max(task.classes, 1), (len(x), *task.target_shape))
    return x, y.astype(task.target_dtype)


def slopes(model: Model, weights: list[np.ndarray], name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The gradient of each example's loss in the tensor `name`, `[m, *shape]` float64."""
    given = [tf.constant(w, model.spec.dtype) for w in weights]
    where = model.spec.names.index(name)
    # One by one: a jacobian would take every example's losses through the model once for each example.
    size = len(x) if model.couples_examples else 1
    found = []
    for i in range(0, len(x), size):
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(given[where])
            some, targets = tf.constant(x[i : i + size], model.spec.dtype), tf.constant(y[i : i + size])
            losses = model.example_losses(given, some, targets)
        found.append(tape.jacobian(losses, given[where], experimental_use_pfor=False))
    return np.concatenate(found).astype(np.float64)


def sensitive(felt: np.ndarray, seed: int) -> np.ndarray:
    """A direction `[inputs]` of length 1 in which the loss of every example changes, from gradients `[m, inputs]`."""
    draws = np.random.default_rng(seed)
    _, sizes, right = np.linalg.svd(felt, full_matrices=False)
    rank = int(np.sum(sizes > 1e-3 * sizes[0])) if sizes[0] > 0 else 0
    if not rank:
        right, rank = draws.normal(size=(1, felt.shape[1])), 1
    towards = draws.normal(size=rank) @ right[:rank]
    return np.asarray(towards / np.linalg.norm(towards))


def local_passes(procedure: Procedure | None) -> float:
    """Learning rate times how often an example's own gradient moves a client's weights, over the batch it is in."""
    if procedure is None:
        return 0.1
    return procedure.client.learning_rate * procedure.local_epochs / (procedure.batch_size or 1)


def cap(bins: int) -> float:
    """Height at which a unit with two thresholds stops; small, so that a step on what follows is."""
    return float(0.8 / np.sqrt(bins))


def single_step(procedure: Procedure) -> bool:
    """Whether every client makes one local step, whatever it holds."""
    return (procedure.local_epochs == 1 and procedure.batch_size is None) or procedure.max_local_steps == 1


def witnesses(inputs: int, count: int) -> np.ndarray:
    """Directions `[inputs, count]` whose squared products with an example the module sees besides the example."""
    signs = np.random.default_rng(inputs).integers(0, 2, (inputs, count)) * 2.0 - 1.0
    return np.asarray(signs / np.sqrt(inputs))


def in_front(model: Model, bins: int, count: int, sparse: bool, skip: bool, name: str) -> Model:
    """`model` behind an imprint module: dense, ReLU (or a clip at `cap`), dense back to the example's shape.

    Args:
      model: of images or features.
      bins: units of the module.
      count: squares of directions that the first layer sees besides the example (`witnesses`).
      sparse: units with two thresholds.
      skip: whether the example itself is added to what the module gives.
      name: of the new model.

    Raises:
      ModelError: the model takes no numbers, or has such a module.
    """
    inputs = int(np.prod(model.input_shape))
    seen = witnesses(inputs, count)

    def module(weights: Tensors, flat: Tensor) -> Tensor:
        given = flat
        if count:
            given = tf.concat([flat, tf.square(tf.matmul(flat, tf.constant(seen, flat.dtype)))], 1)
        return binned(weights, given, sparse)

    shapes = {"kernel": (inputs + count, bins), "bias": (bins,), "back/kernel": (bins, inputs), "back/bias": (inputs,)}
    return behind(model, name, SPARSE if sparse else CUMULATIVE, shapes, module, skip)


def binned(weights: Tensors, given: Tensor, sparse: bool) -> Tensor:
    """Bins' units of what a module sees `[n, rows]`, and back; `weights` are kernel, bias, second kernel and bias."""
    kernel, bias, back, shift = weights
    z = tf.matmul(given, kernel) + bias
    fired = tf.clip_by_value(z, 0.0, cap(int(bias.shape[0]))) if sparse else tf.nn.relu(z)
    return tf.matmul(fired, back) + shift


def behind(
    model: Model,
    name: str,
    prefix: str,
    own: dict[str, tuple[int, ...]],
    module: Callable[[Tensors, Tensor], Tensor],
    skip: bool,
) -> Model:
    """`model` behind a module, whose weights follow the model's buffers.

    Args:
      model: of images or features.
      name: of the new model.
      prefix: of the names of the module's tensors.
      own: their names and shapes.
      module: `(its weights, examples [n, inputs]) -> [n, inputs]`.
      skip: whether the examples are added to that.

    Raises:
      ModelError: the model takes no numbers, or is behind a module already.
    """
    if model.embedding is not None or not model.input_shape:
        raise ModelError(
            f"model '{model.name}' takes tokens, which an imprint module cannot measure; use 'decepticons'"
        )
    if module_of(model) is not None:
        raise ModelError(f"model '{model.name}' has an imprint module already; give the act once")
    spec, first, many = model.spec, model.buffers, len(own)
    inputs, shape = int(np.prod(model.input_shape)), tuple(model.input_shape)
    shapes = tuple(own.values())
    changed = Spec(
        (*spec.names[:first], *(f"{prefix}/{n}" for n in own), *spec.names[first:]),
        (*spec.shapes[:first], *shapes, *spec.shapes[first:]),
        spec.dtype,
    )

    def inner(weights: Tensors) -> list[Tensor]:
        return [*weights[:first], *weights[first + many :]]

    def passed(weights: Tensors, x: Examples) -> Tensor:
        flat = tf.reshape(x, [-1, inputs])
        out = module(weights[first : first + many], flat)
        return tf.reshape(flat + out if skip else out, [-1, *shape])

    def initialize(seed: int) -> list[np.ndarray]:
        draws = generator(seed, Purpose.WEIGHTS)
        begun = []
        for s in shapes:
            ways = (int(np.prod(s[:-1])), int(np.prod([*s[:-2], s[-1]]))) if len(s) > 1 else (1, 1)
            value = draws.uniform(-1, 1, s) * np.sqrt(6 / sum(ways)) if len(s) > 1 else np.zeros(s)
            begun.append(np.asarray(value, spec.dtype))
        theirs = list(model.initialize(seed))
        return [*theirs[:first], *begun, *theirs[first:]]

    def after(function: Callable[..., Any] | None) -> Callable[..., Any] | None:
        if function is None:
            return None
        return lambda weights, x, *more: function(inner(weights), passed(weights, x), *more)

    apply, moments, advance = after(model.apply), after(model.moments), after(model.advance)
    assert apply is not None
    draws = tuple(d if d.before is None else replace(d, before=d.before + many) for d in model.draws)
    estimates, sent = model.estimates, model.sent

    def estimated(weights: Tensors) -> Moments:
        assert estimates is not None
        return estimates(inner(weights))

    def was_sent(weights: Tensors, update: Tensors) -> Moments:
        assert sent is not None
        return sent(inner(weights), inner(update))

    kinds = tuple("conv" if len(s) == 4 else "dense" for s in shapes)
    return replace(
        model,
        name=name,
        spec=changed,
        apply=apply,
        initialize=initialize,
        layers=(*model.layers[:first], *kinds, *model.layers[first:]) if model.layers else (),
        chain=(),
        moments=moments,
        advance=advance,
        draws=draws,
        stochastic=after(model.stochastic),
        estimates=None if estimates is None else estimated,
        sent=None if sent is None else was_sent,
    )


def module_of(model: Model) -> tuple[str, int] | None:
    """(prefix of its tensors' names, index of the first in the spec) of a model's imprint module; None without one."""
    for prefix in (CUMULATIVE, SPARSE, SETS, SPARSE_SETS):
        if f"{prefix}/kernel" in model.spec.names:
            return prefix, model.spec.names.index(f"{prefix}/kernel")
    return None


def with_module(weights: np.ndarray, before: Model, after: Model) -> np.ndarray:
    """Weights `[d]` of a model, with those that its imprint module begins with put in."""
    found = module_of(after)
    assert found is not None
    own = after.initialize(0)[found[1] : found[1] + len(after.spec.names) - len(before.spec.names)]
    theirs = before.spec.unflatten_numpy(np.asarray(weights, before.spec.dtype))
    return after.spec.flatten_numpy([*theirs[: found[1]], *own, *theirs[found[1] :]])
