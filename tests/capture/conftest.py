from pathlib import Path

import numpy as np
import pytest

from fedpriv import load_model

STORED = Path(__file__).parent / "stored"


@pytest.fixture
def path():
    """The path of a stored capture's file."""
    return lambda name: str(STORED / name)


@pytest.fixture
def truth():
    def load(name):
        with np.load(STORED / f"{name}_truth.npz") as found:
            return found["x"], found["y"], found["order"] if "order" in found.files else None

    return load


@pytest.fixture(scope="session")
def small():
    """A perceptron of 6 inputs, 5 units and 3 classes, and its weights by name."""
    model = load_model("mlp(hidden=[5],activation=relu)", input_shape=(6,), num_classes=3)
    return model, dict(zip(model.spec.names, model.spec.unflatten_numpy(model.initial_weights(0)), strict=True))
