import csv
import dataclasses
import enum
import errno
import json
import os
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.base import atomic
from fedpriv.base.errors import FedprivError, ParameterError


def leftovers(folder):
    return sorted(p.name for p in folder.iterdir())


def test_writes_the_bytes_and_makes_folders(tmp_path):
    path = atomic.write_bytes(tmp_path / "a" / "b" / "c.bin", b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert leftovers(path.parent) == ["c.bin"]


def test_file_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        path = atomic.write_text(tmp_path / "x", "x")
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_symbolic_link_stays_and_its_target_changes(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    atomic.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


@pytest.mark.parametrize("stopped", [KeyboardInterrupt, SystemExit])
def test_interrupted_before_the_rename_the_old_file_stays(tmp_path, monkeypatch, stopped):
    path = tmp_path / "result.json"
    path.write_text("old")

    def stop(*_):
        raise stopped

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(stopped):
        atomic.write_text(path, "new")
    assert path.read_text() == "old"
    assert leftovers(tmp_path) == ["result.json"]


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        ("fsync", errno.ENOSPC, "disk is full"),
        ("open", errno.EROFS, "read-only"),
        ("open", errno.EACCES, "permission denied"),
        ("replace", errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_a_failing_disk_is_a_clear_error_and_the_old_file_stays(tmp_path, monkeypatch, call, code, words):
    path = tmp_path / "result.json"
    path.write_text("old")

    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(FedprivError, match=words) as e:
        atomic.write_text(path, "new")
    monkeypatch.undo()
    assert str(path) in str(e.value)
    assert path.read_text() == "old"
    assert leftovers(tmp_path) == ["result.json"]


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FedprivError, match="not a folder"):
        atomic.write_text(tmp_path / "file" / "x", "")


def test_a_folder_where_the_file_should_be(tmp_path):
    with pytest.raises(FedprivError, match="is a folder"):
        atomic.write_text(tmp_path, "")


def test_json_spells_out_what_json_lacks(tmp_path):
    path = atomic.write_json(tmp_path / "x.json", {"a": [np.inf, -np.inf, np.nan], "b": np.float32(0.5)})
    assert json.loads(path.read_text()) == {"a": ["inf", "-inf", None], "b": 0.5}


def test_jsonable_converts_the_usual_types():
    class Colour(enum.Enum):
        RED = "red"

    @dataclasses.dataclass
    class Point:
        x: np.ndarray

    value = {1: Colour.RED, "p": Point(np.arange(2)), "s": {3, 1}, "t": (True, None), "f": pathlib.PurePosixPath("a/b")}
    assert atomic.jsonable(value) == {"1": "red", "p": {"x": [0, 1]}, "s": [1, 3], "t": [True, None], "f": "a/b"}


def test_jsonable_names_the_type_it_cannot_convert():
    with pytest.raises(ParameterError, match="complex"):
        atomic.jsonable({"z": 1j})


trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(trees)
def test_any_tree_becomes_strict_json(tree):
    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads(atomic.to_json(tree), parse_constant=refuse) == atomic.jsonable(tree)


def test_csv_has_every_column_once_in_order_of_appearance(tmp_path):
    path = atomic.write_csv(tmp_path / "x.csv", [{"a": 1, "b": np.inf}, {"c": "x,y", "a": None}])
    assert path.read_bytes().count(b"\r") == 0
    assert list(csv.DictReader(path.open())) == [{"a": "1", "b": "inf", "c": ""}, {"a": "", "b": "", "c": "x,y"}]


def test_csv_refuses_a_column_nobody_declared(tmp_path):
    with pytest.raises(ParameterError, match="'b'"):
        atomic.write_csv(tmp_path / "x.csv", [{"a": 1, "b": 2}], columns=["a"])
    assert leftovers(tmp_path) == []


def test_a_csv_of_few_digits_keeps_every_float32(tmp_path):
    values = np.random.default_rng(0).normal(size=50).astype(np.float32) * np.float32(1e-8)
    rows = [{"x": float(v), "n": 123456789012, "third": 1 / 3} for v in values]
    lines = atomic.write_csv(tmp_path / "x.csv", rows, digits=9).read_text().splitlines()[1:]
    np.testing.assert_array_equal([np.float32(line.split(",")[0]) for line in lines], values)
    assert lines[0].split(",")[1:] == ["123456789012", "0.333333333"]
