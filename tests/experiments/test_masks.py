"""The benchmark of masks: all sides make the same bits."""

import pytest

from experiments.benchmarks import masks, workload


@pytest.mark.slow
def test_all_sides_do_the_same(monkeypatch):
    monkeypatch.setattr(workload, "EXAMPLES", 20)
    found = {"keystream": masks.streams(3, 1, words=5000), "rounds": masks.measured(3, 1)}
    assert found["keystream"]["same_bits"]
    assert found["rounds"]["same_weights"] == {"graph": True, "tff": True}
    assert "tff: in the graph / in this process" in masks.table(found)
