"""Transforms: the image operations that policies are made of, as differentiable TensorFlow.

They are those of AutoAugment (Cubuk, Zoph, Mane, Vasudevan, Le 2019, arXiv 1805.09501) with their ten magnitudes, as
Gao et al. 2021 (arXiv 2011.12505) use them: geometry moves pixels and fills what comes into sight, enhancement blends
an image with a degenerate one, the others map values. They follow Pillow's definitions (nearest pixels for translation
and rotation, cubic convolution with a = -1 for shear, a 3 x 3 smoothing for sharpness, luma 0.299, 0.587, 0.114) on
pixels in [0, 1] without rounding to bytes. Posterizing and equalizing are steps, whose derivative is zero; they pass
derivatives straight through (Bengio, Léonard, Courville 2013, arXiv 1308.3432), so that replays can go through them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedpriv.base.lazy import tf
from fedpriv.base.types import Examples, Tensor

#: Largest magnitude of each operation, at level 9; level 0 is none. `posterize` and `solarize` have their own tables.
LARGEST = {
    "shear_x": 0.3,
    "shear_y": 0.3,
    "translate_x": 150 / 331,
    "translate_y": 150 / 331,
    "rotate": 30.0,
    "color": 0.5,
    "contrast": 0.5,
    "sharpness": 0.5,
    "brightness": 0.5,
}
#: Operations whose direction (left or right, more or less) is drawn for each image.
DIRECTED = frozenset(LARGEST) - {"rotate"}
#: Operations without a magnitude.
PLAIN = frozenset({"autocontrast", "equalize", "invert"})
#: What rotation fills corners with.
_GREY = 128 / 255
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Transform:
    """One operation at one level.

    Attributes:
      name: of the operation, such as `translate_x`.
      level: 0 to 9, of its magnitudes.
    """

    name: str
    level: int

    @property
    def directed(self) -> bool:
        """Whether its direction is drawn, and changes anything."""
        return self.name in DIRECTED and self.level > 0

    @property
    def magnitude(self) -> float:
        """Of that level: share of the size, shear, degrees, more of a blend's factor, bits, or a threshold in bytes."""
        if self.name == "posterize":
            return float(np.round(np.linspace(8, 4, 10))[self.level])
        if self.name == "solarize":
            return float(np.linspace(256, 0, 10)[self.level])
        return LARGEST.get(self.name, 0.0) * self.level / 9

    def describe(self) -> str:
        """As a reader would want it."""
        return self.name if self.name in PLAIN else f"{self.name} {self.magnitude:.3g}"

    def __call__(self, x: Examples, direction: int = 1) -> Examples:
        """Images `[n, h, w, c]` of 1 or 3 channels in [0, 1] to as many; `direction` is 1 or -1."""
        return _OPERATIONS[self.name](x, self.magnitude * (direction if self.directed else 1))


def _resampled(x: Examples, places: np.ndarray, inside: np.ndarray, fill: float) -> Examples:
    """Pixel p of the result is the image's at `places [h * w]`, or `fill` where it is not inside."""
    _, h, w, c = x.shape
    flat = tf.reshape(x, [-1, h * w, c])
    moved = tf.gather(flat, tf.constant(places.ravel(), tf.int32), axis=1)
    held = tf.constant(inside.reshape(1, -1, 1))
    return tf.reshape(tf.where(held, moved, tf.cast(fill, x.dtype)), tf.shape(x))


def _nearest(x: Examples, matrix: tuple[float, ...], fill: float = 0.0) -> Examples:
    """`result(u, v) = x(a u + b v + c, d u + e v + f)`, by the pixel that the point falls into."""
    h, w = int(x.shape[1]), int(x.shape[2])
    a, b, c, d, e, f = matrix
    v, u = np.meshgrid(np.arange(h) + 0.5, np.arange(w) + 0.5, indexing="ij")
    # Rounded, so that a point on a pixel's border does not fall to either side by the last bit.
    column, row = (np.floor(np.round(q, 9)).astype(int) for q in (a * u + b * v + c, d * u + e * v + f))
    inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
    return _resampled(x, np.clip(row, 0, h - 1) * w + np.clip(column, 0, w - 1), inside, fill)


def _shear(x: Examples, amount: float, axis: int) -> Examples:
    """Rows (axis 2) or columns (axis 1) moved in proportion to where they are; cubic convolution between pixels."""
    h, w = int(x.shape[1]), int(x.shape[2])
    v, u = np.meshgrid(np.arange(h) + 0.5, np.arange(w) + 0.5, indexing="ij")
    point, most = (u + amount * v, w) if axis == 2 else (v + amount * u, h)
    inside = (point >= 0) & (point < most)
    first = np.floor(point - 0.5).astype(int)
    t = point - 0.5 - first
    shares = (-t + 2 * t**2 - t**3, 1 - 2 * t**2 + t**3, t + t**2 - t**3, -(t**2) + t**3)
    total = tf.zeros_like(x)
    for k, share in enumerate(shares, -1):
        at = np.clip(first + k, 0, most - 1)
        places = np.floor(v).astype(int) * w + at if axis == 2 else at * w + np.floor(u).astype(int)
        total += tf.constant(share[None, :, :, None], x.dtype) * _resampled(x, places, inside, 0.0)
    return _clipped(total)


def _rotate(x: Examples, degrees: float) -> Examples:
    """Counter-clockwise about the middle."""
    h, w = int(x.shape[1]), int(x.shape[2])
    angle = -math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    c = w / 2 - cos * w / 2 - sin * h / 2
    f = h / 2 + sin * w / 2 - cos * h / 2
    return _nearest(x, (cos, sin, c, -sin, cos, f), _GREY)


def grey(x: Examples) -> Tensor:
    """Luma `[n, h, w, 1]`."""
    if x.shape[-1] == 1:
        return x
    return tf.reduce_sum(x * tf.constant(_LUMA, x.dtype), axis=-1, keepdims=True)


def _clipped(v: Tensor) -> Tensor:
    """Values in [0, 1]. Beyond, the derivative is zero only where a descent along it would lead further away.

    With zero everywhere beyond, whoever fits an image to its transform could never bring a pixel back.
    """

    @tf.custom_gradient
    def clip(given: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        def back(slope: Tensor) -> Tensor:
            further = ((given > 1) & (slope < 0)) | ((given < 0) & (slope > 0))
            return tf.where(further, tf.zeros_like(slope), slope)

        return tf.clip_by_value(given, 0, 1), back

    clipped: Tensor = clip(v)
    return clipped


def _blended(degenerate: Callable[[Examples], Tensor]) -> Callable[[Examples, float], Examples]:
    """From the degenerate image (factor 0) over the image (1) and beyond, clipped."""

    def blend(x: Examples, more: float) -> Examples:
        start = degenerate(x)
        return _clipped(start + (1 + more) * (x - start))

    return blend


def _smooth(x: Examples) -> Examples:
    """Each pixel's mean with its neighbours, itself five times; those at the border as they are."""
    c = int(x.shape[-1])
    kernel = np.ones((3, 3), np.float64)
    kernel[1, 1] = 5
    filters = tf.constant(np.tile((kernel / kernel.sum())[:, :, None, None], (1, 1, c, 1)), x.dtype)
    inner = tf.nn.depthwise_conv2d(x, filters, [1, 1, 1, 1], "VALID")
    rows = tf.concat([x[:, :1, 1:-1], inner, x[:, -1:, 1:-1]], 1)
    return tf.concat([x[:, :, :1], rows, x[:, :, -1:]], 2)


def _autocontrast(x: Examples, _: float) -> Examples:
    """Each channel's values stretched to the whole range."""
    low, high = (f(x, axis=[1, 2], keepdims=True) for f in (tf.reduce_min, tf.reduce_max))
    spread = high - low
    flat = spread <= 0
    return tf.where(flat, x, (x - low) / tf.where(flat, tf.ones_like(spread), spread))


def _straight(x: Examples, made: Examples) -> Examples:
    """`made`, with the derivative of `x`."""
    return x + tf.stop_gradient(made - x)


def _levels(x: Examples) -> Tensor:
    """Bytes of pixels, int32."""
    return tf.cast(tf.round(tf.clip_by_value(x, 0, 1) * 255), tf.int32)


def _equalize(x: Examples, _: float) -> Examples:
    """Each channel's values by their ranks in its histogram of 256 levels."""
    n, (h, w, c) = tf.shape(x)[0], x.shape[1:]
    levels = tf.reshape(tf.transpose(_levels(x), [0, 3, 1, 2]), [-1, h * w])
    counts = tf.math.bincount(levels, minlength=256, maxlength=256, axis=-1)
    counts = tf.ensure_shape(counts, [None, 256])
    present = counts > 0
    last = tf.reduce_max(tf.where(present, tf.range(256)[None], -1), 1)
    step = (h * w - tf.gather(counts, tf.maximum(last, 0), batch_dims=1)) // 255
    before = tf.cumsum(counts, axis=1, exclusive=True)
    safe = tf.maximum(step, 1)[:, None]
    table = tf.minimum((before + step[:, None] // 2) // safe, 255)
    idle = tf.equal(step, 0) | (tf.reduce_sum(tf.cast(present, tf.int32), 1) <= 1)
    table = tf.where(idle[:, None], tf.range(256)[None], table)
    mapped = tf.cast(tf.gather(table, levels, batch_dims=1), x.dtype) / 255
    made = tf.transpose(tf.reshape(mapped, tf.stack([n, c, h, w])), [0, 2, 3, 1])
    # What changes nothing leaves values between levels as they are.
    unchanged = tf.reshape(idle, tf.stack([n, 1, 1, c]))
    return tf.where(unchanged, x, _straight(x, made))


def _posterize(x: Examples, bits: float) -> Examples:
    """Only the first bits of each byte."""
    width = 2 ** (8 - int(bits))
    if width == 1:
        return x
    return _straight(x, tf.cast(_levels(x) // width * width, x.dtype) / 255)


def _solarize(x: Examples, threshold: float) -> Examples:
    """Values from the threshold on are inverted; it is given in bytes."""
    return tf.where(tf.cast(_levels(x), x.dtype) < threshold, x, 1 - x)


def _translated(axis: int) -> Callable[[Examples, float], Examples]:
    def translate(x: Examples, share: float) -> Examples:
        by = share * int(x.shape[axis])
        return _nearest(x, (1, 0, by, 0, 1, 0) if axis == 2 else (1, 0, 0, 0, 1, by))

    return translate


_OPERATIONS: dict[str, Callable[[Examples, float], Examples]] = {
    "shear_x": lambda x, amount: _shear(x, amount, 2),
    "shear_y": lambda x, amount: _shear(x, amount, 1),
    "translate_x": _translated(2),
    "translate_y": _translated(1),
    "rotate": _rotate,
    "color": _blended(lambda x: grey(x)),
    "contrast": _blended(lambda x: tf.reduce_mean(grey(x), axis=[1, 2], keepdims=True)),
    "sharpness": _blended(_smooth),
    "brightness": _blended(lambda x: tf.zeros_like(x)),
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "invert": lambda x, _: 1 - x,
}
