"""Row table: what is right can be told without colour, and uncertain cells are darker."""

import matplotlib.patches
import numpy as np
import pytest

from fedpriv.base.errors import ParameterError
from fedpriv.figures.row_table import RIGHT, WRONG, row_table

ORIGINAL = [("34", "Graz"), ("51", "independent Republican")]
FOUND = [("33", "Wien"), ("51", "")]
MARKS = np.array([[True, False], [True, False]])
UNSURE = np.array([[0.0, 1.0], [0.5, 0.2]])


def drawn(**options):
    figure = row_table(("age", "home_city"), ORIGINAL, FOUND, MARKS, **options)
    figure.canvas.draw()
    return figure


def test_right_and_wrong_cells_are_marked():
    figure = drawn(accuracy=("100%", "0%"), title="Rows", note="a note")
    texts = {t.get_text(): t for axes in figure.axes for t in axes.texts}
    assert {f"{RIGHT} 33", f"{WRONG} Wien", f"{WRONG} none", "home city", "1 original", "found", "0%"} <= set(texts)
    assert texts[f"{WRONG} Wien"].get_fontweight() == "bold"
    assert texts[f"{RIGHT} 33"].get_fontweight() == "normal"
    framed = [p.get_linewidth() > 0 for p in figure.axes[0].patches if isinstance(p, matplotlib.patches.Rectangle)]
    assert framed == [False, True, False, True]
    assert [t.get_text() for t in figure.texts] == ["Rows", "a note"]


def test_the_less_sure_the_darker_and_without_a_measure_white():
    def faces(figure):
        return [p.get_facecolor()[0] for p in figure.axes[0].patches]

    shaded = faces(drawn(uncertainty=UNSURE))
    assert np.argsort(shaded).tolist() == [1, 2, 3, 0]
    assert shaded[0] == 1
    assert min(shaded) > 0.6  # black text stays readable
    assert faces(drawn()) == [1, 1, 1, 1]
    assert len(drawn(uncertainty=UNSURE).axes) == 2  # the key to the shades


def test_texts_stay_inside_their_cells():
    figure = drawn(uncertainty=UNSURE, accuracy=("100%", "0%"))
    axes, box = figure.axes[0], figure.bbox
    for text in axes.texts:
        extent = text.get_window_extent()
        assert box.x0 <= extent.x0
        assert extent.x1 <= box.x1
    cells = axes.patches
    found = [t for t in axes.texts if t.get_text()[0] in RIGHT + WRONG]
    for text, cell in zip(found, cells, strict=True):
        inner, outer = text.get_window_extent(), cell.get_window_extent()
        assert outer.x0 <= inner.x0
        assert inner.x1 <= outer.x1


@pytest.mark.parametrize(
    "change",
    [
        {"original": []},
        {"found": FOUND[:1]},
        {"right": MARKS[:1]},
        {"uncertainty": UNSURE[:, :1]},
        {"accuracy": ("1%",)},
    ],
)
def test_parts_of_different_sizes_are_refused(change):
    parts = {"columns": ("a", "b"), "original": ORIGINAL, "found": FOUND, "right": MARKS} | change
    with pytest.raises(ParameterError, match="of one size"):
        row_table(**parts)
