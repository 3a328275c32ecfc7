"""Default: the kind of examples of which only the shape is known."""

from __future__ import annotations

from fedpriv.data.kind import Kind
from fedpriv.data.kinds.features import Features
from fedpriv.data.kinds.image import Image


def kind_of(shape: tuple[int, ...]) -> Kind:
    """Images for `(height, width, channels)`, else features."""
    return Image(shape=shape) if len(shape) == 3 else Features(shape=shape)
