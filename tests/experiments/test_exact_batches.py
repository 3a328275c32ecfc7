"""The experiment on whole batches runs, and writes what it says."""

from __future__ import annotations

import json

from fedpriv_experiments import exact_batches
from typer.testing import CliRunner


def test_a_small_run(tmp_path):
    import typer

    app = typer.Typer()
    app.command()(exact_batches.main)
    arguments = (
        "--spear-batches 2 --spear-batches 3 --spear-trials 2 --party-batches 3 --party-trials 1 --model "
        "2nn(hidden=[60]) --party cocktail_party(optimizer=adam(steps=5)) --out"
    )
    result = CliRunner().invoke(app, [*arguments.split(), str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0
    rows = json.loads((tmp_path / "batches.json").read_text())["rows"]
    assert [(r["attack"].split("(")[0], r["batch"]) for r in rows] == [
        ("spear", 2), ("spear", 3), ("cocktail_party", 3),
    ]  # fmt: skip
    assert [r["exact"] for r in rows] == [2, 2, 0]
    assert [r["said"] for r in rows] == [2, 2, 0]
    assert rows[0]["wrongly"] == 0
    assert "| `spear` | 2 | 2 of 2 |" in (tmp_path / "batches.md").read_text()
    assert (tmp_path / "batches_reconstructions.png").exists()
