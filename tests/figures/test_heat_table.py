import math

import pytest

from fedpriv.base.errors import ParameterError
from fedpriv.figures.heat_table import heat_table


def luminance(patch):
    r, g, b, _ = patch.get_facecolor()
    return 0.3 * r + 0.59 * g + 0.11 * b


def test_numbers_stand_in_cells_that_grow_lighter_with_them():
    figure = heat_table({"m": {"a": 1.0, "b": 5.0, "c": 9.0}, "n": {"a": None, "b": math.inf, "c": -2.5}})
    (axes,) = figure.axes
    words = [t.get_text() for t in axes.texts]
    assert words.count("–") == 1
    assert {"1.0", "5.0", "9.0", "∞", "−2.5"} <= set(words)
    shades = [luminance(p) for p in axes.patches]
    assert shades[5] < shades[0] < shades[1] < shades[2] <= shades[4]
    ink = {t.get_text(): t.get_color() for t in axes.texts}
    assert (ink["−2.5"], ink["9.0"]) == ("white", "black")


def test_rows_may_lack_columns_and_have_notes():
    figure = heat_table({"m": {"a": 1.0}, "n": {"b": 2.0}}, notes={"n": {"b": "3 of 4"}}, show="{:.0f}".format)
    words = [t.get_text() for t in figure.axes[0].texts]
    assert words.count("–") == 2
    assert "3 of 4" in words
    assert "2" in words


def test_shades_can_be_fixed():
    cells = [heat_table({"m": {"a": v}}, low=0, high=10).axes[0].patches[0] for v in (-5, 0, 10, 15)]
    shades = [luminance(c) for c in cells]
    assert shades[0] == shades[1] < shades[2] == shades[3]


def test_an_empty_table_is_refused():
    for empty in ({}, {"m": {}}):
        with pytest.raises(ParameterError, match="at least one row"):
            heat_table(empty)
