"""Results on the disk: whole or not at all, and never those of something else."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedpriv.base.errors import ExperimentError, FedprivError
from fedpriv.experiment.experiment import load
from fedpriv.experiment.store import Store, attack_job, owner_of, training_job
from fedpriv.experiment.work import Outcome

OUTCOME = Outcome(
    {"accuracy": 0.5, "epsilon_server": float("inf"), "adaptive": True, "threat": "A server."},
    [{"trial": 0}],
    [{"round": 0, "loss": 1.5}],
    {"originals": np.arange(8, dtype=np.float32), "weights": np.ones(3)},
    2.5,
)


@pytest.fixture
def job(write):
    return attack_job(load(write()).cells[0])


def test_what_is_written_is_read(tmp_path, job):
    store = Store(tmp_path / "r")
    assert store.read(job) is None
    store.write(job, OUTCOME, "v1")
    found = store.read(job)
    assert (found.error, found.outcome.seconds, found.outcome.rounds) == ("", 2.5, OUTCOME.rounds)
    assert found.outcome.facts["accuracy"] == 0.5
    for name, array in OUTCOME.arrays.items():
        np.testing.assert_array_equal(found.outcome.arrays[name], array)
    store.write(job, None, "v1", "it broke", "Traceback ...")
    assert (store.read(job).outcome, store.read(job).error, store.read(job).details) == (
        None,
        "it broke",
        "Traceback ...",
    )
    assert not store.damaged


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    part=st.sampled_from(["json", "npz"]), at=st.floats(0, 1, exclude_max=True), how=st.sampled_from(["flip", "cut"])
)
def test_damage_anywhere_is_noticed(tmp_path, job, part, at, how):
    store = Store(tmp_path / "r")
    store.write(job, OUTCOME, "v1")
    path = store.folder / "cells" / f"{job.key}.{part}"
    whole = bytearray(path.read_bytes())
    place = int(at * len(whole))
    if how == "flip":
        whole[place] ^= 0x15
    else:
        del whole[place:]
    path.write_bytes(whole)
    assert store.read(job) is None
    assert store.damaged == [store.folder / "cells" / f"{job.key}.json"]


def test_a_file_of_another_cell_does_not_count(tmp_path, write):
    store = Store(tmp_path / "r")
    one, other = (attack_job(c) for c in load(write()).cells[:2])
    store.write(one, OUTCOME, "v1")
    for kind in ("json", "npz"):
        os.rename(store.folder / "cells" / f"{one.key}.{kind}", store.folder / "cells" / f"{other.key}.{kind}")
    assert store.read(one) is None
    assert not store.damaged
    assert store.read(other) is None
    assert store.damaged


def test_arrays_without_their_header_do_not_count(tmp_path, job):
    """As after a kill between the two writes."""
    store = Store(tmp_path / "r")
    store.write(job, OUTCOME, "v1")
    (store.folder / "cells" / f"{job.key}.json").unlink()
    assert store.read(job) is None
    assert not store.damaged


def test_trainings_and_attacks_lie_apart(tmp_path, write):
    store, cell = Store(tmp_path / "r"), load(write()).cells[0]
    store.write(training_job(cell), OUTCOME, "v1")
    assert store.read(attack_job(cell)) is None
    assert store.read(training_job(cell)) is not None


def test_the_folder_of_another_experiment_is_left_alone(tmp_path, write):
    store = Store(tmp_path / "r")
    store.claim(load(write()))
    store.claim(load(write(seeds=3)))  # the same experiment, grown
    before = (store.folder / "experiment.yaml").read_bytes()
    with pytest.raises(
        ExperimentError, match="holds the results of experiment 'small', not 'other'; choose another --out"
    ):
        store.claim(load(write(name="other")))
    assert (store.folder / "experiment.yaml").read_bytes() == before
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(ExperimentError, match="no experiment's folder"):
        Store(foreign).claim(load(write()))
    assert os.listdir(foreign) == ["cat.jpg"]
    with pytest.raises(ExperimentError, match=r"holds no experiment.yaml"):
        owner_of(foreign)
    assert owner_of(store.folder) == "small"


@pytest.mark.parametrize(("number", "says"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "read-only")])
def test_a_full_or_read_only_disk_is_said_and_nothing_is_half_written(tmp_path, job, monkeypatch, number, says):
    store = Store(tmp_path / "r")
    store.write(job, OUTCOME, "v1")
    before = {p: p.read_bytes() for p in store.folder.rglob("*") if p.is_file()}

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(FedprivError, match=says):
        store.write(job, Outcome({"accuracy": 0.9}, [], [], {"weights": np.zeros(2)}), "v1")
    monkeypatch.undo()
    assert {p: p.read_bytes() for p in store.folder.rglob("*") if p.is_file()} == before
    assert store.read(job).outcome.facts["accuracy"] == 0.5


def test_scores_come_back_as_they_were():
    from fedpriv.metrics.goals.reconstruction import Reconstruction
    from fedpriv.metrics.score import score
    from fedpriv.threat.attack import Finding
    from fedpriv.threat.truth import Truth

    rng, goal = np.random.default_rng(0), Reconstruction()
    x = rng.random((3, 8, 8, 1)).astype(np.float32)
    truth = Truth(x, np.array([0, 1, 2]), (0,))
    found = x[[1, 0, 2]].copy()
    found[2] = np.nan
    for finding in (Finding(found, np.array([1, 0, 2])), Finding(None, np.array([1, 0, 0])), Finding(found, None)):
        made = score(finding, truth)
        back = goal.load(json.loads(json.dumps(goal.dump(made))))
        assert back.images == made.images
        assert back.rows() == made.rows()
        if made.matched is not None:
            np.testing.assert_array_equal(back.matched, made.matched)
