"""A small experiment that runs in seconds: logistic regression on 4 x 4 images, inverted from its first layer."""

import copy
import shutil

import pytest
import yaml

from fedpriv.experiment import report, runner
from fedpriv.experiment.experiment import load
from fedpriv.experiment.store import Store

DLG = "dlg(restarts=1,optimizer.max_evaluations=20)"
SMALL = {
    "name": "small",
    "question": "Does it run?",
    "setting": {
        "data": "tests.experiment.toys:toy",
        "model": "logistic",
        "training": {"rounds": 2, "clients": 6, "batch_size": 5},
        "exposure": {"images": 2},
    },
    "grid": {
        "attack": {"first layer": "first_layer", "R-GAP": "rgap"},
        "defense": {"none": "none", "clip": "clip(norm=0.01)"},
    },
    "seeds": 2,
}
NOISY = {
    **SMALL,
    "setting": {**SMALL["setting"], "training": {**SMALL["setting"]["training"], "weighting": "uniform"}},
    "grid": {
        "attack": {"first layer": "first_layer", "DLG": DLG},
        "defense": {
            "none": "none",
            "weak": "local_dp(clip=1,noise_multiplier=0.001)",
            "strong": "local_dp(clip=1,noise_multiplier=1)",
        },
        "exposure.batch": [1, 2],
    },
    "seeds": 1,
}


def finish(path, folder, *overrides):
    """Runs all cells: (experiment, store)."""
    experiment, store = load(path, overrides), Store(folder)
    store.claim(experiment)
    runner.run(experiment, store, runner.survey(experiment, store))
    return experiment, store


@pytest.fixture(autouse=True)
def coarse_figures(monkeypatch):
    """Reports' figures in few pixels; how figures look is asserted in tests/figures."""
    monkeypatch.setattr(report, "DPI", 30)


@pytest.fixture
def content():
    return copy.deepcopy(SMALL)


@pytest.fixture
def write(tmp_path, content):
    """`write(file=..., **changes)`: the experiment's file, with root keys changed."""

    def make(file="small.yaml", **changes):
        path = tmp_path / file
        path.write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))
        return path

    return make


@pytest.fixture(scope="session")
def _finished(tmp_path_factory):
    kept = {}

    def make(name, content):
        if name not in kept:
            folder = tmp_path_factory.mktemp(name)
            (folder / "e.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
            kept[name] = finish(folder / "e.yaml", folder / "r")
        return kept[name]

    return make


@pytest.fixture
def small(_finished, tmp_path):
    """(experiment, store): the small experiment's finished results, in a folder of the test's own."""
    experiment, store = _finished("small", SMALL)
    shutil.copytree(store.folder, tmp_path / "small")
    return experiment, Store(tmp_path / "small")


@pytest.fixture
def noisy(_finished, tmp_path):
    """As `small`, with noise of two strengths and two batch sizes."""
    experiment, store = _finished("noisy", NOISY)
    shutil.copytree(store.folder, tmp_path / "noisy")
    return experiment, Store(tmp_path / "noisy")
