"""Dense input: the first dense layer's share of an update, for attacks that read the inputs off it.

A dense layer z = x W + c that sees the raw example has, for a batch X `[n, inputs]`, the gradients

    dL/dW = X^T D,    dL/dc = sum of the rows of D,    D = dL/dZ [n, units],

so each column of the kernel's gradient is a mixture of the inputs, and its rank is at most n.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from fedpriv.base.errors import CapabilityError, DivergenceError
from fedpriv.base.lazy import tf
from fedpriv.models.model import Model
from fedpriv.threat.view import View

#: Largest relative difference of logits that counts as rounding, by precision.
_ROUNDING = {"float32": 1e-3, "float64": 1e-8}


@dataclass(frozen=True)
class DenseInput:
    """The first dense layer, and what an update says about it.

    Attributes:
      kernel: `[inputs, units]` float64, the update of the kernel divided by minus the client's learning rate: the
        mean gradient X^T D after one SGD step, up to a positive factor if the rate is unknown or the update scaled.
      bias: `[units]` float64, the same of the bias; None if the layer has none.
      kernel_weights: `[inputs, units]` float64, the kernel that was broadcast.
      bias_weights: `[units]` float64; zeros if the layer has none.
      kernel_after: `[inputs, units]` float64, the kernel that was broadcast with the update added to it.
      bias_after: `[units]` float64, the same of the bias.
      kernel_name: the kernel's name in the spec.
      bias_name: the bias's, or None.
      rate_known: whether the client's learning rate was divided out.
      input_scale: a, where the layer's input is a times the flattened example. It is taken into the kernel, so that
        everything here is as if the layer saw the example itself.
      rounding: size of the error of one entry of `kernel`: from the precision of the weights whose difference the
        update is, and from noise that the clients' known defenses declare.
    """

    kernel: np.ndarray
    bias: np.ndarray | None
    kernel_weights: np.ndarray
    bias_weights: np.ndarray
    kernel_after: np.ndarray
    bias_after: np.ndarray
    kernel_name: str
    bias_name: str | None
    rate_known: bool
    input_scale: float
    rounding: float

    @property
    def inputs(self) -> int:
        """Number of values of one example."""
        return self.kernel.shape[0]

    @property
    def units(self) -> int:
        """Width of the layer."""
        return self.kernel.shape[1]

    def preactivations(self, x: np.ndarray) -> np.ndarray:
        """Z `[n, units]` of examples `[n, inputs]`."""
        return x @ self.kernel_weights + self.bias_weights


@dataclass(frozen=True)
class DenseNames:
    """Which weights are the first dense layer's.

    Attributes:
      kernel: its kernel's name in the spec.
      bias: its bias's name, or None.
      rectified: whether the layer's units have no influence at all while their pre-activation is negative, as
        before a ReLU.
      input_scale: what the example is multiplied with before the layer, as by a rescaling layer. Without a bias
        nothing shows it, and it is 1.
    """

    kernel: str
    bias: str | None
    rectified: bool
    input_scale: float = 1.0


def dense_input(view: View) -> DenseInput:
    """The first dense layer's part of `view.observed`.

    Makes no assumption on the number of local steps; an attack that needs one says so itself.

    Raises:
      CapabilityError: the model has no dense layer on the raw example (see `find_dense_input`), the view holds no
        real update, the client's optimizer rescales each weight on its own, or the layer did not move.
      DivergenceError: its update, or its weights, are not finite.
    """
    model = view.model
    if view.observed is None:
        raise CapabilityError(
            f"the first dense layer can be read only off a real update, which this view does not hold: "
            f"{view.describe()} Use an adversary that sees an update or a sum"
        )
    if view.procedure is not None and not view.procedure.client.linear:
        raise CapabilityError(
            f"the client's optimizer is {view.procedure.client.nonlinearity}, so the update of a "
            "dense layer is no mixture of its inputs; this needs clients that use plain SGD"
        )
    names = find_dense_input(model)
    flat, weights = np.asarray(view.observed, np.float64), np.asarray(view.weights, np.float64)
    part = model.spec.slice_of(names.kernel)
    shape = model.spec.shapes[model.spec.names.index(names.kernel)]
    extent = [part] if names.bias is None else [part, model.spec.slice_of(names.bias)]
    for what, values in (("update", flat), ("weights", weights)):
        bad = sum(int(np.sum(~np.isfinite(values[s]))) for s in extent)
        if bad:
            raise DivergenceError(
                f"the first dense layer '{names.kernel}' has {bad} non-finite entries in the {what} of round "
                f"{view.round}, so nothing can be read off it; lower the client's learning rate"
            )
    if not np.any(flat[part]):
        raise CapabilityError(
            f"the first dense layer '{names.kernel}' did not move in round {view.round}, so the update says nothing "
            "about its inputs: it was not trained, its inputs were all 0, or no unit had a gradient (none fires, or "
            "the rest of the network is saturated); use another client's update, or other weights"
        )
    known = bool(view.client_rate)
    rate = float(view.client_rate) if view.client_rate else 1.0
    bias = None if names.bias is None else model.spec.slice_of(names.bias)
    scale = names.input_scale
    kernel_weights = weights[part].reshape(shape) * scale
    bias_weights = np.zeros(shape[1]) if bias is None else weights[bias]
    epsilon = float(np.finfo(model.spec.dtype).eps)
    return DenseInput(
        kernel=-flat[part].reshape(shape) / (rate * scale),
        bias=None if bias is None else -flat[bias] / rate,
        kernel_weights=kernel_weights,
        bias_weights=bias_weights,
        kernel_after=kernel_weights + flat[part].reshape(shape) * scale,
        bias_after=bias_weights + (0.0 if bias is None else flat[bias]),
        kernel_name=names.kernel,
        bias_name=names.bias,
        rate_known=known,
        input_scale=scale,
        rounding=math.hypot(epsilon * float(np.sqrt(np.mean(np.square(weights[part])))), declared_noise(view))
        / (rate * abs(scale)),
    )


def rank_above_rounding(sizes: np.ndarray, shape: tuple[int, ...], rounding: float) -> int:
    """How many of the falling singular values exceed the largest that rounding alone gives a matrix of that shape."""
    floor = 1.5 * rounding * (np.sqrt(shape[0]) + np.sqrt(shape[1]))
    return int(np.sum(sizes > max(floor, 1e-13 * sizes[0])))


def declared_noise(view: View) -> float:
    """Standard deviation of an entry of what was observed, from noise that known defenses add to each update.

    In the weighted mean of several clients their noises add up, each by its weight.
    """
    parts = [part.noise(view.plan) for defense in view.defenses for part in defense.parts()]
    own = math.hypot(*(n.scale or 0.0 for n in parts if n is not None and n.where == "update"))
    counts = view.num_examples if view.plan.weighting == "examples" else None
    weights = np.array(counts or [1.0] * (view.clients or 1), np.float64)
    return own * float(np.linalg.norm(weights) / weights.sum())


@functools.lru_cache(maxsize=8)
def find_dense_input(model: Model) -> DenseNames:
    """Which of a model's weights are those of a dense layer that sees the raw example.

    Found by what the weights do rather than by their names, so that it holds for any model: if the layer's input is
    the flattened example x times a, then adding u v^T to the kernel changes no logit when u is orthogonal to x, and
    as much as adding a v to the bias when u.x = 1. A layer behind a convolution, an offset or a permutation fails this.

    Raises:
      CapabilityError: no layer does.
    """
    spec = model.spec
    inputs = int(np.prod(model.input_shape))
    kernels = [
        i
        for i, shape in enumerate(spec.shapes)
        if len(shape) == 2 and shape[0] == inputs and (not model.layers or model.layers[i] in ("dense", "other"))
    ]
    probe = _Probe(model)
    for i in kernels:
        if not probe.sees_example(i):
            continue
        biases = [j for j, s in enumerate(spec.shapes) if j >= model.buffers and s == spec.shapes[i][1:]]
        # The nearest after the kernel first: where nothing tells two apart, it is the layer's own.
        biases.sort(key=lambda j: (j < i, j))
        for bias in biases:
            scale = probe.scale_beside(i, bias)
            if scale is not None:
                return DenseNames(spec.names[i], spec.names[bias], probe.rectified(i, bias), scale)
        return DenseNames(spec.names[i], None, probe.rectified(i, None))
    what = f"its weights have shapes {', '.join(map(str, spec.shapes))}"
    if model.couples_examples:
        what += ", or statistics of the batch hide it"
    raise CapabilityError(
        f"model '{model.name}' has no dense layer that sees the raw example of {inputs} values: {what}; use an attack "
        "that matches the update, such as 'dlg', or a fully connected model such as '2nn'"
    )


class _Probe:
    """Tries weights of our own choosing on a model. Random ones, so that nothing cancels by chance."""

    def __init__(self, model: Model) -> None:
        self._model, self._spec = model, model.spec
        self._rng = rng = np.random.default_rng(0)
        self._x = rng.uniform(0.1, 1.0, int(np.prod(model.input_shape)))
        self._weights = [
            rng.normal(size=s) / np.sqrt(max(1, int(np.prod(s[:-1])))) if len(s) > 1 else rng.normal(0.0, 0.1, s)
            for s in self._spec.shapes
        ]

    def sees_example(self, kernel: int) -> bool:
        """Whether the kernel's input is the flattened example."""
        x = self._x
        u = self._rng.normal(size=x.shape)
        along = x / (x @ x)
        across = u - (u @ x) * along
        across *= 3 / max(float(np.linalg.norm(across)), 1e-12)  # an example of one value has no direction across
        v = self._rng.normal(size=self._spec.shapes[kernel][1])
        base = self._logits({})
        unchanged = self._logits({kernel: self._weights[kernel] + np.outer(across, v)})
        changed = self._logits({kernel: self._weights[kernel] + np.outer(along, v)})
        return self._same(base, unchanged) and not self._same(base, changed)

    def scale_beside(self, kernel: int, bias: int) -> float | None:
        """a, if the weights `bias` are added to a times the product of example and kernel; else None."""
        v = self._rng.uniform(-1, 1, self._spec.shapes[bias])
        along = self._x / (self._x @ self._x)
        by_kernel = self._logits({kernel: self._weights[kernel] + np.outer(along, v)})
        if self._same(by_kernel, self._logits({bias: self._weights[bias] + v})):
            return 1.0
        # With a kernel of zeros the pre-activations are the bias alone; positive, so away from the kink of a ReLU.
        level = self._rng.uniform(0.5, 1.5, v.shape)
        none = np.zeros(self._spec.shapes[kernel])
        still = self._logits({kernel: none, bias: level})
        by_bias = self._logits({kernel: none, bias: level + 0.1 * v}) - still
        step = 0.1
        for _ in range(8):
            change = self._logits({kernel: step * np.outer(along, v), bias: level}) - still
            both, own = float(np.vdot(change, by_bias)), float(np.vdot(by_bias, by_bias))
            if not both > 1e-12 * own:
                return None
            step *= own / both
        scale = 0.1 / step
        same = self._same(by_kernel, self._logits({bias: self._weights[bias] + scale * v}))
        return scale if same else None

    def rectified(self, kernel: int, bias: int | None) -> bool:
        """Whether units with negative pre-activation have no influence, and those with positive have."""
        along = self._x / (self._x @ self._x)
        z = self._rng.uniform(0.05, 2.0, self._spec.shapes[kernel][1])
        none = {} if bias is None else {bias: np.zeros(self._spec.shapes[bias])}

        def logits(z: np.ndarray) -> np.ndarray:
            return self._logits({kernel: np.outer(along, z), **none})

        off, on = logits(-z), logits(z)
        return self._same(off, logits(-3 * z)) and not self._same(on, logits(1.5 * z)) and not self._same(on, off)

    def _logits(self, changed: dict[int, np.ndarray]) -> np.ndarray:
        dtype = self._spec.dtype
        weights = [tf.constant(changed.get(i, w), dtype) for i, w in enumerate(self._weights)]
        x = tf.constant(self._x.reshape(1, *self._model.input_shape), dtype)
        return np.asarray(self._model.apply(weights, x, False), np.float64)

    def _same(self, a: np.ndarray, b: np.ndarray) -> bool:
        size = max(float(np.max(np.abs(a))), float(np.max(np.abs(b))), 1e-30)
        return float(np.max(np.abs(a - b))) <= _ROUNDING[self._spec.dtype] * size
