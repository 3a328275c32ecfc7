import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.mcmahan.__main__ import _study, main
from experiments.mcmahan.crossing import best_so_far, crossing
from experiments.mcmahan.report import is_papers, report, summarize
from experiments.mcmahan.run import Run, Store, read
from experiments.mcmahan.search import MOST, better, nice, patience, search
from experiments.mcmahan.setting import SETTINGS, Scale
from fedpriv.data import Dataset, fashion_small
from fedpriv.errors import DataError, ParameterError
from fedpriv.models import load as load_model


def made(rate=0.1, rounds=None, *, setting="iid", seed=0, status=None, curve=None):
    curve = curve or [0.5, 0.6]
    status = status or ("gave up" if rounds is None else "reached")
    return Run(setting, rate, seed, 0.97, status, rounds, curve, curve, curve, 1.0, {}, {})


def test_crossing_interpolates_the_best_so_far():
    # 0.9 after round 1, a dip, then 0.98 after round 4: the straight line from (3, 0.9) crosses 0.97 at 3.875.
    assert crossing([0.9, 0.8, 0.85, 0.98], 0.97) == pytest.approx(3.875)
    assert crossing([0.1, 0.97], 0.97) == 2
    assert crossing([0.99, 0.5], 0.97) == 1
    assert crossing([0.9, 0.96999], 0.97) is None
    assert crossing([], 0.97) is None
    np.testing.assert_array_equal(best_so_far([0.2, 0.1, 0.4]), [0.2, 0.2, 0.4])


def test_the_papers_numbers():
    assert {name: s.paper for name, s in SETTINGS.items()} == {"iid": 87, "shards": 664}


@pytest.mark.parametrize("peak", [0.1, 0.00215, 2.1544])
def test_search_finds_the_best_rate_inside_its_grid(peak):
    visited = []

    def train(rate, cap):
        visited.append((rate, cap))
        rounds = 40 * 10 ** abs(np.log10(rate / peak))
        return made(rate, rounds if rounds <= cap else None, curve=[0.9 / rounds])

    runs = search(train, 300)
    rates = [run.rate for run in runs]
    best = min((r for r in runs if r.crossing is not None), key=lambda r: r.crossing)
    assert best.rate == pytest.approx(peak, rel=0.01)
    assert min(rates) < best.rate < max(rates)
    assert any(rate == pytest.approx(peak * 10 ** (1 / 6), rel=0.01) for rate in rates)
    assert len(set(rates)) == len(rates) <= MOST
    assert visited[0][1] == 300
    assert visited[-1][1] < 300  # later rates are given less than the whole cap


def test_search_ends_when_nothing_gets_there():
    assert len(search(lambda rate, cap: made(rate, curve=[rate / (1 + rate)]), 10)) == MOST


def test_better():
    assert better(made(rounds=10.0), made(rounds=11.0))
    assert better(made(rounds=1e9), made())
    assert better(made(curve=[0.9]), made(curve=[0.5]))
    assert better(made(curve=[0.1]), made(status="diverged", curve=[0.9]))
    assert patience(None, 300) == patience(made(), 300) == 300
    assert patience(made(rounds=40.0), 300) == 65
    assert nice(0.1 * 10 ** (1 / 3)) == 0.2154


@pytest.fixture(scope="module")
def scale():
    train, test = fashion_small()
    train, test = train.take(np.arange(200)), test.take(np.arange(100))
    model = load_model("2nn(hidden=[8])", input_shape=train.input_shape, num_classes=10)
    return Scale(train, test, model, target=0.35, clients=20, cohort=5)


def test_a_run_is_made_once_and_goes_on_after_an_interruption(scale, tmp_path):
    store, setting, seen = Store(tmp_path / "one", scale), SETTINGS["iid"], []
    run = store.get(setting, 0.1, 0, 40, seen.append)
    assert run.status == "reached"
    assert run.crossing == crossing(run.accuracy, 0.35)
    assert run.rounds == len(seen) <= 40
    assert run.accuracy[-1] >= 0.35 > max(run.accuracy[:-1])
    again: list = []
    assert store.get(setting, 0.1, 0, 40, again.append) == run
    assert not again

    broken = Store(tmp_path / "two", scale)

    def stop(record):
        if record.round == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken.get(setting, 0.1, 0, 40, stop)
    assert not list((tmp_path / "two").glob("*.json"))
    resumed = broken.get(setting, 0.1, 0, 40)
    assert resumed.accuracy == run.accuracy
    assert resumed.crossing == run.crossing
    assert [p.suffix for p in (tmp_path / "two").iterdir()] == [".json"]  # no checkpoint left


def test_a_run_given_up_is_made_anew_for_more_rounds(scale, tmp_path):
    store, setting = Store(tmp_path, replace(scale, target=0.99)), SETTINGS["shards"]
    short = store.get(setting, 0.01, 0, 2)
    assert (short.status, short.crossing, short.rounds) == ("gave up", None, 2)
    longer = store.get(setting, 0.01, 0, 3)
    assert longer.rounds == 3
    assert longer.accuracy[:2] == short.accuracy
    assert len(list(tmp_path.iterdir())) == 1


def test_a_diverging_rate_is_a_recorded_run(scale, tmp_path):
    run = Store(tmp_path, scale).get(SETTINGS["iid"], 1e30, 0, 5)
    assert (run.status, run.crossing) == ("diverged", None)
    assert better(made(), run)


def test_a_damaged_run_is_refused(tmp_path):
    file = tmp_path / "x.json"
    file.write_text('{"setting": "iid"')
    with pytest.raises(DataError, match="delete it"):
        read(file)


def test_summary_counts_only_seeds_that_reached_it():
    repeats = [made(0.2, 30.0), made(0.2, 50.0, seed=1), made(0.2, None, seed=2)]
    summary = summarize([made(0.1), made(0.2, 30.0)], repeats)
    assert summary["rounds"] == [30.0, 50.0, None]
    assert (summary["median"], summary["lowest"], summary["highest"]) == (40.0, 30.0, 50.0)
    assert (summary["rate"], summary["rates"], summary["paper"]) == (0.2, [0.1, 0.2], 87)


def test_report_of_all_kinds_of_runs(scale, tmp_path):
    curve = [0.5, 0.9, 0.98]
    sweeps = {
        "iid": [made(0.1, 2.5, curve=curve), made(0.5, status="diverged", curve=[0.1])],
        "shards": [made(0.1, setting="shards")],
    }
    repeats = {"iid": [sweeps["iid"][0], made(0.1, 2.0, seed=1, curve=[0.6, 0.97])], "shards": sweeps["shards"]}
    text = report(tmp_path, scale, sweeps, repeats, ["--setting", "both"], complete=False)
    assert "median 2.2 rounds (2.0 to 2.5, 2 seeds)" in text
    assert "target not reached" in text
    assert "paper" not in text  # other data than the paper's: its numbers do not stand beside ours
    with open(tmp_path / "rounds.csv") as f:
        table = list(csv.DictReader(f))
    assert [(r["setting"], r["status"], r["chosen"]) for r in table] == [
        ("iid", "reached", "True"),
        ("iid", "diverged", "False"),
        ("iid", "reached", "True"),
        ("shards", "gave up", "True"),
    ]
    stored = json.loads((tmp_path / "rounds.json").read_text())
    assert not stored["complete"]
    assert stored["provenance"]["command"] == "uv run python -m experiments.mcmahan --setting both"
    words = (tmp_path / "README.md").read_text()
    assert "Not complete" in words
    assert "not reached" in words
    assert "Beside the paper" not in words
    assert {p.suffix for p in tmp_path.iterdir()} == {".csv", ".json", ".md", ".png", ".pdf"}
    assert (tmp_path / "rounds-to-target.pdf").read_bytes().startswith(b"%PDF")


def test_only_the_papers_own_data_and_target_are_comparable(scale):
    def set_of(n):
        return Dataset("mnist", np.zeros((n, 1), np.uint8), np.zeros(n, np.int32), 10)

    papers = replace(scale, train=set_of(60000), test=set_of(10000), target=0.97)
    assert is_papers(papers)
    assert not is_papers(replace(papers, target=0.9))
    assert not is_papers(replace(papers, train=set_of(6000)))


def test_the_whole_study_on_a_tiny_set(scale, tmp_path, monkeypatch):
    monkeypatch.setattr("fedpriv.data.load", lambda *_, **__: (scale.train, scale.test))
    out = tmp_path / "out"
    settings = list(SETTINGS.values())
    assert _study("tiny", None, out, settings, 0.2, [0.05, 0.1], 2, 3)
    before = {p: p.stat().st_mtime_ns for p in (out / "runs").iterdir()}
    assert len(before) == 6  # two rates and one more seed of the better one, in both settings
    assert _study("tiny", None, out, settings, 0.2, [0.05, 0.1], 2, 3)
    assert {p: p.stat().st_mtime_ns for p in (out / "runs").iterdir()} == before
    assert "IID" in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"setting": "dirichlet"}, "iid, shards or both"), ({"rates": "0.1;0.2"}, "comma"), ({"rates": "-1"}, "positive")],
)
def test_wrong_options_are_named(options, message, capsys, tmp_path):
    import typer

    arguments = {
        "data": "fashion_small", "data_dir": None, "out": Path(tmp_path), "setting": "both", "target": 0.9, "rates": "",
        "seeds": 1, "max_rounds": 1, "quick": False,
    }  # fmt: skip
    with pytest.raises(typer.Exit):
        main(**{**arguments, **options})
    assert message in capsys.readouterr().err


def test_data_without_a_test_set_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((20, 4, 4, 1), np.uint8), y=np.arange(20) % 2)
    with pytest.raises(ParameterError, match="no test set"):
        _study(str(tmp_path / "x.npz"), None, tmp_path, [SETTINGS["iid"]], 0.9, [], 1, 1)
