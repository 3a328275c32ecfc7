import numpy as np
import pytest

from fedpriv.base.errors import DataError
from fedpriv.data.npz import read_npz

X = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3)).astype(np.uint8)
Y = np.array([0, 1, 2, 0, 1, 2])


def save(tmp_path, **arrays):
    path = tmp_path / "toy.npz"
    np.savez_compressed(path, **arrays)
    return path


def test_bytes(tmp_path):
    train, test = read_npz(save(tmp_path, x=X, y=Y), "toy")
    np.testing.assert_array_equal(train.x, X)
    assert train.y.dtype == np.int32
    assert (train.num_classes, test, train.keys) == (3, None, None)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_become_float32(tmp_path, dtype):
    train, _ = read_npz(save(tmp_path, x=(X / 255).astype(dtype), y=Y), "toy")
    assert train.x.dtype == np.float32
    np.testing.assert_allclose(train.x, X / 255, atol=1e-3)


@pytest.mark.parametrize(("shape", "stored"), [((6, 4, 5), (6, 4, 5, 1)), ((6, 9), (6, 9))])
def test_other_ranks(tmp_path, shape, stored):
    train, _ = read_npz(save(tmp_path, x=np.zeros(shape, np.uint8), y=Y[:, None]), "toy")
    assert train.x.shape == stored
    assert train.y.shape == (6,)


def test_test_set_keys_and_names(tmp_path):
    path = save(
        tmp_path,
        x_train=X,
        y_train=Y,
        x_test=X[:2],
        y_test=[3, 0],
        keys=list("aabbcc"),
        class_names=["p", "q", "r", "s"],
    )
    train, test = read_npz(path, "toy")
    assert train.num_classes == test.num_classes == 4
    assert train.class_names == ("p", "q", "r", "s")
    assert train.keys.tolist() == list("aabbcc")
    assert len(test) == 2


def test_number_of_classes(tmp_path):
    assert read_npz(save(tmp_path, x=X, y=Y, num_classes=7), "toy")[0].num_classes == 7
    assert read_npz(save(tmp_path, x=X, y=Y), "toy", num_classes=100)[0].num_classes == 100
    assert read_npz(save(tmp_path, x=X, y=Y, x_test=X, y_test=Y + 5), "toy")[0].num_classes == 8


def with_pixel(value):
    x = (X / 255).astype(np.float32)
    x[4, 0, 0, 0] = value
    return x


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": with_pixel(np.nan), "y": Y}, r"\(x\): 1 pixels are NaN or infinite \(the first in example 4\)"),
        ({"x": with_pixel(-np.inf), "y": Y}, "1 pixels are NaN or infinite"),
        ({"x": with_pixel(1.5), "y": Y}, r"float pixels span \[0.*, 1.5\]; expected \[0, 1\]; divide by 255"),
        ({"x": with_pixel(-1), "y": Y}, "expected \\[0, 1\\]; rescale"),
        ({"x": X.astype(np.int64), "y": Y}, "dtype int64; expected uint8.*if no value is above 255, else scale"),
        ({"x": X > 3, "y": Y}, r"dtype bool; expected uint8.*convert with \(x [*] 255\)[.]astype\(np[.]uint8\)"),
        ({"x": X[0, 0, 0], "y": Y}, r"shape \(3,\); expected \[n, height"),
        ({"x": X[None], "y": Y}, r"shape \(1, 6, 4, 5, 3\)"),
        ({"x": X[:0], "y": Y[:0]}, "no labels; expected at least one"),
        ({"x": X[:, :0], "y": Y}, "nothing in them"),
        ({"x": X, "y": Y[:5]}, r"\(x\).*\(y\): 6 images but 5 labels"),
        ({"x": X, "y": Y - 1}, r"\(y\): 2 labels are out of range \(example 0 has label -1\)"),
        ({"x": X, "y": Y * 10**8}, "4 labels are out of range.*label 100000000.*expected 0 to 65535"),
        ({"x": X, "y": Y, "num_classes": 2}, "label 2.*expected 0 to 1"),
        ({"x": X, "y": Y, "num_classes": 0.5}, "num_classes is .*expected one positive integer"),
        (
            {"x": X, "y": Y.astype(float)},
            r"float64; expected integers: convert class numbers with .astype\(int\)",
        ),
        ({"x": X, "y": Y.astype(str)}, r"dtype <U.*expected integers: convert names .*np[.]unique"),
        ({"x": X, "y": np.eye(3)[Y]}, r"labels have shape \(6, 3\).*argmax"),
        ({"x": X, "y": Y, "x_test": X}, "'x_test' stands alone"),
        ({"x": X, "y": Y, "x_test": X[:, :2], "y_test": Y}, r"\(4, 5, 3\) but test examples \(2, 5, 3\)"),
        ({"x": X, "y": Y, "keys": Y[:3]}, r"client keys have shape \(3,\)"),
        ({"x": X, "y": Y, "class_names": ["a", "b"]}, "label 2"),
        ({"images": X, "y": Y}, "no array 'x'; found images, y"),
        ({"x": X}, "no array 'y'; found x"),
        ({"x": X, "y": Y.astype(object)}, "array 'y' holds pickled Python objects"),
    ],
)
def test_errors_name_the_file_and_what_was_expected(tmp_path, arrays, message):
    with pytest.raises(DataError, match=f"toy.npz.*{message}"):
        read_npz(save(tmp_path, **arrays), "toy")


def test_missing(tmp_path):
    with pytest.raises(DataError, match=r"toy.npz is missing"):
        read_npz(tmp_path / "toy.npz", "toy")


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.9])
def test_truncated(tmp_path, keep):
    path = save(tmp_path, x=X, y=Y)
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    with pytest.raises(DataError, match=r"toy.npz: corrupt or truncated"):
        read_npz(path, "toy")


def test_damaged_inside(tmp_path):
    path = save(tmp_path, x=X, y=Y)
    data = bytearray(path.read_bytes())
    data[120:160] = b"\x55" * 40
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"toy.npz: corrupt"):
        read_npz(path, "toy")
