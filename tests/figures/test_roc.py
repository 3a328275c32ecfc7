"""ROC curves: logarithmic, from the first rate that can be seen, with areas that are the rankings' own."""

import numpy as np
import pytest

from fedpriv.base.errors import ParameterError
from fedpriv.figures.roc import roc_curves
from fedpriv.metrics.roc import Ranking


def ranked(shift, n=40, seed=0):
    truth = np.arange(n) % 2 == 0
    confidence = np.random.default_rng(seed).normal(truth * shift)
    return Ranking(confidence, truth, [0] * n, [0] * n)


def test_curves_are_the_rankings_on_logarithmic_axes():
    series = {"strong": ranked(3.0), "weak": ranked(0.2)}
    (axes,) = roc_curves(series, title="Who was there?").axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    guessing, *curves = axes.get_lines()
    np.testing.assert_array_equal(*guessing.get_data())
    low = axes.get_xlim()[0]
    assert low <= 1 / 20
    for line, ranking in zip(curves, series.values(), strict=True):
        false, true = ranking.curve()
        np.testing.assert_allclose(line.get_xdata(), np.maximum(false, low))
        np.testing.assert_allclose(line.get_ydata(), np.maximum(true, low))
    words = " ".join(t.get_text() for t in axes.get_legend().get_texts())
    assert f"AUC {ranked(3.0).auc()[0]:.2f}" in words


def test_what_cannot_be_drawn_is_named():
    with pytest.raises(ParameterError, match="at least one series"):
        roc_curves({})
    with pytest.raises(ParameterError, match="both kinds"):
        roc_curves({"a": Ranking(np.zeros(2), np.ones(2, bool), [0, 0], [0, 0])})
