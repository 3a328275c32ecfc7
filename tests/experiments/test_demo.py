from __future__ import annotations

import csv
import json
import re

import pytest

from experiments.demo.measure import Results, measure
from experiments.demo.page import conclusion, points, write_data, write_page
from experiments.demo.plan import Plan

TINY = Plan(
    model="logistic",
    attack="dlg(restarts=1,optimizer.max_evaluations=30)",
    images=1,
    clients=6,
    cohort=3,
    rounds=2,
    noises=(1e-3, 1.0),
    sum_cohort=2,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, list[int]]:
    seen: list[int] = []
    results = measure(TINY, lambda line: None, lambda r: seen.append(len(r.exposed) + len(r.trained)))
    return results, seen


def test_every_arm_is_attacked_and_trained_and_reported_as_it_comes(run: tuple[Results, list[int]]) -> None:
    results, seen = run
    labels = [a.label for a in TINY.arms()]
    assert list(results.exposed) == labels
    assert list(results.trained) == [a.label for a in TINY.arms() if a.trained]
    assert seen == list(range(1, len(labels) + len(results.trained) + 1))
    assert not results.interrupted


def test_a_secure_sum_is_scored_over_its_whole_cohort(run: tuple[Results, list[int]]) -> None:
    results, _ = run
    assert results.exposed["Secure sum of 2"].summary.images == 2
    assert results.exposed["Secure sum of 3"].summary.images == 3
    assert results.exposed["No defense"].summary.images == 1


def test_epsilon_is_given_only_where_noise_earns_it(run: tuple[Results, list[int]]) -> None:
    results, _ = run
    assert results.trained["No defense"].epsilon_server is None
    assert results.trained["Secure sum of 3"].epsilon_server is None
    weak, strong = (results.trained[f"DP noise {z}"].epsilon_server for z in ("0.001", "1"))
    assert weak is not None
    assert strong is not None
    assert weak > 1e5 > 100 > strong > 1


def test_files_page_and_figures(run: tuple[Results, list[int]], tmp_path) -> None:
    results, _ = run
    origin = {"command": "fedpriv demo", "seed": 0}
    write_data(results, tmp_path, origin)
    page = write_page(results, tmp_path, origin).read_text()
    for name in ("reconstructions", "privacy_utility", "training_curves"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert not re.search(r'(src|href)="https?:', page)
    assert all(sentence.split(" (")[0][:40] in page for sentence in conclusion(results))
    rows = list(csv.DictReader((tmp_path / "summary.csv").open()))
    assert [r["arm"] for r in rows] == [a.label for a in TINY.arms()]
    assert json.loads((tmp_path / "demo.json").read_text())["provenance"] == origin


def test_an_interrupted_run_still_has_a_page(run: tuple[Results, list[int]], tmp_path) -> None:
    whole, _ = run
    part = Results(TINY, exposed={"No defense": whole.exposed["No defense"]}, interrupted=True)
    write_data(part, tmp_path, {})
    page = write_page(part, tmp_path, {}).read_text()
    assert "stopped early" in page
    assert len(points(part)) == 1
    nothing = Results(TINY, interrupted=True)
    write_data(nothing, tmp_path, {})
    assert "Nothing was measured" in write_page(nothing, tmp_path, {}).read_text()


def test_ctrl_c_keeps_what_was_measured() -> None:
    def stop(results: Results) -> None:
        if len(results.exposed) == 2:
            raise KeyboardInterrupt

    results = measure(TINY, lambda line: None, stop)
    assert results.interrupted
    assert len(results.exposed) == 2


@pytest.mark.parametrize(
    ("epsilon", "said", "unsaid"),
    [(1e6, "no meaningful guarantee", "xyz"), (2.0, "against the server is 2.", "no mean")],
)
def test_the_conclusion_follows_the_numbers(monkeypatch, epsilon: float, said: str, unsaid: str) -> None:
    rows = [
        {"arm": "No defense", "noise": None, "images": 5, "reconstructed": 5, "psnr_mean": 60.0, "accuracy": 0.7},
        {"arm": "DP noise 0.1", "noise": 0.1, "images": 5, "reconstructed": 0, "psnr_mean": 9.0, "ssim_mean": 0.1,
         "accuracy": 0.6, "epsilon_server": epsilon},
    ]  # fmt: skip
    monkeypatch.setattr(Results, "rows", lambda self: rows)
    text = " ".join(conclusion(Results(TINY)))
    assert "5 of 5 images" in text
    assert "multiplier of 0.1" in text
    assert said in text
    assert unsaid not in text


def test_no_noise_that_helps_is_said_so(monkeypatch) -> None:
    rows = [{"arm": "DP noise 0.1", "noise": 0.1, "images": 5, "reconstructed": 3, "psnr_mean": 31.0}]
    monkeypatch.setattr(Results, "rows", lambda self: rows)
    assert "No noise level tried here" in " ".join(conclusion(Results(TINY)))


def test_a_failed_but_recognizable_reconstruction_does_not_count_as_hidden(monkeypatch) -> None:
    common = {"images": 5, "reconstructed": 0, "psnr_mean": 17.0}
    rows = [
        {"arm": "DP noise 0.1", "noise": 0.1, "ssim_mean": 0.7, **common},
        {"arm": "DP noise 1", "noise": 1.0, "ssim_mean": 0.05, **common},
    ]
    monkeypatch.setattr(Results, "rows", lambda self: rows)
    text = " ".join(conclusion(Results(TINY)))
    assert "multiplier of 0.1 (mean PSNR 17.0 dB, but mean SSIM 0.70: what the images show can still" in text
    assert "hid what the images show (mean SSIM below 0.3) was a multiplier of 1." in text
