"""Clipped sums of examples' own gradients, without ever holding these gradients `[b, d]`.

DP-SGD (Abadi et al. 2016, arXiv 1607.00133) scales each example's gradient down to a norm and adds them up. For a layer
z = a w the gradient of one example is a product of what entered the layer and of the loss's slope by what left it, so
that its norm follows from these two (Goodfellow 2015, arXiv 1510.01799; for convolutions and sequences Bu, Mao, Xu
2022, arXiv 2205.10683; Lee, Kifer 2021, arXiv 2009.03106), and so does the weighted sum over examples (Bu et al. 2023,
arXiv 2210.00038): one pass backwards to the outputs of the layers serves norms and sum.

What a model does with its weights is read off the graph of its own function, one operation at a time, whatever library
it was written with. A model with a weight in an operation that is not known here, or whose clipped sum differs from the
one made of single gradients (`shortcut` compares them once), takes an example at a time.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedpriv.base.lazy import default_threads, tf
from fedpriv.base.types import Examples, Labels, Scalar, Tensor, Tensors
from fedpriv.models.model import Model
from fedpriv.models.seeding import eagerly

#: Memory, in bytes, that what is kept of the examples for one layer's norm may take at a time.
LAYER_BYTES = 32 << 20
#: At most this many examples go through the model at once: more gain nothing on a CPU, and leave its caches.
MOST_ROWS = 128
#: A norm that is computed from products of its factors loses as many digits as these cancel; below this share of what
#: they could have added up to it counts as that share, which clips more and never less.
CANCELLED = 1e-3
#: Patches of a convolution's input of at most this many values are taken by a convolution with the unit matrix.
SMALL_PATCH = 100


@dataclass(frozen=True)
class ExampleClip:
    """How examples' own gradients are clipped before they are added up.

    Attributes:
      norm: L2 norm that each is scaled down to.
      group: examples whose mean gradient is clipped together.
      per_layer: each layer's part is clipped to norm / sqrt(layers) instead, which bounds the whole by `norm` as well.
    """

    norm: float
    group: int = 1
    per_layer: bool = False


@dataclass
class ClippedSum:
    """The sum of clipped gradients.

    Attributes:
      total: in the shapes of the model's spec; sum over groups.
      loss: sum of the examples' losses, of those that are not padding.
      count: examples that are not padding, in the losses' dtype.
      clipped: groups that were scaled down.
      strange: groups whose gradient or its square was not finite; they add nothing.
      norm: sum of the groups' norms before clipping, of those that are finite.
    """

    total: tuple[Tensor, ...]
    loss: Scalar
    count: Scalar
    clipped: Scalar
    strange: Scalar
    norm: Scalar


def layers_of(model: Model) -> list[int]:
    """For each tensor of the spec the number of its layer, from 0 in order of appearance."""
    heads = [name.rpartition("/")[0] or name for name in model.spec.names]
    known = list(dict.fromkeys(heads))
    return [known.index(head) for head in heads]


def clipped_sum(
    model: Model,
    weights: Tensors,
    x: Examples,
    y: Labels,
    clip: ExampleClip,
    mask: Tensor | None = None,
    single: bool = False,
    draws: Tensors | None = None,
) -> ClippedSum:
    """The sum over examples of their gradients, each clipped; traceable.

    Args:
      model: whose examples do not depend on each other.
      weights: tensors in the spec's shapes.
      x: `[b, *input_shape]`, b at least 1.
      y: `[b, *target_shape]`.
      clip: to what norm, and how many examples together.
      mask: `[b]`, 0 for padding and 1 for examples; None where all are examples.
      single: take one group at a time even where there is a shortcut, which can be differentiated as often as the
        model can.
      draws: the model's, one tensor `[b, *shape]` each, or None for their means.
    """
    dtype = tf.as_dtype(model.spec.dtype)
    mask = tf.ones(tf.shape(x)[:1], dtype) if mask is None else tf.cast(mask, dtype)
    size, draws = clip.group, tuple(draws or ())
    if size > 1 and (x.shape[0] is None or x.shape[0] % size):
        more = -tf.shape(x)[0] % size
        x, y, *draws = (tf.concat([a, tf.repeat(a[:1], more, axis=0)], 0) for a in (x, y, *draws))
        mask = tf.pad(mask, [[0, more]])
    quick = not single and not tf.executing_eagerly() and shortcut(model)
    weights, lanes = tuple(weights), max(1, default_threads()[1])
    rows, known = size, x.shape[0]
    if quick:  # parts of a batch are computed side by side, one a core
        share = -(-(tf.shape(x)[0] if known is None else known) // (lanes * size)) * size
        most = physical_rows(model, size)
        rows = min(most, share) if known is not None else tf.minimum(most, share)

    def part(first: Scalar, stop: Scalar | int) -> tuple[Any, ...]:
        part_x, part_y, part_mask = (a[first:stop] for a in (x, y, mask))
        one = _by_layers if quick else _one_group
        return one(model, weights, part_x, part_y, part_mask, clip, tuple(a[first:stop] for a in draws) or None)

    if known is not None and known <= rows:
        return ClippedSum(*part(0, known))
    total = tf.shape(x)[0]
    zero = tf.zeros([], dtype)
    sums = (tuple(tf.zeros(s, dtype) for s in model.spec.shapes), *[zero] * 5)

    def body(first: Scalar, sums: Any) -> tuple[Scalar, Any]:
        added = part(first, tf.minimum(first + rows, total))
        return first + rows, tf.nest.map_structure(tf.add, sums, added)

    loop = (tf.constant(0), sums)
    _, sums = tf.while_loop(lambda first, _: first < total, body, loop, parallel_iterations=lanes)
    return ClippedSum(*sums)


def _factors(squares: Tensor, clip: ExampleClip, layers: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """(factor of each tensor and group `[w, g]`, norms `[g]`, whether finite `[g]`) of squared norms `[w, g]`."""
    whole = tf.reduce_sum(squares, 0)
    finite = tf.math.is_finite(whole)
    whole = tf.where(finite, whole, tf.zeros_like(whole))
    parts = max(layers) + 1 if clip.per_layer else 1
    by_part = whole[None]
    if clip.per_layer:
        by_part = tf.math.unsorted_segment_sum(tf.where(finite, squares, tf.zeros_like(squares)), layers, parts)
    bound = tf.cast(clip.norm / parts**0.5, squares.dtype)
    length = _root(by_part)
    factor = tf.where(length > bound, bound / tf.where(length > bound, length, bound), tf.ones_like(length))
    factor = tf.where(finite, factor, tf.zeros_like(factor))
    rows = layers if clip.per_layer else [0] * len(layers)
    return tf.gather(factor, rows), _root(whole), finite


def _root(square: Tensor) -> Tensor:
    """The square root, with a zero (not infinite) derivative at 0, where an attack that differentiates may start."""
    return tf.where(square > 0, tf.sqrt(tf.where(square > 0, square, tf.ones_like(square))), tf.zeros_like(square))


def _counts(
    losses: Tensor, mask: Tensor, factor: Tensor, norms: Tensor, finite: Tensor, group: int
) -> tuple[Scalar, ...]:
    """(loss, count, clipped, strange, norm), sums as in `ClippedSum`."""
    kept = tf.where(mask > 0, losses, tf.zeros_like(losses))
    real = tf.reduce_max(tf.reshape(mask, [-1, group]), 1)
    over = tf.cast(tf.reduce_any(factor < 1, 0), mask.dtype) * tf.cast(finite, mask.dtype)
    odd = 1 - tf.cast(finite, mask.dtype)
    return (
        tf.reduce_sum(kept),
        tf.reduce_sum(mask),
        tf.reduce_sum(over * real),
        tf.reduce_sum(odd * real),
        tf.reduce_sum(norms * real),
    )


def _one_group(
    model: Model,
    weights: Tensors,
    x: Examples,
    y: Labels,
    mask: Tensor,
    clip: ExampleClip,
    draws: Tensors | None = None,
) -> tuple[Any, ...]:
    """As `ClippedSum`'s fields, of one group's mean gradient by itself."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(weights)
        losses = model.example_losses(weights, x, y, True, draws)
    gradient = tape.gradient(
        losses,
        weights,
        output_gradients=tf.cast(mask / clip.group, losses.dtype),
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    gradient = [tf.convert_to_tensor(g) for g in gradient]
    squares = tf.stack([tf.reduce_sum(tf.square(g))[None] for g in gradient])
    factor, norms, finite = _factors(squares, clip, layers_of(model))
    total = tuple(tf.where(finite[0], f[0] * g, tf.zeros_like(g)) for f, g in zip(tf.unstack(factor), gradient))
    return total, *_counts(losses, mask, factor, norms, finite, clip.group)


class Use(ABC):
    """One operation that a weight enters, and the gradient that comes back to it there, by example.

    Attributes:
      output: what leaves the operation; its first axis is the examples', or examples and places of each together.
    """

    output: Tensor

    def rowed(self) -> tuple[Tensor, ...]:
        """What entered the operation besides the weight, with an example in each of its rows."""
        return ()

    @abstractmethod
    def total(self, slope: Tensor, factor: Tensor, *entered: Tensor) -> Tensor:
        """The weight's gradient summed over examples, times `factor [b]`.

        Args:
          slope: the loss's by `output`.
          factor: of each example.
          entered: what is taken in place of `rowed()`.
        """


@dataclass
class Product(Use):
    """A matrix product: rows `[r, i]` times the weight `[i, o]`; r is examples, or examples times places."""

    output: Tensor
    rows: Tensor
    shape: tuple[int, ...]
    transposed: bool = False

    def factors(self, slope: Tensor, groups: Scalar) -> tuple[Tensor, Tensor]:
        """What entered `[groups, t, i]` and the slopes by what left `[groups, t, o]`."""
        inner, outer = self.shape[::-1] if self.transposed else self.shape
        return tf.reshape(self.rows, [groups, -1, inner]), tf.reshape(slope, [groups, -1, outer])

    def rowed(self) -> tuple[Tensor, ...]:
        """The rows."""
        return (self.rows,)

    def total(self, slope: Tensor, factor: Tensor, *entered: Tensor) -> Tensor:
        """A product again."""
        many = tf.shape(slope)[0] // tf.shape(factor)[0]
        slope = slope * tf.repeat(factor, many)[:, None]
        pair = (slope, *entered) if self.transposed else (*entered, slope)
        return tf.reshape(tf.matmul(*pair, transpose_a=True), self.shape)


@dataclass
class Convolution(Use):
    """A two-dimensional convolution, channels last."""

    output: Tensor
    entered: Tensor
    kernel: tuple[int, ...]
    shape: tuple[int, ...]
    settings: dict[str, Any]

    def factors(self, slope: Tensor, groups: Scalar) -> tuple[Tensor, Tensor]:
        """Patches `[groups, t, i]` and slopes `[groups, t, o]`."""
        x, padding = self.entered, self.settings["padding"]
        if padding == "EXPLICIT":
            ends = self.settings["explicit_paddings"]
            x, padding = tf.pad(x, [ends[2 * i : 2 * i + 2] for i in range(4)]), "VALID"
        height, width = self.kernel[:2]
        inner, outer = height * width * self.kernel[2], self.kernel[3]
        strides, dilated = self.settings["strides"], self.settings["dilations"]
        if (height, width) == (1, 1) and tuple(strides[1:3]) == (1, 1):
            patches = x
        elif inner <= SMALL_PATCH:  # TensorFlow cuts patches of few channels out value by value
            unit = tf.reshape(tf.eye(inner, dtype=x.dtype), [*self.kernel[:3], inner])
            patches = tf.nn.conv2d(x, unit, strides, padding, dilations=dilated)
        else:
            patches = tf.image.extract_patches(x, [1, height, width, 1], strides, dilated, padding)
        return tf.reshape(patches, [groups, -1, inner]), tf.reshape(slope, [groups, -1, outer])

    def rowed(self) -> tuple[Tensor, ...]:
        """What is convolved."""
        return (self.entered,)

    def total(self, slope: Tensor, factor: Tensor, *entered: Tensor) -> Tensor:
        """The convolution's own gradient."""
        slope = slope * factor[:, None, None, None]
        found = tf.raw_ops.Conv2DBackpropFilter(
            input=entered[0], filter_sizes=list(self.kernel), out_backprop=slope, **self.settings
        )
        return tf.reshape(found, self.shape)


@dataclass
class Spread(Use):
    """A weight that is added or multiplied, spread over examples and places: a bias, a scale."""

    output: Tensor
    shape: tuple[int, ...]
    aligned: tuple[int, ...]
    scale: Tensor | float

    def own(self, slope: Tensor) -> Tensor:
        """Each example's gradient `[b, size]`."""
        slope = slope * self.scale
        wide = (1,) * (slope.shape.rank - 1 - len(self.aligned)) + self.aligned
        axes = [i + 1 for i, side in enumerate(wide) if side == 1]
        summed = tf.reduce_sum(slope, axes) if axes else slope
        return tf.reshape(summed, [tf.shape(slope)[0], int(np.prod(self.shape))])

    def total(self, slope: Tensor, factor: Tensor, *entered: Tensor) -> Tensor:
        """A weighted sum of the examples' own."""
        return tf.reshape(tf.linalg.matvec(self.own(slope), factor, transpose_a=True), self.shape)


@dataclass
class Lookup(Use):
    """Rows of the weight `[v, o]`, taken by number, as an embedding does."""

    output: Tensor
    numbers: Tensor
    shape: tuple[int, ...]
    transposed: bool = True

    def factors(self, slope: Tensor, groups: Scalar) -> tuple[Tensor, Tensor]:
        """Slopes `[groups, t, o]` and one-hot numbers `[groups, t, v]`: the factors of a product with the transposed
        table, which a tied head is."""
        numbers = tf.one_hot(tf.reshape(self.numbers, [groups, -1]), self.shape[0], dtype=slope.dtype)
        return tf.reshape(slope, [groups, -1, self.shape[1]]), numbers

    def total(self, slope: Tensor, factor: Tensor, *entered: Tensor) -> Tensor:
        """Slopes added to the rows they came from."""
        slope = slope * tf.reshape(factor, [-1] + [1] * (slope.shape.rank - 1))
        flat = tf.reshape(slope, [-1, self.shape[1]])
        return tf.math.unsorted_segment_sum(flat, tf.reshape(self.numbers, [-1]), self.shape[0])


def uses_of(weight: Tensor, shape: tuple[int, ...]) -> list[Use] | None:
    """What a graph does with a weight; None where some of it is not known here.

    Args:
      weight: a tensor that one call of the model got, and nothing else.
      shape: its static shape.
    """
    found: list[Use] = []
    waiting = [weight]
    while waiting:
        tensor = waiting.pop()
        for op in tensor.consumers():
            use = _use(op, tensor, shape)
            if use is None:
                return None
            if use is _PASSED:
                waiting.append(op.outputs[0])
            elif use is not _UNSEEN:
                found.append(use)
    return found


_PASSED: Any = object()
_UNSEEN: Any = object()


def _use(op: Any, tensor: Tensor, shape: tuple[int, ...]) -> Any:
    kind, places = op.type, [i for i, t in enumerate(op.inputs) if t is tensor]
    if kind in ("Shape", "Rank", "Size"):
        return _UNSEEN
    if len(places) != 1 or tensor.shape.rank is None or not tensor.shape.is_fully_defined():
        return None
    place, now = places[0], tuple(tensor.shape)
    if kind == "Identity":
        return _PASSED
    if kind in ("Reshape", "ExpandDims", "Squeeze"):
        # Reshapes keep the order of the values, so that gradients are reshaped back.
        return _PASSED if place == 0 and op.outputs[0].shape.is_fully_defined() else None
    out = op.outputs[0]
    if kind == "MatMul":
        if place != 1 or op.get_attr("transpose_a") or len(now) != 2:
            return None
        return Product(out, op.inputs[0], shape, op.get_attr("transpose_b"))
    if kind == "Conv2D":
        entered, explicit = op.inputs[0], op.get_attr("explicit_paddings")
        plain = op.get_attr("data_format") == b"NHWC" and entered.shape[-1] == now[2]
        if place != 1 or not plain:
            return None
        settings = {
            "strides": list(op.get_attr("strides")),
            "padding": op.get_attr("padding").decode(),
            "dilations": list(op.get_attr("dilations")),
            "explicit_paddings": list(explicit),
        }
        return Convolution(out, entered, now, shape, settings)
    if kind in ("GatherV2", "ResourceGather"):
        axis = tf.get_static_value(op.inputs[2]) if kind == "GatherV2" else None
        plain = kind == "GatherV2" and axis == 0 and not op.get_attr("batch_dims")
        if place != 0 or not plain or len(now) != 2 or now != shape:
            return None
        return Lookup(out, op.inputs[1], shape)
    if kind in ("BiasAdd", "AddV2", "Add", "Sub", "Mul"):
        rank = out.shape.rank
        if kind == "BiasAdd" and op.get_attr("data_format") != b"NHWC":
            return None
        if rank is None or (len(now) == rank and now[0] == 1):
            now = now[1:]
        if rank is None or len(now) >= rank:
            return None
        other = op.inputs[1 - place]
        scale: Any = {"Sub": -1.0 if place == 1 else 1.0, "Mul": other}.get(kind, 1.0)
        return Spread(out, shape, now, scale)
    return None


def _same_kind(uses: Sequence[Use]) -> bool:
    """Whether gradients of one weight from all its uses can be put together."""
    if all(isinstance(u, Spread) for u in uses) or all(isinstance(u, Lookup) for u in uses):
        return True
    if not all(isinstance(u, Product | Convolution | Lookup) for u in uses):
        return False
    # Factors of several uses lie side by side as further places of one example, so they must have one orientation.
    kinds = {(isinstance(u, Convolution), getattr(u, "transposed", False), getattr(u, "kernel", ())) for u in uses}
    return len(kinds) == 1


def _squares(
    uses: Sequence[Use], slopes: Sequence[Tensor], groups: Scalar, size: int, known: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """(squared norm of each group's gradient of one weight `[g]`, these gradients `[g, values]` where they were made).

    Groups are of `size` examples, each of which passes each use as many times as `known` says.
    """
    first = uses[0]
    if isinstance(first, Spread):
        own = tf.add_n([use.own(s) for use, s in zip(uses, slopes)])  # type: ignore[attr-defined]
        own = tf.reduce_sum(tf.reshape(own, [groups, -1, int(np.prod(first.shape))]), 1)
        return tf.reduce_sum(tf.square(own), 1), own
    if all(isinstance(use, Lookup) for use in uses):
        width = first.shape[1]  # type: ignore[attr-defined]
        numbers = tf.concat([tf.reshape(u.numbers, [groups, -1]) for u in uses], 1)  # type: ignore[attr-defined]
        slope = tf.concat([tf.reshape(s, [groups, -1, width]) for s in slopes], 1)
        same = tf.cast(tf.equal(numbers[:, :, None], numbers[:, None, :]), slope.dtype)
        products = same * tf.matmul(slope, slope, transpose_b=True)
        lengths = _root(tf.reduce_sum(tf.square(slope), 2))
        most = tf.einsum("gts,gt,gs->g", same, lengths, lengths)
        return tf.maximum(tf.reduce_sum(products, [1, 2]), CANCELLED * most), None
    pairs = [use.factors(s, groups) for use, s in zip(uses, slopes)]  # type: ignore[attr-defined]
    entered = pairs[0][0] if len(pairs) == 1 else tf.concat([a for a, _ in pairs], 1)
    slope = pairs[0][1] if len(pairs) == 1 else tf.concat([g for _, g in pairs], 1)
    inner, outer = entered.shape[2], slope.shape[2]
    places = size * sum(known)
    # Squares that vanish in floating point must not make a norm vanish whose other factor is large.
    least = np.finfo(slope.dtype.as_numpy_dtype).tiny
    if places == 1:
        squares = [tf.reduce_sum(tf.square(a), [1, 2]) + n * least for a, n in ((entered, inner), (slope, outer))]
        return squares[0] * squares[1], None
    if by_products(places, inner, outer):
        gram = tf.matmul(entered, entered, transpose_b=True) * tf.matmul(slope, slope, transpose_b=True)
        squares = [tf.reduce_sum(tf.square(a), 2) for a in (entered, slope)]
        most = tf.square(tf.reduce_sum(_root(squares[0] * squares[1]), 1))
        lost = [n * least * tf.square(tf.reduce_sum(_root(a), 1)) for a, n in zip(squares, (outer, inner))]
        return tf.maximum(tf.reduce_sum(gram, [1, 2]), CANCELLED * most) + tf.add_n(lost), None
    turned = getattr(first, "transposed", False)
    own = tf.matmul(*((slope, entered) if turned else (entered, slope)), transpose_a=True)
    return tf.reduce_sum(tf.square(own), [1, 2]), tf.reshape(own, [groups, inner * outer])


def by_products(places: int, inner: int, outer: int) -> bool:
    """Whether a norm costs less from products of places with each other than from the gradient itself."""
    return places * (inner + outer) < inner * outer


def _by_layers(
    model: Model,
    weights: Tensors,
    x: Examples,
    y: Labels,
    mask: Tensor,
    clip: ExampleClip,
    draws: Tensors | None = None,
) -> tuple[Any, ...]:
    """As `ClippedSum`'s fields, of all examples at once, layer by layer."""
    own = [tf.identity(w) for w in weights]
    losses = model.example_losses(own, x, y, True, draws)
    uses = [uses_of(w, s) for w, s in zip(own, model.spec.shapes)]
    assert all(u is not None and _same_kind(u) for u in uses)
    outputs = list({id(use.output): use.output for found in uses for use in found or ()}.values())
    start = tf.cast(mask / clip.group, losses.dtype)
    back = tf.gradients(losses, outputs, grad_ys=start, unconnected_gradients="zero")
    slopes = {id(output): slope for output, slope in zip(outputs, back)}
    rows = tf.shape(x)[0]
    groups = rows // clip.group
    pairs = [(found or [], [slopes[id(u.output)] for u in found or []]) for found in uses]
    nothing = tf.zeros([groups], losses.dtype), None
    made = [
        _squares(*pair, groups, clip.group, known) if pair[0] else nothing
        for pair, known in zip(pairs, positions(model))
    ]
    squares = tf.ensure_shape(tf.stack([square for square, _ in made]), [len(own), None])
    factor, norms, finite = _factors(squares, clip, layers_of(model))

    # All that has an example, or a group, in each of its rows and enters the sum. A factor of 0 alone would leave
    # not-a-number of what is not finite.
    rowed: list[Tensor] = []
    for (used, given), (_, singly) in zip(pairs, made):
        rowed += [singly] if singly is not None else [a for use, s in zip(used, given) for a in (s, *use.rowed())]

    def zeroed() -> list[Tensor]:
        found = []
        for a in rowed:
            kept = tf.repeat(finite, tf.shape(a)[0] // groups)
            found.append(tf.where(tf.reshape(kept, [-1] + [1] * (a.shape.rank - 1)), a, tf.zeros_like(a)))
        return found

    cleaned = tf.cond(tf.reduce_all(finite), lambda: [tf.identity(a) for a in rowed], zeroed)
    clean = iter([tf.ensure_shape(a, before.shape) for a, before in zip(cleaned, rowed)])
    total = []
    for (used, _), (_, singly), shape, scale in zip(pairs, made, model.spec.shapes, tf.unstack(factor)):
        if singly is not None:
            total.append(tf.reshape(tf.linalg.matvec(next(clean), scale, transpose_a=True), shape))
            continue
        scale = tf.repeat(scale, clip.group) if clip.group > 1 else scale
        parts = [use.total(next(clean), scale, *[next(clean) for _ in use.rowed()]) for use in used]
        total.append(tf.add_n(parts) if parts else tf.zeros(shape, losses.dtype))
    return tuple(total), *_counts(losses, mask, factor, norms, finite, clip.group)


@functools.lru_cache(maxsize=32)
def physical_rows(model: Model, group: int = 1) -> int:
    """How many examples go through the model at once, a multiple of `group`."""
    most = 1
    with tf.Graph().as_default():
        own, *batch = _blank(model, 1)
        model.example_losses(own, *batch)
        for weight, shape, counts in zip(own, model.spec.shapes, positions(model)):
            for use, places in zip(uses_of(weight, shape) or (), counts):
                if isinstance(use, Product | Convolution):
                    kernel = use.kernel if isinstance(use, Convolution) else shape
                    inner, outer = int(np.prod(kernel[:-1])), kernel[-1]
                    kept = 2 * places**2 if by_products(places, inner, outer) else inner * outer
                    most = max(most, places * inner + kept)
    rows = int(min(MOST_ROWS, max(1, LAYER_BYTES // (tf.as_dtype(model.spec.dtype).size * most))))
    return max(group, rows // group * group)


@functools.lru_cache(maxsize=32)
def positions(model: Model) -> tuple[tuple[int, ...], ...]:
    """How many times each example passes each use of each weight, such as once for every pixel."""
    rows = 3
    with tf.Graph().as_default():
        own, *batch = _blank(model, rows)
        model.example_losses(own, *batch)
        found = [uses_of(w, s) or [] for w, s in zip(own, model.spec.shapes)]
        return tuple(tuple(int(np.prod(use.output.shape[:-1])) // rows for use in uses) for uses in found)


def _blank(model: Model, rows: int | None = None) -> tuple[list[Tensor], Tensor, Tensor]:
    """Placeholders for weights and a batch of `rows` examples, in the graph being built."""
    dtype = model.spec.dtype
    v1 = tf.compat.v1
    own = [v1.placeholder(dtype, s) for s in model.spec.shapes]
    x = v1.placeholder(dtype, [rows, *model.input_shape])
    return own, x, v1.placeholder(model.task.target_dtype, [rows, *model.task.target_shape])


@functools.lru_cache(maxsize=32)
def shortcut(model: Model) -> bool:
    """Whether the clipped sum can be had layer by layer: all uses of all weights are known, and a trial agrees."""
    if model.couples_examples or model.buffers:
        return False
    try:
        with tf.Graph().as_default():
            own, x, y = _blank(model)
            model.example_losses(own, x, y, training=True)
            found = [uses_of(w, s) for w, s in zip(own, model.spec.shapes)]
        if not all(uses is not None and _same_kind(uses) for uses in found):
            return False
        return eagerly(lambda: _agrees(model))
    except (ValueError, TypeError, LookupError, tf.errors.OpError):
        return False


def _agrees(model: Model) -> bool:
    """Whether a clipped sum layer by layer is that of single gradients, on examples and weights drawn for it."""
    rng, dtype, n = np.random.default_rng(0), model.spec.dtype, 4
    weights = [w + rng.normal(0, 0.05, w.shape) for w in model.initialize(0)]
    x = rng.uniform(0, 1, (n, *model.input_shape))
    if model.embedding is not None:
        x = np.floor(x * model.spec.shapes[model.embedding.table][0])
    task = model.task
    y = rng.integers(0, max(task.classes, 1), (n, *task.target_shape)) if task.discrete else x.reshape(n, -1)[:, :1]
    if not task.discrete:
        y = np.resize(y, (n, *task.target_shape))
    mask = np.ones(n)
    mask[-1] = 0

    def both(weights: Tensors, x: Tensor, y: Tensor, mask: Tensor, norm: Tensor) -> tuple[Any, Any]:
        clip = ExampleClip(norm)  # type: ignore[arg-type]
        layered = _by_layers(model, weights, x, y, mask, clip)
        singly = clipped_sum(model, weights, x, y, clip, mask, single=True)
        return layered, (singly.total, singly.norm)

    traced = tf.function(both, autograph=False)
    given = (
        [tf.constant(w, dtype) for w in weights],
        tf.constant(x, dtype),
        tf.constant(y, task.target_dtype),
        tf.constant(mask, dtype),
    )
    norm = float(traced(*given, tf.constant(1e30, dtype))[1][-1]) / (n - 1)
    if not 0 < norm < np.inf:
        return False
    for bound in (1e30, norm):  # none clipped; about half of them
        layered, singly = traced(*given, tf.constant(bound, dtype))
        whole = [np.concatenate([np.ravel(a) for a in tf.nest.flatten(one[0])]) for one in (layered, singly)]
        if not np.linalg.norm(whole[0] - whole[1]) <= 1e-3 * np.linalg.norm(whole[1]):
            return False
        if not np.isclose(float(layered[-1]), float(singly[-1]), rtol=1e-3):
            return False
    return True
