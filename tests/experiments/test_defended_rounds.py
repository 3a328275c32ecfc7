import numpy as np
import pytest

from experiments.benchmarks import defended_rounds as benchmark
from fedpriv.base.errors import FedprivError, ParameterError


def test_ratios_are_to_the_undefended_round_beside_it(monkeypatch):
    seconds = {name: [1.0 + i, 2.0 * (1 + i)] for i, name in enumerate(benchmark.STACKS)}
    rows = benchmark.summary(seconds)
    assert rows["undefended"]["over_undefended"] == 1
    assert [round(row["over_undefended"], 6) for row in rows.values()] == [1, 2, 3, 4, 5]
    assert benchmark.table(rows).count("\n") == len(benchmark.STACKS)


def test_another_checkout_is_timed_in_turns(monkeypatch, tmp_path):
    asked = []

    def process(checkout, rounds):
        asked.append(checkout)
        return {name: [2.0 if checkout == tmp_path else 1.0] * rounds for name in benchmark.STACKS}

    monkeypatch.setattr(benchmark, "_in_process", process)
    rows = benchmark.compared(tmp_path, 3, 2)
    assert [one == tmp_path for one in asked] == [False, True, True, False]
    assert {row["over_other"] for row in rows.values()} == {0.5}
    assert "0.50 (0.50 to 0.50)" in benchmark.table(rows)


def test_what_is_no_checkout_is_said(tmp_path):
    with pytest.raises(ParameterError, match=r"is no checkout of this project"):
        benchmark.main(rounds=3, pairs=1, against=tmp_path, out=tmp_path / "x.json", only=False)


@pytest.mark.slow
def test_a_checkout_that_does_not_run_is_said(tmp_path):
    (tmp_path / "fedpriv").mkdir()
    (tmp_path / "fedpriv" / "__init__.py").write_text("raise RuntimeError('broken')")
    with pytest.raises(FedprivError, match="cannot run this workload: RuntimeError: broken"):
        benchmark.compared(tmp_path, 3, 1)


@pytest.mark.slow
def test_every_stack_trains():
    seconds = benchmark.timed(3)
    assert set(seconds) == set(benchmark.STACKS)
    assert all(np.min(times) > 0 and len(times) == 3 for times in seconds.values())
