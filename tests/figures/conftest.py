"""What makes a figure legible, for the tests of all figures."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.cbook import STEP_LOOKUP_MAP
from matplotlib.path import Path
from matplotlib.text import Text


def _words(figure):
    """Every text drawn, with the box of its letters (an annotation's own box would include its leader line)."""
    figure.canvas.draw()
    texts = list(figure.texts)
    for axes in figure.axes:
        texts += [*axes.texts, axes.title]
        if not axes.axison:
            continue
        texts += [axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            texts += [t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
    return [(t.get_text(), Text.get_window_extent(t)) for t in texts if t.get_visible() and t.get_text().strip()]


def _overlap(u, v):
    return min(u.x1, v.x1) - max(u.x0, v.x0), min(u.y1, v.y1) - max(u.y0, v.y0)


def _markers(figure):
    """(x, y) in pixels of every marker drawn inside axes."""
    return [
        line.get_transform().transform(xy)
        for axes in figure.axes
        for line in axes.lines
        if axes.axison and line.get_marker() in ("o", "s", "^", "D", "v", "P", "X")
        for xy in line.get_xydata()
        if xy[1] == xy[1]
    ]


def _check_legible(figure):
    width, height = figure.get_size_inches() * figure.dpi
    found = _words(figure)
    assert found
    for text, box in found:
        assert box.x0 >= -0.5, text
        assert box.y0 >= -0.5, text
        assert box.x1 <= width + 0.5, text
        assert box.y1 <= height + 0.5, text
    for (a, u), (b, v) in itertools.combinations(found, 2):
        across, along = _overlap(u, v)
        assert across < 0.5 or along < 1.5, (a, b)
    bars = [p.get_window_extent() for axes in figure.axes if axes.axison for p in axes.patches]
    for text, box in found:
        assert not any(min(_overlap(box, bar)) > 0.5 for bar in bars), f"{text} is on a bar"
        for x, y in _markers(figure):
            assert not (box.x0 < x < box.x1 and box.y0 < y < box.y1), f"{text} is on a marker"
    assert min(t.get_fontsize() for t in figure.findobj(Text) if t.get_text().strip()) >= 7
    for axes in figure.axes:
        assert axes.get_legend() is None


def _check_labels(figure):
    """Measured as drawn: labels beside points cover no marker, line or error bar, and stay in their axes."""
    figure.canvas.draw()
    for axes in figure.axes:
        boxes = [Text.get_window_extent(t) for t in axes.texts if getattr(t, "xycoords", "") == "axes points"]
        drawn = [bars.get_transform().transform_path(p) for bars in axes.collections for p in bars.get_paths()]
        for line in (a for a in axes.lines if a.get_linestyle() != "None"):
            xy = STEP_LOOKUP_MAP[line.get_drawstyle()](*line.get_data())
            drawn.append(line.get_transform().transform_path(Path(np.transpose(xy))))
        around = axes.get_window_extent()
        for box in boxes:
            assert around.contains(*box.min)
            assert around.contains(*box.max)
            assert not any(path.intersects_bbox(box, filled=False) for path in drawn)
        radius = 3 * figure.dpi / 72
        for (x, y), box in itertools.product(_markers(figure), boxes):
            assert not box.padded(radius).contains(x, y)


@pytest.fixture
def words() -> Callable:
    """`words(figure)`: (text, box in pixels) of every text that is drawn."""
    return _words


@pytest.fixture
def check_legible() -> Callable:
    """`check_legible(figure)`: no text is clipped, small, or runs into another, a bar or a marker; no legend boxes."""
    return _check_legible


@pytest.fixture
def check_labels() -> Callable:
    """`check_labels(figure)`: labels beside points cover no marker, line or error bar, and stay in their axes."""
    return _check_labels
