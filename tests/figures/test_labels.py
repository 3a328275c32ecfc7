import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedpriv.figures.labels import log_ticks, place_names, plain

anchors = st.lists(st.tuples(st.floats(5, 295), st.floats(5, 195)), min_size=1, max_size=10)


def box(centre, size):
    return (*(c - s / 2 for c, s in zip(centre, size)), *(c + s / 2 for c, s in zip(centre, size)))


def touch(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@settings(max_examples=30, deadline=None)
@given(anchors)
def test_names_are_inside_and_clear_of_points_and_of_each_other(points):
    sizes = [(40.0, 10.0)] * len(points)
    bar = (100.0, 50.0, 102.0, 150.0)
    places = place_names(np.array(points), sizes, (300, 200), [bar])
    boxes = [box(place, size) for place, size in zip(places, sizes) if place]
    assert all(b[0] >= 0 and b[1] >= 0 and b[2] <= 300 and b[3] <= 200 for b in boxes)
    assert not any(touch(b, bar) for b in boxes)
    assert not any(b[0] < x < b[2] and b[1] < y < b[3] for b in boxes for x, y in points)
    assert not any(touch(a, b) for a, b in itertools.combinations(boxes, 2))


def test_a_name_alone_stands_right_of_its_point():
    ((x, y),) = place_names(np.array([[100.0, 100.0]]), [(40, 10)], (300, 200))
    assert (x, y) == (126, 100)


def test_a_line_is_covered_only_if_there_is_no_other_place():
    line = (104.0, 0.0, 300.0, 200.0)
    ((x, _),) = place_names(np.array([[100.0, 100.0]]), [(40, 10)], (300, 200), [], [line])
    assert x < 100
    ((x, _),) = place_names(np.array([[10.0, 100.0]]), [(40, 10)], (300, 200), [], [(0, 0, 300, 200)])
    assert x > 10


def test_names_without_room_have_no_place():
    assert place_names(np.array([[10.0, 10.0]]), [(400, 10)], (300, 200)) == [None]
    assert place_names(np.array([[10.0, 10.0]]), [(0, 0)], (300, 200)) == [None]


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
