"""Mosaics: every image in its place, blank where there is none."""

import numpy as np
import pytest

from fedpriv.base.errors import ParameterError
from fedpriv.figures.mosaic import mosaic


def drawn(figure):
    """The panels' arrays, and all words."""
    shown = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    words = [t.get_text() for t in figure.texts] + [t.get_text() for axes in figure.axes for t in axes.texts]
    return shown, words


def test_images_stand_in_their_places_and_what_is_not_found_is_blank():
    images = np.linspace(0, 0.5, 5)[:, None, None, None] * np.ones((5, 2, 3, 1))
    found = images.copy()
    found[3] = np.nan
    found[4] = 7.0
    shown, words = drawn(mosaic({"Original": images, "peel": found, "none": None}, {"peel": "4 of 5", "none": "no"}))
    assert [panel.shape for panel in shown] == [(5, 11)] * 2  # two rows of three, a line between them
    for panel, values in zip(shown, ([0, 0.125, 0.25, 0.375, 0.5], [0, 0.125, 0.25, 0.87, 1]), strict=True):
        np.testing.assert_allclose(panel[0, ::4], values[:3])
        np.testing.assert_allclose(panel[3, [0, 4]], values[3:])
        assert panel[2].min() == panel[:, 3].min() == 1
    assert {"Original", "peel", "none", "4 of 5", "no"} <= set(words)


def test_colour_is_kept_and_what_are_no_images_is_refused():
    shown, _ = drawn(mosaic({"one": np.full((1, 4, 4, 3), 0.5)}))
    assert shown[0].shape == (4, 4, 3)
    with pytest.raises(ParameterError, match="panel 'two' must be images"):
        mosaic({"two": np.zeros((3, 4))})
    with pytest.raises(ParameterError, match="at least one panel"):
        mosaic({})
