import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.figures.style import PALETTE, arm, spread, wrap

wishes = st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 0.1)), min_size=1, max_size=8)


@given(wishes)
def test_spread_labels_stay_inside_and_never_touch(items):
    wanted, sizes = zip(*items, strict=True)
    places = spread(wanted, sizes, 0, 1)
    boxes = sorted((p - s / 2, p + s / 2) for p, s in zip(places, sizes, strict=True))
    assert boxes[0][0] >= -1e-9
    assert boxes[-1][1] <= 1 + 1e-9
    assert all(a[1] <= b[0] + 1e-9 for a, b in itertools.pairwise(boxes))


def test_labels_with_room_stay_where_they_want_to_be():
    assert spread([0.8, 0.2], [0.1, 0.1], 0, 1) == pytest.approx([0.8, 0.2])


def test_two_labels_at_one_place_part_evenly():
    assert sorted(spread([0.5, 0.5], [0.1, 0.1], 0, 1)) == pytest.approx([0.45, 0.55])


def test_labels_that_cannot_fit_overflow_evenly():
    places = spread([0.5] * 3, [1.0] * 3, 0, 1)
    assert sorted(places) == pytest.approx([-0.5, 0.5, 1.5])


def _luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("color", PALETTE)
def test_colours_stand_out_from_white(color):
    assert 1.05 / (_luminance(color) + 0.05) >= 2.0


def test_arms_differ_beyond_the_palette():
    looks = [(a.color, str(a.dashes), a.marker) for a in map(arm, range(3 * len(PALETTE)))]
    assert len(set(looks)) == len(looks)


def test_wrap_keeps_equations_together():
    assert wrap("Local DP noise, σ = 0.001", 18).replace("\N{NO-BREAK SPACE}", " ") == "Local DP noise,\nσ = 0.001"
