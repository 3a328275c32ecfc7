"""Rows of a table in a grid: accuracy by column, and the figure of rows."""

import pytest
import yaml

from fedpriv.experiment.arm import arms
from fedpriv.experiment.drawings import drawings
from fedpriv.experiment.report import write_report
from fedpriv.experiment.table import gather
from tests.experiment.conftest import finish

GRID = {
    "name": "rows",
    "setting": {"data": "clinic", "model": "mlp(hidden=[8])", "exposure": {"images": 4, "batch": 2}},
    "grid": {
        "attack": {
            "ensemble": "tableak(ensemble=2,optimizer.steps=40)",
            "one": "tableak(ensemble=1,optimizer.steps=40)",
        }
    },
    "seeds": 1,
    "keep_images": 3,
}


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    (folder / "e.yaml").write_text(yaml.safe_dump(GRID, sort_keys=False))
    return finish(folder / "e.yaml", folder / "r")


@pytest.mark.slow
def test_each_arm_has_its_cells_and_a_figure(attacked):
    experiment, store = attacked
    made = arms(gather(experiment, store))
    for arm, shaded in zip(made, (True, False), strict=True):
        several, runs, batches = arm.cells()
        assert [c.right.shape for c in several] == [(2, 8), (2, 8)]
        assert [len(c.original) for c in several] == [2, 1]
        assert (several[0].uncertainty is not None) == shaded
        assert len(runs) == len(batches) == 2
        for own, view in zip(several, arm.results[0].views):
            accuracy = [image.extra["row_accuracy"] for image in view.score.images]
            assert own.right.mean(1).tolist() == pytest.approx(accuracy)
    drawn = [d for d in drawings(experiment, made) if d.stem.startswith("rows")]
    assert [d.heading for d in drawn] == ["Rows: ensemble", "Rows: one"]
    assert "starts agreed" in drawn[0].caption
    assert "starts agreed" not in drawn[1].caption
    words = " ".join(t.get_text() for t in drawn[0].draw().findobj(lambda o: hasattr(o, "get_text")))
    assert "3 original" in words
    assert "4 original" not in words


@pytest.mark.slow
def test_the_report_has_a_table_by_column(attacked):
    page = write_report(*attacked, ["fedpriv", "report"]).read_text()
    assert "Accuracy by column" in page
    assert "all columns" in page
    assert "Surest accuracy is that of the quarter" in page
