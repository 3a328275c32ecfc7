"""Photographs: colour patches of seven photographs that come with scikit-image, for machines without CIFAR."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import Field

from fedpriv.base.errors import DataError, reason
from fedpriv.data.dataset import Dataset
from fedpriv.data.embedded import interleaved

#: Files in scikit-image's package, by class.
FILES = {
    "astronaut": "astronaut.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "galaxies": "hubble_deep_field.jpg",
    "tissue": "ihc.png",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
}
SIDE = 32
#: Height of the bands that a photograph is cut into; every fourth one is for testing, and no patch lies in two.
BAND = 64
STEP = 8
#: Standard deviation of a patch's brightness, in parts of its range, below which nothing is seen on it.
LEAST_CONTRAST = 0.04
TRAIN_PER_CLASS, TEST_PER_CLASS = 500, 150


def photographs(
    train_per_class: Annotated[int, Field(ge=1, le=TRAIN_PER_CLASS)] = TRAIN_PER_CLASS,
    test_per_class: Annotated[int, Field(ge=1, le=TEST_PER_CLASS)] = TEST_PER_CLASS,
) -> tuple[Dataset, Dataset]:
    """Colour patches of 32 x 32 pixels from seven photographs; a patch's class is its photograph. Needs no files.

    Colour images of CIFAR's size for machines that cannot have CIFAR: 3,500 to train on, 1,050 to test. The photographs
    lie in scikit-image's package and are free: astronaut (NASA), hubble_deep_field (NASA), rocket (SpaceX) and
    immunohistochemistry in the public domain or without known restrictions; chelsea (S. van der Walt), coffee
    (R. Michetti) and retina (M. Häggström) under CC0. Each is cut into bands of 64 rows; every fourth band, beginning
    with the second, gives the test patches, so that no pixel is in both sets. Patches begin at every eighth pixel, so
    that those of one band overlap; flat ones (such as black sky) are left out.

    No benchmark: patches of one photograph look alike, and accuracy says little of a model. Natural colours and edges
    are what it is for.

    Args:
      train_per_class: training patches of each class, the first of an order that is always the same.
      test_per_class: test patches of each class.

    Returns:
      Training and test set, uint8 `[n, 32, 32, 3]`, seven classes in turn.

    Raises:
      DataError: scikit-image's files are not there or are damaged.
    """
    sets: list[Dataset] = []
    pictures = [_picture(name) for name in FILES.values()]
    for test, count in ((False, train_per_class), (True, test_per_class)):
        found = [_patches(picture, test) for picture in pictures]
        x, y = [], []
        for label, patches in enumerate(found):
            if len(patches) < count:
                raise DataError(
                    f"'{list(FILES)[label]}' of scikit-image has only {len(patches)} patches with contrast; another "
                    "version of the file than expected; ask for fewer"
                )
            order = np.random.Generator(np.random.Philox(label + 100 * test)).permutation(len(patches))
            x.append(patches[order[:count]])
            y.append(np.full(count, label, np.int32))
        labels = np.concatenate(y)
        order = interleaved(labels)
        pixels = np.concatenate(x)[order]
        sets.append(
            Dataset("photographs", pixels, labels[order], len(FILES), tuple(FILES), None, "inside scikit-image")
        )
    return sets[0], sets[1]


def _picture(name: str) -> np.ndarray:
    from PIL import Image

    spec = importlib.util.find_spec("skimage")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    file = Path(places[0]) / "data" / name if places else Path(name)
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"), np.uint8)
    except Exception as e:  # decoders raise almost anything on damaged files
        raise DataError(f"scikit-image's {name} cannot be read ({reason(e)}); reinstall scikit-image") from e


def _patches(picture: np.ndarray, test: bool) -> np.ndarray:
    """All patches of one set that show something, in the order of rows and columns."""
    found = []
    for band, top in enumerate(range(0, picture.shape[0] - SIDE + 1, BAND)):
        if (band % 4 == 1) != test:
            continue
        rows = picture[top : top + BAND]
        every = sliding_window_view(rows, (SIDE, SIDE, rows.shape[2]))[::STEP, ::STEP, 0]
        shades = sliding_window_view(rows.mean(axis=-1), (SIDE, SIDE))[::STEP, ::STEP]
        shown = np.std(shades, axis=(2, 3)) / 255 >= LEAST_CONTRAST
        found.append(every[shown])
    return np.concatenate(found)
