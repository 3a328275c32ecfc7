"""Manifests: what a results folder ships, whether it is whole, and which files stay where they were made."""

from __future__ import annotations

import json

import pytest

from fedpriv.base.atomic import write_json
from fedpriv.base.errors import DataError, ParameterError
from fedpriv.base.provenance import provenance
from fedpriv.report.manifest import FILE, is_local, problems, read_manifest, renew_manifest, write_manifest


@pytest.fixture
def folder(tmp_path):
    write_json(tmp_path / "one.json", {"rows": [], "provenance": provenance("first", {"x": 1}, 3)})
    write_json(tmp_path / "two.json", provenance("second"))
    write_json(tmp_path / "rows.json", [1, 2])
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "x.json").write_text("{}")
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    return tmp_path


def test_it_lists_what_is_shipped_with_checksums_and_what_made_it(folder):
    write_manifest(folder, code=["b", "a", "b"])
    manifest = read_manifest(folder)
    assert list(manifest["files"]) == ["one.json", "rows.json", "table.csv", "two.json"]
    # printf 'a,b\n1,2\n' | sha256sum
    assert manifest["files"]["table.csv"] == {
        "sha256": "492d5ea496056f1a6a6592241032fab764c321596317930b4fa0e1e8bc3b7470",
        "bytes": 8,
    }
    assert [(m["command"], m["seed"], m["files"]) for m in manifest["made"]] == [
        ("first", 3, ["one.json"]),
        ("second", None, ["two.json"]),
    ]
    assert manifest["code"] == ["a", "b"]
    assert problems(folder) == []


def test_what_was_changed_lost_or_added_is_named(folder):
    write_manifest(folder)
    (folder / "table.csv").write_text("a,b\n1,3\n")
    (folder / "rows.json").unlink()
    (folder / "new.csv").write_text("")
    assert problems(folder) == ["new.csv is not in the manifest", "rows.json is missing", "table.csv was changed"]
    (folder / "cells" / "y.json").write_text("{}")  # a run's own
    assert len(problems(folder)) == 3


@pytest.mark.parametrize("text", ["", "[]", '{"format": 0, "made": [], "files": {}}', '{"format": 1}'])
def test_a_damaged_manifest_is_a_named_error(folder, text):
    with pytest.raises(DataError, match=r"has no manifest\.json"):
        problems(folder)
    (folder / FILE).write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json' .*restore it"):
        problems(folder)


def test_a_folder_that_says_nothing_of_its_making_needs_to_be_told(tmp_path):
    (tmp_path / "rows.csv").write_text("a\n")
    with pytest.raises(ParameterError, match="give `made`"):
        write_manifest(tmp_path)
    write_manifest(tmp_path, [{"command": "by hand", "note": "why"}])
    assert json.loads((tmp_path / FILE).read_text())["made"][0] == {
        "command": "by hand", "commit": None, "modified": None, "seed": None, "versions": None, "note": "why",
    }  # fmt: skip


def test_a_folder_whose_files_were_made_again_has_its_manifest_renewed(folder):
    assert renew_manifest(folder) is False
    assert not (folder / FILE).exists()
    write_manifest(folder, [{"command": "first"}, {"command": "by hand", "note": "why"}], ["a"])
    write_json(folder / "two.json", provenance("again"))
    assert len(problems(folder)) == 1
    assert renew_manifest(folder) is True
    assert problems(folder) == []
    manifest = read_manifest(folder)
    assert [made["command"] for made in manifest["made"]] == ["first", "again", "by hand"]
    assert manifest["code"] == ["a"]


@pytest.mark.parametrize(
    ("path", "local"),
    [
        ("cells/x.json", True),
        ("trainings/x.npz", True),
        ("figures/costs.pdf", True),
        ("figures/costs.json", True),
        ("figures/costs.png", False),
        ("cells.csv", False),
        ("provenance.json", False),
        (".table.csv.1.tmp", True),
    ],
)
def test_what_a_run_makes_again_stays_local(path, local):
    assert is_local(path) is local
