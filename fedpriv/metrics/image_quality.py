"""Image quality as columns: what a reconstruction is scored by where examples are images or vectors in [0, 1]."""

from __future__ import annotations

import numpy as np

from fedpriv.base.column import Column
from fedpriv.metrics.image import mse, psnr_of_mse, ssim, ssim_defined

#: One number a pair of an original and its reconstruction.
COLUMNS: tuple[Column, ...] = (
    Column(name="psnr", label="PSNR", unit="dB", format=".2f", description="Peak signal-to-noise ratio."),
    Column(name="ssim", label="SSIM", format=".3f", description="Structural similarity; none for what is no image."),
    Column(name="mse", label="MSE", better="lower", format=".1e", description="Mean squared error."),
)


def quality(original: np.ndarray, found: np.ndarray | None) -> dict[str, float | None]:
    """The columns' values for one original.

    Args:
      original: `[*input_shape]` in [0, 1].
      found: its reconstruction, likewise; None, or not finite, is a failure of the worst possible quality.
    """
    structured = ssim_defined(original.shape)
    if found is None or not np.isfinite(found).all():
        return {"psnr": 0.0, "ssim": 0.0 if structured else None, "mse": 1.0}
    error = mse(found.ravel(), original.ravel())
    return {"psnr": psnr_of_mse(error), "ssim": ssim(found, original) if structured else None, "mse": error}
