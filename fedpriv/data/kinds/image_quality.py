"""Image quality of a reconstruction: MSE, PSNR and SSIM on the scale [0, 1].

One example gives a float, a batch gives `[n]`: `[d]` is a feature vector, `[n, d]` a batch of them, `[h, w, c]` an
image and `[n, h, w, c]` a batch of images. None of these clips its input; not-a-number goes in and comes out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedpriv.base.errors import ParameterError
from fedpriv.base.types import ArrayLike

#: Side of the Gaussian window of Wang et al. (2004), and its standard deviation, in pixels.
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5


def mse(a: ArrayLike, b: ArrayLike) -> Any:
    """Mean squared error over an example's values, 0 for identical ones.

    Args:
      a: `[d]`, `[n, d]`, `[h, w, c]` or `[n, h, w, c]`.
      b: same shape.

    Returns:
      float64 `[n]` for a batch, a float for one example.

    Raises:
      ParameterError: the shapes differ, or are none of these.
    """
    a, b = checked_pair(a, b, (1, 2, 3, 4), "mse")
    batched = a.ndim in (2, 4)
    error = np.square(a - b).reshape(len(a) if batched else 1, -1).mean(axis=1)
    return error if batched else float(error[0])


def psnr(a: ArrayLike, b: ArrayLike) -> Any:
    """Peak signal-to-noise ratio in dB for values in [0, 1]: -10 log10(MSE).

    Identical examples give infinity (`fedpriv.base.atomic` writes it to JSON as "inf"). An error of 0.1 everywhere is
    20 dB, of one 8-bit grey level 48.1 dB; 30 dB and more looks the same at a glance.

    Args:
      a: `[d]`, `[n, d]`, `[h, w, c]` or `[n, h, w, c]`.
      b: same shape.

    Returns:
      float64 `[n]` for a batch, a float for one example.

    Raises:
      ParameterError: the shapes differ, or are none of these.
    """
    return psnr_of_mse(mse(a, b))


def psnr_of_mse(error: ArrayLike) -> Any:
    """-10 log10 of mean squared errors on the scale [0, 1]; 0 gives infinity."""
    with np.errstate(divide="ignore"):
        value = -10.0 * np.log10(np.asarray(error, np.float64))
    return value if value.ndim else float(value)


def ssim(a: ArrayLike, b: ArrayLike) -> Any:
    """Structural similarity (Wang, Bovik, Sheikh, Simoncelli, 2004, doi 10.1109/TIP.2003.819861).

    The paper's settings: an 11 x 11 Gaussian window of standard deviation 1.5, K1 = 0.01, K2 = 0.03, range 1,
    population covariance, averaged over the positions where the window fits and then over channels. An image
    with a side under 11 pixels gets the largest odd window that fits, its standard deviation shrunk in
    proportion; such values compare with each other but not with those of larger images.

    Args:
      a: images `[h, w, c]` or `[n, h, w, c]` with h, w >= 3.
      b: same shape.

    Returns:
      float64 `[n]` for a batch, a float for one image; 1 for identical images.

    Raises:
      ParameterError: the shapes differ, are no images, or are under 3 pixels a side.
    """
    from skimage.metrics import structural_similarity

    a, b = checked_pair(a, b, (3, 4), "ssim")
    if not ssim_defined(a.shape[-3:]):
        raise ParameterError(f"ssim needs images of at least 3 x 3 pixels; these are {a.shape[-3]} x {a.shape[-2]}")
    side = min(SSIM_WINDOW, *a.shape[-3:-1])
    radius = (side - 1) // 2
    sigma = SSIM_SIGMA if side == SSIM_WINDOW else SSIM_SIGMA * radius / (SSIM_WINDOW // 2)
    values = [
        # The constant of scikit-image's window is 3.5 standard deviations, rounded: 5 pixels for 1.5.
        structural_similarity(
            u,
            v,
            win_size=2 * int(3.5 * sigma + 0.5) + 1,
            gaussian_weights=True,
            sigma=sigma,
            use_sample_covariance=False,
            data_range=1.0,
            channel_axis=-1,
        )
        for u, v in (zip(a, b, strict=True) if a.ndim == 4 else [(a, b)])
    ]
    return np.asarray(values, np.float64) if a.ndim == 4 else float(values[0])


def ssim_defined(shape: tuple[int, ...]) -> bool:
    """Whether examples of this shape (without the batch axis) are images that SSIM can compare."""
    return len(shape) == 3 and min(shape[:2]) >= 3


def checked_pair(a: ArrayLike, b: ArrayLike, ranks: tuple[int, ...], what: str) -> tuple[np.ndarray, np.ndarray]:
    """`a` and `b` as float64 arrays of one shape, of one of these ranks.

    Raises:
      ParameterError: they are not; the message begins with `what`.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise ParameterError(f"{what} compares equal shapes, not {list(a.shape)} and {list(b.shape)}")
    if a.ndim not in ranks or 0 in a.shape[1 if a.ndim in (2, 4) else 0 :]:
        kinds = {1: "[d]", 2: "[n, d]", 3: "[h, w, c]", 4: "[n, h, w, c]"}
        allowed = ", ".join(kinds[r] for r in ranks)
        raise ParameterError(
            f"{what} takes {allowed}, not shape {list(a.shape)}; a grey image needs its channel axis, [h, w, 1]"
        )
    return a, b
