"""Features: numbers of one common range."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pydantic

from fedpriv.base.column import Column
from fedpriv.base.errors import DataError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Array, Examples
from fedpriv.data.kind import Kind, Shape, check_finite
from fedpriv.data.kinds.image_quality import mse, psnr_of_mse, ssim, ssim_defined

#: How far a value may leave its range, as a share of it, by rounding (such as 1.0000001 from a resize).
ROUNDING = 1e-4

#: How far apart float32 numbers may lie, as a share of the range that they are to tell apart.
COARSEST = 1e-3

PSNR = Column(
    name="psnr",
    label="PSNR",
    unit="dB",
    format=".2f",
    description="Peak signal-to-noise ratio of the example to its original, over the range of values.",
)
SSIM = Column(
    name="ssim",
    label="SSIM",
    format=".3f",
    description="Structural similarity to the original (Wang et al. 2004).",
)
MSE = Column(
    name="mse",
    label="MSE",
    better="lower",
    format=".1e",
    description="Mean squared error over the example's values, as a share of their range, squared.",
)


class Features(Kind):
    """Real numbers that all lie in [low, high]. An example of `threshold` dB or more counts as reconstructed.

    Attributes:
      shape: one example's, of any rank.
      low: the least value.
      high: the greatest.
    """

    name: ClassVar[str] = "features"
    noun: ClassVar[str] = "example"

    shape: Shape  # type: ignore[assignment]
    low: float = 0.0
    high: float = 1.0

    @pydantic.model_validator(mode="after")
    def _some_range(self) -> Features:
        if not self.low < self.high:
            raise ValueError(f"low={self.low} is not below high={self.high}")
        farthest, span = max(abs(self.low), abs(self.high)), self.high - self.low
        if not max(farthest, span) <= np.finfo(np.float32).max or span < np.finfo(np.float32).tiny:
            raise ValueError(f"the range from low={self.low} to high={self.high} does not fit float32; rescale")
        if np.spacing(np.float32(farthest)) > COARSEST * span:
            raise ValueError(
                f"the range from low={self.low} to high={self.high} is too narrow so far from 0, where float32 is "
                f"coarse; subtract {self.low:g} from all values"
            )
        return self

    @property
    def columns(self) -> tuple[Column, ...]:
        """PSNR and MSE, and SSIM where it is defined."""
        return (PSNR, SSIM, MSE) if ssim_defined(self.shape) else (PSNR, MSE)

    def checked(self, x: np.ndarray, where: str) -> np.ndarray:
        """As they are if they are bytes, levels of the range [0, 1]; else float32 in [low, high].

        Raises:
          DataError: see `Kind.checked`.
        """
        noun = "images" if self.noun == "image" else "examples"
        if x.shape[1:] != tuple(self.shape):
            raise DataError(f"{where}: {noun} have shape {x.shape[1:]}; expected {tuple(self.shape)}")
        if x.dtype == np.uint8 and (self.low, self.high) == (0.0, 1.0):
            return np.ascontiguousarray(x)
        if x.dtype.kind in "iu" and (self.low, self.high) != (0.0, 1.0):
            x = x.astype(np.float64)
        if x.dtype.kind != "f":
            raise DataError(
                f"{where}: {noun} have dtype {x.dtype}; expected uint8 (0 to 255) or floats in {self._range}; "
                f"{_conversion(x.dtype, self._range)}"
            )
        check_finite(x, where, "pixels" if self.noun == "image" else "values", f"finite values in {self._range}")
        low, high = float(x.min()), float(x.max())
        slack = ROUNDING * (self.high - self.low)
        if low < self.low - slack or high > self.high + slack:
            values = "float pixels" if self.noun == "image" else "float values"
            hint = self._hint(low, high)
            raise DataError(f"{where}: {values} span [{low:g}, {high:g}]; expected {self._range}; {hint}")
        x = x.astype(np.float32)
        return np.ascontiguousarray(np.clip(x, self.low, self.high) if low < self.low or high > self.high else x)

    @property
    def _range(self) -> str:
        return f"[{self.low:g}, {self.high:g}]"

    def _hint(self, low: float, high: float) -> str:
        if (self.low, self.high) != (0.0, 1.0):
            return "rescale them, or give the kind another range"
        if low >= -0.1 and high <= 1.1:
            return "clip them (np.clip(x, 0, 1)), if an interpolation went beyond"
        if low >= 0 and high <= 255:
            return "divide by 255, or store uint8"
        return "rescale them" + ("" if self.noun == "image" else ", or say kind='features' for numbers of any range")

    def project(self, x: Examples) -> Examples:
        """Clipped to [low, high]."""
        return tf.clip_by_value(x, tf.cast(self.low, x.dtype), tf.cast(self.high, x.dtype))

    def settle(self, x: np.ndarray) -> np.ndarray:
        """Clipped to [low, high]."""
        return np.clip(x, self.low, self.high)

    def from_unit(self, u: Examples | Array) -> Examples | Array:
        """`low + u (high - low)`."""
        return u if (self.low, self.high) == (0.0, 1.0) else self.low + u * (self.high - self.low)

    def to_unit(self, x: Examples | Array) -> Examples | Array:
        """`(x - low) / (high - low)`."""
        return x if (self.low, self.high) == (0.0, 1.0) else (x - self.low) / (self.high - self.low)

    def costs(self, found: np.ndarray, true: np.ndarray) -> np.ndarray:
        """Mean squared errors, `[n, m]`."""
        return squared_errors(self.to_unit(found), self.to_unit(true))

    def score(self, original: np.ndarray, found: np.ndarray) -> dict[str, float | None]:
        """PSNR, SSIM and MSE."""
        a, b = self.to_unit(np.asarray(found, np.float64)), self.to_unit(np.asarray(original, np.float64))
        error = mse(a.ravel(), b.ravel())
        similarity = {"ssim": ssim(a, b)} if ssim_defined(self.shape) else {}
        return {"psnr": psnr_of_mse(error), **similarity, "mse": error}

    def missing(self, original: np.ndarray) -> dict[str, float | None]:
        """0 dB, SSIM 0, MSE 1."""
        return {"psnr": 0.0, **({"ssim": 0.0} if ssim_defined(self.shape) else {}), "mse": 1.0}

    def success(self, score: dict[str, float | None], threshold: float) -> bool:
        """Whether the PSNR is `threshold` dB or better."""
        return score["psnr"] is not None and score["psnr"] >= threshold


def squared_errors(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Mean squared error of each of `found [m, ...]` with each of `true [n, ...]`, `[n, m]`."""
    found, true = found.reshape(len(found), -1), true.reshape(len(true), -1)
    if not len(true):
        return np.zeros((0, len(found)))
    with np.errstate(over="ignore"):
        return np.stack([np.square(found - t).mean(axis=1) for t in true])


def _conversion(dtype: np.dtype, valid: str) -> str:
    """How to make the values of a dtype valid ones, for a message."""
    if dtype.kind == "b":
        return "convert with (x * 255).astype(np.uint8)"
    if dtype.kind in "iu":
        return f"convert with .astype(np.uint8) if no value is above 255, else scale to floats in {valid}"
    return f"convert to floats in {valid}"
