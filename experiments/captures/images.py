"""Images for the capture scripts: those inside fedpriv, at half their size, without fedpriv or TensorFlow."""

import lzma
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[2] / "fedpriv/data/fashion_small_idx"


def fashion(first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Every 237th test image of Fashion-MNIST from number `first` on, with labels `[count]`.

    Images are `[count, 14, 14, 1]` float32 in [0, 1].
    """
    parts = [(FOLDER / f"t10k-{part}-ubyte.xz").read_bytes() for part in ("images-idx3", "labels-idx1")]
    raw, labels = (np.frombuffer(lzma.decompress(part), np.uint8) for part in parts)
    x = raw[16:].reshape(-1, 14, 2, 14, 2).astype(np.float32).mean((2, 4))[..., None] / 255
    chosen = (first + 237 * np.arange(count)) % 2000  # they walk through the classes
    return x[chosen], labels[8:][chosen].astype(np.int64)
