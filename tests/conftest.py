"""A small federation with ragged clients on synthetic images, and its training by hand in NumPy."""

import gc
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from fedpriv.data.dataset import Dataset
from fedpriv.data.partition import Partition
from fedpriv.federation.federation import Federation
from fedpriv.procedure.procedure import make_procedure

# Tests start TensorFlow in many processes; without cached bytecode each start takes three times as long.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A build must not fail by the luck of a draw: tests of properties take the same examples in every run. The slow test
# in test_properties.py draws anew.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("search", derandomize=False, deadline=None, max_examples=500, print_blob=True)
settings.load_profile("same")

SHAPE, CLASSES = (4, 4, 1), 3
SIZES = (5, 12, 1, 8, 4)


#: Files of few tests that take long. Two processes share the files, so that what is long must not begin last.
LONG = ("test_r.py", "test_readme.py", "test_report.py", "test_fuzz.py", "test_main.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, then those of many tests."""
    counts = Counter(item.path for item in items)
    long = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: (long.get(item.path.name, len(LONG)), -counts[item.path], str(item.path)))


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is alive now stays; the collector need not look through it, and through TensorFlow's graphs, so often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 20)


def _runtimes_of(parent: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        except OSError:  # it has just ended
            continue
        if fields["Name"] == "worker_binary" and int(fields["PPid"]) == parent and "Z" not in fields["State"]:
            found.append(int(fields["Pid"]))
    return found


@pytest.fixture(scope="session")
def runtimes_of() -> Callable[[int], list[int]]:
    """`runtimes_of(pid)`: the TFF runtimes that run as children of that process."""
    return _runtimes_of


@pytest.fixture(scope="session", autouse=True)
def no_tff_runtime_outlives_the_tests() -> Iterator[None]:
    """TFF's C++ runtime outlives Python and keeps inherited pipes open; a test that starts one must end it."""
    yield
    left = _runtimes_of(os.getpid())
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, f"a test left {len(left)} TFF runtimes running; use fedpriv.engine.tff.pool.default_runtime"


@pytest.fixture(scope="session")
def toy() -> Dataset:
    """30 examples of 4x4 in [0, 1], in three classes that can be told apart."""
    rng = np.random.default_rng(7)
    y = rng.integers(0, CLASSES, sum(SIZES)).astype(np.int32)
    x = np.clip(rng.random((len(y), *SHAPE)) * 0.6 + 0.2 * y[:, None, None, None], 0, 1).astype(np.float32)
    return Dataset("toy", x, y, CLASSES)


@pytest.fixture(scope="session")
def parts() -> Partition:
    """Five clients with 5, 12, 1, 8 and 4 examples."""
    return Partition("ragged", tuple(np.split(np.arange(sum(SIZES)), np.cumsum(SIZES)[:-1])))


@pytest.fixture(scope="session")
def logistic_model():
    from fedpriv.models.zoo import logistic

    return logistic(SHAPE, CLASSES)


@pytest.fixture(scope="session")
def double_model():
    from fedpriv.models.zoo import logistic

    return logistic(SHAPE, CLASSES, dtype="float64")


@pytest.fixture
def federate(toy, parts, logistic_model) -> Callable[..., Federation]:
    """`federate(defenses=..., seed=..., **procedure)`; keywords of Federation are taken first."""

    def make(**options):
        own = (
            "model",
            "train",
            "partition",
            "defenses",
            "test",
            "seed",
            "on_nonfinite",
            "on_overflow",
            "on_abort",
            "rounds",
            "accountant",
        )
        own += ("engine", "engine_options", "attrition", "topology", "budget", "earlier", "secure_rng")
        given = {k: options.pop(k) for k in own if k in options}
        procedure = options.pop("procedure", None) or make_procedure(**options)
        fields = {"model": logistic_model, "train": toy, "partition": parts, "test": toy, "seed": 0, **given}
        return Federation(procedure=procedure, **fields)

    return make


class ByHand:
    """Multinomial logistic regression in float64 NumPy."""

    @staticmethod
    def gradient(flat: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Gradient `[d]` of the mean cross-entropy."""
        features = np.asarray(x, np.float64).reshape(len(x), -1)
        kernel = np.asarray(flat[:-CLASSES], np.float64).reshape(-1, CLASSES)
        logits = features @ kernel + flat[-CLASSES:]
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        error = (p - np.eye(CLASSES)[y]) / len(x)
        return np.concatenate([(features.T @ error).ravel(), error.sum(0)])

    @staticmethod
    def loss(flat: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
        """Mean cross-entropy in nats."""
        features = np.asarray(x, np.float64).reshape(len(x), -1)
        logits = features @ np.asarray(flat[:-CLASSES], np.float64).reshape(-1, CLASSES) + flat[-CLASSES:]
        logits = logits - logits.max(1, keepdims=True)
        return float(np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]))


@pytest.fixture(scope="session")
def by_hand() -> type[ByHand]:
    return ByHand
