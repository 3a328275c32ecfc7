"""A photo of one's own, and the public sets under the names that their files have."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from PIL import Image

from fedpriv.base.errors import DataError, ParameterError
from fedpriv.data import load
from fedpriv.data.idx import write_idx

RNG = np.random.default_rng(0)


def photo(path, size=(60, 40), mode="RGB"):
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    Image.fromarray(RNG.integers(0, 256, shape, np.uint8), mode).save(path)
    return path


def test_one_photo_is_a_data_set_and_its_classes_are_said(tmp_path):
    path = photo(tmp_path / "me.png")
    with pytest.warns(UserWarning, match=r"class 0 of 10 is assumed.*photos\(path=/.*me.png,num_classes=N\)"):
        train, test = load(str(path))
    assert test is None
    assert (train.x.shape, train.num_classes, train.y.tolist()) == ((1, 32, 32, 3), 10, [0])
    train, _ = load(f"photos(path={path},num_classes=3,image_size=16)")
    assert (train.input_shape, train.num_classes) == ((16, 16, 3), 3)
    assert load(str(path), num_classes=5)[0].num_classes == 5


def test_a_folder_of_photos_needs_no_classes(tmp_path):
    for i in range(3):
        photo(tmp_path / f"{i}.png", mode="L")
    with pytest.warns(UserWarning, match="10 is assumed"):
        train, _ = load(str(tmp_path))
    assert train.x.shape == (3, 32, 32, 1)
    (tmp_path / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1\.png: no readable image"):
        load(str(tmp_path))
    with pytest.raises(DataError, match="no image is there"):
        load(f"photos(path={tmp_path / 'none.png'})")
    with pytest.raises(ParameterError, match="num_classes=0"):
        load(f"photos(path={tmp_path},num_classes=0)")


def test_folders_may_be_spelled_with_capitals(tmp_path):
    for split in ("Train", "Test"):
        for label in ("cat", "dog"):
            (tmp_path / split / label).mkdir(parents=True)
            photo(tmp_path / split / label / "a.png")
    train, test = load(str(tmp_path))
    assert (len(train), len(test), train.class_names) == (2, 2, ("cat", "dog"))


def write(folder, prefix, labels_name="idx1-ubyte", labels=None, transpose=False):
    folder.mkdir(exist_ok=True)
    x = RNG.integers(0, 256, (6, 5, 4), np.uint8)
    y = np.arange(6, dtype=np.uint8) % 3 if labels is None else labels
    for split in ("train", "test"):
        write_idx(folder / f"{prefix}-{split}-images-idx3-ubyte.gz", x)
        write_idx(folder / f"{prefix}-{split}-labels-{labels_name}.gz", y)
    return x


def test_emnists_images_are_turned(tmp_path):
    x = write(tmp_path / "e", "emnist-letters")
    train, test = load(str(tmp_path / "e"))
    np.testing.assert_array_equal(train.x[..., 0], x.transpose(0, 2, 1))
    assert (len(test), train.num_classes) == (6, 3)
    write(tmp_path / "e", "emnist-digits")
    with pytest.raises(DataError, match=r"holds several sets .emnist-digits, emnist-letters."):
        load(str(tmp_path / "e"))


def test_qmnists_labels_have_eight_columns(tmp_path):
    labels = np.stack([np.arange(6) % 4, *[np.arange(6)] * 7], axis=1).astype(np.int32)
    x = write(tmp_path / "q", "qmnist", "idx2-int", labels)
    train, _ = load(str(tmp_path / "q"))
    np.testing.assert_array_equal(train.x[..., 0], x)
    assert train.y.tolist() == [0, 1, 2, 3, 0, 1]
    wrong = tmp_path / "q" / "qmnist-train-labels-idx2-int.gz"
    with gzip.open(wrong, "wb") as file:
        file.write(b"\0\0\x0d\x01" + (6).to_bytes(4, "big") + bytes(24))
    with pytest.raises(DataError, match="expected QMNIST's labels"):
        load(str(tmp_path / "q"))
