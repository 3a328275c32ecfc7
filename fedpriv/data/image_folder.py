"""Image folder: one subfolder a class, every image brought to one size."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedpriv.base.errors import DataError, ParameterError, did_you_mean, reason
from fedpriv.data.dataset import Dataset

if TYPE_CHECKING:
    from PIL import Image

_TEST_NAMES = ("test", "val", "valid", "validation")
_GREY = {"1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I", "F"}


def subfolders(folder: Path) -> list[Path]:
    """Visible subfolders, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))


def read_image_folder(folder: str | Path, name: str, image_size: int = 32) -> tuple[Dataset, Dataset | None]:
    """Training and test set from images sorted into one subfolder a class.

    Classes are numbered in the alphabetical order of their folders. With subfolders `train/` and `test/` (or `val/`),
    each holding class folders, both sets are read; otherwise there is no test set. An image is turned as its EXIF
    entry says, cut to its centre square, and resized with an antialiasing filter. Transparent pixels become white.

    Args:
      folder: holds class folders, or `train/` and perhaps `test/`.
      name: the datasets' name.
      image_size: height and width to resize to, in pixels.

    Returns:
      Training and test set; uint8 `[n, image_size, image_size, channels]`: one channel if every image is grey, else
      three (RGB).

    Raises:
      ParameterError: an impossible size.
      DataError: no images, an empty class folder, a test class that training lacks, or an unreadable image.
    """
    _check_size(image_size)
    folder = Path(folder)
    train_root, test_root = _split(folder)
    classes = [p.name for p in subfolders(train_root)]
    if not classes:
        raise DataError(f"{train_root}: no class folders in it; expected one subfolder of images a class")
    train_files = _listed(train_root, classes)
    test_files = None
    if test_root is not None:
        test_classes = [p.name for p in subfolders(test_root)]
        for c in test_classes:
            if c not in classes:
                raise DataError(f"{test_root / c}: no such class in {train_root}.{did_you_mean(c, classes)}")
        if not test_classes:
            raise DataError(f"{test_root}: no class folders in it; expected one subfolder of images a class")
        test_files = [(p, classes.index(p.parent.name)) for p, _ in _listed(test_root, test_classes)]
    grey = all(_is_grey(p) for p, _ in train_files + (test_files or []))

    def read(files: list[tuple[Path, int]]) -> Dataset:
        x = np.stack([_pixels(p, image_size, grey) for p, _ in files])
        y = np.array([label for _, label in files], np.int32)
        return Dataset(name, x, y, len(classes), tuple(classes), None, f"images in folder {folder.name}")

    return read(train_files), None if test_files is None else read(test_files)


def photos(path: str, image_size: int = 32, num_classes: int | None = None) -> tuple[Dataset, None]:
    """Photos without classes: one image file, or a folder of them, brought to one size as an image folder's are.

    All are given class 0. A model needs a number of classes; where none is given, 10 are assumed, and that is said.

    Args:
      path: an image file, or a folder with images directly in it.
      image_size: height and width to resize to, in pixels.
      num_classes: of the model that is attacked on them.

    Returns:
      The images as a training set, uint8 `[n, image_size, image_size, channels]`, and no test set.

    Raises:
      ParameterError: an impossible size or number of classes.
      DataError: no image that can be read.
    """
    _check_size(image_size)
    if num_classes is not None and num_classes < 1:
        raise ParameterError(f"num_classes={num_classes}: expected a positive number")
    place = Path(path).expanduser()
    try:
        files = _images_in(place) if place.is_dir() else [place]
        if not files or not files[0].is_file():
            raise DataError(f"{place}: no image is there; expected an image file, or a folder of images")
        grey = all(map(_is_grey, files))
        x = np.stack([_pixels(p, image_size, grey) for p in files])
    except OSError as e:
        raise DataError(f"{place}: cannot be read ({e.strerror or e})") from e
    if num_classes is None:
        warnings.warn(
            f"{path}: photos have no classes, so class 0 of 10 is assumed; to say how many there are, write "
            f"photos(path={path},num_classes=N)",
            stacklevel=4,
        )
    made = Dataset(place.stem, x, np.zeros(len(x), np.int32), num_classes or 10, (), None, f"photos in {place.name}")
    return made, None


def _check_size(pixels: int) -> None:
    if not 1 <= pixels <= 4096:
        raise ParameterError(f"image_size={pixels}: expected 1 to 4096 pixels")


def is_photo(path: Path) -> bool:
    """Whether it is an image file, or a folder with images directly in it and no folders."""
    if path.is_file():
        return path.suffix.lower() in _extensions()
    return path.is_dir() and not subfolders(path) and bool(_images_in(path))


def _split(folder: Path) -> tuple[Path, Path | None]:
    below = {p.name.lower(): p for p in subfolders(folder)}
    if "train" in below and set(below) <= {"train", *_TEST_NAMES} and subfolders(below["train"]):
        return below["train"], next((below[n] for n in _TEST_NAMES if n in below), None)
    return folder, None


@functools.cache
def _extensions() -> frozenset[str]:
    from PIL import Image

    return frozenset(Image.registered_extensions())


def _images_in(folder: Path) -> list[Path]:
    visible = (p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    return sorted(p for p in visible if p.suffix.lower() in _extensions())


def _listed(root: Path, classes: list[str]) -> list[tuple[Path, int]]:
    found = {c: _images_in(root / c) for c in classes}
    if not any(found.values()):
        raise DataError(
            f"{root}: no images in its subfolders ({', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}); "
            "expected an image folder (one subfolder of images a class), IDX files or CIFAR batches"
        )
    files = []
    for label, (c, images) in enumerate(found.items()):
        if not images:
            raise DataError(
                f"{root / c}: an empty class folder: no images directly in it; add some or remove the folder"
            )
        files += [(p, label) for p in images]
    return files


def _open(path: Path) -> Image.Image:
    from PIL import Image

    try:
        return Image.open(path)
    except Exception as e:  # decoders raise almost anything on damaged files
        raise DataError(f"{path}: no readable image ({reason(e)}); expected PNG, JPEG or another common format") from e


def _is_grey(path: Path) -> bool:
    with _open(path) as image:
        return image.mode in _GREY


def _pixels(path: Path, size: int, grey: bool) -> np.ndarray:
    from PIL import Image, ImageOps

    with _open(path) as image:
        try:
            image.load()
            upright = ImageOps.exif_transpose(image)
            if upright.mode[0] in "IF":  # 16-bit (and wider) greys: PIL would clip them to 255, not scale them
                upright = _scaled_grey(upright)
            if "A" in upright.mode.upper() or "transparency" in upright.info:
                upright = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
            upright = upright.convert("L" if grey else "RGB")
            side = min(upright.size)
            left, top = ((extent - side) // 2 for extent in upright.size)
            square = upright.crop((left, top, left + side, top + side))
            fitted = square.resize((size, size), Image.Resampling.LANCZOS)
        except Exception as e:  # decoders raise almost anything on damaged files
            raise DataError(
                f"{path}: no readable image ({reason(e)}); expected PNG, JPEG or another common format"
            ) from e
    array = np.asarray(fitted, np.uint8)
    return array[..., None] if grey else array


def _scaled_grey(image: Image.Image) -> Image.Image:
    from PIL import Image

    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"pixel mode {image.mode}: only 8-bit and 16-bit images have a known range")
    return Image.fromarray((values.astype(np.float64) / 257 + 0.5).astype(np.uint8))
