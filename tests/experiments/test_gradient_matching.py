import numpy as np
import pytest

from experiments.benchmarks import gradient_matching as benchmark


@pytest.mark.slow
def test_rows_are_attacks_that_spend_their_whole_budget():
    view = benchmark.observed("lenet(init=uniform)", 1)
    assert view.update_size == 85_036
    for name, attack in benchmark.attacks(12).items():
        finding = attack.run(view, 0)
        assert finding.evaluations == 13, name
        assert finding.y == [0], name


@pytest.mark.slow
def test_every_row_is_compared_with_the_gradient_and_its_base(monkeypatch):
    rows = benchmark.measured(benchmark.observed("logistic", 1), 10, 1)
    assert list(rows) == list(benchmark.ROWS)
    assert rows["gradient"]["times_as_long_as"] == {"gradient": 1.0}
    assert set(rows["+ total variation"]["times_as_long_as"]) == {"gradient", "+ cosine"}
    assert all(np.isfinite(r["steps_per_second"]) and r["steps_per_second"] > 0 for r in rows.values())
    assert benchmark.table(rows).count("\n") == len(rows)
