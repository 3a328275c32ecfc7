"""The benchmark of the clients' checks."""

import pytest

from experiments.benchmarks import watch


def test_an_honest_round_and_trap_weights_are_told_apart():
    setting = watch.Honest("fashion_small", "2nn(hidden=[20,20])", watch.HONEST["cnn"].procedure, 4)
    counted, total, worst = watch.alarms(setting, "watch_weights", 0, 2)
    assert (counted, total) == (0, 16)
    assert worst["balance"] < 0.5 < worst["loss"]
    act = watch.ACTS["curious"][0]
    counted, total, worst = watch.alarms(setting, "watch_weights", 0, 1, act)
    assert (counted, total, worst["balance"]) == (8, 8, 1)
    said = watch.told("traps", "watch_weights", [(8, 8, worst), (7, 8, {**worst, "balance": 0.9, "rank": 1.25})])
    assert said.startswith("traps, watch_weights: 15 of 16;")
    assert "balance 1.00" in said
    assert "rank 1.25" in said


def test_a_name_that_nothing_has_is_said(monkeypatch):
    monkeypatch.setattr("sys.argv", ["watch", "--only", "none such"])
    with pytest.raises(SystemExit, match="nothing is named 'none such'; there are 2NN"):
        watch.main()
