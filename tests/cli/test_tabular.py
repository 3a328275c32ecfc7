import csv
import json

import numpy as np
import pytest


@pytest.fixture
def people(tmp_path):
    """A table of 60 people, one column of it a name."""
    rng = np.random.default_rng(0)
    rows = [("age", "city", "height", "income")]
    rows += [
        (
            int(rng.integers(18, 90)),
            str(rng.choice(["Graz", "Linz", "Wien"])),
            round(float(rng.normal(170, 8)), 1),
            i % 2,
        )
        for i in range(60)
    ]
    with (tmp_path / "people.csv").open("w", newline="") as f:
        csv.writer(f).writerows(rows)
    return tmp_path / "people.csv"


@pytest.mark.slow
def test_rows_of_a_file_are_reconstructed_and_written_down(run, strict, people, tmp_path):
    arguments = ("attack", "dlg(restarts=1)", "--data", people, "--model", "mlp(task=binary)", "-n", "2")
    status, out, err = run(*arguments, "--json", "--out", tmp_path / "out")
    assert status == 0, err
    *rows, summary = strict(out)
    for row in rows:
        assert (row["row_accuracy"], row["hit_city"], row.get("psnr")) == (1, 1, None)
        assert row["found"].split(", ")[:2] == row["original"].split(", ")[:2]
        assert row["original"].startswith("age=")
    assert (summary["success_rate"], summary.get("psnr_mean"), summary["row_accuracy_mean"]) == (1, None, 1)
    saved = list(csv.DictReader((tmp_path / "out/rows.csv").open()))
    assert [r["original"] for r in saved] == [r["original"] for r in rows]


@pytest.mark.slow
def test_the_table_shows_the_columns_of_rows(run, people):
    status, out, _ = run("attack", "dlg(restarts=1)", "--data", people, "--model", "mlp", "-n", "1")
    assert status == 0
    assert all(label in out.splitlines()[0] for label in ("Row accuracy", "Numeric error", "Categories right"))
    assert "1 of 1 row reconstructed (100%" in out
    assert "dB" not in out.splitlines()[-1]


@pytest.mark.slow
def test_cells_are_shown_by_column_and_drawn(run, people, tmp_path):
    attack = "tableak(ensemble=2,optimizer.steps=60)"
    arguments = ("attack", attack, "--data", people, "--model", "mlp(hidden=[16])", "-n", "2", "-b", "2")
    status, out, err = run(*arguments, "--out", tmp_path / "out")
    assert status == 0, err
    lines = out.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("column"))
    assert [line.split()[0] for line in lines[head + 1 : head + 5]] == ["age", "city", "height", "all"]
    assert "right of the surest quarter" in lines[head]
    assert (tmp_path / "out/rows.png").stat().st_size > 5_000
    saved = list(csv.DictReader((tmp_path / "out/columns.csv").open()))
    assert [r["column"] for r in saved] == ["age", "city", "height", "all columns"]
    assert sum(int(r["right"]) for r in saved[:3]) == int(saved[3]["right"])
    written = json.loads((tmp_path / "out/summary.json").read_text())["summary"]["by_column"]
    assert [r["cells"] for r in written] == [2, 2, 2, 6]


def test_training_on_quantities_ends_in_an_error_not_an_accuracy(run, strict, people):
    call = ("train", "--data", f"table(path={people},target=height)", "--model", "mlp", "-K", "6", "-r", "2")
    status, out, err = run(*call)
    assert status == 0, err
    assert "2 rounds: test mean absolute error " in out
    assert "accuracy" not in out
    status, out, _ = run(*call, "--json")
    assert all(r["accuracy"] is None and r["metrics"]["test_error"] > 0 for r in strict(out))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--model", "lenet"), "needs images"),
        (("--model", "mlp(task=regression)"), "use task=classes or task=binary"),
        (("--model", "mlp(task=binry)"), "Did you mean 'binary'"),
    ],
)
def test_a_model_that_does_not_fit_is_told_in_one_line(run, people, options, says):
    status, _, err = run("attack", "dlg", "--data", people, *options)
    assert status == 2
    assert says in err
    assert "Traceback" not in err
