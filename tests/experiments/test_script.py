"""Scripts: a mistake is one message, and a results folder that was written to keeps a true manifest."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import pytest
import typer
from fedpriv_experiments import script

from fedpriv.base.errors import DataError
from fedpriv.report.manifest import FILE, problems, write_manifest


def write(out: Annotated[Path, typer.Option()], fail: bool = False) -> None:
    if fail:
        raise DataError("no such images; give others")
    out.write_text("new")


def called(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["script", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        script.run(write)
    return ended.value.code


def test_what_a_script_wrote_stands_in_the_manifest(tmp_path, monkeypatch):
    file = tmp_path / "rows.csv"
    file.write_text("old")
    assert called(monkeypatch, "--out", file) == 0
    assert not (tmp_path / FILE).exists()
    file.write_text("old")
    write_manifest(tmp_path, [{"command": "script"}])
    assert called(monkeypatch, "--out", file) == 0
    assert file.read_text() == "new"
    assert problems(tmp_path) == []


def test_a_mistake_is_one_message(tmp_path, monkeypatch, capsys):
    assert called(monkeypatch, "--out", tmp_path / "x", "--fail") == 2
    assert capsys.readouterr().err == "Error: no such images; give others\n"
