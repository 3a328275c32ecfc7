"""The benchmark of the clients' checks."""

import pytest

from experiments.benchmarks import watch


def test_an_honest_round_and_trap_weights_are_told_apart():
    setting = watch.Honest("fashion_small", "2nn(hidden=[20,20])", watch.HONEST["cnn"].procedure, 4)
    honest = watch.watched(setting, "watch_weights", 0, 2)
    assert honest[:2] == (0, 16)
    assert honest.worst["balance"] < 0.5 < honest.worst["loss"]
    assert 0 < honest.accuracy < 1
    assert f"accuracy {honest.accuracy:.2f}" in watch.told("honest", "watch_weights", [honest])
    act = watch.ACTS["curious"][0]
    trapped = watch.watched(setting, "watch_weights", 0, 1, act)
    assert (*trapped[:2], trapped.worst["balance"]) == (8, 8, 1)
    other = trapped._replace(alarms=7, worst={**trapped.worst, "balance": 0.9, "rank": 1.25})
    said = watch.told("traps", "watch_weights", [trapped, other])
    assert said.startswith("traps, watch_weights: 15 of 16;")
    assert "balance 1.00" in said
    assert "rank 1.25" in said


def test_a_name_that_nothing_has_is_said(monkeypatch):
    monkeypatch.setattr("sys.argv", ["watch", "--only", "none such"])
    with pytest.raises(SystemExit, match="nothing is named 'none such'; there are 2NN"):
        watch.main()
