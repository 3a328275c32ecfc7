import itertools
import math

import pytest

from fedpriv.base.errors import ParameterError
from fedpriv.figures.save import png
from fedpriv.figures.success_epsilon import EpsilonPoint, success_epsilon


def point(series, epsilon, rate, label=""):
    return EpsilonPoint(series, epsilon, rate, max(0.0, rate - 0.12), min(1.0, rate + 0.12), label)


def two_series():
    return success_epsilon(
        [
            *(point("central DP", e, r, f"z = {z}") for e, r, z in ((8.0, 0.3, 0.5), (1.2, 0.05, 1), (300, 0.8, 0.1))),
            *(point("local DP", e, r) for e, r in ((8.0, 0.25), (60, 0.5), (2000, 0.9))),
            point("none", None, 0.95),
            point("local DP", math.inf, 0.6, "clipping only"),
            point("secure aggregation", None, 0.0, "secure aggregation of 8 clients"),
        ],
        delta=1e-5,
        title="What is left under each guarantee",
    )


def alone():
    return success_epsilon([point("", 3.0, 0.5, "z = 1")], delta=1e-5)


def without_guarantees():
    return success_epsilon([point("none", None, 1.0), point("pruning", math.inf, 0.4)], delta=0)


def zeros():
    return success_epsilon(
        [EpsilonPoint(s, e, 0.0, 0.0, 0.16, s) for s in ("central DP", "local DP") for e in (1, 3, 10)]
        + [EpsilonPoint("none", None, 0.0, 0.0, 0.16)],
        delta=1e-5,
    )


def one_place():
    return success_epsilon([point(f"series {i}", 3.0, 0.5, f"setting {i}") for i in range(6)], delta=1e-5)


def many_series():
    points = [
        point(f"defense {i} of a rather long name", 10 ** (0.5 * k - 1), k / 8 + i / 30)
        for i in range(12)
        for k in range(4)
    ]
    return success_epsilon([*points, *(point(f"defense {i} of a rather long name", None, 0.9) for i in range(12))],
                           delta=1e-6, title="Twelve")  # fmt: skip


def wide():
    return success_epsilon([point("a", 10.0**k, 0.5 + k / 50, f"10^{k}") for k in range(-6, 15)], delta=1e-5)


def crowd():
    names = [f"a setting named with many words, number {i}" for i in range(40)]
    points = [point("a", 3.0 + i / 40, 0.5, n) for i, n in enumerate(names)]
    return success_epsilon([*points, point("none", None, 1.0)], delta=1e-5)


SETTINGS = {"noise 1": 111, "noise 0.1": 6712, "noise 1e-2": 660_111, "noise 1e-3": 6.6e7, "noise 1e-4": 6.6e9}


def attacks():
    """Two attacks on the same settings, which stand beside each other under one name.

    The first choice of one name is the last of another.
    """
    rates = (0, 0), (0, 0), (0, 0), (0, 0.0417), (0.9167, 0.25)
    return success_epsilon(
        [
            EpsilonPoint(series, e, r[k], max(0, r[k] - 0.32), min(1, r[k] + 0.3), name)
            for k, series in enumerate(("one", "other"))
            for (name, e), r in zip(SETTINGS.items(), rates)
        ]
        + [EpsilonPoint("one", None, 1.0, 0.7, 1.0, f"central noise {i}") for i in range(6)],
        delta=1e-5,
    )


ALL = [attacks, two_series, alone, without_guarantees, zeros, one_place, many_series, wide, crowd]


def panels(figure):
    """The axes of points with a guarantee, and the strip of those without."""
    drawn = [a for a in figure.axes if a.axison]
    strips = [a for a in drawn if a.get_gid() == "no guarantee"]
    return [a for a in drawn if a not in strips], strips


@pytest.mark.slow
@pytest.mark.parametrize("make", ALL)
def test_it_is_legible(make, check_legible, check_labels):
    figure = make()
    check_legible(figure)
    check_labels(figure)


def test_points_are_joined_in_the_order_of_epsilon_and_those_without_stand_apart():
    (main,), (strip,) = panels(two_series())
    central, local = main.lines[0], main.lines[1]
    lines = [line for line in main.lines if line.get_linestyle() != "None"]
    central, local = (line.get_xydata().tolist() for line in lines)
    assert central == [[1.2, 0.05], [8, 0.3], [300, 0.8]]
    assert local == [[8, 0.25], [60, 0.5], [2000, 0.9]]
    dots = [line for line in strip.lines if line.get_marker() in "os^D"]
    assert [(d.get_xdata()[0], d.get_ydata()[0]) for d in dots] == [(0, 0.95), (1, 0.6), (2, 0)]
    said = [t.get_text().replace("\n", " ") for t in strip.get_xticklabels()]
    assert said == ["none", "clipping only", "secure aggregation of 8 clients"]
    assert [t.get_text() for t in strip.texts] == ["no guarantee"]
    # The same series looks the same on both sides.
    assert dots[1].get_color() == lines[1].get_color()
    assert dots[1].get_marker() == lines[1].get_marker()


def test_axes():
    (main,), (strip,) = panels(two_series())
    assert main.get_xscale() == "log"
    assert main.get_xlabel() == "ε at δ = 1e-5 (log scale)"
    assert main.get_ylim() == strip.get_ylim()
    main.figure.canvas.draw()
    assert [t.get_text() for t in main.get_yticklabels()] == ["0%", "20%", "40%", "60%", "80%", "100%"]
    assert main.get_xlim()[0] < 1.2 < 2000 < main.get_xlim()[1]
    assert main.get_position().x1 == pytest.approx(strip.get_position().x0)


def test_intervals_are_drawn_from_low_to_high():
    (main,), _ = panels(success_epsilon([EpsilonPoint("a", 2.0, 0.5, 0.2, 0.6)], delta=1e-5))
    (path,) = main.collections[0].get_paths()
    assert path.vertices.tolist() == [[2, pytest.approx(0.2)], [2, pytest.approx(0.6)]]


def test_series_at_one_epsilon_stand_beside_each_other():
    (main,), _ = panels(one_place())
    main.figure.canvas.draw()
    places = [line.get_transform().transform(line.get_xydata())[0, 0] for line in main.lines if len(line.get_xdata())]
    assert min(b - a for a, b in itertools.pairwise(sorted(set(places)))) > 3


def test_only_one_side_is_drawn_if_the_other_has_no_points():
    assert [len(side) for side in panels(alone())] == [1, 0]
    assert [len(side) for side in panels(without_guarantees())] == [0, 1]


def test_series_at_one_epsilon_share_their_setting_s_name():
    (main,), _ = panels(attacks())
    assert sorted(t.get_text() for t in main.texts) == sorted([*SETTINGS, "noise 1e-4"])


def test_settings_without_room_are_numbered_in_the_order_of_epsilon():
    figure = wide()
    (main,), _ = panels(figure)
    assert sorted(int(t.get_text()) for t in main.texts) == list(range(1, 22))
    key = [t.get_text().replace("\N{NO-BREAK SPACE}", " ") for t in figure.axes[-1].texts]
    assert key == [f"{k + 7}  10^{k}" for k in range(-6, 15)]


def test_every_label_is_written():
    for make, labels in (
        (two_series, {"z = 0.5", "z = 1", "z = 0.1"}),
        (one_place, {f"setting {i}" for i in range(6)}),
    ):
        words = "\n".join(t.get_text().replace("\N{NO-BREAK SPACE}", " ") for a in make().axes for t in a.texts)
        assert all(label in words for label in labels)
    assert sum("number" in t.get_text().replace("\n", " ") for a in crowd().axes for t in a.texts) == 40


@pytest.mark.slow
@pytest.mark.parametrize("make", [two_series, wide])
def test_the_same_figure_gives_the_same_bytes(make):
    assert png(make()) == png(make())


@pytest.mark.parametrize(
    ("points", "delta", "said"),
    [
        ([], 1e-5, "at least one point"),
        ([point("a", 1, 0.5)], 1.0, "delta"),
        ([point("a", 1, 0.5)], -1e-5, "delta"),
        ([point("a", 0, 0.5)], 1e-5, "must be positive, or None"),
        ([point("a", math.nan, 0.5)], 1e-5, "must be positive, or None"),
        ([EpsilonPoint("a", 1, 50, 0.4, 0.6)], 1e-5, "rate=50"),
        ([EpsilonPoint("a", 1, 0.5, math.nan, 0.6)], 1e-5, "low=nan"),
        ([EpsilonPoint("a", 1, 0.5, 0.6, 0.4)], 1e-5, "swap"),
    ],
)
def test_what_cannot_be_drawn_is_refused(points, delta, said):
    with pytest.raises(ParameterError, match=said):
        success_epsilon(points, delta=delta)
