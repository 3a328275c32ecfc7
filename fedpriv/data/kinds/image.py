"""Image: pixels in [0, 1]."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pydantic

from fedpriv.data.kinds.features import Features


class Image(Features):
    """An image of pixels in [0, 1]; bytes are levels of 1/255. One of `threshold` dB or more counts as reconstructed.

    Attributes:
      shape: `(height, width, channels)`.
    """

    name: ClassVar[str] = "image"
    noun: ClassVar[str] = "image"

    @pydantic.model_validator(mode="after")
    def _an_image(self) -> Image:
        if len(self.shape) != 3:
            raise ValueError(f"an image has shape (height, width, channels), not {tuple(self.shape)}")
        if (self.low, self.high) != (0.0, 1.0):
            raise ValueError("an image's pixels lie in [0, 1]; use kind 'features' for another range")
        return self

    def picture(self, x: np.ndarray) -> np.ndarray | None:
        """The image, if it is grey or of three colours."""
        return np.asarray(x) if self.shape[-1] in (1, 3) else None


def looks_channels_first(shape: tuple[int, ...]) -> bool:
    """Whether `(a, b, c)` is more likely `(channels, height, width)`, as PyTorch has it."""
    return len(shape) == 3 and shape[0] in (1, 3) and shape[2] > 4
