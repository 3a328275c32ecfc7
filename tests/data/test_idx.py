import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedpriv.base.errors import DataError
from fedpriv.data.idx import parse_idx, read_idx, read_idx_folder, write_idx

IMAGES = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
LABELS = np.array([0, 1, 2, 1, 0], np.uint8)


def write_folder(folder, suffix="", images=IMAGES, labels=LABELS, test=True):
    folder.mkdir(parents=True, exist_ok=True)
    for prefix in ("train", "t10k") if test else ("train",):
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", labels)
    return folder


def test_a_file_written_byte_by_byte_is_read():
    data = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 255])
    assert parse_idx(data, "f").tolist() == [[1, 2, 3], [4, 5, 255]]
    big_endian = bytes([0, 0, 0x0B, 1, 0, 0, 0, 2, 1, 0, 255, 255])
    assert parse_idx(big_endian, "f").tolist() == [256, -1]


@settings(deadline=None)
@given(
    array=hnp.arrays(
        st.sampled_from([np.uint8, np.int8, np.int16, np.int32, np.float32, np.float64]),
        hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4),
    ),
    suffix=st.sampled_from(["", ".gz", ".xz"]),
)
def test_round_trip(tmp_path_factory, array, suffix):
    path = tmp_path_factory.getbasetemp() / f"round_trip{suffix}"
    write_idx(path, array)
    back = read_idx(path)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_compressed_files_are_the_same_bytes_every_time(tmp_path):
    for suffix in (".gz", ".xz"):
        write_idx(tmp_path / f"a{suffix}", IMAGES)
        write_idx(tmp_path / f"b{suffix}", IMAGES)
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_what_idx_cannot_hold_is_refused(tmp_path):
    with pytest.raises(DataError, match="int64"):
        write_idx(tmp_path / "f", np.zeros(3, np.int64))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated.*magic number"),
        (b"\x89PNG\r\n\x1a\n", "wrong magic number.*expected 2051"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 1, 7]), "magic number 2049: this is a labels file; expected 2051"),
        (bytes([0, 0, 13, 3]) + bytes(12), "wrong magic number 3331"),
        (bytes([0, 0, 8, 3, 0, 0]), "truncated: expected 3 axis lengths"),
        (bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 9]), "truncated.*2 x 1 x 1 values, 2 bytes, but 1"),
        (bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 9, 9]), "expected the file to end"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 12 + b"1", "truncated"),
    ],
)
def test_a_malformed_stream_names_the_file_and_what_was_expected(data, message):
    with pytest.raises(DataError, match=f"pictures: .*{message}"):
        parse_idx(data, "pictures", rank=3)


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_damaged_compression_is_an_error(tmp_path, suffix):
    path = tmp_path / f"f{suffix}"
    write_idx(path, np.random.default_rng(0).integers(0, 256, (20, 9, 9)).astype(np.uint8))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=f"{path.name}.*truncated"):
        read_idx(path)
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=path.name):
        read_idx(path)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.*cannot be read"):
        read_idx(tmp_path / "nowhere")


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_folder(tmp_path, suffix):
    train, test = read_idx_folder(write_folder(tmp_path, suffix), "toy")
    assert train.x.shape == (5, 4, 3, 1)
    assert train.x.dtype == np.uint8
    assert train.num_classes == 3
    np.testing.assert_array_equal(test.x[..., 0], IMAGES)
    np.testing.assert_array_equal(test.y, LABELS)


def test_other_spellings_of_the_names(tmp_path):
    write_idx(tmp_path / "train-images.idx3-ubyte", IMAGES)
    write_idx(tmp_path / "train-labels.idx1-ubyte", LABELS)
    train, test = read_idx_folder(tmp_path, "toy")
    assert len(train) == 5
    assert test is None


def test_the_number_of_classes_counts_test_labels_too(tmp_path):
    write_folder(tmp_path)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.array([0, 1, 2, 3, 9], np.uint8))
    train, test = read_idx_folder(tmp_path, "toy")
    assert train.num_classes == test.num_classes == 10


def test_a_missing_part_is_named(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte \(or .gz\) is missing; found t10k-images"):
        read_idx_folder(tmp_path, "toy")


def test_counts_must_match(tmp_path):
    write_folder(tmp_path, labels=LABELS[:4])
    with pytest.raises(DataError, match=r"train-images.*train-labels.*5 images but 4 labels"):
        read_idx_folder(tmp_path, "toy")


def test_labels_must_be_in_range(tmp_path):
    write_folder(tmp_path)
    with pytest.raises(DataError, match=r"train-labels.*1 labels are out of range.*example 2 has label 2.*0 to 1"):
        read_idx_folder(tmp_path, "toy", num_classes=2)


def test_swapped_files_are_noticed(tmp_path):
    write_folder(tmp_path, ".gz")
    images = tmp_path / "train-images-idx3-ubyte.gz"
    images.write_bytes(gzip.compress((tmp_path / "train-labels-idx1-ubyte.gz").read_bytes()))
    with pytest.raises(DataError, match=r"train-images.*wrong magic number"):
        read_idx_folder(tmp_path, "toy")


def test_training_and_test_must_have_one_shape(tmp_path):
    write_folder(tmp_path)
    write_idx(tmp_path / "t10k-images-idx3-ubyte", np.zeros((5, 2, 2), np.uint8))
    with pytest.raises(DataError, match=r"\(4, 3, 1\) but test examples \(2, 2, 1\)"):
        read_idx_folder(tmp_path, "toy")
