import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedpriv.figures.labels import log_ticks, name_points, number_points, place_labels, plain
from fedpriv.figures.style import add_axes, new_figure

anchors = st.lists(st.tuples(st.floats(5, 295), st.floats(5, 195)), min_size=1, max_size=10)
shares = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=25)


def touch(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def gap(box, point):
    return np.hypot(*(max(box[k] - point[k], 0, point[k] - box[k + 2]) for k in (0, 1)))


def place(points, size=(40.0, 10.0), avoid=()):
    groups = [[i] for i in range(len(points))]
    return place_labels(np.array(points), groups, [size] * len(points), (300, 200), avoid)


def panel():
    return add_axes(new_figure(4, 3), 0.5, 0.2, 3, 2.5, xlim=(0, 1), ylim=(0, 1))


def written(axes):
    """The numbers in the labels of the axes, with ranges in full."""
    parts = [part.split("–") for text in axes.texts for part in text.get_text().split(", ")]
    return sorted(n for part in parts for n in range(int(part[0]), int(part[-1]) + 1))


@settings(max_examples=30, deadline=None)
@given(anchors)
def test_labels_are_inside_clear_of_each_other_and_nearest_to_their_own_point(points):
    bar = (100.0, 50.0, 102.0, 150.0)
    found = place(points, avoid=[bar])
    boxes = [b for b in found if b]
    assert all(b[0] >= 0 and b[1] >= 0 and b[2] <= 300 and b[3] <= 200 for b in boxes)
    assert not any(touch(b, bar) for b in boxes)
    assert not any(touch(a, b) for a, b in itertools.combinations(boxes, 2))
    for i, box in enumerate(found):
        others = [gap(box, p) for j, p in enumerate(points) if j != i] if box else []
        assert all(other > gap(box, points[i]) >= 5 for other in others)


def test_a_label_alone_stands_right_of_its_point():
    assert place([(100.0, 100.0)]) == [(107, 95, 147, 105)]


def test_the_label_of_several_points_stands_beside_all_of_them():
    points = np.array([(100.0, 100.0), (110.0, 104.0)])
    assert place_labels(points, [[0, 1]], [(40, 10)], (300, 200)) == [(117, 97, 157, 107)]


def test_labels_without_room_have_no_place():
    assert place([(10.0, 10.0)], (400, 10)) == [None]
    assert place([(100.0, 100.0)], avoid=[(0, 0, 300, 200)]) == [None]


def test_a_label_gives_way_to_one_that_has_no_other_room():
    """Only along one line is there room, and right of the second point there is none."""
    walls = [(0, 0, 300, 93), (0, 107, 300, 200), (250, 0, 300, 200)]
    assert place([(100.0, 100.0), (200.0, 100.0)], (80, 10), walls) == [(13, 95, 93, 105), (113, 95, 193, 105)]


def test_names_are_written_only_if_all_have_room():
    axes = panel()
    assert name_points(axes, [(0.2, 0.5), (0.7, 0.5), (0.5, 0.1)], ["left", "right", ""])
    assert [t.get_text() for t in axes.texts] == ["left", "right"]
    axes = panel()
    assert not name_points(axes, [(0.2, 0.5), (0.7, 0.5)], ["left", "right " * 20])
    assert not name_points(axes, [(0.2, 0.5), (0.202, 0.5)], ["one", "on another"])
    assert not axes.texts


def test_points_of_one_name_in_one_place_share_it():
    axes = panel()
    assert name_points(axes, [(0.2, 0.5), (0.21, 0.54), (0.7, 0.5)], ["same", "same", "same"])
    assert [t.get_text() for t in axes.texts] == ["same", "same"]


def test_points_in_one_place_share_a_label_of_their_numbers():
    axes = panel()
    number_points(axes, [(0.2, 0.5)] * 5 + [(0.7, 0.5)] * 2 + [(0.1, 0.9)], [7, 5, 6, 2, None, 8, 9, 3])
    assert [t.get_text() for t in axes.texts] == ["2, 5–7", "8, 9", "3"]


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(shares, st.booleans())
@example([(i / 10, k / 10) for i in range(11) for k in range(11)], False)
def test_every_number_is_written_however_crowded(points, full):
    axes = panel()
    number_points(axes, points, list(range(1, len(points) + 1)), avoid=[(0, 0, 300, 300)] if full else [])
    assert written(axes) == list(range(1, len(points) + 1))


@example(0.00202942, 1.44801)
@example(1.0, 1e8)
@given(st.floats(1e-8, 1e8), st.floats(1.3, 1e12))
def test_logarithmic_axes_have_a_few_round_ticks(low, factor):
    ticks = log_ticks(low, low * factor)
    assert 2 <= len(ticks) <= 8
    assert all(low * 0.999 <= t <= low * factor * 1.001 for t in ticks)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (3, 3.5, [3, 3.1, 3.2, 3.3, 3.4, 3.5]),
        (1, 5, [1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5]),
        (1, 100, [1, 2, 5, 10, 20, 50, 100]),
    ],
)
def test_ticks_are_as_fine_as_there_is_room(low, high, ticks):
    assert log_ticks(low, high, most=10) == pytest.approx(ticks)


def test_numbers_of_ticks_are_readable():
    said = {0.05: "0.05", 1000: "1,000", 2e7: "2·10⁷", 1e-6: "10⁻⁶", 0: "0", -3: "−3", 1e6: "10⁶", 250_000: "250,000"}
    assert {v: plain(v) for v in said} == said
