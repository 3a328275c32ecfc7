"""The benchmark of the engines: all sides do the same work."""

from __future__ import annotations

import pytest

from experiments.benchmarks import engines


@pytest.mark.slow
def test_all_sides_learn_the_same(monkeypatch):
    monkeypatch.setitem(engines.MODELS, "logistic", 60)
    found = engines.measured("logistic", rounds=3, warmup=1)
    losses = found["training_loss"]
    ours = [losses[name] for name in ("graph", "tff, own runtime", "tff, one worker", "tff, two workers")]
    assert max(ours) - min(ours) < 1e-5
    assert losses["tff.learning"] == pytest.approx(losses["graph"], rel=0.05)
    assert losses["graph"] < 0.8 * losses["before"]
    assert {len(t) for t in found["seconds"].values()} == {3}
    assert "| logistic |" in engines.table({"logistic": found})
