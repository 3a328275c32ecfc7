import numpy as np
import pytest

from fedpriv.base.errors import ParameterError
from fedpriv.figures.psnr_curve import psnr_curve
from fedpriv.metrics.progress import Progress


def way(evaluations, psnr):
    psnr = np.array(psnr, float)
    return Progress(np.array(evaluations, float), np.zeros((*psnr.shape, 1)), psnr, np.zeros(len(psnr)))


def lines(figure):
    return [line for line in figure.axes[0].lines if len(line.get_xdata()) > 2]


def at(line, x):
    return float(np.interp(np.log(x), np.log(line.get_xdata()), line.get_ydata()))


def test_the_line_is_the_median_and_the_band_the_quartiles():
    figure = psnr_curve({"a": [way([1, 10, 100], [[10, 20], [20, 30], [30, 40]]), way([1, 100], [[12], [50]])]})
    (line,) = lines(figure)
    assert at(line, 1) == pytest.approx(12)
    assert at(line, 100) == pytest.approx(40)
    (band,) = figure.axes[0].collections
    heights = [y for x, y in band.get_paths()[0].vertices if x == pytest.approx(100)]
    assert (min(heights), max(heights)) == pytest.approx((35, 45))


def test_what_has_ended_keeps_its_last_value():
    figure = psnr_curve(
        {"a": [way([1, 10], [[10], [20]]), way([1, 1000], [[10], [40]])], "b": [way([1, 10], [[5]] * 2)]}
    )
    a, b = lines(figure)
    assert at(a, 1000) == pytest.approx(30)
    assert b.get_xdata()[-1] == pytest.approx(10)


def test_exact_images_stay_on_the_page():
    figure = psnr_curve({"a": [way([1, 10], [[10], [np.inf]])]})
    assert max(lines(figure)[0].get_ydata()) == 100
    assert figure.axes[0].get_ylim()[1] < 110


def test_one_image_has_no_band_and_the_axis_is_logarithmic():
    figure = psnr_curve({"a": [way([1, 10], [[10], [20]])]}, threshold_db=None)
    assert not figure.axes[0].collections
    assert figure.axes[0].get_xscale() == "log"


def test_a_single_record_can_be_drawn():
    psnr_curve({"a": [way([1], [[10]])]})


def test_nothing_to_draw_is_refused():
    with pytest.raises(ParameterError, match="at least one attack"):
        psnr_curve({})
    with pytest.raises(ParameterError, match="'a' has no progress"):
        psnr_curve({"a": []})
