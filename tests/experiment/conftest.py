"""A small experiment that runs in seconds: logistic regression on 4 x 4 images, inverted from its first layer."""

import numpy as np
import pytest
import yaml


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(60) % 3)
    x = np.clip(rng.random((60, 4, 4, 1)) * 0.5 + 0.2 * y[:, None, None, None], 0, 1).astype(np.float32)
    path = tmp_path / "toy.npz"
    np.savez(path, x=x, y=y)
    return str(path)


@pytest.fixture
def content(data):
    return {
        "name": "small",
        "question": "Does it run?",
        "setting": {
            "data": data,
            "model": "logistic",
            "training": {"rounds": 2, "clients": 6, "batch_size": 5},
            "exposure": {"images": 2},
        },
        "grid": {
            "attack": {"first layer": "first_layer", "DLG": "dlg(restarts=1,optimizer.max_evaluations=20)"},
            "defense": {"none": "none", "clip": "clip(norm=0.01)"},
        },
        "seeds": 2,
    }


@pytest.fixture
def write(tmp_path, content):
    """`write(**changes)`: the experiment's file, with root keys changed."""

    def make(**changes):
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))
        return path

    return make
