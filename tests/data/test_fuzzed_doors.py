"""Whatever lies in a file: it is read as it was meant, or refused in one line."""

import contextlib
import csv
import functools
import gzip
import io
import lzma
import pickle
import sys
import tempfile
import types
import warnings
from pathlib import Path

import numpy as np
import pandas
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fedpriv.base.errors import DataError, ParameterError
from fedpriv.base.lazy import tf, tff
from fedpriv.data import load
from fedpriv.data.cifar import read_pickle_batch
from fedpriv.data.client_data import from_client_data
from fedpriv.data.dataset import Dataset
from fedpriv.data.idx import write_idx
from fedpriv.data.kinds.columns import Numeric
from fedpriv.data.kinds.features import Features
from fedpriv.data.kinds.image import Image as ImageKind
from fedpriv.data.table import from_frame
from tests.data.fuzzing import any_array, archive, edited, edited_array, loads_or_tells, valid

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

RNG = np.random.default_rng(0)
X, Y = RNG.random((12, 5, 6, 3)).astype(np.float32), (np.arange(12) % 3).astype(np.int64)
ARCHIVES = [
    {"x": X, "y": Y},
    {"x": (X * 255).astype(np.uint8)[..., 0], "y": Y.astype(np.uint8), "keys": np.repeat(["a", "b"], 6)},
    {"x_train": X[:8], "y_train": Y[:8], "x_test": X[8:], "y_test": Y[8:], "num_classes": np.array(4)},
    {"x": X[:, 0, 0], "y": Y, "class_names": np.array(["a", "b", "c"])},
    {"x": X[:, 0, :, 0] * 40 - 7, "y": Y / 7, "num_classes": np.array(0), "kind": np.array("features")},
    {"x": RNG.integers(0, 9, (12, 4)), "y": Y, "kind": np.array("tokens(length=4,vocabulary=9)")},
    {"x": X, "y": RNG.random((12, 2)), "num_classes": np.array(0), "kind": np.array("image")},
]
NAMES = [
    "x",
    "y",
    "x_test",
    "y_test",
    "keys",
    "class_names",
    "num_classes",
    "kind",
    "x_train",
    "y_train",
    "a",
    "file/n",
]
KINDS = ["features", "image", "features(low=0)", "tokens(length=4,vocabulary=9)", "columns", "x", "", "image(", "a:b"]


@st.composite
def archives(draw):
    arrays = dict(draw(st.sampled_from(ARCHIVES)))
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from([*arrays, *NAMES]))
        how = draw(st.sampled_from(["edit", "edit", "edit", "drop", "any", "kind"]))
        if how == "drop":
            arrays.pop(name, None)
        elif how == "kind":
            arrays["kind"] = np.array(draw(st.sampled_from(KINDS)))
        elif how == "edit" and name in arrays:
            arrays[name] = draw(edited_array(arrays[name]))
        else:
            arrays[name] = draw(any_array())
    return arrays


@same_folder
@given(archives())
def test_any_arrays_in_an_archive(tmp_path, arrays):
    path = tmp_path / "own.npz"
    path.write_bytes(archive(arrays))
    made = loads_or_tells(lambda: load(path))
    if made is None:
        return
    valid(*made)
    if {"x", "y"} <= set(arrays) and arrays["x"].dtype.kind in "uf":
        x, train = arrays["x"].astype(np.float64), made[0]
        if train.kind.name in ("image", "features"):
            scale = 255 if arrays["x"].dtype == np.uint8 else 1
            np.testing.assert_allclose(train.floats().ravel(), (x / scale).ravel(), rtol=1e-6, atol=1e-3)
        np.testing.assert_array_equal(train.y.ravel(), arrays["y"].astype(train.y.dtype).ravel())


@same_folder
@given(st.sampled_from(ARCHIVES).flatmap(lambda a: edited(archive(a))))
def test_any_damage_of_an_archive(tmp_path, content):
    path = tmp_path / "own.npz"
    path.write_bytes(content)
    made = loads_or_tells(lambda: load(path))
    if made is not None:
        valid(*made)


def refused_or_valid(path, **options):
    """The sets at a path if they can be read; else it was said why, in one line."""
    made = loads_or_tells(lambda: load(path, **options))
    if made is not None:
        valid(*made)
    return made


def fresh(tmp_path):
    """An empty folder: those of one example must not be seen by the next."""
    return Path(tempfile.mkdtemp(dir=tmp_path))


IDX = {
    "train-images-idx3-ubyte": (X[:8, ..., 0] * 255).astype(np.uint8),
    "train-labels-idx1-ubyte": Y[:8].astype(np.uint8),
    "t10k-images-idx3-ubyte": (X[8:, ..., 0] * 255).astype(np.uint8),
    "t10k-labels-idx1-ubyte": Y[8:].astype(np.uint8),
}
PACKED = {".gz": lambda b: gzip.compress(b, 1), ".xz": lambda b: lzma.compress(b, preset=0)}


@same_folder
@given(st.data())
def test_any_damage_of_a_folder_of_idx_files(tmp_path, data):
    folder = fresh(tmp_path)
    prefix = data.draw(st.sampled_from(["", "", "emnist-letters-", "qmnist-"]))
    for name, array in IDX.items():
        path = folder / f"{prefix}{name}{data.draw(st.sampled_from(['', '.gz', '.xz']))}"
        how = data.draw(st.sampled_from(["as it is", "as it is", "array", "damage", "nothing", "folder"]))
        if how == "array":
            array = data.draw(edited_array(array))
            if array.dtype.str[1:] not in ("u1", "i1", "i2", "i4", "f4", "f8") or not array.ndim:
                continue
            array = array.astype(array.dtype.newbyteorder("="))
        if how == "folder":
            path.mkdir()
        elif how != "nothing":
            write_idx(folder / "plain", array)
            path.write_bytes(PACKED.get(path.suffix, bytes)((folder / "plain").read_bytes()))
        if how == "damage":
            path.write_bytes(data.draw(edited(path.read_bytes())))
    refused_or_valid(folder, num_classes=data.draw(st.sampled_from([None, None, 3, 300])))


def cifar_files(classes: int, binary: bool) -> dict[str, bytes]:
    """The files of a small CIFAR set."""
    names = ([f"data_batch_{i}" for i in range(1, 6)], "test_batch") if classes == 10 else (["train"], "test")
    files = {}
    for name in (*names[0], names[1]):
        rows, labels = RNG.integers(0, 256, (2, 3072), np.uint8), [3, 1]
        if binary:
            head = np.array([[label] * (1 if classes == 10 else 2) for label in labels], np.uint8)
            files[f"{name}.bin"] = np.hstack([head, rows]).tobytes()
        else:
            key = b"labels" if classes == 10 else b"fine_labels"
            files[name] = pickle.dumps({b"data": rows, key: labels}, protocol=2)
    return files


CIFAR = [cifar_files(c, b) for c in (10, 100) for b in (False, True)]
ODD_LABELS = [[1], [1, 300], [1, -1], [1.0, 2.0], ["a", "b"], None, 3, [[1], [2]], [[1], [2, 3]], {"a": 1}, [1, 2**70]]


@same_folder
@given(st.data())
def test_any_damage_of_a_cifar_folder(tmp_path, data):
    folder = fresh(tmp_path)
    for name, content in data.draw(st.sampled_from(CIFAR)).items():
        how = data.draw(st.sampled_from(["as it is", "as it is", "as it is", "damage", "content", "nothing"]))
        if how == "content" and not name.endswith(".bin"):
            entries = pickle.loads(content)
            key = data.draw(st.sampled_from([*entries, b"more", 3]))
            images = [data.draw(edited_array(entries[b"data"]))]
            entries[key] = data.draw(st.sampled_from([*ODD_LABELS, *images]))
            content = pickle.dumps(entries, protocol=data.draw(st.sampled_from([2, 4])))
        elif how == "damage":
            content = data.draw(edited(content))
        if how != "nothing":
            (folder / name).write_bytes(content)
    refused_or_valid(folder)


@functools.cache
def pictures() -> dict[str, bytes]:
    """A picture of each common format and mode."""
    made = {}
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"):
        for ending in ("png", "jpg", "gif", "bmp", "tiff", "webp", "ppm", "ico", "tga"):
            base = Image.fromarray(RNG.integers(0, 256, (7, 9, 3), np.uint8))
            buffer = io.BytesIO()
            with contextlib.suppress(Exception):  # a format that does not have this mode
                picture = base.convert("L").convert("I").convert(mode) if mode == "I;16" else base.convert(mode)
                formats = {"jpg": "jpeg"}
                picture.save(buffer, formats.get(ending, ending))
                made[f"{mode.replace(';', '')}.{ending}"] = buffer.getvalue()
    return made


NAMED = ["a", "b", ".hidden", "__MACOSX", "train", "test", "val", "Train", "a\nb", "ä", "\udcff", " ", "x" * 200]


@same_folder
@given(st.data())
def test_any_damage_of_an_image_folder(tmp_path, data):
    folder = fresh(tmp_path)
    for place in data.draw(st.lists(st.sampled_from(["a", "b", "c/d", "train/a", "test/a", *NAMED]), max_size=3)):
        (folder / place).mkdir(parents=True, exist_ok=True)
        for k in range(data.draw(st.integers(0, 2))):
            name = data.draw(st.sampled_from(sorted(pictures())))
            content = pictures()[name]
            how = data.draw(st.sampled_from(["as it is", "as it is", "damage", "name", "place"]))
            if how == "damage":
                content = data.draw(edited(content))
            if how == "name":
                name = data.draw(st.sampled_from(["x.png", ".x.png", "x.txt", "x", "\udcff.png", "a\nb.png", "x.PNG"]))
            path = folder / name if how == "place" else folder / place / f"{k}{name}"
            if not path.exists():
                path.write_bytes(content)
    refused_or_valid(folder, image_size=data.draw(st.sampled_from([None, 1, 4])))


@same_folder
@given(st.data())
def test_any_damage_of_a_single_photo(tmp_path, data):
    name = data.draw(st.sampled_from(sorted(pictures())))
    path = fresh(tmp_path) / name
    path.write_bytes(data.draw(edited(pictures()[name])))
    made = refused_or_valid(path, image_size=data.draw(st.sampled_from([None, 1, 4])), num_classes=3)
    assert made is None or made[0].num_classes == 3


COLUMNS = {
    "whole": RNG.integers(-9, 9, 30),
    "real": RNG.normal(size=30) * 7,
    "large": 1.6e9 + RNG.integers(0, 900, 30),
    "small": RNG.normal(size=30) * 1e-12,
    "name": np.array(["a", "b c", "ä,ö", '"', "1", "nine"])[RNG.integers(0, 6, 30)],
    "yes": RNG.integers(0, 2, 30) > 0,
    "always": np.full(30, 0.1),
    "of": np.array(["x", "y", "z"])[RNG.integers(0, 3, 30)],
}
CELLS = [
    "",
    "nan",
    "?",
    "inf",
    "1e400",
    "1e300",
    "9" * 25,
    "-1",
    "x",
    '"',
    ",",
    "1,5",
    "a\nb",
    "\udcff",
    "\x00",
    "True",
]
NUMBERS = [0, 1, -1, 2**62, 2**63, 1e300, -1e308, 1e-300, 5e-324, np.nan, np.inf, 0.1, 3]


@same_folder
@given(st.data())
def test_any_damage_of_a_table(tmp_path, data):
    columns = data.draw(st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, max_size=5))
    rows = [[str(COLUMNS[c][k]) for c in columns] for k in range(data.draw(st.sampled_from([0, 1, 2, 3, 30, 30, 30])))]
    rows.insert(0, list(columns))
    for _ in range(data.draw(st.integers(0, 2))):
        row = rows[data.draw(st.integers(0, len(rows) - 1))]
        how = data.draw(st.sampled_from(["cell", "column", "longer", "shorter", "heading"]))
        if how == "cell" and row:
            row[data.draw(st.integers(0, len(row) - 1))] = data.draw(st.sampled_from(CELLS))
        elif how == "column":
            cell = data.draw(st.sampled_from(CELLS))
            for row in rows[1:]:
                row.append(cell)
        elif how == "longer":
            row.append(data.draw(st.sampled_from(CELLS)))
        elif how == "shorter" and row:
            row.pop()
        elif how == "heading" and len(rows) > 1:
            rows.pop(0)
    text = io.StringIO()
    csv.writer(text, delimiter=data.draw(st.sampled_from([",", ",", ";"]))).writerows(rows)
    content = text.getvalue().encode(data.draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16"])), "replace")
    if data.draw(st.booleans()):
        content = data.draw(edited(content))
    path = fresh(tmp_path) / data.draw(st.sampled_from(["t.csv", "t.CSV", "t.csv.gz"]))
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    options = data.draw(st.sampled_from(["", ",target=of", ",keys=of", ",categorical=[whole]", ",test_fraction=0"]))
    refused_or_valid(f"table(path={path}{options})" if options else path)


@same_folder
@given(st.data())
def test_any_columns_of_numbers(data):
    """What is read of a table is what stood in it."""
    rows = data.draw(st.integers(2, 8))
    kinds = [np.int64, np.uint64, np.float64, np.float32, np.int8]
    table = {}
    for name in "abcd"[: data.draw(st.integers(2, 4))]:
        values = data.draw(st.lists(st.sampled_from(NUMBERS), min_size=rows, max_size=rows))
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table[name] = np.array(values, np.float64).astype(data.draw(st.sampled_from(kinds)))
    frame = pandas.DataFrame(table)
    made = loads_or_tells(lambda: from_frame(frame, "t", target="a"))
    if made is None:
        return
    valid(*made)
    order = np.random.RandomState(0).permutation(rows)
    read = pandas.concat([d.kind.decode(d.x, d.y) for d in made])
    for field in (*made[0].kind.fields, made[0].kind.target):
        if isinstance(field, Numeric):
            near = 1e-6 * max(abs(e) for e in (*field.ends, 1)) * field.spread
            got, wanted = read[field.name].to_numpy(np.float64), table[field.name][order].astype(np.float64)
            np.testing.assert_allclose(got, wanted, atol=max(near, 0.5 if field.integer else 0), rtol=1e-6)
        else:
            assert read[field.name].tolist() == [str(v) for v in table[field.name][order].tolist()]


def a_function(*returned, raising=None):
    """Somebody's own function, as `package.module:function`."""
    module = types.ModuleType("fedpriv_fuzzed_data")

    def make():
        if raising is not None:
            raise raising
        return returned[0] if len(returned) == 1 else returned

    module.make = make
    sys.modules[module.__name__] = module
    return "fedpriv_fuzzed_data:make"


FIELDS = {
    "name": st.sampled_from(["own", "", "a\nb", None, 3]),
    "num_classes": st.sampled_from([3, 0, 1, 2, -1, 2**31, 2**40, 10**30, 2.5, "3", None, np.int64(3), np.array(3)]),
    "class_names": st.sampled_from([(), ("a", "b", "c"), ["a", "b", "c"], "abc", None, (1, 2, 3), ("a",), 3]),
    "keys": st.one_of(st.sampled_from([None, "abc", 3, list("aabbaabbaabb"), [None] * 12, [[1]]]), any_array()),
    "kind": st.sampled_from([None, "image", Features(shape=(5,)), Features(shape=(5, 6, 3)), ImageKind, 3]),
    "x": st.one_of(
        any_array(), edited_array(X), st.sampled_from([None, 3, "x", [[1.0]], X.tolist(), tf.zeros((12, 2))])
    ),
    "y": st.one_of(any_array(), edited_array(Y), st.sampled_from([None, 3, Y.tolist(), list("abc"), tf.zeros(12)])),
}
RETURNS = [None, 3, (), "x", (None, None), [1], {"x": X, "y": Y}, (X, Y), ((X, Y), (X, Y)), np.zeros(3), Dataset]
RAISED = [KeyError("x"), ValueError("a\nb"), AssertionError(), MemoryError(), OSError(2, "no"), StopIteration()]


@given(st.data())
def test_any_function_of_data(data):
    def drawn():
        fields = {"name": "own", "x": X, "y": Y, "num_classes": 3}
        for name in data.draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=2)):
            fields[name] = data.draw(FIELDS[name])
        return loads_or_tells(lambda: Dataset(**fields))

    how = data.draw(st.sampled_from(["one", "one", "two", "two", "other", "raise"]))
    if how == "other":
        name = a_function(data.draw(st.sampled_from(RETURNS)))
    elif how == "raise":
        name = a_function(raising=data.draw(st.sampled_from(RAISED)))
    else:
        name = a_function(*[drawn() for _ in range(1 if how == "one" else 2)])
    refused_or_valid(name)


@given(st.data())
def test_any_client_data(data):
    """TFF's ClientData with elements of any form."""
    from_functions = tff.simulation.datasets.ClientData.from_clients_and_tf_fn
    form = data.draw(st.sampled_from(["pair", "mapping", "mapping", "one", "three", "nested", "batched"]))
    x = data.draw(st.one_of(st.just(X[:4]), edited_array(X[:4])))
    y = data.draw(st.one_of(st.just(Y[:4]), edited_array(Y[:4])))
    names = data.draw(st.sampled_from([("x", "y"), ("pixels", "label"), ("a", "b")]))

    def elements(client):
        n = min(len(x), len(y)) if x.ndim and y.ndim else 0
        pair = (x[:n], y[:n])
        whole = {
            "pair": pair,
            "mapping": dict(zip(names, pair)),
            "one": pair[0],
            "three": (*pair, pair[1]),
            "nested": {"x": {"x": pair[0]}, "y": pair[1]},
            "batched": pair,
        }[form]
        made = tf.data.Dataset.from_tensor_slices(whole)
        return made.batch(2) if form == "batched" else made

    try:
        client_data = from_functions(["a", "b"], elements)
    except Exception:  # no data that TensorFlow can hold
        return
    options = {
        "image_key": data.draw(st.sampled_from([None, None, "a", "x", 3])),
        "label_key": data.draw(st.sampled_from([None, None, "b", "y"])),
        "clients": data.draw(st.sampled_from([None, None, ["a"], [], ["a", "a"], ["c"], "ab", "a"])),
        "num_classes": data.draw(st.sampled_from([None, 3, 0, 2])),
    }
    made = loads_or_tells(lambda: from_client_data(client_data, **options))
    if made is not None:
        valid(made[0], None)


def csv_file(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2,3\n4,5,6\n", "more fields than the heading has names"),
        ("a,a,b\n1,2,3\n4,5,6\n", "two columns are called 'a'"),
        (",a,b\n0,2,3\n1,5,6\n", "column 1 has no name"),
        ("1.5,2\n3,4\n5,6\n", "first row holds numbers only"),
        ("a;b\n1;2\n3;4\n", "separate columns by commas"),
        ("a;b\n1,5;2,5\n3,5;4,5\n", "separate columns by commas, and write decimals with a point"),
        ("a,b,c\n1,2,3\n1,2,3\n1,2,3,4\n", "as many fields in each row"),
        ("a,b\nä,1\n2,3\n".encode("latin-1"), "no CSV file in UTF-8 .*save it in that encoding"),
        ("a,b\n1,1\n2,2\n3,3\ninf,4\n5,5\n", "column 'a' is infinite in row 4"),
        ("a,b\n1,1\n1e300,2\n3,3\n", "'a' is 1e[+]300 in row 2, too large"),
        ("a-b,a b,c\n1,1,2\n2,2,3\n", "or nearly so"),
    ],
)
def test_what_pandas_would_read_in_its_own_way_is_refused(tmp_path, text, says):
    with pytest.raises(DataError, match=says):
        load(csv_file(tmp_path, text))


def test_a_column_of_numbers_with_one_slip_is_told(tmp_path):
    rows = "\n".join(f"{k},{k % 2}" for k in range(20))
    with pytest.warns(UserWarning, match=r"column 'a' is taken for names, because row 21 holds '\?'"):
        load(csv_file(tmp_path, f"a,b\n{rows}\n?,1\n"))
    load(csv_file(tmp_path, f"0,1\n{rows}\n"))  # names of columns as pandas gives them


def test_a_column_that_is_constant_in_training_keeps_the_scale_of_what_differs():
    frame = pandas.DataFrame({"a": [0.1] * 9 + [0.4], "b": range(10)})
    order = np.random.RandomState(0).permutation(10)
    train, test = from_frame(frame.iloc[np.argsort(order)], "t", target="b")  # the row that differs is held out
    assert np.abs(train.x).max() < 1e-6
    np.testing.assert_allclose(np.sort(test.x[:, 0]), [0, 0.3], atol=1e-6)


def test_names_in_bytes_are_text(tmp_path):
    np.savez(tmp_path / "b.npz", x=X, y=Y, class_names=np.array([b"a", b"b", b"c"]), keys=np.array([b"k"] * 12))
    train, _ = load(tmp_path / "b.npz")
    assert (train.class_names, set(train.keys.tolist())) == (("a", "b", "c"), {"k"})


def test_bytes_of_another_range_are_numbers(tmp_path):
    x = np.arange(24, dtype=np.uint8).reshape(12, 2)
    np.savez(tmp_path / "r.npz", x=x, y=Y, kind="features(low=0,high=50)")
    np.testing.assert_array_equal(load(tmp_path / "r.npz")[0].floats(), x)


@pytest.mark.parametrize("offset", [1.6e9, 1e300])
def test_a_range_that_float32_cannot_tell_apart_is_refused(tmp_path, offset):
    np.savez(tmp_path / "r.npz", x=X[:, 0, 0].astype(np.float64) + offset, y=Y, kind="features")
    with pytest.raises(ParameterError, match=r"r.npz.*(subtract|above|below|float32)"):
        load(tmp_path / "r.npz")


def test_quantities_of_a_function_have_the_shape_of_a_files():
    made, _ = load(a_function(Dataset("own", X, RNG.random((12, 1)), 0)))
    assert made.y.shape == (12,)


def test_a_damaged_number_of_an_object_takes_no_memory(tmp_path):
    (tmp_path / "test_batch").write_bytes(b"\x80\x02}r\xff\xff\xff\x7f.")
    with pytest.raises(DataError, match="data_batch_1 is missing"):
        load(tmp_path)
    with pytest.raises(DataError, match="no 'data' in it"):
        read_pickle_batch(tmp_path / "test_batch", "labels")


@pytest.mark.parametrize("name", ["~nobody_of_that_name/x", "x" * 300 + ".npz", "a\0b.npz"])
def test_a_path_that_cannot_be_is_said_so(name):
    assert loads_or_tells(lambda: load(name)) is None
