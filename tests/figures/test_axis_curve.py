import math

import numpy as np
import pytest

from fedpriv.base.errors import ParameterError
from fedpriv.figures.axis_curve import AxisPoint, axis_curve
from fedpriv.figures.save import png


def points(x=(1, 2, 4, 8), y=(0.9, 0.6, 0.3, 0.1), half=0.1, trials=20):
    return [AxisPoint(a, b, max(0, b - half), min(1, b + half), trials) for a, b in zip(x, y)]


def curve(series, **options):
    return axis_curve(series, **{"x_label": "Clients a round", "y_label": "Success rate", **options})


def rates():
    return curve(
        {"DLG": points(), "Inverting gradients with a prior": points(y=(1, 0.8, 0.5, 0.2))},
        log_x=True,
        title="How a larger cohort protects",
    )


def psnrs():
    return axis_curve(
        {
            "iDLG": [AxisPoint(e, 40 - e, 36 - e, 43 - e, 8 + e % 3) for e in (0, 1, 5, 10, 20)],
            "inverting gradients": [AxisPoint(0, 33.0), AxisPoint(1, None), AxisPoint(5, 22), AxisPoint(10, 20)],
        },
        x_label="Training stage (rounds done)",
        y_label="Median PSNR (dB)",
        reference=("30 dB", 30.0),
    )


def many_arms():
    series = {
        f"arm {i} with a name that is rather long": points(y=[max(0, v - 0.05 * i) for v in (0.9, 0.8, 0.7, 0.6)])
        for i in range(12)
    }
    return curve(series, log_x=True)


def zeros():
    return curve({name: points(y=[0.0] * 4, half=0.16) for name in "abc"}, title="Nothing works " * 12)


def alone():
    return curve({"a": [AxisPoint(1, 0.5)]})


def one_word():
    return curve({"a_name_without_any_space_in_it_that_goes_on_for_very_long": points()}, y_label="Success rate " * 9)


def crowded():
    x = (1, 2, 3, 4, 5, 6, 7, 8, 100, 1000, 10_000, 100_000)
    return curve({"a": points(x, np.linspace(1, 0, 12))}, x_label="Batch size")


def long():
    x = np.geomspace(1, 1e5, 30)
    return curve({n: points(x, np.linspace(a, 0, 30)) for n, a in (("a", 1), ("b", 0.6))}, log_x=True)


def decibels_of_one_value():
    return axis_curve({"exact": [AxisPoint(1, 100.0), AxisPoint(2, 100.0)]}, x_label="Steps", y_label="PSNR (dB)")


ALL = [rates, psnrs, many_arms, zeros, alone, one_word, crowded, long, decibels_of_one_value]


def arms(figure):
    """The lines of the arms, in order."""
    return [line for line in figure.axes[0].lines if line.get_zorder() == 3]


@pytest.mark.parametrize("make", ALL)
def test_it_is_legible(make, check_legible):
    check_legible(make())


@pytest.mark.parametrize("make", ALL)
def test_all_data_are_inside_the_axes_also_when_arms_stand_aside(make):
    figure = make()
    figure.canvas.draw()
    box = figure.axes[0].get_window_extent()
    for line in arms(figure):
        for x, y in line.get_transform().transform(line.get_xydata()):
            assert math.isnan(y) or (box.x0 < x < box.x1 and box.y0 < y < box.y1)
    for collection in figure.axes[0].collections:
        for path in collection.get_paths():
            low, high = figure.axes[0].get_ylim()
            assert all(low <= y <= high for _, y in path.vertices if not math.isnan(y))


def test_one_line_an_arm_through_its_points_with_its_own_look():
    figure = axis_curve(
        {"a": [AxisPoint(4, 2.0), AxisPoint(1, 1.0)], "b": [AxisPoint(1, 3.0)]}, x_label="x", y_label="y"
    )
    a, b = arms(figure)
    assert a.get_xydata().tolist() == [[1, 1], [4, 2]]
    assert b.get_xydata().tolist() == [[1, 3]]
    assert a.get_color() != b.get_color()
    assert a.get_marker() != b.get_marker()


def test_intervals_go_from_low_to_high_even_around_another_middle():
    figure = axis_curve({"a": [AxisPoint(1, 5.0, 1.0, 4.0), AxisPoint(2, 5.0)]}, x_label="x", y_label="y")
    (bars,) = figure.axes[0].collections
    (path,) = bars.get_paths()
    assert path.vertices.tolist() == [[1, 1], [1, 4]]


def test_ticks_are_the_measured_settings():
    axes = rates().axes[0]
    assert axes.get_xscale() == "log"
    assert axes.get_xticks().tolist() == [1, 2, 4, 8]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "2", "4", "8"]
    assert axes.get_xlabel() == "Clients a round (log scale)"
    # Where the words of ticks have no room the ticks stay.
    axes = crowded().axes[0]
    said = [t.get_text() for t in axes.get_xticklabels()]
    assert len(axes.get_xticks()) == 12
    assert said[-1] == "100,000"
    assert "" in said


def test_many_settings_have_an_ordinary_axis_and_bands():
    figure = long()
    assert len(figure.axes[0].get_xticks()) < 12
    assert [type(c).__name__ for c in figure.axes[0].collections] == ["FillBetweenPolyCollection"] * 2 or all(
        len(c.get_paths()[0].vertices) > 60 for c in figure.axes[0].collections
    )
    assert any("Bands" in t.get_text() for t in figure.texts)


def test_what_was_not_measured_is_a_gap():
    _, line = arms(psnrs())
    assert np.isnan(line.get_ydata()).tolist() == [False, True, False, False]


def test_an_arm_that_ends_early_is_led_to_its_name():
    figure = psnrs()
    dotted = [line for line in figure.axes[0].lines if line.get_gid() == "to the name"]
    assert [line.get_xdata()[0] for line in dotted] == [20, 10]
    assert dotted[1].get_ydata().tolist() == [20, 20]


def test_rates_have_a_percent_axis_and_other_numbers_have_not():
    axes = rates().axes[0]
    axes.figure.canvas.draw()
    assert [t.get_text() for t in axes.get_yticklabels()] == ["0%", "20%", "40%", "60%", "80%", "100%"]
    assert axes.get_ylim()[0] < 0 < 1 < axes.get_ylim()[1] < 1.1
    for label, y in (("SSIM", 0.5), ("Success rate", 1.5), ("Rates of the separated", 30), ("Iterated", 0.5)):
        other = axis_curve({"a": [AxisPoint(1, y), AxisPoint(2, y)]}, x_label="x", y_label=label).axes[0]
        other.figure.canvas.draw()
        assert not any("%" in t.get_text() for t in other.get_yticklabels()), label


def test_the_reference_is_named_and_in_sight():
    figure = axis_curve({"a": [AxisPoint(1, 8.0)]}, x_label="x", y_label="PSNR (dB)", reference=("30 dB", 30.0))
    axes = figure.axes[0]
    (mark,) = [line for line in axes.lines if list(line.get_ydata()) == [30.0, 30.0]]
    assert mark.is_dashed()
    assert axes.get_ylim()[0] < 8 < 30 < axes.get_ylim()[1]
    assert "30 dB" in [t.get_text() for t in axes.texts]


def test_the_note_says_what_bars_are_and_how_many_trials():
    assert [t.get_text() for t in rates().texts][-1] == "Bars: 95% intervals. 20 trials a point."
    assert [t.get_text() for t in psnrs().texts] == ["Bars: 95% intervals. 8 to 10 trials a point."]
    assert not alone().texts


def test_arms_stand_nearer_to_their_setting_than_to_the_next():
    figure = many_arms()
    figure.canvas.draw()
    places = np.array([line.get_transform().transform(line.get_xydata())[:, 0] for line in arms(figure)])
    width = places.max(axis=0) - places.min(axis=0)
    gaps = np.diff(places.mean(axis=0))
    assert (width > 5).all()
    assert width.max() < gaps.min() / 2 + 0.1


def test_the_same_figure_gives_the_same_bytes():
    assert png(rates()) == png(rates())


@pytest.mark.parametrize(
    ("series", "options", "said"),
    [
        ({}, {}, "at least one arm"),
        ({"a": []}, {}, "'a' has no measured point"),
        ({"a": [AxisPoint(1, None), AxisPoint(2, math.nan)]}, {}, "'a' has no measured point"),
        ({"a": [AxisPoint(1, 0.5), AxisPoint(1, 0.6)]}, {}, "two points at x=1"),
        ({"a": [AxisPoint(0, 0.5)]}, {"log_x": True}, "log_x=False"),
        ({"a": [AxisPoint(math.nan, 0.5)]}, {}, "finite setting"),
        ({"a": [AxisPoint(1, math.inf)]}, {}, "cap it"),
        ({"a": [AxisPoint(1, 0.5, 0.4)]}, {}, "half an interval"),
        ({"a": [AxisPoint(1, 0.5, 0.6, 0.4)]}, {}, "swap"),
        ({"a": [AxisPoint(1, 0.5)]}, {"reference": ("x", math.inf)}, "reference 'x'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(series, options, said):
    with pytest.raises(ParameterError, match=said):
        curve(series, **options)
