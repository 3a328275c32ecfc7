import math

import numpy as np
import pytest

from fedpriv.base.errors import ParameterError
from fedpriv.figures.scatter import head_to_head, psnr_ssim
from fedpriv.metrics.score import ImageScore, Score


def score(*psnr, ssim=0.5, finite=True, label=1):
    found = [ImageScore(i, p, ssim, 0.1, p >= 30, finite, label, None, None) for i, p in enumerate(psnr)]
    return Score(tuple(found), np.arange(len(psnr)), 30.0, None, 0, 0, 0, 1, 0)


def dots(figure):
    """(x, y, marker, hollow) of every point in the panel."""
    return [
        (x, y, line.get_marker(), line.get_markerfacecolor() == "white")
        for line in figure.axes[0].lines
        if line.get_linestyle() == "None"
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    ]


def test_every_image_is_a_point_of_its_series_shape():
    failed = score(0.0, ssim=0.0, finite=False)
    figure = psnr_ssim({"a": [score(20.0, 40.0), failed], "b": [score(math.inf, ssim=1.0)]})
    found = dots(figure)
    assert sorted(found) == sorted(
        [(20, 0.5, "o", False), (40, 0.5, "o", False), (0, 0, "o", True), (100, 1, "s", False)]
    )
    x, y = figure.axes[0].get_xlim(), figure.axes[0].get_ylim()
    assert all(x[0] < p[0] < x[1] and y[0] < p[1] < y[1] for p in found)


def test_a_duel_counts_who_succeeded_and_has_a_diagonal():
    figure = head_to_head([score(40.0, 10.0), score(35.0)], [score(50.0, 31.0), score(20.0)], ("a", "b"))
    assert {(x, y) for x, y, _, _ in dots(figure)} == {(40, 50), (10, 31), (35, 20)}
    assert len({marker for _, _, marker, _ in dots(figure)}) == 3
    words = [t.get_text() for t in figure.texts]
    assert [w for w in words if " of 3" in w] == ["both: 1 of 3", "only b: 1 of 3", "only a: 1 of 3", "neither: 0 of 3"]
    axes = figure.axes[0]
    assert axes.get_xlim() == axes.get_ylim()
    diagonal = next(line for line in axes.lines if line.get_linestyle() == "-")
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ParameterError, match="same images"):
        head_to_head([score(1.0)], [score(1.0, 2.0)], ("a", "b"))
    with pytest.raises(ParameterError, match="same images"):
        head_to_head([score(1.0)], [score(1.0, label=2)], ("a", "b"))
    none = Score((ImageScore(0, None, None, None, None, None, 1, 1, True),), None, 30.0, 1.0, 0, 0, 0, 1, 0)
    with pytest.raises(ParameterError, match="labels only"):
        head_to_head([none], [none], ("a", "b"))
    with pytest.raises(ParameterError, match="'a' has no image"):
        psnr_ssim({"a": [none]})
    with pytest.raises(ParameterError, match="at least one series"):
        psnr_ssim({})
