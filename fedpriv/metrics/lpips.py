"""LPIPS: perceptual distance of images by the features of AlexNet, with weights the user brings.

Zhang, Isola, Efros, Shechtman, Wang 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
CVPR, arXiv 1801.03924; version 0.1 of the published weights. No weights come with fedpriv: they are read from an
`.npz` file with these arrays, kernels as height, width, input, output (HWIO):

    conv1/kernel [11, 11, 3, 64]     conv1/bias [64]     lin1 [64]
    conv2/kernel [5, 5, 64, 192]     conv2/bias [192]    lin2 [192]
    conv3/kernel [3, 3, 192, 384]    conv3/bias [384]    lin3 [384]
    conv4/kernel [3, 3, 384, 256]    conv4/bias [256]    lin4 [256]
    conv5/kernel [3, 3, 256, 256]    conv5/bias [256]    lin5 [256]

The published PyTorch weights are converted once, on a machine that has PyTorch:

    import lpips, numpy, torchvision
    from fedpriv.metrics.lpips import from_pytorch

    backbone = torchvision.models.alexnet(weights="IMAGENET1K_V1").features.state_dict()
    heads = lpips.LPIPS(net="alex", version="0.1").state_dict()
    numpy.savez("lpips_alex.npz", **from_pytorch(backbone, heads))
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fedpriv.base.errors import DataError, ParameterError, did_you_mean
from fedpriv.base.lazy import tf
from fedpriv.base.types import Array, ArrayLike, Tensor
from fedpriv.metrics.image import checked_pair

#: Subtracted from, and then divided out of, RGB values on the scale [-1, 1].
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)

#: Kernel side, stride, zero padding and channels in and out of torchvision's AlexNet; the layers that follow a
#: max-pooling of window 3 and stride 2.
CONVOLUTIONS = ((11, 4, 2, 3, 64), (5, 1, 2, 64, 192), (3, 1, 1, 192, 384), (3, 1, 1, 384, 256), (3, 1, 1, 256, 256))
POOLED = (2, 3)

#: Added to the length of each feature vector before dividing by it.
EPSILON = 1e-10

#: The shortest side the network itself can take, and the side of the patches that the weights were fitted on.
LEAST_SIDE = 31
PATCH_SIDE = 64

#: Pixels compared at once.
_CHUNK = 2**18


@dataclass(frozen=True, eq=False)
class LPIPS:
    """LPIPS with given weights: `metric(a, b)`; 0 for identical images, larger is further apart.

    Each layer's features, five ReLU outputs of AlexNet, are scaled to unit length at every position; their squared
    differences are weighted by the layer's head, summed over channels, averaged over positions, and added up over
    the layers. Dropout, which the published heads were trained with, does nothing here.

    Attributes:
      weights: the arrays of this module's table, by key.
      smallest: images whose shorter side is less are scaled up to it first, bilinearly, keeping their proportions.
        The weights were fitted on patches of 64 pixels, the default. Values at different scales do not compare:
        for one taken without scaling on images of 32 pixels, as some papers do, set 32; 31 is the least possible.
      upscale: False refuses smaller images instead.
    """

    weights: Mapping[str, np.ndarray] = field(repr=False)
    smallest: int = PATCH_SIDE
    upscale: bool = True

    #: A distance: lower is better.
    higher_is_better = False

    def __post_init__(self) -> None:
        if self.smallest < LEAST_SIDE:
            raise ParameterError(
                f"LPIPS's smallest={self.smallest} is too small: AlexNet's strides use up images under {LEAST_SIDE} "
                "pixels a side"
            )
        object.__setattr__(self, "weights", _checked(self.weights))

    @classmethod
    def load(cls, path: str | os.PathLike[str], smallest: int = PATCH_SIDE, upscale: bool = True) -> LPIPS:
        """LPIPS with the weights of an `.npz` file.

        Raises:
          DataError: there is no such file, it is no `.npz` archive, or an array is missing, of another shape, or
            not finite; names the array.
        """
        return cls(_read(Path(path)), smallest, upscale)

    def __call__(self, a: ArrayLike, b: ArrayLike) -> Array | float:
        """The distance of `a` and `b`.

        Args:
          a: images `[h, w, c]` or `[n, h, w, c]` in [0, 1], c = 1 (taken as grey in all three channels) or 3.
          b: same shape.

        Returns:
          float64 `[n]` for a batch, a float for one image; not-a-number where one of the two is not finite.

        Raises:
          ParameterError: the shapes differ, are no images, or are too small with `upscale` off.
        """
        first, second = checked_pair(a, b, (3, 4), "lpips")
        single = first.ndim == 3
        if single:
            first, second = first[None], second[None]
        values = np.full(len(first), np.nan)
        usable = np.flatnonzero(np.isfinite(first).all((1, 2, 3)) & np.isfinite(second).all((1, 2, 3)))
        self._check_size(first.shape)
        step, (_, distance) = self._step(first.shape), self._compiled(first.shape[1:])
        for start in range(0, len(usable), step):
            rows = usable[start : start + step]
            pair = (tf.constant(x[rows], tf.float32) for x in (first, second))
            values[rows] = distance(*pair).numpy()
        return float(values[0]) if single else values

    def embed(self, x: ArrayLike) -> np.ndarray:
        """Vectors whose squared Euclidean distance is LPIPS: what to search nearest neighbours among.

        Args:
          x: images `[n, h, w, c]` in [0, 1], c = 1 or 3.

        Returns:
          float32 `[n, k]`; about 32,000 numbers for an image of 64 x 64.

        Raises:
          ParameterError: these are no images, or too small with `upscale` off.
        """
        x = np.asarray(x, np.float32)
        checked_pair(x, x, (4,), "lpips")
        self._check_size(x.shape)
        step, (embed, _) = self._step(x.shape), self._compiled(x.shape[1:])
        parts = [embed(tf.constant(x[i : i + step])).numpy() for i in range(0, len(x), step)]
        return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)

    def _check_size(self, shape: tuple[int, ...]) -> None:
        height, width, channels = shape[1:]
        if channels not in (1, 3):
            raise ParameterError(f"lpips takes images of 1 or 3 channels, not {channels}")
        if min(height, width) < self.smallest and not self.upscale:
            raise ParameterError(
                f"lpips with upscale=False needs images of at least {self.smallest} pixels a side; these are "
                f"{height} x {width}. Let it scale them up, or set smallest (at least {LEAST_SIDE})"
            )

    def _step(self, shape: tuple[int, ...]) -> int:
        height, width = self._size(*shape[1:3])
        return max(1, _CHUNK // (height * width))

    def _size(self, height: int, width: int) -> tuple[int, int]:
        factor = max(1.0, self.smallest / min(height, width))
        return max(self.smallest, round(height * factor)), max(self.smallest, round(width * factor))

    @cached_property
    def _constants(self) -> dict[str, Tensor]:
        with tf.init_scope():  # outside whatever graph asks for them first
            return {key: tf.constant(value, tf.float32) for key, value in self.weights.items()}

    @cached_property
    def _functions(self) -> dict[tuple[int, ...], tuple[Callable[..., Tensor], Callable[..., Tensor]]]:
        return {}

    def _compiled(self, shape: tuple[int, ...]) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
        """Graphs of `embed` and of the distance for any number of images `shape`."""
        if shape not in self._functions:

            def distance(a: Tensor, b: Tensor) -> Tensor:
                return tf.reduce_sum(tf.math.squared_difference(self._features(a), self._features(b)), axis=1)

            spec = tf.TensorSpec([None, *shape], tf.float32)
            self._functions[shape] = (
                tf.function(self._features, input_signature=[spec], autograph=False),
                tf.function(distance, input_signature=[spec, spec], autograph=False),
            )
        return self._functions[shape]

    def _features(self, x: Tensor) -> Tensor:
        """`embed`, traceable: images `[n, h, w, c]` with h, w and c known to `[n, k]`."""
        height, width, channels = x.shape[1:]
        if min(height, width) < self.smallest:
            x = tf.image.resize(x, self._size(height, width), "bilinear")
        if channels == 1:
            x = tf.repeat(x, 3, axis=-1)
        hidden = (2.0 * x - 1.0 - tf.constant(SHIFT)) / tf.constant(SCALE)
        parts = []
        for layer, (_, stride, padding, _, outputs) in enumerate(CONVOLUTIONS, 1):
            if layer in POOLED:
                hidden = tf.nn.max_pool2d(hidden, 3, 2, "VALID")
            edges = [[0, 0], [padding, padding], [padding, padding], [0, 0]]
            hidden = tf.nn.conv2d(hidden, self._constants[f"conv{layer}/kernel"], stride, edges)
            hidden = tf.nn.relu(hidden + self._constants[f"conv{layer}/bias"])
            unit = hidden / (tf.norm(hidden, axis=-1, keepdims=True) + EPSILON)
            rows, columns = hidden.shape[1:3]
            part = unit * tf.sqrt(self._constants[f"lin{layer}"] / (rows * columns))
            parts.append(tf.reshape(part, [-1, rows * columns * outputs]))
        return tf.concat(parts, axis=1)


def lpips(a: ArrayLike, b: ArrayLike, weights: str | os.PathLike[str], smallest: int = PATCH_SIDE) -> Array | float:
    """LPIPS (Zhang et al. 2018, arXiv 1801.03924) with AlexNet weights from a file; 0 for identical images.

    Args:
      a: images `[h, w, c]` or `[n, h, w, c]` in [0, 1], c = 1 or 3.
      b: same shape.
      weights: path of an `.npz` file; `fedpriv.metrics.lpips` says what is in it and how to make one.
      smallest: images with a shorter side are scaled up to it, bilinearly.

    Returns:
      float64 `[n]` for a batch, a float for one image.

    Raises:
      ParameterError: the shapes differ or are no images.
      DataError: the weights cannot be used; names the array.
    """
    path = Path(weights).resolve()
    modified = path.stat().st_mtime_ns if path.exists() else 0
    return _loaded(path, modified, smallest)(a, b)


def from_pytorch(backbone: Mapping[str, Any], heads: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of this module's table from PyTorch's state dictionaries.

    Args:
      backbone: of torchvision's AlexNet: of its `features` (`0.weight`, ...) or the whole (`features.0.weight`, ...).
      heads: of LPIPS 0.1 for AlexNet: `lin0.model.1.weight` to `lin4.model.1.weight`.

    Raises:
      DataError: an entry is missing or of another shape.
    """

    def take(entries: Mapping[str, Any], *names: str) -> np.ndarray:
        for name in names:
            if name in entries:
                value = entries[name]
                return np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value, np.float32)
        raise DataError(f"the PyTorch weights have no '{names[0]}'.{did_you_mean(names[0], map(str, entries))}")

    arrays = {}
    for layer, place in enumerate((0, 3, 6, 8, 10), 1):
        kernel = take(backbone, f"{place}.weight", f"features.{place}.weight")
        arrays[f"conv{layer}/kernel"] = kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel
        arrays[f"conv{layer}/bias"] = take(backbone, f"{place}.bias", f"features.{place}.bias")
        arrays[f"lin{layer}"] = take(heads, f"lin{layer - 1}.model.1.weight", f"lins.{layer - 1}.model.1.weight")
    return _checked(arrays)


@lru_cache(maxsize=2)
def _loaded(path: Path, modified: int, smallest: int) -> LPIPS:
    return LPIPS.load(path, smallest)


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DataError(f"there is no file '{path}' of LPIPS weights; fedpriv.metrics.lpips says how to make one")
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it holds a single array")
        with loaded:
            return {key: loaded[key] for key in loaded.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as e:
        raise DataError(f"'{path}' is no .npz archive of plain arrays ({e}); make it with numpy.savez") from e


def _checked(weights: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    return {key: _array(weights, key, shape) for key, shape in _shapes().items()}


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (side, _, _, inputs, outputs) in enumerate(CONVOLUTIONS, 1):
        shapes[f"conv{layer}/kernel"] = (side, side, inputs, outputs)
        shapes[f"conv{layer}/bias"] = (outputs,)
        shapes[f"lin{layer}"] = (outputs,)
    return shapes


def _array(weights: Mapping[str, ArrayLike], key: str, shape: tuple[int, ...]) -> np.ndarray:
    if key not in weights:
        raise DataError(f"the LPIPS weights have no array '{key}'.{did_you_mean(key, map(str, weights))}")
    value = np.asarray(weights[key])
    if not np.issubdtype(value.dtype, np.floating):
        raise DataError(f"LPIPS weights '{key}' hold {value.dtype}, not floating-point numbers")
    if key.startswith("lin") and tuple(n for n in value.shape if n != 1) == shape:
        value = value.reshape(shape)  # PyTorch has them as 1x1 convolutions
    if len(shape) == 4 and value.shape == (shape[3], shape[2], shape[0], shape[1]):
        raise DataError(
            f"LPIPS weights '{key}' are {list(value.shape)}, PyTorch's order (OIHW), but HWIO {list(shape)} is "
            "expected: transpose with kernel.transpose(2, 3, 1, 0)"
        )
    if value.shape != shape:
        raise DataError(f"LPIPS weights '{key}' are {list(value.shape)}; AlexNet's are {list(shape)}")
    value = value.astype(np.float32)
    if not np.isfinite(value).all():
        raise DataError(f"LPIPS weights '{key}' hold values that are not finite; the file is damaged")
    if key.startswith("lin") and value.min() < 0:
        raise DataError(
            f"LPIPS head '{key}' has negative weights, with which there is no distance; the published are not negative"
        )
    return value
