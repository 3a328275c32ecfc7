"""Shipped experiments: their quick sizes run to the end, and the results in the repository are whole and light."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from fedpriv.base import registry
from fedpriv.base.provenance import config_hash
from fedpriv.cli import main
from fedpriv.experiment.experiment import load
from fedpriv.experiment.store import FILE, Store
from fedpriv.experiment.table import gather
from fedpriv.report.manifest import FILE as MANIFEST
from fedpriv.report.manifest import problems, read_manifest

RESULTS = Path(__file__).parents[2] / "results"


def tracked():
    """Files under results/ that are in the repository; None outside a checkout."""
    listed = subprocess.run(["git", "ls-files", "-z", "."], cwd=RESULTS, capture_output=True, text=True, check=False)
    return None if listed.returncode else set(listed.stdout.split("\0")) - {""}


TRACKED = tracked()
#: Not what somebody ran here since.
SHIPPED = sorted(
    {f.split("/")[0] for f in TRACKED} if TRACKED else {p.parent.name for p in RESULTS.glob(f"*/{MANIFEST}")}
)
FOLDERS = [name for name in SHIPPED if (RESULTS / name / FILE).exists()]


def test_every_shipped_experiment_has_results():
    assert set(registry.experiments.names()) == set(FOLDERS)


@pytest.mark.parametrize("name", SHIPPED)
def test_results_are_whole_and_say_what_made_them(name):
    assert problems(RESULTS / name) == []
    manifest = read_manifest(RESULTS / name)
    assert manifest["made"]
    for made in manifest["made"]:
        assert made["command"]
        assert re.fullmatch("[0-9a-f]{40}", made["commit"])
        assert made["versions"] or made["note"]  # no versions without a word why
        assert set(made.get("files", ())) <= manifest["files"].keys()


@pytest.mark.parametrize("name", FOLDERS)
def test_a_shipped_experiment_is_one_that_can_be_run_again(name):
    experiment, folder = load(RESULTS / name / FILE), RESULTS / name
    assert experiment.name == name
    assert experiment.cells
    made, manifest = json.loads((folder / "provenance.json").read_text()), read_manifest(folder)
    assert {"command", "config", "config_hash", "seed", "versions", "platform", "commit", "modified"} <= made.keys()
    assert all(made[key] is not None for key in made)
    assert made["config_hash"] == config_hash(made["config"])
    assert made["config"]["name"] == name
    assert [(m["command"], m["commit"]) for m in manifest["made"]] == [(made["command"], made["commit"])]
    assert manifest["code"]
    assert {"report.html", "arms.csv", "differences.csv", "table.csv"} <= manifest["files"].keys()


@pytest.mark.parametrize("name", FOLDERS)
def test_a_shipped_report_shows_and_links_to_files_that_are_there(name):
    page = (RESULTS / name / "report.html").read_text()
    shown = re.findall(r'<img src="([^"]*)"', page)
    assert shown
    assert len(set(shown)) == len(shown)
    files = read_manifest(RESULTS / name)["files"]
    links = [link for link in re.findall(r'(?:src|href)="([^"#]+)"', page) if link != "data:,"]
    assert set(links) <= files.keys()


def test_results_are_light_and_no_picture_lies_there_twice():
    files = [
        (f"{name}/{file}", about) for name in SHIPPED for file, about in read_manifest(RESULTS / name)["files"].items()
    ]
    manifests = sum((RESULTS / name / MANIFEST).stat().st_size for name in SHIPPED)
    assert sum(about["bytes"] for _, about in files) + manifests <= 10_000_000
    pictures = [about["sha256"] for file, about in files if file.endswith((".png", ".svg", ".pdf", ".jpg"))]
    assert len(set(pictures)) == len(pictures) > 0
    assert not any(b"data:image/png" in (RESULTS / file).read_bytes() for file, _ in files if file.endswith(".html"))


@pytest.mark.skipif(TRACKED is None, reason="no checkout")
def test_git_keeps_of_the_results_just_what_the_manifests_name():
    assert {
        f"{name}/{file}" for name in SHIPPED for file in [*read_manifest(RESULTS / name)["files"], MANIFEST]
    } == TRACKED


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.experiments.names())
def test_the_quick_size_runs_to_the_end(name, tmp_path, capsys):
    with pytest.raises(SystemExit) as done:
        main(["run", name, "--quick", "--out", str(tmp_path / name)])
    assert done.value.code == 0, capsys.readouterr().err
    experiment = load(tmp_path / name / FILE)
    results = gather(experiment, Store(tmp_path / name))
    assert {r.error for r in results} == {""}
    assert (tmp_path / name / "report.html").exists()
    assert problems(tmp_path / name) == []
