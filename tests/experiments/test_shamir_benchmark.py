import importlib.util

import pytest

from experiments.benchmarks import shamir as benchmark
from fedpriv.base.errors import ParameterError


def test_what_is_timed_is_right_and_compared_secret_by_secret(monkeypatch):
    monkeypatch.setattr(
        benchmark, "_ours", lambda strings: {"split": 2.0 * len(strings), "combine": 1.0 * len(strings)}
    )
    monkeypatch.setattr(benchmark, "_theirs", lambda string: {"split": 100.0, "combine": 300.0})
    rows = benchmark.compared(16, 50, 3)
    assert rows["split"] == {
        "seconds": 2.0,
        "pycryptodome_seconds": 100.0,
        "times_its_rate": 50.0,
        "range": (50.0, 50.0),
    }
    assert rows["combine"]["times_its_rate"] == 300.0
    assert "combine 16 bytes" in benchmark.table({"16 bytes": rows})
    monkeypatch.undo()
    for length in benchmark.LENGTHS:
        assert benchmark._ours([bytes(range(length))] * 2).keys() == {"split", "combine"}  # and asserts what came out


@pytest.mark.skipif(importlib.util.find_spec("Crypto") is not None, reason="pycryptodome is installed")
def test_without_pycryptodome_it_says_how_to_run_it(tmp_path):
    with pytest.raises(ParameterError, match="uv run --with pycryptodome"):
        benchmark.main(pairs=3, out=tmp_path / "s.json")
