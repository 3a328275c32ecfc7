"""Matching: `argmin_x distance(simulated update, observed update) + priors`, the core of every optimization attack.

A `Recipe` names the parts that enter the graph; `reconstruct` runs it from several starts on one view. The whole of
one start is one compiled graph, shared by all views that differ in tensors only.
"""

from __future__ import annotations

import atexit
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from fedpriv.base.errors import CapabilityError, DivergenceError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.seeds import Purpose, graph_seed, integer_seed
from fedpriv.base.types import Array, Examples, Flat, Labels, Scalar, Seed, Tensor, Tensors
from fedpriv.models.spec import Spec
from fedpriv.threat.attack import Finding
from fedpriv.threat.replays import measured, note
from fedpriv.threat.static import Inputs, Static
from fedpriv.threat.view import View
from fedpriv_attacks.inversion.ensemble import pool
from fedpriv_attacks.parts.coordinates import Coordinates, Smooth
from fedpriv_attacks.parts.initializers import Initializer
from fedpriv_attacks.parts.moves import Ground, Moves, shuffles
from fedpriv_attacks.parts.objectives import Objective, SquaredError
from fedpriv_attacks.parts.optimizers.lbfgs import LBFGS
from fedpriv_attacks.parts.optimizers.minimum import Leap, Minimum, Optimizer, Status
from fedpriv_attacks.parts.priors import Prior, Scene
from fedpriv_attacks.parts.replay import Exact, Replay, Sent


@dataclass(frozen=True)
class Recipe:
    """The parts of an optimization attack that make its graph; hashable.

    Attributes:
      objective: distance of simulated and observed update.
      priors: penalties added to it.
      replay: how an update is simulated.
      coordinates: the variables in place of pixels.
      optimizer: how the sum is minimized.
      box: keep examples valid, as their kind says, at every step, by projection.
      group: starts optimized side by side in one graph, for priors that tie them together.
      path: keep the examples along the way.
      moves: changes that no gradient leads to, made between the optimizer's steps, or None.
      tries: how many starts are drawn for one, and in how many orders of its places the best of them is tried.
    """

    objective: Objective = field(default_factory=SquaredError)
    priors: tuple[Prior, ...] = ()
    replay: Replay = field(default_factory=Exact)
    coordinates: Coordinates = field(default_factory=Smooth)
    optimizer: Optimizer = field(default_factory=LBFGS)
    box: bool = False
    group: int = 1
    path: bool = False
    moves: Moves | None = None
    tries: tuple[int, int] = (1, 0)


@dataclass(frozen=True)
class Restarts:
    """How often to start, and when to be content.

    A start ends at the noise floor, the objective that rounding leaves at the truth (`noise_floor`): below it there is
    only noise. Where it cannot get there, its optimizer ends it: at stagnation, where no step lowers the objective in
    this precision, or at the end of its budget. No further start is made once one explains half of the digits that the
    update has, so that what is left of it is the square root of what rounding leaves: of a minimum's place the
    objective tells no more than that many (Gill, Murray, Wright 1981, "Practical Optimization", section 8.2.2), and
    another basin explains less.

    Attributes:
      most: largest number of starts.
      target: objective at which a start stops, if that is above the noise floor.
      tolerance: objective at which no further start is made; None for half of the update's digits.
      side_by_side: starts run at once, one thread each.
      label_spread: standard deviation of the dummy label logits at the start, when labels are optimized.
      pooled: make all starts, however well one matches, and pool them (`ensemble`).
    """

    most: int = 1
    target: float = 0.0
    tolerance: float | None = None
    side_by_side: int = 1
    label_spread: float = 0.1
    pooled: bool = False

    def __post_init__(self) -> None:
        if self.most < 1 or self.side_by_side < 1:
            raise ParameterError(f"restarts need most and side_by_side of at least 1, not {self}")
        if self.tolerance is not None and self.tolerance < self.target:
            raise ParameterError(
                f"the restarts' tolerance {self.tolerance} is below the target {self.target} at which a start stops, "
                "so every start would be repeated; raise the tolerance"
            )


class Ease(NamedTuple):
    """How a stage differs from its recipe. Numbers only, so that all stages run in one graph.

    Attributes:
      priors: factor on the weights of all priors.
      pace: factor on the learning rate, for optimizers that have one (`Optimizer.paced`).
    """

    priors: float = 1.0
    pace: float = 1.0


class _Start(NamedTuple):
    x: Examples  # [copies * n, ...], as they entered the model
    relaxed: Labels  # [n, *task.relaxed_shape], the dummy targets, such as probabilities
    objective: Scalar  # of the best member of the group
    path: Tensor  # [rows, copies * n, ...], empty unless asked for
    minimum: Minimum


@dataclass(frozen=True)
class _Page:
    """One view's own numbers: the observed update's direction `[d]` and norm, and its objective's factor."""

    view: View
    unit: np.ndarray
    norm: float
    factor: float

    def tensors(self, dtype: str) -> tuple[Tensor, ...]:
        """Weights, direction, 1 / norm, factor, rate and what else its replay takes."""
        numbers = (self.view.weights, self.unit, 1 / self.norm, self.factor, self.view.client_rate)
        more = tuple(tf.constant(a) for a in _leaves(self.view.inputs()))
        return (*(tf.constant(a, dtype) for a in numbers), more)


def _page(objective: Objective, view: View, compared: Sequence[int]) -> _Page:
    observed, norm = checked_update(view)
    if len(compared) < len(view.model.spec.sizes):
        parts = view.model.spec.unflatten_numpy(observed)
        norm = math.sqrt(sum(float(np.sum(np.square(parts[i]))) for i in compared))
        if norm == 0.0:
            raise CapabilityError(
                f"the observed update of round {view.round} is zero but for the embedding's table, which no point of "
                "the embedding is matched to; use an attack that reads tokens off the table"
                if view.model.embedding is not None
                else f"the observed update of round {view.round} is zero in the {len(compared)} tensors that are "
                "compared, so there is nothing to match; use draws=joint"
            )
    return _Page(view, observed / norm, norm, objective.factor(view, norm))


def _compared(recipe: Recipe, static: Static) -> list[int]:
    """Which of the model's weight tensors are compared."""
    replayed = set(recipe.replay.compared(static))
    return [i for i in recipe.coordinates.compared(static.model) if i in replayed]


class _Layout(NamedTuple):
    """Where things lie in one member's vector of variables: examples, label logits, the replay's own."""

    n: int
    shape: tuple[int, ...]  # (copies * n, *shape of one as it is decoded)
    examples: int
    logits: int
    own: int

    @property
    def size(self) -> int:
        return self.examples + self.logits + self.own


def reconstruct(
    view: View,
    recipe: Recipe,
    restarts: Restarts,
    initializer: Initializer,
    labels: np.ndarray | None = None,
    seed: int = 0,
    variables: np.ndarray | None = None,
    memory: tuple[np.ndarray, ...] | None = None,
    others: Sequence[View] = (),
    ease: Ease = Ease(),  # noqa: B008
) -> Finding:
    """Runs `recipe` on `view` and keeps the start with the lowest objective, or pools all starts.

    Args:
      view: must hold a real update, the procedure and the example counts.
      recipe: the attack's parts.
      restarts: how often to start.
      initializer: where the dummy examples start.
      labels: `[n]` targets to hold fixed; None optimizes dummy ones, relaxed as the model's task says (a softmax of
        logits for classes).
      seed: the same seed gives the same finding.
      variables: `[group, k]` the optimizer's variables at which the first start sets out, to go on from another
        recipe's `extra["variables"]`; None asks the initializer.
      memory: likewise what its optimizer had learned, `extra["memory"]`; None is nothing.
      others: more views of the same clients on the same examples, such as of other rounds; the objectives of all are
        added.
      ease: factors on the recipe's weights of priors and learning rate.

    Returns:
      A Finding whose `x` is made valid, since everybody knows the examples' kind (images are clipped to [0, 1]); its
      objective is the value before that, of updates divided by the observed one's norm. Evaluations count every
      member of a group and every view. `extra` has `statuses`, `objectives` and `evaluations` by start,
      `label_probabilities`, the dummy targets,
      `variables`, `[group, k]`, the optimizer's at the end of that start, `memory`, what it has learned, and
      `noise_floor`, the squared error that
      rounding of the weights leaves even at the truth; where the replay looks for what the model drew, `draws`, arrays
      `[passes, n, *shape]`. Of pooled starts, `entropy` and `uncertainty` of a table's cells
      (`ensemble.Pooled`) as well; objective, history and path are the best start's.

    Raises:
      DivergenceError: the update is not finite, or the objective is finite at no start.
      CapabilityError: the update is zero, or another view cannot be of the same clients.
    """
    recipe.coordinates.check(view)
    if recipe.moves is not None:
        recipe.moves.check(view, recipe.coordinates)
    compared = _compared(recipe, view.static)
    pages = [_page(recipe.objective, page, compared) for page in (view, *others)]
    for other in others:
        if other.static != view.static:
            raise CapabilityError(
                f"the views of rounds {view.round} and {other.round} differ in more than their numbers (clients, "
                "procedure or defenses), so they are not replayed alike; match them one by one"
            )
    norm = pages[0].norm
    dtype = view.model.spec.dtype
    given = labels is not None
    n = view.total_examples
    task, kind = view.model.task, view.data_kind
    if labels is not None and np.shape(labels) != (n, *task.target_shape):
        raise ParameterError(f"{np.shape(labels)} labels given for a view of {n} examples; give one each")
    tensors = tuple(prior.tensors(view) for prior in recipe.priors)
    mine = (recipe.coordinates.tensors(view), () if recipe.moves is None else recipe.moves.tensors(view))
    inputs = view.inputs()
    run, compile_seconds = _compiled(view.static, recipe, given, inputs, tensors, mine, len(pages))
    floor = noise_floor(view, norm)
    target = max(restarts.target, recipe.objective.floor(floor))
    half = recipe.objective.floor(half_of_digits(floor)) if restarts.tolerance is None else restarts.tolerance
    y = np.asarray(np.zeros((n, *task.target_shape)) if labels is None else labels, task.target_dtype)
    fixed = (
        tuple(page.tensors(dtype) for page in pages),
        tf.constant(y),
        tf.constant(target, tf.float64),
        tuple(tuple(tf.constant(t, dtype) for t in own) for own in tensors),
        (tuple(tf.constant(t, dtype) for t in mine[0]), tuple(tf.constant(t) for t in mine[1])),
        tf.constant(ease, tf.float64),
    )
    layout = _layout(view.static, recipe, given)
    blank = recipe.optimizer.blank(recipe.group * layout.size, str(np.dtype(dtype)))

    def start(number: int) -> _Start:
        draws = recipe.group * recipe.tries[0]
        members = [
            _variables(view, recipe, initializer, restarts, layout, seed, number * draws + member)
            for member in range(draws)
        ]
        if variables is not None and number == 0:
            members = [tf.constant(member, dtype) for member in variables] * recipe.tries[0]
        learned = memory if memory is not None and number == 0 else blank
        own = graph_seed(seed, Purpose.ATTACK, _MOVES + number)
        found = run(*fixed, tf.stack(members), tuple(tf.constant(a) for a in learned), own)
        found.objective.numpy()  # waits for the graph
        return found

    began = time.perf_counter()
    found = _starts(start, restarts, -math.inf if restarts.pooled else max(target, half))
    seconds = time.perf_counter() - began
    objectives = [float(f.objective) for f in found]
    statuses = [Status(int(f.minimum.status)) for f in found]
    if not np.any(np.isfinite(objectives)):
        raise DivergenceError(
            f"the simulated update of round {view.round} is not finite at any of {len(found)} starts; the client's "
            f"learning rate {view.client_rate} may be too high for random examples"
        )
    best = found[int(np.nanargmin(objectives))]
    history = best.minimum.history.numpy()
    rows = ~np.isnan(history[:, 0])
    each = recipe.group * len(pages)
    history[:, 0] *= each
    relaxed = best.relaxed.numpy()
    claimed = y if given else task.harden(relaxed)

    def one(x: np.ndarray, targets: np.ndarray) -> np.ndarray:
        groups = targets if task.discrete and targets.ndim == 1 else np.zeros(n, np.int32)
        return merged(x, layout.n, groups)

    def examples(x: np.ndarray) -> np.ndarray:
        return kind.settle(recipe.coordinates.found(view, one(x, claimed))).astype(np.float32)

    settled, more = examples(best.x.numpy()), _draws_found(view, recipe, layout, best)
    if restarts.pooled:
        ends = [(f.x.numpy(), f.relaxed.numpy()) for f in found]
        members = [one(x, y if given else task.harden(own)) for x, own in ends]
        own = np.stack([end for _, end in ends])
        pooled = pool(np.stack(members), own, np.asarray(objectives), kind, y if given else None)
        settled, relaxed = kind.settle(pooled.x).astype(np.float32), pooled.relaxed
        claimed = y if given else task.harden(relaxed)
        if pooled.entropy is not None:
            more |= {"entropy": pooled.entropy, "uncertainty": pooled.uncertainty}

    return Finding(
        x=settled,
        y=claimed,
        objective=min(o for o in objectives if np.isfinite(o)),
        evaluations=sum(int(f.minimum.evaluations) for f in found) * each,
        seconds=seconds,
        compile_seconds=compile_seconds,
        restarts=len(found) * recipe.group,
        history=history[rows],
        path=np.stack([examples(x) for x in best.path.numpy()[rows]]) if recipe.path else None,
        extra={
            "statuses": [s.name.lower() for s in statuses],
            "objectives": objectives,
            "evaluations": [int(f.minimum.evaluations) * each for f in found],
            "label_probabilities": relaxed,
            "variables": best.minimum.position.numpy().reshape(recipe.group, -1),
            "memory": tuple(a.numpy() for a in best.minimum.memory),
            "noise_floor": floor,
            **more,
        },
    )


def _draws_found(view: View, recipe: Recipe, layout: _Layout, best: _Start) -> dict[str, Any]:
    """What the model drew, where that was looked for: `draws`, arrays `[passes, n, *shape]`."""
    own = tf.reshape(best.minimum.position, [recipe.group, -1])[0, layout.size - layout.own :]
    found = recipe.replay.draws_of(view.static, own)
    return {"draws": tuple(a.numpy() for a in found)} if found else {}


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


def half_of_digits(floor: float) -> float:
    """The relative squared error that explains half of an update's digits; at most 1e-3, where it has hardly any."""
    return min(math.sqrt(floor), 1e-3)


def merged(x: np.ndarray, n: int, y: np.ndarray) -> np.ndarray:
    """One batch `[n, ...]` from copies `[copies * n, ...]` of it in unknown orders.

    Every copy is matched one-to-one to the first, within equal labels, and their mean taken (Dimitrov et al. 2022,
    arXiv 2206.12395, section 4.4).
    """
    from fedpriv.metrics.matching import match

    copies = x.reshape(-1, n, *x.shape[1:])
    if len(copies) == 1:
        return copies[0]
    aligned = copies.copy()
    for other in aligned[1:]:
        for label in np.unique(y):
            same = np.flatnonzero(y == label)
            if np.isfinite(copies[0][same]).all():
                other[same] = other[same][match(other[same], copies[0][same])]
    return aligned.mean(0)


def _starts(start: Callable[[int], _Start], restarts: Restarts, tolerance: float) -> list[_Start]:
    found: list[_Start] = []
    with ThreadPoolExecutor(restarts.side_by_side) as pool:
        while len(found) < restarts.most:
            wave = range(len(found), min(len(found) + restarts.side_by_side, restarts.most))
            found += pool.map(start, wave)
            if any(float(f.objective) <= tolerance for f in found):
                break
    return found


def _layout(static: Static, recipe: Recipe, given: bool) -> _Layout:
    n = static.total_examples
    shape = (recipe.replay.copies(static) * n, *recipe.coordinates.shape(static.model))
    logits = 0 if given else n * int(np.prod(recipe.coordinates.free_targets(static.model.task)))
    return _Layout(n, shape, recipe.coordinates.size(shape), logits, len(recipe.replay.unknowns(static)))


def _variables(
    view: View, recipe: Recipe, initializer: Initializer, restarts: Restarts, layout: _Layout, seed: int, number: int
) -> Flat:
    """One start's variables `[k]`."""
    dtype = view.model.spec.dtype
    own = integer_seed(seed, Purpose.ATTACK, number)
    seeds = tf.random.experimental.stateless_split(graph_seed(seed, Purpose.ATTACK, number), 2)
    copies = layout.shape[0] // layout.n
    x = np.concatenate([initializer(view, own + copy) for copy in range(copies)])
    parts = [recipe.coordinates.start(tf.constant(x, dtype), seeds[0])]
    if layout.logits:
        parts.append(tf.random.stateless_normal([layout.logits], seeds[1], 0.0, restarts.label_spread, dtype))
    if layout.own:
        parts.append(tf.constant(recipe.replay.unknowns(view.static), dtype))
    return tf.concat(parts, 0)


class _Compiled(NamedTuple):
    run: Callable[..., _Start]
    replayed: frozenset[str]  # labels of the defenses that its replay takes into account


#: Where the numbers of the draws of moves begin, after those of the starts.
_MOVES = 1 << 20

_CACHE: OrderedDict[Hashable, _Compiled] = OrderedDict()
_CACHE_SIZE = 16
_CACHE_LOCK = threading.Lock()
atexit.register(_CACHE.clear)  # compiled functions must go before TensorFlow does


def _leaves(inputs: Inputs) -> list[Tensor | Array]:
    """The arrays in `inputs`, in an order of their own."""
    return [leaf for leaf in tf.nest.flatten(inputs) if leaf is not None]


def _filled(inputs: Inputs, leaves: Tensors) -> Inputs:
    """`inputs` with other leaves in their places."""
    following = iter(leaves)
    return tf.nest.map_structure(lambda leaf: None if leaf is None else next(following), inputs)


def _compiled(
    static: Static,
    recipe: Recipe,
    given: bool,
    inputs: Inputs,
    tensors: Sequence[Sequence[np.ndarray]],
    mine: tuple[Sequence[np.ndarray], Sequence[np.ndarray]] = ((), ()),
    pages: int = 1,
) -> tuple[Callable[..., _Start], float]:
    """The compiled attack for so many views like this one, and the seconds spent now on compiling it.

    Of `inputs`, `tensors` (the priors') and `mine` (the coordinates' and the moves') only the structure, shapes and
    types matter.
    """
    specs = tuple((np.shape(a), str(np.asarray(a).dtype)) for a in _leaves(inputs))
    layout = str(tf.nest.map_structure(lambda leaf: leaf is None, inputs))
    shapes = tuple(tuple(np.shape(t) for t in own) for own in (*tensors, *mine))
    key = (recipe, static, given, pages, layout, specs, shapes)
    with _CACHE_LOCK:
        if key in _CACHE:
            _CACHE.move_to_end(key)
            note(_CACHE[key].replayed)
            return _CACHE[key].run, 0.0
        began = time.perf_counter()
        with measured() as replayed:
            run = _compile(static, recipe, given, inputs, tensors, mine, pages)
        _CACHE[key] = _Compiled(run, frozenset(replayed))
        while len(_CACHE) > _CACHE_SIZE:
            _CACHE.popitem(last=False)
        return run, time.perf_counter() - began


def _compile(
    static: Static,
    recipe: Recipe,
    given: bool,
    inputs: Inputs,
    tensors: Sequence[Sequence[np.ndarray]],
    mine: tuple[Sequence[np.ndarray], Sequence[np.ndarray]],
    pages: int,
) -> Callable[..., _Start]:
    model, dtype, n = static.model, static.model.spec.dtype, static.total_examples
    task = model.task
    layout, group = _layout(static, recipe, given), recipe.group
    copies = layout.shape[0] // n
    shapes = [[np.shape(t) for t in own] for own in tensors]
    placing = tuple(tf.TensorSpec(np.shape(t), dtype) for t in mine[0])
    moving = tuple(tf.TensorSpec(np.shape(t), np.asarray(t).dtype) for t in mine[1])
    coordinates, data_kind = recipe.coordinates, static.data_kind
    compared = _compared(recipe, static)
    spec = model.spec
    if len(compared) < len(spec.sizes):
        spec = Spec(tuple(spec.names[i] for i in compared), tuple(spec.shapes[i] for i in compared), spec.dtype)
    kinds = [(np.shape(a), np.asarray(a).dtype) for a in _leaves(inputs)]
    # What is traced below must not hold on to one view's arrays.
    inputs = tf.nest.map_structure(lambda leaf: None if leaf is None else np.zeros(0), inputs)

    def cut(flat: Flat) -> Flat:
        if spec is model.spec:
            return flat
        parts = tf.split(flat, model.spec.sizes)
        return tf.concat([parts[i] for i in compared], 0)

    def unpack(v: Flat, y: Labels, weights: Flat, own: tuple[Tensor, ...]) -> tuple[Examples, Labels, Flat]:
        # Slicing costs a pass forwards and several backwards, so there is none where the examples are all there is.
        parts = [v] if layout.examples == layout.size else tf.split(v, layout[2:])
        x = coordinates.entering(coordinates.decode(parts[0], layout.shape), own, data_kind)
        labels = y
        if not given:
            free = task.relax(tf.reshape(parts[1], (n, *coordinates.free_targets(task))))
            labels = coordinates.relaxed_targets(free, x, weights, own, model)
        return x, labels, parts[-1][:0] if len(parts) == 1 else parts[2]

    def project(v: Flat) -> Flat:
        v = tf.reshape(v, [group, layout.size])
        members = []
        for member in tf.unstack(v):
            x = static.data_kind.project(recipe.coordinates.decode(member[: layout.examples], layout.shape))
            inside = recipe.coordinates.start(x, tf.zeros([2], tf.int32))
            members.append(tf.concat([inside, member[layout.examples :]], 0) if not given or layout.own else inside)
        return tf.reshape(tf.stack(members), [-1])

    def run(
        numbers: Sequence[tuple[Any, ...]],
        y: Labels,
        target: Scalar,
        tensors: Sequence[tuple[Tensor, ...]],
        mine: tuple[tuple[Tensor, ...], tuple[Tensor, ...]],
        ease: Tensor,
        starts: Tensor,
        memory: tuple[Tensor, ...],
        seed: Seed,
    ) -> _Start:
        sents = [
            Sent(weights, unit / scale, rate, _filled(inputs, more)) for weights, unit, scale, _, rate, more in numbers
        ]
        sent, placed = sents[0], mine[0]
        units = [cut(unit) for _, unit, _, _, _, _ in numbers]

        def penalty(over: str, x: Examples, labels: Labels, v: Flat) -> Scalar:
            found = [
                prior(x, Scene(static, sent.weights, labels, v, own, recipe.coordinates, sent.update))
                for prior, own in zip(recipe.priors, tensors)
                if prior.over == over
            ]
            return tf.cast(ease[0], dtype) * tf.add_n(found) if found else None

        def member(v: Flat) -> Scalar:
            x, labels, own = unpack(v, y, sent.weights, placed)
            repeated = tf.tile(labels, [copies] + [1] * (len(labels.shape) - 1)) if copies > 1 else labels
            value = tf.zeros([], dtype)
            for one, unit, (_, _, scale, factor, _, _) in zip(sents, units, numbers):
                simulated = cut(recipe.replay(static, one, x, repeated, own))
                value += factor * recipe.objective.matched(simulated, unit, scale, spec)
            by_epoch = tf.reshape(x, [copies, n, *x.shape[1:]])
            for added in (penalty("examples", x, repeated, v), penalty("epochs", by_epoch, labels, v)):
                value = value if added is None else value + added
            return value

        def differentiated(function: Callable[[Flat], Scalar], v: Flat) -> tuple[Scalar, Flat]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(v)
                value = function(v)
            return value, tf.convert_to_tensor(tape.gradient(value, v, unconnected_gradients="zero"))

        def together(v: Flat) -> Scalar:
            members = tf.unstack(tf.reshape(v, [group, layout.size]))
            x = tf.stack([unpack(own, y, sent.weights, placed)[0] for own in members])
            return penalty("group", x, y, v)

        def value_and_gradient(v: Flat) -> tuple[Scalar, Flat]:
            if group == 1:
                return differentiated(member, v)
            members = tf.reshape(v, [group, layout.size])
            values, gradients = tf.map_fn(
                lambda one: differentiated(member, one), members, fn_output_signature=(dtype, dtype)
            )
            value, gradient = tf.reduce_sum(values), tf.reshape(gradients, tf.shape(v))
            if any(prior.over == "group" for prior in recipe.priors):
                more, slope = differentiated(together, v)
                value, gradient = value + more, gradient + slope
            return value, gradient

        def mapped(rows: Tensor) -> Tensor:
            return tf.map_fn(member, rows, fn_output_signature=dtype)

        # Traced once, however many rows there are.
        several = [tf.TensorSpec([None, layout.size], dtype)]
        scores = tf.function(mapped, input_signature=several, autograph=False)
        leap = None
        if recipe.moves is not None:
            moves, ground = recipe.moves, Ground(static, coordinates, layout.shape, sent.weights, placed, mine[1])

            def make(v: Flat, step: Scalar) -> tuple[Flat, Scalar]:
                return moves.moved(v, scores, ground, tf.random.experimental.stateless_fold_in(seed, step))

            leap = Leap(moves.every, moves.burn_in, make)
        if recipe.tries != (1, 0):
            starts = _best_start(starts, scores, layout, placed, recipe.tries[1], seed)
        more: dict[str, Any] = {} if leap is None else {"leap": leap}
        if recipe.optimizer.paced:
            more["pace"] = ease[1]
        minimum = recipe.optimizer.minimize(
            value_and_gradient, tf.reshape(starts, [-1]), target, project if recipe.box else None, memory, **more
        )
        best, value = tf.constant(0), minimum.objective
        if group > 1:
            values = scores(tf.reshape(minimum.position, [group, layout.size]))
            best = tf.argmin(tf.where(tf.math.is_finite(values), values, np.inf), output_type=tf.int32)
            value = values[best]
        position = tf.reshape(minimum.position, [group, layout.size])[best]
        x, labels, _ = unpack(position, y, sent.weights, placed)
        path = tf.zeros([0, *x.shape], dtype)
        if recipe.path:
            rows = tf.reshape(minimum.path, [-1, group, layout.size])[:, best]
            path = tf.map_fn(lambda row: unpack(row, y, sent.weights, placed)[0], rows)
        labels = tf.cast(task.soften(labels), dtype) if given else labels
        return _Start(x, labels, value, path, minimum._replace(path=tf.zeros([0, 0], dtype)))

    d = model.spec.size
    learned = recipe.optimizer.blank(group * layout.size, str(np.dtype(dtype)))
    scalar, leaves = tf.TensorSpec([], dtype), tuple(tf.TensorSpec(shape, kind) for shape, kind in kinds)
    page = (tf.TensorSpec([d], dtype), tf.TensorSpec([d], dtype), scalar, scalar, scalar, leaves)
    signature = [
        (page,) * pages,
        tf.TensorSpec([n, *task.target_shape], task.target_dtype),
        tf.TensorSpec([], tf.float64),
        tuple(tuple(tf.TensorSpec(shape, dtype) for shape in own) for own in shapes),
        (placing, moving),
        tf.TensorSpec([2], tf.float64),
        tf.TensorSpec([group * recipe.tries[0], layout.size], dtype),
        tuple(tf.TensorSpec(a.shape, a.dtype) for a in learned),
        tf.TensorSpec([2], tf.int32),
    ]
    concrete = tf.function(run, input_signature=signature, autograph=False).get_concrete_function()
    # The first call prepares the executor. At weights that are not finite it ends after one evaluation.
    spoiled = [tf.nest.map_structure(_spoiled, part) for part in signature]
    concrete(*spoiled)
    return concrete


def _best_start(
    starts: Tensor,
    scores: Callable[[Tensor], Tensor],
    layout: _Layout,
    placed: tuple[Tensor, ...],
    many: int,
    seed: Seed,
) -> Tensor:
    """`[1, k]`: of starts `[m, k]` the one with the lowest objective, or of `many` orders of its places the best."""

    def best(rows: Tensor) -> Tensor:
        values = scores(rows)
        return rows[tf.argmin(tf.where(tf.math.is_finite(values), values, np.inf), output_type=tf.int32)]

    found = best(starts)
    if many:
        length = layout.shape[1]
        lengths = tf.cast(tf.reduce_sum(placed[1], 1), tf.int32)
        places = shuffles(many, lengths, length, tf.random.experimental.stateless_fold_in(seed, -1))
        points = tf.repeat(tf.reshape(found[: layout.examples], layout.shape)[None], many, 0)
        shuffled = tf.reshape(tf.gather(points, places, axis=2, batch_dims=2), [many, layout.examples])
        rest = tf.repeat(found[None, layout.examples :], many, 0)
        found = best(tf.concat([found[None], tf.concat([shuffled, rest], 1)], 0))
    return found[None]


def _spoiled(spec: tf.TensorSpec) -> Tensor:
    """A tensor of that kind, not-a-number where it can be; the scalar target, float64, is zero."""
    nan = spec.dtype.is_floating and not (spec.dtype == tf.float64 and spec.shape.rank == 0)
    return tf.fill(spec.shape, tf.constant(float("nan") if nan else 0, spec.dtype))
