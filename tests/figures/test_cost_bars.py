import math

import pytest

from fedpriv.base.errors import ParameterError
from fedpriv.figures.cost_bars import CostBar, cost_bars, written_bytes, written_count, written_time
from fedpriv.figures.save import png


def attacks():
    return cost_bars(
        [
            CostBar("DLG", 12.5, 1200, 44_426 * 4),
            CostBar("Inverting gradients with a total-variation prior", 840.0, 24_000, 44_426 * 4),
            CostBar("R-GAP", 0.035, None, 44_426 * 4),
            CostBar("label counting", 0.0, 1, None),
        ],
        title="What each attack takes",
    )


def times_only():
    return cost_bars([CostBar("a", 3.0), CostBar("b", 1.5), CostBar("c", math.nan)])


def alone():
    return cost_bars([CostBar("a", 0.25, 10, 0)])


def zeros():
    return cost_bars([CostBar("a", 0.0, 0, 0), CostBar("b", 0.0, 0, None)], title="Free " * 40)


def many():
    return cost_bars([CostBar(f"method {i} that has a long name of many words", 10.0 ** (i - 6), i) for i in range(12)])


def minutes():
    return cost_bars([CostBar("a", 100.0, None, 1.2e6), CostBar("a_name_of_one_word_that_is_longer_than_a_line", 300)])


def spread():
    return cost_bars(
        [
            CostBar("a", 3.0, 40, seconds_range=(1.0, 90.0), evaluations_range=(0, 41)),
            CostBar("b", 5.0, 30, seconds_range=(5.0, 5.0)),
            CostBar("c", math.nan, 0, seconds_range=(1.0, 2.0), evaluations_range=(0, 35)),
        ],
        note="Bars are medians over the settings of a number of axes, and this note goes on for a while. " * 2,
    )


ALL = [attacks, times_only, alone, zeros, many, minutes, spread]


def panels(figure):
    return {a.get_gid(): a for a in figure.axes}


@pytest.mark.parametrize("make", ALL)
def test_it_is_legible(make, check_legible):
    check_legible(make())


def test_a_panel_for_each_quantity_that_was_measured():
    assert list(panels(attacks())) == ["seconds", "evaluations", "bytes_up"]
    assert list(panels(times_only())) == ["seconds"]
    assert list(panels(minutes())) == ["seconds", "bytes_up"]
    assert list(panels(cost_bars([CostBar("a", math.nan, 3)]))) == ["evaluations"]


def test_bars_end_at_their_values_and_in_the_order_of_the_rows():
    axes = panels(times_only())["seconds"]
    bars = [(p.get_y() + p.get_height() / 2, p.get_x(), p.get_x() + p.get_width()) for p in axes.patches]
    assert bars == [(0, 0, 3), (1, 0, 1.5)]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b", "c"]
    assert [t.get_text() for t in axes.texts] == ["3 s", "1.5 s", "–", "Time"]


def test_values_that_differ_much_are_on_a_logarithmic_axis_which_says_so():
    found = panels(attacks())
    assert {key: axes.get_xscale() for key, axes in found.items()} == {
        "seconds": "log",
        "evaluations": "log",
        "bytes_up": "linear",
    }
    said = {key: [t.get_text() for t in axes.texts] for key, axes in found.items()}
    assert "log scale" in said["seconds"]
    assert "log scale" not in said["bytes_up"]
    for axes in found.values():
        low, high = axes.get_xlim()
        assert all(low < p.get_x() + p.get_width() < high for p in axes.patches)
    ends = [p.get_x() + p.get_width() for p in found["seconds"].patches]
    assert ends == pytest.approx([12.5, 840, 0.035])
    scale = panels(cost_bars([CostBar("a", 1.0), CostBar("b", 50.0)]))["seconds"].get_xscale()
    assert scale == "linear"


def test_zero_is_written_and_has_no_bar():
    axes = panels(attacks())["seconds"]
    assert "0 s" in [t.get_text() for t in axes.texts]
    assert len(axes.patches) == 3
    assert all(not a.patches for a in zeros().axes)


def test_lines_show_the_range_and_numbers_stand_behind_them():
    figure = spread()
    found = panels(figure)
    lines = {key: [p.vertices.tolist() for c in axes.collections for p in c.get_paths()] for key, axes in found.items()}
    assert lines == {
        "seconds": [[[1, 0], [90, 0]], [[5, 1], [5, 1]]],
        "evaluations": [[[0, 0], [41, 0]], [[0, 2], [35, 2]]],
    }
    assert found["seconds"].get_xscale() == "log"  # 3 s and 5 s alone would not need it
    assert [t.get_text() for t in found["seconds"].texts[:3]] == ["3 s", "5 s", "–"]
    assert [t.xy for t in found["evaluations"].texts[:3]] == [(41, 0), (30, 1), (35, 2)]
    assert "Bars are medians" in figure.texts[0].get_text()


@pytest.mark.parametrize("make", [attacks, spread])
def test_names_stand_once_and_all_values_stay_in_their_panel(make):
    figure = make()
    figure.canvas.draw()
    for i, axes in enumerate(figure.axes):
        assert any(t.get_text() for t in axes.get_yticklabels()) is (i == 0)
        right = axes.get_window_extent().x1
        assert all(t.get_window_extent().x1 <= right + 1 for t in axes.texts)


@pytest.mark.parametrize(
    ("show", "value", "said"),
    [
        (written_time, 0.0, "0 s"),
        (written_time, 2.5e-10, "0.25 ns"),
        (written_time, 4.2e-5, "42 µs"),
        (written_time, 0.35, "350 ms"),
        (written_time, 0.9996, "1 s"),
        (written_time, 12.345, "12.3 s"),
        (written_time, 59.97, "1 min"),
        (written_time, 90, "1.5 min"),
        (written_time, 5400, "1.5 h"),
        (written_time, 86400 * 1234.4, "1,234 d"),
        (written_count, 0, "0"),
        (written_count, 850, "850"),
        (written_count, 999.7, "1k"),
        (written_count, 12_345, "12.3k"),
        (written_count, 4.5e6, "4.5M"),
        (written_bytes, 12, "12 B"),
        (written_bytes, 177_704, "178 kB"),
        (written_bytes, 4.5e6, "4.5 MB"),
        (written_bytes, 0, "0 B"),
    ],
)
def test_units(show, value, said):
    assert show(value) == said


def test_the_same_figure_gives_the_same_bytes():
    assert png(attacks()) == png(attacks())
    assert png(spread()) == png(spread())


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "at least one row"),
        ([CostBar("a", math.nan)], "none of the rows"),
        ([CostBar("a", -1.0)], "seconds=-1.0 of 'a'.*nan if"),
        ([CostBar("a", 1.0, math.inf)], "evaluations=inf of 'a'.*None if"),
        ([CostBar("a", 1.0, seconds_range=(2.0, 3.0))], "seconds=1.0 of 'a' must lie in its range"),
    ],
)
def test_what_cannot_be_drawn_is_refused(rows, said):
    with pytest.raises(ParameterError, match=said):
        cost_bars(rows)
