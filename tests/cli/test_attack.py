import json

import pytest

QUICK = "(optimizer.max_evaluations=30,restarts=1)"
TINY = ("--model", "logistic", "--images", "2")


@pytest.mark.slow
def test_json_has_a_row_an_image_and_a_summary(run, strict, npz):
    status, out, err = run("attack", f"idlg{QUICK}", *TINY, "--data", npz, "--json")
    assert (status, err) == (0, "")
    *images, summary = strict(out)
    assert [r["kind"] for r in images] == ["image", "image"]
    assert summary["kind"] == "summary"
    assert summary["adversary"] == "server"
    assert summary["threat"].startswith("An honest-but-curious server")
    for row in images:
        assert {"psnr", "ssim", "mse", "label_right", "seconds", "evaluations"} <= set(row)
        assert row["label_right"] is True
        assert row["psnr"] > 20  # a single example's gradient of a logistic model gives it away


@pytest.mark.slow
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
def test_a_generative_attack_has_a_control_by_itself(run, strict, tmp_path):
    own = ("attack", "ggl(optimizer.steps=40,restarts=1)", "--model", "logistic", "--images", 2)
    status, out, err = run(*own, "--out", tmp_path / "out")
    assert (status, err) == (0, "")
    assert out.splitlines()[0].split()[:8] == ["image", "PSNR", "dB", "PSNR", "of", "noise", "dB", "SSIM"]
    (said,) = (line for line in out.splitlines() if "noise in place of the update gives" in line)
    assert said.startswith("Of ")
    assert "2 images" in said
    saved = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert saved["summary"]["given_away"] == said
    assert saved["summary"]["control_evaluations"] == 82
    assert saved["summary"]["evaluations_total"] == 82  # its own, without the control's
    gains = [row["psnr"] - row["control_psnr"] for row in saved["images"]]
    assert saved["summary"]["beyond_control"] == pytest.approx(sum(gains) / 2)
    assert "control_psnr" in (tmp_path / "out" / "images.csv").read_text().splitlines()[0]


@pytest.mark.slow
def test_a_control_can_be_asked_for(run, strict, npz):
    asked = ("attack", f"idlg{QUICK}", *TINY, "--data", npz, "--control")
    *rows, summary = strict(run(*asked, "noise", "--json")[1])
    assert all(row["control_psnr"] < row["psnr"] for row in rows)
    assert summary["compared"] == "psnr_mean"
    assert summary["beyond_control_interval"][0] > 0
    assert "the update gave away" in summary["given_away"]
    status, out, err = run(*asked, "noisy")
    assert (status, out) == (2, "")
    assert "--control" in err
    assert "'noise'" in err


@pytest.mark.slow
def test_updates_that_round_to_zero_are_warned_of(run, strict, npz, tmp_path):
    def attack(resolution, *more):
        sharing = f"secret_sharing(range=8,resolution={resolution})"
        return run("attack", f"dlg{QUICK}", *TINY, "--data", npz, "--cohort", 2, "-d", sharing, *more)

    status, out, err = attack(1.7, "--out", tmp_path)
    assert (status, err) == (0, "")
    (warning,) = (line for line in out.splitlines() if line.startswith("Warning: "))
    assert warning.startswith("Warning: fixed_point: rounding to a multiple of the resolution made 97.1% of the upd")
    assert warning.endswith("keep them (in 1 of 1 trials).")
    *_, summary = strict(attack(1.7, "--json")[1])
    assert [f"Warning: {said}." for said in summary["warnings"]] == [warning]
    assert json.loads((tmp_path / "summary.json").read_text())["summary"]["warnings"] == summary["warnings"]
    assert "Warning" not in attack(0.01)[1]
    status, _, err = attack(8)
    assert status == 2
    assert "exactly zero" in err.splitlines()[-1]
    assert "fixed_point: rounding to a multiple of the resolution made 100.0% of" in err.splitlines()[-1]


@pytest.mark.slow
def test_the_way_is_drawn_where_the_attack_keeps_it_and_nothing_else_changes(run, strict, npz, tmp_path):
    def mse(*more):
        status, out, _ = run("attack", f"idlg{QUICK}", *TINY, "--data", npz, "--json", *more)
        assert status == 0
        return [r["mse"] for r in strict(out)[:-1]]

    assert mse() == mse("--out", tmp_path)
    saved = {p.name for p in tmp_path.iterdir()}
    for name in ("reconstructions", "psnr_ssim", "psnr_curve", "film_strip"):
        assert {f"{name}.png", f"{name}.pdf", f"{name}.json"} <= saved
    config = json.loads((tmp_path / "film_strip.json").read_text())["config"]
    assert config["attack"]["path"] is True


@pytest.mark.slow
def test_repeats_are_other_seeds_on_the_same_images(run, strict, npz):
    quick = "idlg(optimizer.max_evaluations=5,restarts=1)"
    status, out, _ = run("attack", quick, *TINY, "--data", npz, "--json", "--repeats", 2, "--seed", 3)
    assert status == 0
    *rows, summary = strict(out)
    assert [(r["seed"], r["trial"]) for r in rows] == [(3, 0), (3, 1), (4, 0), (4, 1)]
    assert rows[0]["label"] == rows[2]["label"]
    assert rows[0]["mse"] != rows[2]["mse"]
    assert (summary["runs"], summary["images"]) == (2, 4)


@pytest.mark.slow
def test_lpips_is_a_column(run, strict, npz, tmp_path):
    import numpy as np

    from fedpriv.metrics.lpips import _shapes

    rng = np.random.default_rng(0)
    path = tmp_path / "alex.npz"
    np.savez(path, **{k: np.abs(rng.normal(0, 0.02, s)).astype(np.float32) for k, s in _shapes().items()})
    status, out, _ = run("attack", f"idlg{QUICK}", *TINY, "--data", npz, "--json", "--lpips", path)
    assert status == 0
    *rows, summary = strict(out)
    assert all(r["lpips"] >= 0 for r in rows)
    assert summary["lpips_median"] == pytest.approx(np.median([r["lpips"] for r in rows]))
    status, _, err = run("attack", f"idlg{QUICK}", *TINY, "--data", npz, "--lpips", tmp_path / "none.npz")
    assert status == 2
    assert "no file" in err


@pytest.mark.slow
def test_the_same_seed_finds_the_same(run, strict, npz):
    def found(*more):
        _, out, _ = run("attack", f"dlg{QUICK}", *TINY, "--data", npz, "--json", *more)
        return [(r["mse"], r["evaluations"]) for r in strict(out)[:-1]]

    assert found("--seed", 3) == found("--seed", 3)


@pytest.mark.slow
def test_batches_cohorts_steps_defenses_and_adversaries(run, strict, npz):
    status, out, _ = run(
        "attack", f"dlg{QUICK}", "--model", "logistic", "--images", 4, "--batch", 2, "--cohort", 2, "--local-steps", 2,
        "--data", npz, "--defense", "clip(norm=1)", "--defense", "secret_sharing(aggregators=2)", "--adversary",
        "aggregators(0)", "--knows", "labels", "--json",
    )  # fmt: skip
    assert status == 0
    assert len(strict(out)) == 5
    assert strict(out)[-1]["adversary"] == "aggregators(0,knows=[labels])"


def test_what_an_attack_brings_in_stands_in_the_threat_line(run, strict, npz):
    options = ("--model", "logistic", "--images", 4, "--batch", 4, "--data", npz, "--json")
    attack = f"labels(inference=llg_plus(auxiliary={npz},per_class=2))"
    status, out, _ = run("attack", attack, *options)
    assert status == 0
    brought = strict(out)[-1]
    assert "The attack brings in: auxiliary data" in brought["threat"]
    status, out, _ = run(
        "attack",
        "labels(inference=llg_plus(per_class=2))",
        *options,
        "--adversary",
        f"server(knows=[auxiliary({npz})])",
    )
    assert status == 0
    known = strict(out)[-1]
    assert "brings in" not in known["threat"]
    assert "It also knows: auxiliary data" in known["threat"]
    assert known["label_accuracy"] == brought["label_accuracy"]
    status, _, err = run("attack", "labels(inference=llg_plus)", *options)
    assert status == 2
    assert "needs auxiliary data" in err


@pytest.mark.slow
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


def test_one_reason_for_all_trials_is_said_once(run, npz):
    status, out, err = run("attack", "untransform", *TINY, "--data", npz)
    assert (status, out) == (2, "")
    assert err.count("attack 'untransform'") == 1
    assert err.count("knows of none here") == 1


@pytest.mark.slow
def test_a_trained_model_can_be_attacked(run, npz, tmp_path):
    path = tmp_path / "c"
    common = ("--data", npz, "--model", "logistic")
    assert run("train", *common, "--clients", 3, "--rounds", 1, "--checkpoint", path)[0] == 0
    assert run("attack", f"idlg{QUICK}", *common, "--images", 1, "--checkpoint", path, "--json")[0] == 0
    status, _, err = run("attack", "dlg", "--data", npz, "--model", "2nn", "--images", 1, "--checkpoint", path)
    assert status == 2
    assert "holds a 'logistic'" in err
    status, _, err = run("attack", "dlg", "--model", "logistic", "--images", 1, "--checkpoint", path)
    assert status == 2
    assert "of 7850; give the same model and data" in err


@pytest.mark.slow
def test_a_command_is_a_cell(run, strict, npz):
    """The same values in a file and on a command line: the same questions, seeds and scores."""
    from fedpriv.experiment.setting import Setting
    from fedpriv.experiment.work import attack

    name = "dlg(optimizer.max_evaluations=20,restarts=1)"
    status, out, _ = run(
        "attack", name, "--model", "logistic", "--images", 4, "--batch", 2, "--local-steps", 3, "--auxiliary", 5,
        "--data", npz, "--seed", 7, "--json",
    )  # fmt: skip
    assert status == 0
    *rows, summary = strict(out)
    exposure = {"images": 4, "batch": 2, "local_epochs": 3, "auxiliary": 5}
    setting = Setting.model_validate({"attack": name, "model": "logistic", "data": npz, "exposure": exposure})
    outcome = attack(setting, 7, None, 0)
    found = [image for score in outcome.scores for image in setting.made_goal().load(score).rows()]
    assert [r["mse"] for r in rows] == [image["mse"] for image in found]
    assert summary["threat"] == outcome.facts["threat"]
    assert "holds 5 examples of its own" in summary["threat"]
    assert summary["held_out"] is outcome.facts["held_out"] is False


@pytest.mark.slow
def test_which_images_were_attacked_is_said(run, npz):
    status, out, _ = run("attack", "first_layer", *TINY, "--data", npz)
    assert status == 0
    assert "Attacked: 2 examples of the training set of" in out.splitlines()[-1]
    status, out, _ = run("attack", "first_layer", *TINY)
    assert status == 0
    said = out.splitlines()[-1]
    assert said.startswith("Attacked: 2 examples of the test set of 'fashion_small', drawn by seed 0: 1 ")
    _, again, _ = run("attack", "first_layer", *TINY)
    assert again.splitlines()[-1] == said
    _, first, _ = run("attack", "first_layer", *TINY, "--order", "file")
    assert "the first of its 2000: 1 T-shirt/top, 1 Trouser." in first.splitlines()[-1]


def test_steps_and_epochs_exclude_each_other(run, npz):
    status, _, err = run("attack", "dlg", *TINY, "--data", npz, "--local-steps", 2, "--local-epochs", 2)
    assert status == 2
    assert "--local-steps and --local-epochs exclude each other" in err


def test_a_photo_of_ones_own_is_attacked(run, tmp_path):
    import numpy as np
    from PIL import Image

    path = tmp_path / "me.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save(path)
    with pytest.warns(UserWarning, match="class 0 of 10 is assumed"):
        status, out, _ = run("attack", "first_layer", "--model", "logistic", "-n", 1, "--data", path)
    assert status == 0
    assert "1 of 1 image reconstructed" in out


def test_a_folder_that_cannot_be_written_is_said_before_the_work(run, npz, tmp_path):
    (tmp_path / "file").write_text("")
    status, out, err = run("attack", "first_layer", *TINY, "--data", npz, "--out", tmp_path / "file" / "out")
    assert (status, out) == (2, "")
    assert "cannot write" in err
    small = ("--data", npz, "--model", "logistic", "-K", 5, "--cohort", 5)
    status, out, err = run("train", *small, "--checkpoint", tmp_path / "file" / "c.npz")
    assert (status, out) == (2, "")
    assert "cannot write" in err


@pytest.mark.slow
@pytest.mark.parametrize(("similarity", "said"), [(0.01, "2 of 2 trials"), (1, "none of 2 trials")])
def test_alarms_of_clients_checks_are_counted(run, npz, similarity, said):
    check = f"watch_weights(similarity={similarity},rank=0,balance=1)"
    model = ("--model", "2nn(hidden=[16,16])", "--data", npz)
    status, out, _ = run("attack", "first_layer", *model, "--images", 2, "--defense", check)
    assert status == 0
    assert f"watch_weights: clients alarmed in {said}." in out
