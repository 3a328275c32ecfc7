"""Grids that ask other things than images, and cells that an attack does not apply to."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from fedpriv.base.errors import ExperimentError
from fedpriv.cli import main
from fedpriv.experiment import conclusion
from fedpriv.experiment.arm import arms
from fedpriv.experiment.compare import compare_arms
from fedpriv.experiment.drawings import drawings
from fedpriv.experiment.experiment import load
from fedpriv.experiment.report import write_report
from fedpriv.experiment.runner import survey
from fedpriv.experiment.setting import Setting
from fedpriv.experiment.store import Store
from fedpriv.experiment.table import gather, image_rows, write_tables
from tests.experiment.conftest import finish

#: Clients of four images, of 15 held out; the adversary holds five.
ASKED = {"images": 4, "batch": 4, "auxiliary": 5, "local_epochs": 200}
PIXELS = "dlg(restarts=1,optimizer.max_evaluations=2)"


def asked(content, **exposure):
    setting = {**content["setting"], "training": {"rounds": 0}, "exposure": {**ASKED, **exposure}}
    return {"setting": setting, "seeds": 3}


@pytest.mark.slow
def test_membership_from_the_file_to_the_report(write, content, tmp_path):
    grid = {"attack": {"loss": "loss_threshold(fpr=0.3)", "pixels": PIXELS}, "exposure.local_epochs": [1, 300]}
    experiment, store = finish(write(grid=grid, **asked(content)), tmp_path / "r")
    results = gather(experiment, store)
    made = arms(results)
    few, many = (a for a in made if a.labels["attack"] == "loss")
    row = many.row()
    assert (row["answers"], row["yes"]) == (24, 12)
    assert row["auc"] > max(0.75, few.row()["auc"])
    assert row["threshold_loss"] > 0  # a column of the finding's own
    assert "psnr_mean" not in row
    write_tables(results, made, store)
    frame = pd.read_parquet(store.folder / "table.parquet")
    mine = frame[(frame.attack == "loss") & (frame.local_epochs == 300)]
    assert mine.truth.astype(bool).sum() == 12
    assert (mine.right.astype(bool) == (mine.guess.astype(bool) == mine.truth.astype(bool))).all()
    stems = {d.stem: d for d in drawings(experiment, made)}
    assert {"roc_membership", "auc_over_local_epochs_membership", "success_over_local_epochs_reconstruction"} <= set(
        stems
    )
    assert stems["roc_membership"].draw().axes[0].get_xscale() == "log"
    page = write_report(experiment, store, ["fedpriv"]).read_text()
    for words in ("tells them apart", "AUC", "TPR at 1% FPR", "It holds 5 examples of its own", "24 answers"):
        assert words in page
    (pair,) = [p for p in compare_arms(few, many) if p.quantity == "right"]
    assert pair.pairs == 24
    pixels = next(a for a in made if a.labels["attack"] == "pixels")
    assert compare_arms(pixels, many) == []


@pytest.mark.slow
def test_property_from_the_file_to_the_report(write, content, tmp_path):
    goal = "property(of=label:0,share=1,otherwise=0)"
    grid = {"attack": {"shadows": "shadow_property(shadows=4)"}}
    more = asked(content, images=4, batch=2, auxiliary=11, local_epochs=1)
    more["setting"]["goal"] = goal
    experiment, store = finish(write(grid=grid, **{**more, "seeds": 1}), tmp_path / "r", "setting.data_dir=null")
    (arm,) = arms(gather(experiment, store))
    row = arm.row()
    assert (row["answers"], row["yes"], row["auc"]) == (2, 1, 1)
    assert "2 updates" in write_report(experiment, store, ["fedpriv"]).read_text()


@pytest.mark.slow
def test_labels_have_columns_of_their_own(write, content, tmp_path):
    grid = {"attack": {"labels": "labels"}, "exposure.batch": [1, 2]}
    experiment, store = finish(write(grid=grid, **asked(content, auxiliary=0, local_epochs=1)), tmp_path / "r")
    made = arms(gather(experiment, store))
    assert made[0].row()["label_accuracy"] == made[0].row()["batches_right"] == 1
    assert "label_accuracy_over_batch" in {d.stem for d in drawings(experiment, made)}
    assert any("finds 100% of 12 labels" in s for s in conclusion.sentences(experiment, made))


@pytest.mark.slow
def test_an_attack_that_does_not_apply_is_neither_failed_nor_zero(write, content, tmp_path, capsys):
    """iDLG reads the label of one example; of two it cannot."""
    grid = {"attack": {"DLG": PIXELS, "iDLG": f"i{PIXELS}"}, "exposure.batch": [1, 2]}
    path = write(grid=grid, **{**asked(content, auxiliary=0, local_epochs=1), "seeds": 1})
    with pytest.raises(SystemExit) as ended:
        main(["run", str(path), "--out", str(tmp_path / "r")])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "does not apply to 2 of 2 views" in said
    experiment, store = load(path), Store(tmp_path / "r")
    todo = survey(experiment, store)
    assert (todo.jobs, todo.failed) == (0, [])
    results = gather(experiment, store)
    assert not any(r.error for r in results)
    made = arms(results)
    refused = next(a for a in made if (a.labels["attack"], a.labels["batch"]) == ("iDLG", 2))
    row = refused.row()
    assert row["inapplicable"] == 2
    assert "psnr_mean" not in row
    reasons = [r["status"] for r in image_rows(results) if r["attack"] == "iDLG" and r["batch"] == 2]
    assert len(reasons) == 2
    assert all(r.startswith("does not apply: ") and "single example" in r for r in reasons)
    other = next(a for a in made if (a.labels["attack"], a.labels["batch"]) == ("iDLG", 1))
    assert "inapplicable" not in other.row()
    assert compare_arms(other, refused) == []
    page = write_report(experiment, store, ["fedpriv"]).read_text()
    for words in ("Where an attack does not apply", "2 of 2", "single example", "in 1 of 4 settings"):
        assert words in page
    assert "Failed cells" not in page


def test_an_adversary_that_does_not_exist_does_not_apply(write, content, tmp_path):
    grid = {"attack": {"exact": "first_layer"}, "defense": {"none": "none", "sum": "secret_sharing(aggregators=2)"}}
    more = asked(content, auxiliary=0, local_epochs=1, batch=1, adversary="aggregators", corrupted=[0, 1])
    experiment, store = finish(write(grid=grid, **{**more, "seeds": 1}), tmp_path / "r")
    bare, shared = arms(gather(experiment, store))
    assert "coalition of aggregators" in bare.refused[0].inapplicable
    assert not shared.refused


def test_extra_metrics_are_columns_of_a_grid(write, content, tmp_path):
    more = asked(content, auxiliary=0, local_epochs=1, batch=1)
    more["setting"]["goal"] = "reconstruction(threshold_db=20,metrics=[gap=fedpriv.metrics.image:mse])"
    experiment, store = finish(write(grid={"attack": ["first_layer"]}, **{**more, "seeds": 1}), tmp_path / "r")
    results = gather(experiment, store)
    (arm,) = arms(results)
    assert arm.goal.threshold_db == 20
    rows = image_rows(results)
    assert arm.row()["gap_mean"] == pytest.approx(sum(r["mse"] for r in rows) / len(rows), rel=1e-4)


def test_settings_that_cannot_be_asked_are_named(write, content):
    for overrides, says in (
        (["goal=membership", "grid.attack=[dlg]"], "attack 'dlg' answers 'reconstruction', 'labels', not 'membership'"),
        (["goal=membershp", "grid.attack=[dlg]"], "Did you mean 'membership'"),
        (["goal=membership", "threshold_db=20", "grid.attack=[loss_threshold]"], "not for goal 'membership'"),
        (["goal=reconstruction(threshold_db=3)", "threshold_db=20", "grid.attack=[dlg]"], "both set it"),
        (["goal=reconstruction(metrics=[x])", "grid.attack=[dlg]"], "no name=where"),
        (["exposure.auxiliary=-1"], "auxiliary"),
    ):
        with pytest.raises(ExperimentError) as e:
            load(write(), overrides)
        assert says in str(e.value), overrides
        assert "setting" in str(e.value) or "--set" in str(e.value) or "small.yaml" in str(e.value)


def test_the_shorthand_for_the_threshold_is_the_goals():
    short, long = Setting(attack="dlg", threshold_db=20), Setting(attack="dlg", goal="reconstruction(threshold_db=20)")
    assert short.identity() == long.identity()
    assert Setting(attack="dlg").made_goal().threshold_db == 30
    assert Setting(attack="loss_threshold", threshold_db=20).made_goal().name == "membership"
    assert Setting(training={"rounds": 1}).made_goal() is None


@pytest.mark.slow
def test_the_command_line_asks_too(tmp_path, capsys):
    def cli(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in ("attack", *arguments)])
        return ended.value.code, *capsys.readouterr()

    common = ("--data", "tests.experiment.toys:toy", "--model", "logistic", "-n", 4, "-b", 4, "--local-epochs", 200)
    wanted = (*common, "--client-lr", 0.5, "--auxiliary", 5, "--goal", "membership(fpr=0.5)", "--repeats", 2)
    code, out, err = cli("loss_threshold", *wanted, "--out", tmp_path / "o")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == ["candidate", "truth", "confidence", "guess", "seconds", "evaluations"]
    assert "TPR at 50% FPR" in out
    saved = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert saved["summary"]["answers"] == len(saved["candidates"]) == 16
    assert saved["provenance"]["config"]["goal"] == {
        "name": "membership",
        "fpr": 0.5,
        "of": "update",
        "candidates": None,
    }
    assert (tmp_path / "o" / "roc.png").exists()
    assert not (tmp_path / "o" / "reconstructions.png").exists()
    code, out, _ = cli("loss_threshold", *wanted, "--json")
    *rows, summary = map(json.loads, out.splitlines())
    assert {r["kind"] for r in rows} == {"candidate"}
    assert summary["auc"] == saved["summary"]["auc"]
    for wrong, says in (
        (("loss_threshold", *common), "does not apply: attack 'loss_threshold' needs data of its own"),
        (("dlg", *common, "--goal", "membership"), "choose that goal, or an attack for 'membership'"),
        (("loss_threshold", *common, "--threshold", 20), "--threshold is for goal 'reconstruction'"),
        (("loss_threshold", *common, "--auxiliary", 99), "examples left that are not attacked"),
    ):
        code, _, err = cli(*wrong)
        assert code == 2
        assert says in err
        assert "Traceback" not in err
