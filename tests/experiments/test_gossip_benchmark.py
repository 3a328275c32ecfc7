"""The benchmark of gossip: every protocol does FedAvg's local work, and the grid beside a server runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.benchmarks import gossip
from fedpriv.cli import main

GRID = Path(__file__).parents[2] / "experiments" / "fedpriv_experiments" / "grids" / "gossip_vs_server.yaml"


@pytest.mark.slow
def test_every_protocol_is_timed_beside_fedavg():
    found = gossip.measured("logistic", 12, 20, rounds=2, warmup=1, chosen=list(gossip.SIDES))
    assert set(found["ratios"]) == set(gossip.SIDES)
    assert {len(t) for t in found["seconds"].values()} == {2}
    assert "times FedAvg" in gossip.table(found)


@pytest.mark.slow
def test_the_grid_beside_a_server_runs_in_its_quick_size(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["run", str(GRID), "--quick", "--out", str(tmp_path / "grid")])
    assert not ended.value.code
    out = capsys.readouterr().out
    assert "arm=complete  seed=0  Success rate 100% of 15 images" in out
    assert "arm=ring  seed=0  Success rate 0% of 2 images" in out
