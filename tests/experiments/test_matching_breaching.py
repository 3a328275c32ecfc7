import importlib.util
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fedpriv_experiments import script

from experiments.benchmarks import matching_breaching as benchmark
from fedpriv.base.errors import ParameterError


@pytest.mark.skipif(importlib.util.find_spec("breaching") is not None, reason="breaching is installed")
def test_an_interpreter_without_breaching_is_told_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["script", "--python", sys.executable, "--out", str(tmp_path / "x.json")])
    with pytest.raises(SystemExit) as ended:
        script.run(benchmark.main)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"'{sys.executable}' lacks breaching" in said
    assert "uv pip install --python FOLDER breaching==0.1.2" in said
    assert not (tmp_path / "x.json").exists()


def test_what_is_no_interpreter_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="nothing' is no Python interpreter; make one by"):
        benchmark.checked(tmp_path / "nothing")


def test_the_rim_counts_what_lies_outside_as_black():
    flat = np.full((4, 5, 3), 0.5, np.float32)
    assert benchmark.total_variation(flat, rim=False) == 0
    assert benchmark.total_variation(flat, rim=True) == pytest.approx(0.5 / 4 + 0.5 / 5)
    ramp = np.arange(4.0)[:, None, None] * np.ones((1, 5, 3))
    assert benchmark.total_variation(ramp, rim=False) == 1


def sides(monkeypatch, distance):
    """Both sides replaced: ours takes 1 s a run, breaching 3 s, and its distance at the start is given."""
    ran = []

    def side(who, cpu, rim, distance):
        def run():
            ran.append(who)
            start = np.random.default_rng(0).normal(0.5, 0.25, (4, 4, 3)).astype(np.float32)
            return cpu, np.zeros((4, 4, 3)), distance + benchmark.WEIGHT * benchmark.total_variation(start, rim)

        return run

    @contextmanager
    def theirs(*_):
        yield side("breaching", 3.0, True, distance), {"breaching": "0.1.2", "torch": "2"}

    monkeypatch.setattr(benchmark, "ours", lambda *_: side("ours", 1.0, False, 0.5))
    monkeypatch.setattr(benchmark, "theirs", theirs)
    return ran


def test_both_run_in_turns_and_the_first_runs_stand_apart(monkeypatch):
    ran = sides(monkeypatch, 0.5)
    seen = SimpleNamespace(model=SimpleNamespace(input_shape=(4, 4, 3)))
    result = benchmark.compared(Path("python"), seen, np.full((4, 4, 3), 0.1), 10, 2)
    assert ran == ["ours", "breaching", "breaching", "ours", "ours", "breaching"]
    assert list(result["ratios"]) == [3, 3]
    assert result["ours_ms"] == 100
    assert result["ours_psnr"] == pytest.approx(20)
    assert "3.00 times ours (3.00 to 3.00; by pair 3.00, 3.00)" in benchmark.table(result, 10)


def test_the_rim_is_left_out_on_both_sides_of_the_comparison(monkeypatch):
    """Without it breaching's objective at the start has no part of the rim, and with one the problems differ."""
    sides(monkeypatch, 0.5)
    seen = SimpleNamespace(model=SimpleNamespace(input_shape=(4, 4, 3)))
    with pytest.raises(ParameterError, match="they must be the same"):
        benchmark.compared(Path("python"), seen, np.zeros((4, 4, 3)), 10, 1, rim=False)


def test_another_problem_is_not_timed(monkeypatch):
    ran = sides(monkeypatch, 0.501)
    seen = SimpleNamespace(model=SimpleNamespace(input_shape=(4, 4, 3)))
    with pytest.raises(ParameterError, match=r"our distance is 0\.5 and breaching's 0\.501; they must be the same"):
        benchmark.compared(Path("python"), seen, np.zeros((4, 4, 3)), 10, 2)
    assert len(ran) == 2
