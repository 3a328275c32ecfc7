import numpy as np
import pytest

from experiments.benchmarks import matching as benchmark
from fedpriv.base.errors import ParameterError


@pytest.mark.slow
def test_a_run_counts_its_evaluations_and_finds_the_image():
    run = benchmark.spent("first_layer", "2nn", "fashion_small", None, 3)
    assert run["psnr"] > 60
    assert run["next_cpu"] > 0
    assert run["cpu_an_evaluation"] == run["next_cpu"] / max(run["evaluations"], 1)
    other = benchmark.view("2nn", "fashion_small", None, 4)[1]
    assert not np.array_equal(benchmark.view("2nn", "fashion_small", None, 3)[1], other)


def test_another_checkout_runs_in_turns(monkeypatch, tmp_path):
    asked = []

    def process(checkout, arguments):
        asked.append(checkout)
        other = checkout == tmp_path
        run = dict.fromkeys(benchmark.COSTS, 2.0 if other else 1.0)
        return {**run, "evaluations": 7, "psnr": 30.0, "tried": []}

    monkeypatch.setattr(benchmark, "_in_process", process)
    result = benchmark.compared(tmp_path, [], 2)
    assert [one == tmp_path for one in asked] == [False, True, True, False]
    assert {row["over_other"] for row in result["costs"].values()} == {0.5}
    assert "0.50 (0.50 to 0.50)" in benchmark.table(result)
    alone = benchmark.compared(None, [], 1)
    assert alone["theirs"] is None
    assert "over the other" not in benchmark.table(alone)


def test_mistakes_are_said_before_the_work(tmp_path):
    with pytest.raises(ParameterError, match="is no checkout of this project"):
        benchmark.main(against=tmp_path, out=tmp_path / "x.json")
    with pytest.raises(ParameterError, match="image 100000 of"):
        benchmark.main(data="fashion_small", model="2nn", image=100_000, data_dir=None, against=None, only=False)
