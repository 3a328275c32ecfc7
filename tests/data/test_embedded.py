import importlib.resources
from pathlib import Path

import numpy as np
import pytest

from fedpriv.base.errors import DataError, ParameterError
from fedpriv.data import embed, embedded
from fedpriv.data.embedded import fashion_small, interleaved
from fedpriv.data.idx import write_idx

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(scope="module")
def sets():
    return fashion_small()


def test_size_and_balance(sets):
    train, test = sets
    assert train.x.shape == (10_000, 28, 28, 1)
    assert test.x.shape == (2_000, 28, 28, 1)
    assert train.x.dtype == np.uint8
    assert np.bincount(train.y).tolist() == [1000] * 10
    assert np.bincount(test.y).tolist() == [200] * 10
    assert train.class_names[9] == "Ankle boot"
    assert len(np.unique(train.x.reshape(len(train), -1), axis=0)) > 9_990


def test_every_prefix_of_whole_turns_is_balanced(sets):
    train, _ = sets
    for n in (10, 50, 600):
        assert np.bincount(train.y[:n]).tolist() == [n // 10] * 10


def test_the_contents_are_those_of_record(sets):
    train, test = sets
    assert (train.contents, test.contents) == ("18bc6494ae549d5c", "7901c57f9b6f6927")
    assert (train.fingerprint, test.fingerprint) == ("40060a148c336b86", "8d7193eb7fff746d")


def test_file_size_and_licence():
    folder = importlib.resources.files("fedpriv.data") / embedded.FOLDER
    assert sum(len((folder / f).read_bytes()) for f in embedded.FILES.values()) < 5e6
    licence = (folder / "LICENSE").read_text(encoding="utf-8")
    assert "Zalando SE" in licence
    assert "Permission is hereby granted" in licence


def test_a_data_dir_is_refused():
    with pytest.raises(ParameterError, match="fashion_small is built in"):
        fashion_small("somewhere")


def test_a_damaged_package_is_noticed(tmp_path, monkeypatch):
    source = importlib.resources.files("fedpriv.data")
    copy = tmp_path / embedded.FOLDER
    copy.mkdir()
    for name in embedded.FILES.values():
        (copy / name).write_bytes((source / embedded.FOLDER / name).read_bytes())
    monkeypatch.setattr(embedded.importlib.resources, "files", lambda package: tmp_path)
    fashion_small()
    path = copy / "t10k-images-idx3-ubyte.xz"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte.xz.*damaged or truncated"):
        fashion_small()
    path.unlink()
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte.xz is missing from the package"):
        fashion_small()


def test_interleaving_visits_classes_in_turn():
    assert interleaved(np.array([0, 0, 0, 1, 1, 2])).tolist() == [0, 3, 5, 1, 4, 2]


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "TRAIN_PER_CLASS", 3)
    monkeypatch.setattr(embed, "TEST_PER_CLASS", 2)
    rng = np.random.default_rng(0)
    folder = tmp_path / "source"
    folder.mkdir()
    for prefix in ("train", "t10k"):
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", rng.integers(0, 256, (50, 4, 4)).astype(np.uint8))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", np.tile(np.arange(10, dtype=np.uint8), 5))
    return folder


def test_rebuilding_gives_the_same_bytes(source, tmp_path, capsys):
    for out in ("a", "b"):
        assert embed.main([str(source), "--out", str(tmp_path / out)]) == 0
    for name in embedded.FILES.values():
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert embed.main([str(source), "--out", str(tmp_path / "a"), "--check"]) == 0
    write_idx(tmp_path / "a" / "t10k-labels-idx1-ubyte.xz", np.zeros(20, np.uint8))
    assert embed.main([str(source), "--out", str(tmp_path / "a"), "--check"]) == 1
    assert "t10k-labels" in capsys.readouterr().out


def test_rebuilding_from_nothing_says_so(tmp_path, capsys):
    assert embed.main([str(tmp_path)]) == 2
    assert "no train images; expected the four IDX files" in capsys.readouterr().err


def test_rebuilding_needs_enough_of_each_class(source, monkeypatch, capsys):
    monkeypatch.setattr(embed, "TRAIN_PER_CLASS", 6)
    assert embed.main([str(source)]) == 2
    assert "class 0 has 5 examples; expected at least 6" in capsys.readouterr().err


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_package_holds_what_its_source_gives():
    assert embed.main([str(DEBIAN), "--check"]) == 0
