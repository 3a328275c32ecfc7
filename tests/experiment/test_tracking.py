"""Jobs noted in TensorBoard and MLflow as well, and results that do not depend on either."""

from __future__ import annotations

import contextlib
import sys
import types

import pytest

from fedpriv.base.errors import ExperimentError, ParameterError
from fedpriv.cli import main
from fedpriv.experiment.experiment import load
from fedpriv.experiment.tracking import tracker
from tests.experiment.conftest import SMALL


@pytest.fixture
def mlflow(monkeypatch):
    """What stands for MLflow: takes its calls down."""
    made = types.SimpleNamespace(experiments=[], runs=[])

    @contextlib.contextmanager
    def start_run(run_name):
        made.runs.append({"name": run_name, "params": {}, "metrics": []})
        yield

    module = types.ModuleType("mlflow")
    module.set_experiment = made.experiments.append
    module.start_run = start_run
    module.log_params = lambda params: made.runs[-1]["params"].update(params)
    module.log_metrics = lambda metrics, step=None: made.runs[-1]["metrics"].append((step, metrics))
    monkeypatch.setitem(sys.modules, "mlflow", module)
    made.module = module
    return made


def cli(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return ended.value.code


def test_mlflow_gets_a_run_a_job(write, tmp_path, mlflow):
    path = write(grid={"attack": {"exact": "first_layer"}}, seeds=1)
    assert cli("run", path, "--out", tmp_path / "r", "--log", "mlflow") == 0
    assert mlflow.experiments == [SMALL["name"]]
    train, attack = mlflow.runs
    assert train["name"].startswith("train attack=exact")
    assert attack["params"] == {"attack": "exact", "seed": 0}
    (step, metrics), *_ = attack["metrics"]
    assert step is None
    assert metrics["success_rate"] == 1
    by_round = [(step, metrics) for step, metrics in train["metrics"] if step is not None]
    assert [step for step, _ in by_round] == [0, 1]
    assert all("training_accuracy" in metrics for _, metrics in by_round)


@pytest.mark.slow
def test_a_log_that_breaks_costs_no_results(write, tmp_path, mlflow, capsys):
    def broken(params):
        raise OSError("the server is gone")

    mlflow.module.log_params = broken
    path = write(grid={"attack": ["first_layer", "labels"]}, seeds=1)
    assert cli("run", path, "--out", tmp_path / "r", "--log", "mlflow") == 0
    said = capsys.readouterr()
    assert said.out.count("attacked") == 2
    assert said.err.count("--log mlflow failed and is left out from here on: the server is gone") == 1


def test_what_cannot_be_logged_to_is_said_before_anything_runs(write, tmp_path, mlflow, monkeypatch, capsys):
    def refuse(name):
        raise ModuleNotFoundError("No module named 'alembic'")

    mlflow.module.set_experiment = refuse
    path = write(seeds=1)
    assert cli("run", path, "--out", tmp_path / "r", "--log", "mlflow") == 2
    assert "MLflow cannot take experiment 'small': ModuleNotFoundError: No module named 'alembic'" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "r" / "cells").exists()
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ExperimentError, match="needs the package mlflow; install it, or use --log tensorboard"):
        tracker("mlflow", load(path), tmp_path)
    with pytest.raises(ParameterError, match="Did you mean 'mlflow'"):
        tracker("mlfow", load(path), tmp_path)
