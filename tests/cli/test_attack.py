import json

import pytest

QUICK = "(max_evaluations=30,restarts=1)"
TINY = ("--model", "logistic", "--images", "2")


def test_json_has_a_row_an_image_and_a_summary(run, strict, npz):
    status, out, err = run("attack", f"idlg{QUICK}", *TINY, "--data", npz, "--json")
    assert (status, err) == (0, "")
    *images, summary = strict(out)
    assert [r["kind"] for r in images] == ["image", "image"]
    assert summary["kind"] == "summary"
    for row in images:
        assert {"psnr", "ssim", "mse", "label_right", "seconds", "evaluations"} <= set(row)
        assert row["label_right"] is True
        assert row["psnr"] > 20  # a single example's gradient of a logistic model gives it away


def test_the_table_and_the_files(run, npz, tmp_path):
    out_dir = tmp_path / "out"
    status, out, err = run("attack", f"idlg{QUICK}", *TINY, "--data", npz, "--out", out_dir)
    assert (status, err) == (0, "")
    assert out.splitlines()[0].split() == ["image", "PSNR", "dB", "SSIM", "MSE", "label", "seconds", "evaluations"]
    assert len((out_dir / "images.csv").read_text().splitlines()) == 3
    saved = json.loads((out_dir / "summary.json").read_text())
    assert saved["provenance"]["config"]["attack"]["name"] == "idlg"
    assert (out_dir / "reconstructions.png").stat().st_size > 1000


@pytest.mark.slow
def test_the_same_seed_finds_the_same(run, strict, npz):
    def found(*more):
        _, out, _ = run("attack", f"dlg{QUICK}", *TINY, "--data", npz, "--json", *more)
        return [(r["mse"], r["evaluations"]) for r in strict(out)[:-1]]

    assert found("--seed", 3) == found("--seed", 3)


def test_batches_cohorts_steps_defenses_and_adversaries(run, strict, npz):
    status, out, _ = run(
        "attack", f"dlg{QUICK}", "--model", "logistic", "--images", 4, "--batch", 2, "--cohort", 2, "--local-steps", 2,
        "--data", npz, "--defense", "clip(norm=1)", "--defense", "secret_sharing(aggregators=2)", "--adversary",
        "aggregators(0)", "--knows", "labels", "--json",
    )  # fmt: skip
    assert status == 0
    assert len(strict(out)) == 5


def test_an_attack_that_cannot_is_told_why(run, npz):
    status, _, err = run("attack", f"idlg{QUICK}", *TINY, "--batch", 2, "--data", npz)
    assert status == 2
    assert "reads the label of a single example" in err
    status, _, err = run("attack", f"dlg{QUICK}", *TINY, "--data", npz, "--blind", "procedure")
    assert status == 2
    assert "needs the local training procedure" in err
    status, _, err = run("attack", f"dlg{QUICK}", *TINY, "--data", npz, "--adversary", "aggregators(0)")
    assert status == 2
    assert "secret_sharing" in err
    status, _, err = run("attack", f"dlg{QUICK}", "--images", 99, "--data", npz)
    assert status == 2
    assert "need 99 images" in err


def test_a_trained_model_can_be_attacked(run, npz, tmp_path):
    path = tmp_path / "c"
    common = ("--data", npz, "--model", "logistic")
    assert run("train", *common, "--clients", 3, "--rounds", 1, "--checkpoint", path)[0] == 0
    assert run("attack", f"idlg{QUICK}", *common, "--images", 1, "--checkpoint", path, "--json")[0] == 0
    status, _, err = run("attack", "dlg", "--data", npz, "--model", "2nn", "--images", 1, "--checkpoint", path)
    assert status == 2
    assert "holds a 'logistic'" in err
