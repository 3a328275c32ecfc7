"""Unmixing: rows of a matrix turned into a mixture's sources by gradient-based independent component analysis.

Kariyappa, Guo, Maeng, Xiong, Suh, Qureshi, Lee 2023, "Cocktail Party Attack", ICML, arXiv 2209.05578. The sources are
images, so they are taken to be independent, not normally distributed, and smooth.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np

from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat, Scalar, Tensor, Tensors
from fedpriv_attacks.parts.optimizers.minimum import Minimum, Optimizer

#: Mean of log cosh of a standard normal variable.
_NORMAL_LOG_COSH = 0.3745672075


@dataclass(frozen=True)
class Contrast:
    """Weights of what the sources are told apart by; hashable, static in the compiled graph.

    Attributes:
      negentropy: of (E log cosh(a s) / a)^2, raised: the sources are not normally distributed.
      sharpness: a.
      from_normal: take the squared distance of E log cosh(a s) from a normal variable's value instead, which does not
        favour flat distributions over peaked ones. Meant for a = 1.
      independence: of the mean of exp(T |cos|) - 1 over pairs of unmixing directions, lowered.
      temperature: T.
      total_variation: of the mean absolute difference of neighbouring pixels of the sources, lowered. Images only.
      box: of the mean distance of the scaled sources from [0, 1], lowered.
    """

    negentropy: float
    sharpness: float
    from_normal: bool
    independence: float
    temperature: float
    total_variation: float
    box: float


@dataclass(frozen=True)
class Mixture:
    """A mixture, whitened: `white` has rows of mean 0 and variance 1 that are not correlated.

    Attributes:
      mixed: `[rank, size]`, the rows that were mixed.
      whitening: `[rank, rank]`, `white = whitening (mixed - mean)`.
      white: `[rank, size]`.
      offset: `[rank]`, `whitening mean`: what centering took away.
    """

    mixed: np.ndarray
    whitening: np.ndarray
    white: np.ndarray
    offset: np.ndarray

    @staticmethod
    def of(mixed: np.ndarray) -> Mixture:
        """Whitens rows `[rank, size]` by principal components, the strongest first."""
        mean = mixed.mean(axis=1, keepdims=True)
        centred = mixed - mean
        values, vectors = np.linalg.eigh(centred @ centred.T / max(mixed.shape[1] - 1, 1))
        values, vectors = values[::-1], vectors[:, ::-1]
        # A direction without variance stays without: noise must not be blown up to a source.
        whitening = (vectors / np.sqrt(np.maximum(values, 1e-10 * max(values[0], 1e-300)))).T
        return Mixture(mixed, whitening, whitening @ centred, (whitening @ mean)[:, 0])


def unmix(
    mixture: Mixture,
    scale: np.ndarray | None,
    image_shape: tuple[int, ...],
    contrast: Contrast,
    optimizer: Optimizer,
    start: np.ndarray,
    dtype: str,
) -> tuple[np.ndarray, Minimum, float]:
    """Rows that turn the whitened mixture into sources.

    Args:
      mixture: from `Mixture.of`.
      scale: `[rank]`, in whitened coordinates: unmixing row u gives sources whose scale is `u . scale`, by which the
        box divides; None scales each source to a largest value of 1.
      image_shape: one source's, for the total variation.
      contrast: what is optimized.
      optimizer: how.
      start: `[rank, rank]`, rows to start from.
      dtype: precision of the optimization.

    Returns:
      (unit rows `[rank, rank]` float64, the minimum with numpy entries, seconds of compilation).
    """
    run, compile_seconds = _compiled(mixture.white.shape, scale is not None, image_shape, contrast, optimizer, dtype)
    arrays = (mixture.white, mixture.offset, np.zeros(len(start)) if scale is None else scale, start.reshape(-1))
    found = run(*(tf.constant(a, dtype) for a in arrays))
    minimum = Minimum._make([*map(np.asarray, found), ()])
    rows = np.asarray(minimum.position, np.float64).reshape(start.shape)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), minimum, compile_seconds


def objective(
    u: Tensor, white: Tensor, offset: Tensor, scale: Tensor | None, image_shape: tuple[int, ...], contrast: Contrast
) -> Scalar:
    """The scalar that is minimized over `u` `[rank, rank]`; traceable."""
    dtype = u.dtype
    rows = u / tf.maximum(tf.norm(u, axis=1, keepdims=True), 1e-20)
    centred = rows @ white
    value = tf.zeros([], dtype)
    if contrast.negentropy:
        a = contrast.sharpness
        size = tf.abs(a * centred)
        log_cosh = tf.reduce_mean(size + tf.math.log1p(tf.exp(-2 * size)), axis=1) - float(np.log(2))
        level = _NORMAL_LOG_COSH if contrast.from_normal else 0.0
        value -= contrast.negentropy * tf.reduce_mean(tf.square((log_cosh - level) / a))
    if contrast.independence:
        cosines = tf.abs(tf.matmul(rows, rows, transpose_b=True))
        value += contrast.independence * tf.reduce_mean(tf.exp(contrast.temperature * cosines) - 1)
    sources = centred + tf.linalg.matvec(rows, offset)[:, None]
    if contrast.total_variation and len(image_shape) == 3:
        images = tf.reshape(sources, [-1, *image_shape])
        down, across = images[:, 1:] - images[:, :-1], images[:, :, 1:] - images[:, :, :-1]
        for difference in (down, across):
            if 0 not in difference.shape[1:]:
                value += contrast.total_variation * tf.reduce_mean(tf.abs(difference))
    if contrast.box:
        if scale is None:
            sign = tf.stop_gradient(tf.where(tf.reduce_sum(sources, axis=1) < 0, -1.0, 1.0))
            by = tf.cast(sign, dtype) * tf.reduce_max(tf.abs(sources), axis=1)
        else:
            by = tf.linalg.matvec(rows, scale)
        # A scale near zero would blow the source up; the sign is kept.
        by = tf.where(tf.abs(by) > 1e-3, by, tf.where(by < 0, tf.constant(-1e-3, dtype), tf.constant(1e-3, dtype)))
        x = sources / by[:, None]
        value += contrast.box * tf.reduce_mean(tf.nn.relu(-x) + tf.nn.relu(x - 1))
    return value


_CACHE: OrderedDict[Hashable, Callable[..., Tensors]] = OrderedDict()
_CACHE_SIZE = 16
_CACHE_LOCK = threading.Lock()
atexit.register(_CACHE.clear)  # compiled functions must go before TensorFlow does


def _compiled(
    shape: tuple[int, ...],
    scaled: bool,
    image_shape: tuple[int, ...],
    contrast: Contrast,
    optimizer: Optimizer,
    dtype: str,
) -> tuple[Callable[..., Tensors], float]:
    key = (shape, scaled, image_shape, contrast, optimizer, dtype)
    with _CACHE_LOCK:
        if key in _CACHE:
            _CACHE.move_to_end(key)
            return _CACHE[key], 0.0
        began = time.perf_counter()
        rank = shape[0]

        def run(white: Tensor, offset: Tensor, scale: Tensor, start: Flat) -> Tensors:
            def value_and_gradient(v: Flat) -> tuple[Scalar, Flat]:
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch(v)
                    u = tf.reshape(v, [rank, rank])
                    value = objective(u, white, offset, scale if scaled else None, image_shape, contrast)
                return value, tf.convert_to_tensor(tape.gradient(value, v, unconnected_gradients="zero"))

            return tuple(optimizer.minimize(value_and_gradient, start))[:-1]

        shapes = (shape, [rank], [rank], [rank * rank])
        signature = [tf.TensorSpec(s, dtype) for s in shapes]
        concrete = tf.function(run, input_signature=signature, autograph=False).get_concrete_function()
        _CACHE[key] = concrete
        while len(_CACHE) > _CACHE_SIZE:
            _CACHE.popitem(last=False)
        return concrete, time.perf_counter() - began
