"""`fedpriv policies`: what it prints, and what it says where nothing is found."""

import json

import pytest

SMALL = ("policies", "logistic", "--candidates", "2", "--examples", "2", "--points", "2", "--train", "0", "--seed", "3")


def test_it_prints_the_images_as_they_are_and_the_best(run, tmp_path):
    out = tmp_path / "found.json"
    status, printed, _ = run(*SMALL, "--threshold", "-1e9", "--best", "1", "--json", "--out", str(out))
    assert status == 0
    first, second = (json.loads(line) for line in printed.strip().splitlines())
    assert first["policy"] == "as they are"
    kept = json.loads(out.read_text())["scored"]
    assert len(kept) == 3
    assert second["privacy"] == min(s["privacy"] for s in kept[1:])


def test_no_policy_above_the_threshold_is_said_with_the_best(run):
    status, _, err = run(*SMALL, "--threshold", "-1")
    assert status == 2
    assert "none of 2 policies has an accuracy score of -1; the best has -" in err


@pytest.mark.parametrize("threshold", ["nan", "inf", "0"])
def test_a_threshold_that_no_policy_can_reach_is_refused_before_the_search(threshold, run):
    status, _, err = run("policies", "no_such_model", "--threshold", threshold)
    assert status == 2
    assert f"--threshold {threshold} is an accuracy score that no policy can be held to" in err
