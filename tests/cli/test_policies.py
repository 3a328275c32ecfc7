"""`fedpriv policies`: what it prints, and what it says where nothing is found."""

import json

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
    status, _, err = run(*SMALL, "--threshold", "0")
    assert status == 2
    assert "none of 2 policies has an accuracy score of 0; the best has -" in err
