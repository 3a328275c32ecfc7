"""Matching: `argmin_x distance(view.simulate(x, y), view.observed)`, the core of every optimization attack.

A `Recipe` composes the parts (objective, initializer, coordinates, optimizer); `reconstruct` runs it from several
starts on one view. The whole of one start is one compiled graph, shared by all views that differ in tensors only.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from attacks.coordinates import Coordinates, Smooth
from attacks.initializers import Initializer, Normal
from attacks.lbfgs import LBFGS, Minimum, Status
from attacks.objectives import Objective, SquaredError
from fedpriv._lazy import tf
from fedpriv.attack import Finding
from fedpriv.errors import CapabilityError, DivergenceError, ParameterError
from fedpriv.seeds import Purpose, graph_seed
from fedpriv.view import View


@dataclass(frozen=True)
class Recipe:
    """The parts of an optimization attack; hashable, static in the compiled graph.

    Attributes:
      objective: distance of simulated and observed update.
      initializer: where dummy examples start.
      coordinates: the variables in place of pixels.
      optimizer: how the objective is minimized.
      label_spread: standard deviation of the dummy label logits at the start, when labels are optimized.
    """

    objective: Objective = field(default_factory=SquaredError)
    initializer: Initializer = field(default_factory=Normal)
    coordinates: Coordinates = field(default_factory=Smooth)
    optimizer: LBFGS = field(default_factory=LBFGS)
    label_spread: float = 0.1


@dataclass(frozen=True)
class Restarts:
    """How often to start, and when to be content.

    Attributes:
      most: largest number of starts.
      target: relative objective at which a start stops early, its work done.
      tolerance: relative objective at which no further start is made.
      side_by_side: starts run at once, one thread each.
    """

    most: int = 1
    target: float = 2e-8
    tolerance: float = 5e-8
    side_by_side: int = 1

    def __post_init__(self) -> None:
        if self.most < 1 or self.side_by_side < 1:
            raise ParameterError(f"restarts need most and side_by_side of at least 1, not {self}")
        if self.tolerance < self.target:
            raise ParameterError(
                f"the restarts' tolerance {self.tolerance} is below the target {self.target} at which a start stops, "
                "so every start would be repeated; raise the tolerance"
            )


class _Start(NamedTuple):
    x: Any  # [n, *input_shape]
    probabilities: Any  # [n, num_classes], the dummy labels
    minimum: Minimum


def reconstruct(
    view: View, recipe: Recipe, restarts: Restarts, labels: np.ndarray | None = None, seed: int = 0
) -> Finding:
    """Runs `recipe` on `view` and keeps the start with the lowest objective.

    Args:
      view: must hold a real update, the procedure and the example counts.
      recipe: the attack's parts.
      restarts: how often to start.
      labels: `[n]` int to hold the labels fixed; None optimizes dummy labels, a softmax of logits.
      seed: the same seed gives the same finding.

    Returns:
      A Finding whose `x` is clipped to [0, 1], since images are known to lie there; its objective is the value
      before clipping, relative to the update's squared norm. `extra` has `statuses`, `objectives` and
      `evaluations` by start, `label_probabilities` `[n, num_classes]`, and `noise_floor`, the objective that
      rounding of the weights leaves even at the truth.

    Raises:
      DivergenceError: the update is not finite, or the objective is finite at no start.
      CapabilityError: the update is zero.
    """
    observed, norm = checked_update(view)
    dtype = view.model.spec.dtype
    given = labels is not None
    n = view.total_examples
    if labels is not None and np.shape(labels) != (n,):
        raise ParameterError(f"{np.shape(labels)} labels given for a view of {n} examples; give one each")
    run, compile_seconds = _compiled(view, recipe, n, given)
    floor = noise_floor(view, norm)
    y = np.asarray(np.zeros(n) if labels is None else labels, np.int32)
    fixed = (
        tf.constant(view.weights, dtype),
        tf.constant(observed / norm, dtype),
        tf.constant(1 / norm, dtype),
        tf.constant(view.client_rate, dtype),
        tf.constant(y),
        tf.constant(max(restarts.target, floor), tf.float64),
    )

    def start(number: int) -> _Start:
        found = run(*fixed, tf.constant(graph_seed(seed, Purpose.ATTACK, number)))
        found.minimum.objective.numpy()  # waits for the graph
        return found

    began = time.perf_counter()
    found = _starts(start, restarts, max(restarts.tolerance, floor))
    seconds = time.perf_counter() - began
    objectives = [float(f.minimum.objective) for f in found]
    statuses = [Status(int(f.minimum.status)) for f in found]
    if not np.any(np.isfinite(objectives)):
        raise DivergenceError(
            f"the simulated update of round {view.round} is not finite at any of {len(found)} starts; the client's "
            f"learning rate {view.client_rate} may be too high for random examples"
        )
    best = found[int(np.argmin(objectives))]
    history = best.minimum.history.numpy()
    probabilities = best.probabilities.numpy()
    return Finding(
        x=np.clip(best.x.numpy(), 0.0, 1.0).astype(np.float32),
        y=y if given else np.argmax(probabilities, -1).astype(np.int32),
        objective=min(o for o in objectives if np.isfinite(o)),
        evaluations=sum(int(f.minimum.evaluations) for f in found),
        seconds=seconds,
        compile_seconds=compile_seconds,
        restarts=len(found),
        history=history[~np.isnan(history[:, 0])],
        extra={
            "statuses": [s.name.lower() for s in statuses],
            "objectives": objectives,
            "evaluations": [int(f.minimum.evaluations) for f in found],
            "label_probabilities": probabilities,
            "noise_floor": floor,
        },
    )


def checked_update(view: View) -> tuple[np.ndarray, float]:
    """The observed update as float64 `[d]` and its Euclidean norm.

    Raises:
      DivergenceError: it is not finite.
      CapabilityError: it is zero, so it says nothing about any example.
    """
    observed = np.asarray(view.observed, np.float64)
    bad = int(np.sum(~np.isfinite(observed)))
    if bad:
        raise DivergenceError(
            f"the observed update of round {view.round} has {bad} non-finite entries of {observed.size}, so nothing "
            "can be matched to it; lower the client's learning rate"
        )
    norm = float(np.linalg.norm(observed))
    if norm == 0.0:
        raise CapabilityError(
            f"the observed update of round {view.round} is exactly zero: it holds no information about the client's "
            "examples, so there is nothing to attack"
        )
    return observed, norm


def noise_floor(view: View, norm: float) -> float:
    """The relative squared error that rounding leaves at the true examples.

    The client sends the difference of its new and old weights, each rounded to the model's precision; at a small
    learning rate that rounding is what an attack ends up matching.
    """
    epsilon = float(np.finfo(view.model.spec.dtype).eps)
    return (epsilon * float(np.linalg.norm(np.asarray(view.weights, np.float64))) / norm) ** 2


def _starts(start: Callable[[int], _Start], restarts: Restarts, tolerance: float) -> list[_Start]:
    found: list[_Start] = []
    with ThreadPoolExecutor(restarts.side_by_side) as pool:
        while len(found) < restarts.most:
            wave = range(len(found), min(len(found) + restarts.side_by_side, restarts.most))
            found += pool.map(start, wave)
            if any(float(f.minimum.objective) <= tolerance for f in found):
                break
    return found


_CACHE: OrderedDict[Hashable, Callable[..., _Start]] = OrderedDict()
_CACHE_SIZE = 16
_CACHE_LOCK = threading.Lock()
atexit.register(_CACHE.clear)  # compiled functions must go before TensorFlow does


def _compiled(view: View, recipe: Recipe, n: int, given: bool) -> tuple[Callable[..., _Start], float]:
    """The compiled attack for views like this one, and the seconds spent now on compiling it."""
    key = (recipe, view.static_key(), n, given)
    with _CACHE_LOCK:
        if key in _CACHE:
            _CACHE.move_to_end(key)
            return _CACHE[key], 0.0
        began = time.perf_counter()
        run = _compile(view, recipe, n, given)
        _CACHE[key] = run
        while len(_CACHE) > _CACHE_SIZE:
            _CACHE.popitem(last=False)
        return run, time.perf_counter() - began


def _compile(view: View, recipe: Recipe, n: int, given: bool) -> Callable[..., _Start]:
    model, dtype = view.model, view.model.spec.dtype
    x_shape, y_shape = (n, *model.input_shape), (n, model.num_classes)
    x_size = int(np.prod(x_shape))

    def unpack(v: Any, y: Any) -> tuple[Any, Any]:
        x = recipe.coordinates.decode(tf.reshape(v[:x_size], x_shape))
        return x, y if given else tf.nn.softmax(tf.reshape(v[x_size:], y_shape))

    def run(weights: Any, unit: Any, scale: Any, rate: Any, y: Any, target: Any, seed: Any) -> _Start:
        def value_and_gradient(v: Any) -> tuple[Any, Any]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(v)
                simulated = view.simulate_from(weights, rate, *unpack(v, y))
                value = recipe.objective(simulated * scale, unit)
            return value, tf.convert_to_tensor(tape.gradient(value, v, unconnected_gradients="zero"))

        seeds = tf.random.experimental.stateless_split(seed, 2)
        x = recipe.initializer(x_shape, seeds[0], dtype)
        v = tf.reshape(recipe.coordinates.encode(x), [-1])
        if not given:
            logits = tf.random.stateless_normal(y_shape, seeds[1], 0.0, recipe.label_spread, dtype)
            v = tf.concat([v, tf.reshape(logits, [-1])], 0)
        minimum = recipe.optimizer.minimize(value_and_gradient, v, target)
        x, found = unpack(minimum.position, y)
        return _Start(x, tf.one_hot(found, model.num_classes, dtype=dtype) if given else found, minimum)

    d = model.spec.size
    signature = [
        tf.TensorSpec([d], dtype),
        tf.TensorSpec([d], dtype),
        tf.TensorSpec([], dtype),
        tf.TensorSpec([], dtype),
        tf.TensorSpec([n], tf.int32),
        tf.TensorSpec([], tf.float64),
        tf.TensorSpec([2], tf.int32),
    ]
    concrete = tf.function(run, input_signature=signature, autograph=False).get_concrete_function()
    # The first call prepares the executor. At weights that are not finite it ends after one evaluation.
    spoiled = [tf.fill(s.shape, tf.constant(float("nan"), dtype)) for s in signature[:4]]
    concrete(*spoiled, tf.zeros([n], tf.int32), tf.zeros([], tf.float64), tf.zeros([2], tf.int32))
    return concrete
