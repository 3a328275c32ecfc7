"""Tables and comparisons, against what can be counted by hand."""

from __future__ import annotations

import csv

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.base.errors import ExperimentError
from fedpriv.experiment import runner
from fedpriv.experiment.arm import Arm, arms
from fedpriv.experiment.compare import compare, compare_arms, holm, paired
from fedpriv.experiment.table import gather, image_rows, write_tables
from tests.experiment.conftest import DLG, finish


def test_rows_are_images_and_arms_are_settings(small):
    experiment, store = small
    results = gather(experiment, store)
    rows = write_tables(results, arms(results), store)
    frame = pd.read_parquet(store.folder / "table.parquet")
    assert len(frame) == 4 * 2 * 2  # settings, seeds, images
    assert list(frame.columns[:4]) == ["attack", "defense", "seed", "status"]
    with (store.folder / "table.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(frame)
    assert [(r["attack"], r["defense"]) for r in rows] == [
        ("first layer", "none"), ("first layer", "clip"), ("R-GAP", "none"), ("R-GAP", "clip")
    ]  # fmt: skip
    exact = frame[(frame.attack == "R-GAP") & (frame.defense == "none")]
    row = rows[2]
    assert (row["seeds"], row["images"], row["reconstructed"]) == (2, 4, int(exact.success.sum()))
    assert row["psnr_mean"] == pytest.approx(exact.psnr.clip(upper=100).mean())
    assert row["accuracy"] == pytest.approx(exact.groupby("seed").accuracy.first().mean())
    low, high = row["success_interval"]
    assert low <= row["success_rate"] <= high
    with np.load(store.folder / "arrays.npz") as z:
        assert z["0_originals"].shape == z["0_found"].shape == (2, 4, 4, 1)


@pytest.mark.slow
def test_cells_that_are_missing_or_failed_are_shown_as_such(write, tmp_path, monkeypatch):
    experiment, store = finish(write(), tmp_path / "r", "grid.attack=[first_layer]", "grid.defense=[none]")
    grown = load_again(experiment, seeds=3)
    results = gather(grown, store)
    assert [r.error for r in results] == ["", "", "not run yet"]
    (arm,) = arms(results)
    assert (len(arm.results), arm.seeds) == (2, 3)
    assert [r["status"] for r in image_rows(results)] == ["done"] * 4 + ["not run yet"]
    monkeypatch.setattr(runner, "attack", lambda *_: 1 / 0)
    runner.run(grown, store, runner.survey(grown, store))
    assert "ZeroDivisionError" in gather(grown, store)[2].error


def load_again(experiment, **changes):
    from fedpriv.experiment.document import Document
    from fedpriv.experiment.experiment import resolve

    return resolve(Document({**experiment.source, **changes}))


@pytest.mark.slow
def test_training_alone_makes_rows_too(write, tmp_path):
    overrides = ("grid.attack=[null]", "training.target_accuracy=0.01", "seeds=3")
    experiment, store = finish(write(), tmp_path / "r", *overrides)
    (none, clip) = arms(gather(experiment, store))
    row = none.row()
    assert row["rounds_to_target"] == row["rounds_done"] == 1  # it stops there
    assert "images" not in row
    low, high = row["accuracy_interval"]
    values = none.values("accuracy")
    assert min(values) <= low <= np.mean(values) <= high <= max(values)
    assert clip.values("epsilon_server") == []


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.floats(-3, 3))
@settings(max_examples=30, deadline=None)
def test_a_shift_is_found_as_such(values, shift):
    first = np.asarray(values)
    n = len(values)
    found = paired("psnr", first, first + shift, range(n), [0] * n)
    assert found.difference == pytest.approx(shift, abs=1e-9)
    assert found.second - found.first == pytest.approx(shift, abs=1e-9)
    # Rounding aside all pairs differ alike, which leaves nothing to draw from.
    assert found.interval is None or found.interval == pytest.approx((shift, shift), abs=1e-6)


def test_holm_adjusts_for_the_number_of_tests():
    """The smallest counts as often as there are tests, the next one less, and none below one before it."""
    assert holm([0.01, None, 0.04, 0.03, 0.005]) == pytest.approx([0.03, None, 0.06, 0.06, 0.02], nan_ok=True)
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_lies_between_the_test_and_bonferroni(p_values):
    for p, adjusted in zip(p_values, holm(p_values), strict=True):
        assert p <= adjusted <= min(1.0, len(p_values) * p) * (1 + 1e-12)
    order = np.argsort(p_values, kind="stable")
    assert np.all(np.diff(np.asarray(holm(p_values))[order]) >= 0)


@pytest.mark.slow
def test_the_sign_flip_test_counts_flips():
    """Six trials that all differ by 1: two of 64 sign patterns are as extreme. Images of a trial flip together."""
    zeros, ones = np.zeros(6), np.ones(6)
    assert paired("psnr", zeros, ones, range(6), [0] * 6).p_value == pytest.approx(2 / 64)
    assert paired("psnr", zeros, zeros, range(6), [0] * 6).p_value == 1
    assert paired("psnr", zeros[:5], ones[:5], range(5), [0] * 5).p_value is None
    assert paired("psnr", zeros, ones, [0, 0, 1, 1, 2, 2], [0] * 6).p_value is None
    many = paired("psnr", np.zeros(40), np.tile([1.0, -1.0], 20), range(40), [0] * 40)
    assert many.p_value == 1
    rng = np.random.default_rng(0)
    calm = [paired("psnr", np.zeros(10), rng.normal(size=10), range(10), [0] * 10).p_value for _ in range(400)]
    assert np.mean(np.array(calm) <= 0.05) == pytest.approx(0.05, abs=0.035)


@pytest.mark.slow
def test_results_are_compared_on_the_images_they_share(write, tmp_path):
    common = ("exposure.images=4", f"grid.attack={{DLG: '{DLG}'}}")
    first, store_a = finish(write(), tmp_path / "r", *common)
    second, store_b = finish(write(), tmp_path / "s", *common, "exposure.batch=2")
    ours, theirs = arms(gather(first, store_a)), arms(gather(second, store_b))
    same = compare_arms(ours[0], ours[0])
    assert {p.quantity: (p.difference, p.pairs) for p in same} == {
        "psnr": (0, 8), "success": (0, 8), "accuracy": (0, 2)
    }  # fmt: skip
    rows = compare(ours, theirs)
    assert {(r["attack"], r["defense"]) for r in rows} == {(a.labels["attack"], a.labels["defense"]) for a in ours}
    assert all(r["pairs"] == (2 if r["quantity"] == "accuracy" else 8) for r in rows)
    mean = next(r for r in rows if r["quantity"] == "psnr")
    assert mean["first"] == pytest.approx(ours[0].row()["psnr_mean"])
    assert mean["second"] == pytest.approx(theirs[0].row()["psnr_mean"])
    with pytest.raises(ExperimentError, match="share no arm"):
        compare(ours, [a for a in theirs if False])
    # One arm of one side may meet several of the other, but several may not meet several.
    only = [Arm({}, a.results, a.seeds) for a in ours[:1]]
    assert {(r["attack"], r["defense"]) for r in compare(only, theirs)} == {tuple(a.labels.values()) for a in theirs}
    other = [Arm({"attack": a.labels["attack"], "x": a.labels["defense"]}, a.results, a.seeds) for a in theirs]
    with pytest.raises(ExperimentError, match=r"the first has 2 arms \(by defense\), the second 2 \(by x\)"):
        compare(ours, other)
