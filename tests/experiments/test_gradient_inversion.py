"""The suite's tables run, resume, and end in rows, figures and a page; the figures to reach are read from them."""

from __future__ import annotations

import json

import pytest
import typer
from fedpriv_experiments.gradient_inversion import __main__ as command
from fedpriv_experiments.gradient_inversion import arm as arms
from fedpriv_experiments.gradient_inversion import tables
from fedpriv_experiments.gradient_inversion.arm import Arm
from typer.testing import CliRunner

from experiments.benchmarks import gradient_inversion as checks


def small(colour):
    return [
        Arm("DLG, 0 rounds", "dlg(optimizer.max_evaluations=60,path=true)", colour, "logistic", images=2),
        Arm("DLG, 1 rounds", "dlg(optimizer.max_evaluations=60)", colour, "logistic", images=2, rounds=1),
        Arm("refused", "idlg", colour, "logistic", images=2, batch=2),
    ]


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setitem(tables.TABLES, "stages", tables.Table("The training stage", "Does it fall?", small))
    app = typer.Typer()
    app.command()(command.main)

    def run(*arguments):
        return CliRunner().invoke(
            app, ["stages", "--colour", "fashion_small", "--out", str(tmp_path), *arguments], catch_exceptions=False
        )

    return run


def test_a_table_ends_in_rows_figures_and_a_page_and_is_not_run_twice(run, monkeypatch, tmp_path):
    assert run().exit_code == 0
    rows = json.loads((tmp_path / "stages.json").read_text())["rows"]
    assert [r["arm"] for r in rows] == ["DLG, 0 rounds", "DLG, 1 rounds", "refused"]
    assert [r["images"] for r in rows] == [2, 2, None]
    assert "2 examples" in rows[2]["refused"]
    for name in ("stages_images", "stages_progress", "stages_strip_dlg__0_rounds", "stages_curve"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000, name
    page = (tmp_path / "README.md").read_text()
    assert "| DLG, 0 rounds | 2 |" in page
    assert "refused: label inference 'idlg'" in page

    def fail(*_):
        raise AssertionError("an arm was run again")

    monkeypatch.setattr(arms, "attempts", fail)
    assert run().exit_code == 0
    assert json.loads((tmp_path / "stages.json").read_text())["rows"] == rows


def test_a_table_that_does_not_exist_is_a_mistake_with_a_way_out(tmp_path):
    app = typer.Typer()
    app.command()(command.main)
    result = CliRunner().invoke(app, ["publishd", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "Did you mean 'published'" in result.output


@pytest.mark.parametrize("name", tables.TABLES)
def test_every_table_names_attacks_models_and_data_that_exist(name):
    from fedpriv.base import registry

    made = tables.TABLES[name].made("fashion_small", quick=False)
    assert len({a.name for a in made}) == len({a.identity() for a in made}) == len(made)
    for one in made:
        assert one.images % (one.batch * one.cohort) == 0
        registry.parse_call(one.model, "model")
        for defense in one.defenses:
            registry.defenses.create(defense)
    quick = tables.TABLES[name].made("fashion_small", quick=True)
    assert all(q.images <= a.images for q, a in zip(quick, made, strict=True))


def test_figures_to_reach_are_read_from_results_and_judged(tmp_path):
    assert [found for _, found in checks.measured(tmp_path)] == [None] * len(checks.CHECKS)
    row = {"arm": "DLG", "images": 20, "success_rate": 1.0, "seconds_median": 4.5}
    (tmp_path / "gradient_inversion").mkdir()
    path = tmp_path / "gradient_inversion" / "published.json"
    path.write_text(json.dumps({"rows": [row]}))
    assert next(iter(checks.measured(tmp_path)))[1] == ("20 of 20, median 4.5 s", False)
    path.write_text(json.dumps({"rows": [row | {"seconds_median": 3.9}]}))
    assert next(iter(checks.measured(tmp_path)))[1] == ("20 of 20, median 3.9 s", True)
