"""Estimates come from what ran before, the most alike first."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from experiments.benchmarks.job_costs import costs
from fedpriv.experiment import estimate
from fedpriv.experiment.estimate import AROUND, Estimator, amount, features, known, words
from fedpriv.experiment.experiment import load
from fedpriv.experiment.runner import Todo, survey
from fedpriv.experiment.store import Store, attack_job, training_job


def test_a_job_takes_what_its_like_took(write, monkeypatch):
    monkeypatch.setattr(estimate, "known", lambda: {})
    cells = load(write(seeds=1)).cells
    first, other = attack_job(cells[0]), attack_job(cells[-1])
    estimator = Estimator([(first, 8.0)])
    assert amount(first) == 2  # trials
    assert estimator.seconds(first) == 8
    larger = attack_job(load(write(seeds=1), ["exposure.images=10"]).cells[0])
    assert estimator.seconds(larger) == 40
    stepping = attack_job(load(write(seeds=1), ["exposure.local_epochs=3"]).cells[0])
    assert estimator.seconds(stepping) == 24  # the same attack and model, thrice the steps
    assert estimator.seconds(other) == 8  # nothing more alike than another attack is known
    estimator.learn(other, 2.0)
    assert (estimator.seconds(first), estimator.seconds(other)) == (8, 2)
    assert features(first)[0].startswith("first_layer logistic")


def test_local_steps_and_noise_make_an_attack_another_one(write, monkeypatch):
    """Each costs several times more, so what a plain job took says little of it."""
    monkeypatch.setattr(estimate, "known", lambda: {})

    def job(*overrides):
        return attack_job(load(write(seeds=1, grid={"attack": ["first_layer"]}), overrides).cells[0])

    plain = job()
    estimator = Estimator([(plain, 1.0), (job("exposure.local_epochs=5"), 7.0)])
    noisy = job("training.weighting=uniform", "defense=local_dp(clip=1,noise_multiplier=1)")
    assert estimator.seconds(noisy) == 1  # for want of better
    estimator.learn(noisy, 3.0)
    assert estimator.seconds(job("exposure.local_epochs=5", "seeds=2")) == 7
    assert (estimator.seconds(plain), estimator.seconds(noisy)) == (1, 3)


def test_trainings_grow_with_rounds_and_clients(write):
    def job(*overrides):
        return training_job(load(write(seeds=1), overrides).cells[0])

    assert amount(job()) == 2 * 6
    assert amount(job("training.rounds=10", "training.cohort=3")) == 30
    assert amount(job("training.sampling={kind: poisson, rate: 0.5}")) == 2 * 3


def test_the_whole_is_spread_over_processes(write, tmp_path):
    experiment = load(write(seeds=1))
    todo = survey(experiment, Store(tmp_path / "r"))
    estimator = Estimator()
    for job in [*todo.trainings, *(j for j, _ in todo.attacks)]:
        estimator.learn(job, 3.0)
    assert estimator.total(todo) == pytest.approx(AROUND + 3 * todo.jobs)
    assert estimator.total(todo, 2) == pytest.approx(AROUND + 1.5 * todo.jobs)
    assert estimator.total(Todo()) == 0


def test_the_shipped_costs_know_attacks_and_trainings():
    assert {"attack", "train"} <= known().keys()
    assert all(v > 0 for values in known().values() for v in values)


def test_a_grid_of_batches_and_epochs_is_not_taken_for_single_images(tmp_path):
    """The shipped costs know the referee's attacks one by one: its attacks took 2.5 hours, by its table."""
    root = Path(__file__).parents[2]
    todo = survey(load(root / "results" / "referee" / "experiment.yaml"), Store(tmp_path / "r"))
    with (root / "results" / "referee" / "table.csv").open() as file:
        took = {(r["arm"], r["seed"], r["trial"]): float(r["seconds"]) for r in csv.DictReader(file)}
    assert 0.7 * sum(took.values()) < Estimator().total(todo) < 1.5 * sum(took.values())


@pytest.mark.slow
def test_costs_are_read_from_finished_cells(small):
    _, store = small
    found = costs([store.folder])
    assert {"attack", "train", "first_layer", "rgap logistic"} <= found.keys()
    assert 0 < found["rgap"][0] < 60


@pytest.mark.parametrize(("seconds", "said"), [(5, "5 s"), (100, "2 min"), (7200, "2.0 h")])
def test_time_is_said_in_words(seconds, said):
    assert words(seconds) == said
