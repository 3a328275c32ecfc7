import os
import pickle

import numpy as np
import pytest

from fedpriv.base.errors import DataError
from fedpriv.data.cifar import read_cifar_folder, read_pickle_batch

N = 4


def images(seed, n=N):
    return np.random.default_rng(seed).integers(0, 256, (n, 3072)).astype(np.uint8)


def write_python(folder, classes=10, protocol=2, changes=()):
    folder.mkdir(exist_ok=True)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"] if classes == 10 else ["train", "test"]
    key = b"labels" if classes == 10 else b"fine_labels"
    for seed, name in enumerate(names):
        content = {b"data": images(seed), key: [seed % classes] * N, b"batch_label": b"toy"} | dict(changes)
        (folder / name).write_bytes(pickle.dumps(content, protocol=protocol))
    return folder


def write_binary(folder, classes=10):
    folder.mkdir(exist_ok=True)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"] if classes == 10 else ["train", "test"]
    for seed, name in enumerate(names):
        label = np.full((N, 1), seed % classes, np.uint8)
        columns = [label, images(seed)] if classes == 10 else [label * 0 + 7, label, images(seed)]
        np.concatenate(columns, axis=1).tofile(folder / f"{name}.bin")
    return folder


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("write", [write_python, write_binary])
def test_both_forms(tmp_path, write, classes):
    train, test = read_cifar_folder(write(tmp_path, classes), "toy")
    batches = 5 if classes == 10 else 1
    assert train.x.shape == (N * batches, 32, 32, 3)
    assert train.num_classes == classes
    assert train.y.tolist() == np.repeat(np.arange(batches), N).tolist()
    assert test.y.tolist() == [batches] * N
    planes = images(0)[0].reshape(3, 1024)
    np.testing.assert_array_equal(train.x[0].reshape(1024, 3), planes.T)


def test_every_pickle_protocol(tmp_path):
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        train, _ = read_cifar_folder(write_python(tmp_path, protocol=protocol), "toy")
        np.testing.assert_array_equal(train.x[0].reshape(1024, 3), images(0)[0].reshape(3, 1024).T)


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_pickle_that_runs_code_is_refused_before_it_does(tmp_path):
    target = tmp_path / "made_by_the_pickle"
    for number, evil in enumerate([Evil(os.mkdir, str(target)), Evil(eval, "1"), Evil(np.load, str(target))]):
        path = tmp_path / f"batch_{number}"
        path.write_bytes(pickle.dumps({b"data": evil, b"labels": []}))
        with pytest.raises(DataError, match=rf"batch_{number}: refused: it asks for"):
            read_pickle_batch(path, "labels")
    assert not target.exists()


@pytest.mark.parametrize("classes", [10, 100])
def test_truncated_binary(tmp_path, classes):
    write_binary(tmp_path, classes)
    path = tmp_path / ("data_batch_3.bin" if classes == 10 else "train.bin")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match=rf"{path.name}: truncated: found \d+ bytes; expected whole records of 307[34]"):
        read_cifar_folder(tmp_path, "toy")


def test_binary_truncated_between_records(tmp_path):
    write_binary(tmp_path)
    path = tmp_path / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-3073])
    with pytest.raises(DataError, match=r"unequal length \(.*data_batch_3.bin: 3"):
        read_cifar_folder(tmp_path, "toy")


@pytest.mark.parametrize("keep", [0, 1, 50, 3000, -1])
def test_truncated_pickle(tmp_path, keep):
    write_python(tmp_path)
    path = tmp_path / "data_batch_1"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"data_batch_1: .*truncated"):
        read_cifar_folder(tmp_path, "toy")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({b"labels": [10] * N}, "4 labels are out of range.*label 10.*0 to 9"),
        ({b"labels": [0, 1, -1, 2]}, "1 labels are out of range.*label -1"),
        ({b"labels": [0] * (N - 1)}, "4 images but 3 labels"),
        ({b"labels": [0.5] * N}, "dtype float64; expected integers"),
        ({b"labels": [[0], [1, 2]]}, "ragged"),
        ({b"data": images(0)[:, :100]}, r"data is uint8 \(4, 100\); expected uint8 \[n, 3072\]"),
        ({b"data": images(0).astype(np.float32)}, "data is float32"),
        ({b"data": [1, 2]}, "data is list"),
    ],
)
def test_malformed_contents_name_the_file(tmp_path, changes, message):
    write_python(tmp_path, changes=changes)
    with pytest.raises(DataError, match=f"data_batch_1.*{message}"):
        read_cifar_folder(tmp_path, "toy")


def test_missing_entries_and_files(tmp_path):
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({b"data": images(0), b"fine_labels": [0] * N}))
    with pytest.raises(DataError, match="no 'labels' in it; found data, fine_labels"):
        read_pickle_batch(path, "labels")
    path.write_bytes(pickle.dumps([1]))
    with pytest.raises(DataError, match="holds a list"):
        read_pickle_batch(path, "labels")
    write_python(tmp_path)
    (tmp_path / "data_batch_4").unlink()
    with pytest.raises(DataError, match="data_batch_4 is missing"):
        read_cifar_folder(tmp_path, "toy")


def test_without_a_test_batch(tmp_path):
    (write_binary(tmp_path) / "test_batch.bin").unlink()
    _, test = read_cifar_folder(tmp_path, "toy")
    assert test is None


def test_a_folder_without_batches(tmp_path):
    with pytest.raises(DataError, match="no CIFAR batches"):
        read_cifar_folder(tmp_path, "toy")
