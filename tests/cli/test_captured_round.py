import json
import re
from pathlib import Path

import numpy as np
import pytest

STORED = Path(__file__).parents[1] / "capture/stored"
FLOWER = (
    *("--before", STORED / "flower_before.npz", "--after", STORED / "flower_client0_after.npz"),
    *("--model", "mlp(hidden=[40],activation=relu)", "--procedure", "epochs=2, client.learning_rate=0.05"),
)
TRUTH = ("--examples", "2", "--truth", STORED / "flower_truth.npz")
SHAPED = ("--examples", "2", "--shape", "14x14x1", "--classes", "10")


@pytest.mark.slow
def test_with_the_truth_it_is_checked_and_scored(run, tmp_path):
    status, out, err = run("attack", "first_layer", *FLOWER, *TRUTH, "--control", "noise", "--out", tmp_path)
    assert (status, err) == (0, "")
    assert "dense1/kernel  196x40  arr_0  40x196       shape  transposed" in out
    assert re.search(r"Replayed on the truth: relative error \de-07: consistent\.", out)
    assert "2 of 2 images reconstructed" in out
    assert "Attacked: a captured round of 2 examples" in out
    saved = json.loads((tmp_path / "summary.json").read_text())
    assert saved["provenance"]["config"]["procedure"]["local_epochs"] == 2
    assert (tmp_path / "reconstructions.png").is_file()
    assert "noise in place of the update gives" in saved["summary"]["given_away"]
    assert saved["summary"]["beyond_control"] > 20
    assert all(row["control_psnr"] < 20 for row in saved["images"])


@pytest.mark.slow
def test_without_the_truth_nothing_is_scored_and_the_words_say_so(run, strict, tmp_path):
    status, out, err = run("attack", "first_layer", *FLOWER, *SHAPED, "--control", "noise", "--out", tmp_path)
    assert (status, err) == (0, "")
    assert "found: 2 of 2 images" in out
    assert "Nor is there a control, which needs the truth" in out
    assert "No truth was given, so nothing is scored" in out
    assert "PSNR" not in out
    with np.load(tmp_path / "found.npz") as found, np.load(STORED / "flower_truth.npz") as truth:
        for image in truth["x"]:
            assert np.abs(found["x"] - image).max((1, 2, 3)).min() < 1e-4
    assert (tmp_path / "reconstructions.png").is_file()
    status, out, err = run("attack", "first_layer", *FLOWER, *SHAPED, "--json")
    assert (status, err) == (0, "")
    capture, finding = strict(out)
    assert (capture["kind"], capture["layout"], capture["consistent"]) == ("capture", "torch", True)
    assert (finding["kind"], finding["scored"]) == ("finding", False)
    assert finding["replay_error"] < 1e-3


def test_what_was_not_said_is_asked_for(run):
    for given, unsaid in (((), "--procedure and --examples"), (("--examples", "2"), "--procedure")):
        status, _, err = run("attack", "modern", *FLOWER[:-2], "--shape", "14x14x1", "--classes", "10", *given)
        assert status == 2
        assert f"Of a captured round say {unsaid}, if known" in err
        assert "Traceback" not in err


def test_a_procedure_that_cannot_be_is_warned_of(run):
    wrong = [*FLOWER[:-1], "lr=0.0001"]
    status, out, _ = run("attack", "first_layer", *wrong, *TRUTH)
    assert status == 0
    warning = "Warning: the stated procedure cannot have made this update"
    assert out.index(warning) < out.index("PSNR") < out.rindex(warning)
    missed = "Warning: a replay of this finding misses the update by"
    assert missed in run("attack", "first_layer", *FLOWER[:-1], "epochs=1, lr=0.3", *SHAPED)[1]
    assert missed not in run("attack", "first_layer", *FLOWER, *SHAPED)[1]
    assert out.splitlines()[-1].startswith(warning)
    assert warning not in run("attack", "first_layer", *FLOWER, *TRUTH)[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((*FLOWER, *SHAPED, "--batch", "2"), "--batch is of rounds that are run here"),
        (("--after", "w.npz"), "--after describes a captured round; give the weights before it by --before"),
        (FLOWER[:2], "the weights after the round, or the update"),
        ((*FLOWER, *SHAPED[:4]), "does not say how many classes"),
        ((*FLOWER, "--shape", "14by14", "--classes", "10"), "such as 28x28x1"),
        ((*FLOWER, *SHAPED[2:], "--examples", "two"), "--examples two"),
        ((*FLOWER, *SHAPED, "--layout", "tensorflow"), "--layout tensorflow is unknown"),
        ((*FLOWER, *SHAPED, "--assign", "dense1"), "--assign dense1"),
        ((*FLOWER, *SHAPED, "--knows", "labels"), "take"),
        ((*FLOWER, *SHAPED, "--knows", "batch_statistics"), "cannot be told 'batch_statistics'"),
        ((*FLOWER, *SHAPED, "--adversary", "observer"), "let it be a 'server'"),
        ((*FLOWER, *SHAPED, "--truth", "gone.npz"), "--truth gone.npz"),
        ((*FLOWER[:2], "--after", "gone.npz", *SHAPED), "gone.npz: no such file"),
        (
            (*FLOWER[:2], "--after", STORED / "flower_client_after.npz", *SHAPED),
            "did you mean 'flower_client0_after.npz'?",
        ),
        ((*FLOWER, *SHAPED, "--adversary", "server(acts=[curious])"), "act 'curious' changes what a server sends"),
        ((*FLOWER, *SHAPED, "--procedure", "epochs=2, steps=3, lr=0.1"), "epochs=2 and steps=3 both say"),
        ((*FLOWER, *TRUTH[2:], "--examples", "3"), "the truth has 2 examples, but 3 are stated"),
        ((*FLOWER, "--examples", "2"), "'dense1/kernel' of shape [784, 40] (nearest: 'arr_0' of shape [40, 196])"),
        ((*FLOWER, *SHAPED, "--frozen", "conv1"), "no weight or layer 'conv1'"),
    ],
)
def test_what_cannot_be_is_said_without_a_traceback(run, arguments, why):
    status, out, err = run("attack", "first_layer", *arguments)
    assert (status, out) == (2, "")
    assert why in " ".join(err.split())
    assert "Traceback" not in err


def test_an_attack_that_does_not_apply_says_why(run):
    for given in (SHAPED, TRUTH):
        status, _, err = run("attack", "rgap", *FLOWER, *given)
        assert status == 2
        assert "needs an update made by one local step" in " ".join(err.split())
        assert err.count("'rgap'") == 1
        status, _, err = run("attack", "tableak", *FLOWER, *given)
        assert status == 2
        assert "fedpriv: attack 'tableak' does not apply: coordinates" in " ".join(err.split())


def test_a_model_that_does_not_fit_says_whose_examples_it_was_built_for(run, tmp_path):
    with np.load(STORED / "flower_truth.npz") as truth:
        np.savez(tmp_path / "t.npz", x=truth["x"], y=truth["y"])
    for given, why in (
        (("--examples", "2"), "28x28x1 and 10 classes, as data 'fashion_small' has them; give --shape"),
        (("--examples", "2", "--truth", tmp_path / "t.npz"), "2 classes, as --truth has them; --classes says how many"),
        ((*SHAPED[:-1], "12"), "14x14x1 and 12 classes, as --shape and --classes say"),
    ):
        status, _, err = run("attack", "first_layer", *FLOWER, *given)
        assert status == 2
        said = " ".join(err.split())
        assert "The model was built for examples of" in said
        assert why in said
    given = ("--examples", "2", "--truth", tmp_path / "t.npz", "--classes", "10")
    status, out, _ = run("attack", "first_layer", *FLOWER, *given)
    assert status == 0
    assert "2 of 2 images reconstructed" in out
