import dataclasses
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedpriv.base import registry
from fedpriv.base.errors import DataError, FedprivError, ParameterError, UnknownNameError
from fedpriv.data import Dataset, formats, load, sources
from fedpriv.data.idx import write_idx
from fedpriv.data.known import KNOWN, known_by_file_name

SHARED = Path(os.environ.get("FEDPRIV_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))


def idx_folder(folder, train=6, test=4, side=28, top=10):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for prefix, n in (("train", train), ("t10k", test)):
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", rng.integers(0, 256, (n, side, side)).astype(np.uint8))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", (np.arange(n) % top).astype(np.uint8))
    return folder


@pytest.fixture
def small_mnist(monkeypatch):
    monkeypatch.setitem(sources.KNOWN, "mnist", dataclasses.replace(KNOWN["mnist"], train=6, test=4))


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / ".keras").mkdir(parents=True)
    monkeypatch.setattr(sources, "_reachable", lambda url: False)


def test_registered_names():
    assert {"fashion_small", "fashion_mnist", "mnist", "cifar10", "cifar100"} <= set(registry.datasets.names())
    for name in KNOWN:
        assert registry.datasets.load(name) is getattr(sources, name)


def test_embedded_by_name():
    train, test = load("fashion_small")
    assert (train.name, len(train), len(test)) == ("fashion_small", 10_000, 2_000)


def test_a_path_of_each_format(tmp_path):
    train, test = load(idx_folder(tmp_path / "digits"))
    assert (train.name, train.num_classes, len(test)) == ("digits", 6, 4)
    assert load(tmp_path / "digits", num_classes=12)[0].num_classes == 12
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 4, 4, 3), np.uint8), y=[0, 1, 1])
    train, test = load(str(tmp_path / "a.npz"))
    assert (train.name, train.num_classes, test) == ("a", 2, None)
    (tmp_path / "pictures" / "cat").mkdir(parents=True)
    Image.new("RGB", (50, 40)).save(tmp_path / "pictures" / "cat" / "1.png")
    assert load(tmp_path / "pictures")[0].input_shape == (32, 32, 3)
    assert load(tmp_path / "pictures", image_size=16)[0].input_shape == (16, 16, 3)
    (tmp_path / "batches").mkdir()
    for i in range(1, 6):
        np.zeros(2 * 3073, np.uint8).tofile(tmp_path / "batches" / f"data_batch_{i}.bin")
    assert len(load(tmp_path / "batches")[0]) == 10


def test_a_name_from_a_data_dir(tmp_path, small_mnist):
    folder = idx_folder(tmp_path / "data" / "MNIST" / "raw")
    for data_dir in (folder, tmp_path / "data"):
        train, test = load("mnist", str(data_dir))
        assert (train.name, len(train), len(test), train.num_classes) == ("mnist", 6, 4, 10)
        assert train.class_names == tuple("0123456789")
        assert str(tmp_path) not in train.source
    assert len(load(f"mnist(data_dir={folder})")[0]) == 6


def test_keras_npz_in_a_data_dir(tmp_path, small_mnist):
    x = np.zeros((6, 28, 28), np.uint8)
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=np.arange(6), x_test=x[:4], y_test=np.arange(4))
    assert load("mnist", str(tmp_path))[0].input_shape == (28, 28, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": 5}, r"found 5 training images of shape \(28, 28, 1\); MNIST has 6 .*give the path itself"),
        ({"test": 3}, "found 3 test images"),
        ({"side": 20}, r"shape \(20, 20, 1\)"),
    ],
)
def test_a_name_means_the_whole_set(tmp_path, small_mnist, options, message):
    idx_folder(tmp_path, **options)
    with pytest.raises(DataError, match=message):
        load("mnist", str(tmp_path))
    assert len(load(tmp_path)[0]) in (5, 6)


def test_a_label_outside_the_set_is_an_error(tmp_path, small_mnist):
    idx_folder(tmp_path)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.array([0, 1, 2, 10], np.uint8))
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte: 1 labels are out of range.*label 10.*0 to 9"):
        load("mnist", str(tmp_path))


def test_another_set_in_the_data_dir(tmp_path):
    for name in ("train.bin", "test.bin"):
        np.zeros(3074, np.uint8).tofile(tmp_path / name)
    with pytest.raises(DataError, match="holds CIFAR-100, not CIFAR-10; use --data cifar100"):
        load("cifar10", str(tmp_path))


def test_a_data_dir_without_the_files(tmp_path):
    with pytest.raises(
        DataError, match="no MNIST files in it, nor in its subfolders mnist, MNIST/raw; expected train-"
    ):
        load("mnist", str(tmp_path))
    with pytest.raises(DataError, match=r"data_dir .*nowhere is missing"):
        load("mnist", str(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
def test_without_network_or_cache_the_way_out_is_told(offline, name):
    with pytest.raises(DataError, match=r"not in Keras's cache .* does not answer.*--data-dir.*fashion_small"):
        load(name)


def test_an_unreachable_address_is_given_up_quickly():
    assert not sources._reachable("http://127.0.0.1:9/nothing")
    assert not sources._reachable("no address at all")


@pytest.fixture
def keras(monkeypatch):
    """A stand-in for Keras's loaders, set to return what a test wants."""
    loaders = types.SimpleNamespace()
    monkeypatch.setattr(
        sources, "tf", types.SimpleNamespace(keras=types.SimpleNamespace(datasets=loaders)), raising=True
    )
    monkeypatch.setattr(sources, "_reachable", lambda url: True)

    def set_loader(name, function):
        setattr(loaders, name, types.SimpleNamespace(load_data=function))

    return set_loader


def test_keras_columns_of_labels_are_flattened_and_its_chatter_kept_off_stdout(keras, capsys):
    x, y = np.zeros((4, 32, 32, 3), np.uint8), np.arange(4, dtype=np.uint8)[:, None]

    def load_data():
        print("Downloading data")
        return (x, y), (x[:2], y[:2])

    keras("cifar10", load_data)
    train, test = load("cifar10")
    assert train.y.tolist() == [0, 1, 2, 3]
    assert (train.num_classes, len(test), train.source) == (10, 2, "tf.keras.datasets")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Downloading" in captured.err


def test_a_failing_keras_loader_is_one_clear_error(keras, offline, monkeypatch):
    def load_data():
        raise Exception("URL fetch failure")

    keras("cifar100", load_data)
    monkeypatch.setattr(sources, "_reachable", lambda url: True)
    with pytest.raises(DataError, match=r"CIFAR-100: Keras's loader failed \(URL fetch failure\).*--data-dir"):
        load("cifar100")
    cached = sources.keras_cache() / "cifar-100-python.tar.gz"
    cached.parent.mkdir(parents=True)
    cached.touch()
    with pytest.raises(DataError, match="is damaged, delete it"):
        load("cifar100")


@pytest.mark.slow
@pytest.mark.skipif(
    not any((sources.keras_cache() / f).exists() for f in KNOWN["mnist"].cached), reason="MNIST is not in Keras's cache"
)
def test_mnist_through_keras_itself():
    train, test = load("mnist")
    assert (len(train), len(test)) == (60_000, 10_000)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda p: load("mnits"), UnknownNameError, "no dataset or path is named 'mnits'. Did you mean 'mnist'"),
        (lambda p: load(p / "nowhere"), DataError, "nowhere is missing; expected a dataset's name"),
        (lambda p: load("nowhere.npz"), DataError, "nowhere.npz is missing"),
        (lambda p: load(p), DataError, "no data found in this folder .it holds nothing"),
        (lambda p: load("mnist(colour=red)"), ParameterError, "no parameter 'colour'"),
        (lambda p: load("mnist", image_size=3), ParameterError, "no parameter 'image_size'"),
        (lambda p: load("json:dumps(obj=1)"), DataError, "returned str; expected .train Dataset"),
        (lambda p: load("json:nothing"), UnknownNameError, "json has no 'nothing'"),
    ],
)
def test_mistakes(tmp_path, call, kind, message):
    with pytest.raises(kind, match=message):
        call(tmp_path)


def test_files_of_other_kinds(tmp_path):
    for name, message in (
        ("cifar-10-python.tar.gz", "is an archive; unpack it"),
        ("train-images-idx3-ubyte.gz", "a single IDX file; give its folder"),
        ("notes.doc", "no known data format; expected an .npz"),
    ):
        (tmp_path / name).write_text("")
        with pytest.raises(DataError, match=message):
            load(tmp_path / name)


def test_options_that_do_not_apply(tmp_path):
    idx_folder(tmp_path)
    with pytest.raises(ParameterError, match="no image folder"):
        load(tmp_path, image_size=16)
    with pytest.raises(ParameterError, match="is a path and complete in itself"):
        load(tmp_path, "elsewhere")
    with pytest.raises(ParameterError, match="num_classes=0"):
        load(tmp_path, num_classes=0)


def toy_dataset(n: int = 3) -> Dataset:
    return Dataset("own", np.zeros((n, 2), np.float32), np.zeros(n, np.int32), 1)


def test_a_function_of_ones_own(monkeypatch):
    monkeypatch.setitem(sys.modules, "own_data", sys.modules[__name__])
    train, test = load("own_data:toy_dataset(n=5)")
    assert (len(train), test) == (5, None)


def test_file_names_that_say_which_set():
    assert known_by_file_name("cifar100_test_first20") is KNOWN["cifar100"]
    assert known_by_file_name("cifar-10-batches-py") is KNOWN["cifar10"]
    assert known_by_file_name("Fashion-MNIST") is KNOWN["fashion_mnist"]
    assert known_by_file_name("mnist") is KNOWN["mnist"]
    for other in ("cifar1000", "my_mnist", "mnistlike", ""):
        assert known_by_file_name(other) is None


def test_a_cut_of_a_public_set_keeps_its_classes(tmp_path):
    np.savez(tmp_path / "cifar100_cut.npz", x=np.zeros((2, 32, 32, 3), np.uint8), y=[3, 97])
    train, _ = load(tmp_path / "cifar100_cut.npz")
    assert (train.num_classes, train.class_names[3]) == (100, "bear")
    np.savez(tmp_path / "cifar10_cut.npz", x=np.zeros((2, 32, 32, 3), np.uint8), y=[3, 97])
    assert load(tmp_path / "cifar10_cut.npz")[0].num_classes == 98
    np.savez(tmp_path / "mnist_wide.npz", x=np.zeros((2, 9, 9, 1), np.uint8), y=[0, 1])
    assert load(tmp_path / "mnist_wide.npz")[0].num_classes == 2


def test_detection_prefers_nothing_over_guessing(tmp_path):
    (tmp_path / "a.txt").touch()
    assert formats.detect(tmp_path) is None
    assert formats.detect(tmp_path / "nowhere") is None


def test_class_names_of_the_public_sets():
    assert [k.num_classes for k in KNOWN.values()] == [10, 10, 10, 100]
    assert list(KNOWN["cifar100"].class_names) == sorted(set(KNOWN["cifar100"].class_names))


def test_importing_the_package_does_not_import_tensorflow():
    code = "import fedpriv.data, fedpriv.figures.partition, sys; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason="the shared MNIST files are absent")
def test_mnist_files():
    train, test = load("mnist", str(SHARED / "mnist"))
    assert (train.x.shape, test.x.shape) == ((60_000, 28, 28, 1), (10_000, 28, 28, 1))
    # The published class counts of MNIST.
    assert np.bincount(train.y).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert train.floats().mean() == pytest.approx(0.1307, abs=1e-4)


@pytest.mark.skipif(not (SHARED / "cifar100_test_first20.npz").is_file(), reason="the shared CIFAR-100 cut is absent")
def test_cifar100_cut():
    train, test = load(SHARED / "cifar100_test_first20.npz")
    assert (train.x.shape, train.x.dtype, train.num_classes, test) == ((20, 32, 32, 3), np.uint8, 100, None)
    assert [train.class_names[c] for c in train.y[:3]] == ["mountain", "forest", "seal"]


def test_errors_are_fedprivs_own():
    assert all(issubclass(e, FedprivError) for e in (DataError, ParameterError, UnknownNameError))
