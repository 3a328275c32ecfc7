"""Shipped experiments: their quick sizes run to the end, and the results that lie in the repository are whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedpriv.base import registry
from fedpriv.base.errors import FedprivError
from fedpriv.cli import main
from fedpriv.experiment.arm import arms
from fedpriv.experiment.experiment import load
from fedpriv.experiment.store import FILE, Store
from fedpriv.experiment.table import gather

RESULTS = Path(__file__).parents[2] / "results"
FOLDERS = sorted(p.parent.name for p in RESULTS.glob(f"*/{FILE}"))


def test_every_shipped_experiment_has_results():
    assert set(registry.experiments.names()) == set(FOLDERS)


@pytest.mark.parametrize("name", FOLDERS)
def test_results_are_whole(name):
    experiment, store = load(RESULTS / name / FILE), Store(RESULTS / name)
    assert experiment.name == name
    try:
        results = gather(experiment, store)
    except FedprivError as e:
        pytest.skip(f"its data are not here: {e}")
    assert store.damaged == []
    assert {r.error for r in results} == {""}
    assert all(a.results for a in arms(results))
    files = {"report.html", "provenance.json", "arms.csv", "table.csv", "table.parquet", "arrays.npz"}
    if not any(r.attacked for r in results):
        files.remove("arrays.npz")
    assert all((RESULTS / name / file).exists() for file in files)
    made = json.loads((RESULTS / name / "provenance.json").read_text())
    assert {"command", "seed", "versions", "config"} <= made.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.experiments.names())
def test_the_quick_size_runs_to_the_end(name, tmp_path, capsys):
    with pytest.raises(SystemExit) as done:
        main(["run", name, "--quick", "--out", str(tmp_path / name)])
    assert done.value.code == 0, capsys.readouterr().err
    experiment = load(tmp_path / name / FILE)
    results = gather(experiment, Store(tmp_path / name))
    assert {r.error for r in results} == {""}
    assert (tmp_path / name / "report.html").exists()
