import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text

from fedpriv.base.errors import ParameterError
from fedpriv.figures.pareto import ParetoPoint, front, pareto_front
from fedpriv.figures.save import png


def defenses():
    return pareto_front(
        [
            ParetoPoint("no defense", 0.91, 0.95, 0.8, 0.99, 0.9, 0.92),
            ParetoPoint("central DP", 0.85, 0.30, 0.15, 0.5, 0.83, 0.87, "noise", 8.0),
            ParetoPoint("central DP", 0.72, 0.05, 0.0, 0.2, 0.7, 0.74, "noise", 1.2),
            ParetoPoint("local DP", 0.70, 0.30, 0.15, 0.5, group="noise", epsilon=3.2e7),
            ParetoPoint("gradient pruning, 90%", 0.88, 0.65, 0.45, 0.8, group="compression"),
            ParetoPoint("secure aggregation of 8", 0.91, 0.0, 0.0, 0.16, group="cryptography", epsilon=math.inf),
        ],
        title="What protection costs",
    )


def alone():
    return pareto_front([ParetoPoint("only", 0.5, 0.5)])


def zeros():
    return pareto_front([ParetoPoint(f"defense {i}", 0.5 + i / 50, 0.0, 0.0, 0.16) for i in range(8)])


def one_place():
    return pareto_front([ParetoPoint(f"defense {i}", 0.9, 0.0, 0.0, 0.1, group="abc"[i % 3]) for i in range(9)])


def many():
    names = "a defense with a rather long name", "short", "a_name_without_any_space_in_it_at_all"
    return pareto_front(
        [
            ParetoPoint(f"{names[i % 3]} {i}", 0.6 + 0.3 * ((7 * i) % 12) / 12, ((5 * i) % 13) / 13, group=f"group {i}")
            for i in range(12)
        ],
        title="A title of many words " * 6,
    )


def perfect():
    return pareto_front([ParetoPoint("perfect", 1.0, 0.0), ParetoPoint("useless", 0.0, 1.0)])


def crowd():
    return pareto_front([ParetoPoint(f"one of very many points, {i}", 0.9 + i / 1e4, 0.5) for i in range(60)])


def corners():
    """Two corners with three settings each, two of them in one place, and one setting far off."""
    return pareto_front(
        [
            ParetoPoint("no defense", 0.715, 1.0, 0.57, 1.0),
            ParetoPoint("weak noise", 0.7235, 1.0, 0.57, 1.0),
            ParetoPoint("some noise", 0.7225, 0.0, 0.0, 0.43),
            ParetoPoint("more noise", 0.7165, 0.0, 0.0, 0.43, epsilon=6710),
            ParetoPoint("most noise", 0.298, 0.0, 0.0, 0.43, epsilon=111),
            ParetoPoint("sum of 8", 0.7235, 1.0, 0.68, 1.0),
            ParetoPoint("sum of 30", 0.7235, 0.0, 0.0, 0.11),
        ]
    )


ALL = [defenses, alone, zeros, one_place, many, perfect, crowd, corners]


def dots(figure):
    """(x, y, filled) of each point."""
    axes = figure.axes[0]
    return [
        (*line.get_xydata()[0], line.get_markerfacecolor() != "white")
        for line in axes.lines
        if line.get_marker() in ("o", "s", "^", "D", "v", "P", "X")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("make", ALL)
def test_it_is_legible(make, check_legible, check_labels):
    figure = make()
    check_legible(figure)
    check_labels(figure)


@pytest.mark.parametrize("make", ALL)
def test_every_point_and_interval_is_in_sight(make):
    axes = make().axes[0]
    (a, b), (c, d) = axes.get_xlim(), axes.get_ylim()
    assert all(a < x < b and c < y < d for x, y, _ in dots(axes.figure))
    for bars in axes.collections:
        for path in bars.get_paths():
            assert all(a <= x <= b and c <= y <= d for x, y in path.vertices)


def test_the_front_is_filled_and_joined_by_steps_that_rise_first():
    points = [ParetoPoint(n, x, y) for n, x, y in (("a", 0.9, 0.5), ("b", 0.7, 0.1), ("c", 0.7, 0.2), ("d", 0.8, 0.3))]
    figure = pareto_front(points)
    assert dots(figure) == [(0.9, 0.5, True), (0.7, 0.1, True), (0.7, 0.2, False), (0.8, 0.3, True)]
    (steps,) = [line for line in figure.axes[0].lines if line.get_gid() == "Pareto front"]
    assert steps.get_xydata().tolist() == [[0.7, 0.1], [0.8, 0.3], [0.9, 0.5]]
    assert steps.get_drawstyle() == "steps-pre"
    assert {"a", "b", "c", "d", "on the Pareto front", "dominated"} <= {w for axes in figure.axes for w in said(axes)}


def test_without_dominated_points_the_key_has_no_entry_for_them():
    assert [words for axes in alone().axes for words in said(axes)] == ["only", "on the Pareto front"]


def test_groups_share_looks_and_are_named():
    figure = defenses()
    axes, key = figure.axes
    colors = [line.get_color() for line in axes.lines if line.get_marker() in ("o", "s", "^", "D")]
    assert len(set(colors)) == 4
    assert colors[1] == colors[2] == colors[3]
    assert [t.get_text() for t in key.texts][:3] == ["noise", "compression", "cryptography"]


def test_epsilon_is_written_after_the_name():
    assert said(defenses().axes[0]) == [
        *("no defense", "central DP ε 8", "central DP ε 1.2", "local DP ε 3.2·10⁷"),
        *("gradient pruning, 90%", "secure aggregation of 8 ε ∞"),
    ]


def test_axes():
    axes = pareto_front([ParetoPoint("a", 0.9, 0.5)], x_label="Accuracy", y_label="Faces").axes[0]
    assert axes.get_xlabel() == "Accuracy (more useful →)"
    assert axes.get_ylabel() == "Faces\n← more private"
    axes.figure.canvas.draw()
    assert all(t.get_text().endswith("%") for t in (*axes.get_xticklabels(), *axes.get_yticklabels()))


def test_names_stay_near_their_points_while_there_is_room():
    figure = defenses()
    axes = figure.axes[0]
    figure.canvas.draw()
    for text, (x, y, _) in zip(axes.texts, dots(figure), strict=True):
        box = Text.get_window_extent(text)
        px, py = axes.transData.transform((x, y))
        gap = math.hypot(max(box.x0 - px, 0, px - box.x1), max(box.y0 - py, 0, py - box.y1))
        assert gap < 20, text.get_text()


def said(axes):
    return [t.get_text().replace("\N{NO-BREAK SPACE}", " ").replace("\n", " ") for t in axes.texts]


def test_crowded_points_are_numbered_and_a_key_names_them_with_their_looks():
    axes, _, key = corners().axes
    assert said(axes) == ["1–3", "5–7", "4"]
    assert said(key) == [
        "numbers from the top, then the left:",
        *("1  no defense", "2  weak noise", "3  sum of 8", "4  most noise ε 111"),
        *("5  more noise ε 6,710", "6  some noise", "7  sum of 30"),
    ]
    assert [line.get_markerfacecolor() == "white" for line in key.lines] == [True] * 6 + [False]


def test_a_figure_of_very_many_points_names_them_all():
    axes, _, key = crowd().axes
    assert said(axes) == ["1–60"]
    assert sum("very many" in words for words in said(key)) == 60


def brute(points):
    def dominates(q, p):
        better = q.accuracy >= p.accuracy and q.leakage <= p.leakage
        return better and (q.accuracy > p.accuracy or q.leakage < p.leakage)

    return [i for i, p in enumerate(points) if not any(dominates(q, p) for q in points)]


few = st.integers(0, 5).map(lambda k: k / 5)
some_points = st.lists(st.builds(ParetoPoint, st.just("p"), few | st.floats(0, 1), few | st.floats(0, 1)), max_size=12)


@given(some_points)
def test_the_front_is_what_nothing_dominates(points):
    assert front(points) == brute(points)


def test_points_in_one_place_are_on_the_front_together():
    assert front([ParetoPoint("a", 0.5, 0.5)] * 2) == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("make", [defenses, corners])
def test_the_same_figure_gives_the_same_bytes(make):
    assert png(make()) == png(make())


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([], "at least one point"),
        ([ParetoPoint("a", 91.0, 0.5)], "accuracy=91.0"),
        ([ParetoPoint("a", 0.9, math.nan)], "leakage=nan"),
        ([ParetoPoint("a", 0.9, 0.5, 0.4)], "half an interval"),
        ([ParetoPoint("a", 0.9, 0.5, 0.6, 0.4)], "swap low"),
        ([ParetoPoint("a", 0.9, 0.5, accuracy_low=0.95, accuracy_high=0.8)], "swap accuracy_low"),
        ([ParetoPoint("a", 0.9, 0.5, epsilon=-1.0)], "negative"),
    ],
)
def test_what_cannot_be_drawn_is_refused(points, said):
    with pytest.raises(ParameterError, match=said):
        pareto_front(points)
