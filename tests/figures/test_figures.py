"""What every figure promises: nothing clipped, nothing overlapping, the same bytes twice, two files."""

import io
import itertools
import json
import math

import matplotlib
import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from fedpriv.base.errors import FedprivError, ParameterError
from fedpriv.figures.curves import training_curves
from fedpriv.figures.film_strip import film_strip
from fedpriv.figures.heat_table import heat_table
from fedpriv.figures.psnr_curve import psnr_curve
from fedpriv.figures.reconstructions import quality_captions, reconstruction_grid
from fedpriv.figures.save import _render, pdf, png, save
from fedpriv.figures.scatter import head_to_head, psnr_ssim
from fedpriv.figures.style import new_figure, styled
from fedpriv.figures.tradeoff import Point, privacy_utility
from fedpriv.metrics.progress import progress
from fedpriv.metrics.score import ImageScore, Score
from fedpriv.threat.attack import Finding


def images(n=3, h=12, w=10, c=3, seed=0):
    return np.random.default_rng(seed).random((n, h, w, c))


def grid():
    x = images(7)
    broken = x.copy()
    broken[2, 0, 0, 0] = np.nan
    captions = {"No defense": ["31.4 dB\nSSIM 0.98"] * 7, "Local DP, σ = 0.01": ["8.8 dB\nSSIM 0.03"] * 7}
    rows = {"No defense": x, "Local DP, σ = 0.01": broken, "One aggregator's shares": None}
    return reconstruction_grid(x, rows, captions, columns=4, title="Gradient inversion with and without defenses")


def points(series, offset=0.0, levels=(0.1, 0.3, 1, 3)):
    return [
        Point(
            series, z, 0.85 - 0.1 * z - offset, 25 - 5 * z, 10 / z, (0.7, 0.86), (10, 26), tuple(range(10, 20)),
        )
        for z in levels
    ]  # fmt: skip


def tradeoff():
    other = [
        Point("none", 0, 0.86, 40, math.inf),
        Point("secure sum", None, 0.86, 12, None, slot="secure aggregation of 8 clients"),
        Point("secure sum", None, 0.86, None, None, slot="shares only"),
    ]
    return privacy_utility([*other, *points("central DP")], delta=1e-5, chance=0.1, title="Noise against accuracy")


def tradeoff_of_two():
    return privacy_utility(
        [Point("none", 0, 0.86, math.inf, math.inf), *points("central DP"), *points("local DP", 0.001)], delta=1e-5
    )


def dense_tradeoff():
    levels = tuple(np.round(np.geomspace(0.1, 3, 14), 2))
    return privacy_utility([Point("none", 0, 0.86, 40, math.inf), *points("central DP", levels=levels)], delta=1e-5)


def run(rate, rounds=20, every=1, broken=None):
    return [
        {
            "round": k,
            "accuracy": None if k % every else math.nan if broken and k >= broken else 1 - math.exp(-rate * k),
            "test_loss": None if k % every else 2.3 * math.exp(-rate * k),
        }
        for k in range(rounds)
    ]


def curves():
    return training_curves(
        {
            "no defense": [run(0.3), run(0.31), run(0.29, rounds=15)],
            "central DP, z = 1": run(0.3, every=5),
            "secure aggregation of 8 clients": run(0.3),
            "diverging": run(0.2, broken=8),
        },
        target=0.97,
        title="Training",
    )


def log_curves():
    return training_curves({"IID": run(0.3), "two classes a client": run(0.1)}, target=0.5, log_rounds=True)


def way(x, last=4000, end=0.02, seed=0):
    """A finding that comes nearer and nearer to `x`."""
    evaluations = np.unique(np.geomspace(1, last, 30).astype(int))
    error = np.geomspace(0.4, end, len(evaluations))
    noise = np.random.default_rng(seed).uniform(-1, 1, x.shape)
    path = np.clip(x + error[:, None, None, None, None] * noise, 0, 1).astype(np.float32)
    return Finding(path[-1], None, history=np.stack([evaluations, error], 1), path=path)


def strip():
    x = images(8)
    return film_strip(way(x), x, title="The optimization of eight images, frame by frame")


def strip_of_one():
    x = images(1, 28, 28, 1)
    return film_strip(way(x, last=123_456), x, frames=9)


def strip_of_thin_images():
    x = images(2, 28, 1, 1)
    finding = way(x)
    finding.path[8:, 1] = np.nan
    return film_strip(finding, x, names=["a client of the first hospital", "b"])


def psnr_curves():
    def ways(n, **options):
        return [progress(way(x, seed=s, **options), x) for s, x in enumerate(images(4, seed=k)[:n] for k in range(3))]

    return psnr_curve(
        {"DLG": ways(4), "Inverting gradients, signed Adam": ways(4, last=24_000, end=0.05), "iDLG": ways(1, last=300)},
        title="PSNR on the way",
    )


def scores(seed, n=20, failed=0):
    rng = np.random.default_rng(seed)
    psnr = rng.uniform(5, 60, n)
    found = [ImageScore(0, p, min(p / 40, 1.0), 0.1, bool(p >= 30), True, 1, None, None) for p in psnr]
    found[0] = ImageScore(0, math.inf, 1.0, 0.0, True, True, 1, None, None)
    for i in range(1, 1 + failed):
        found[i] = ImageScore(0, 0.0, 0.0, 1.0, False, False, 1, None, None)
    return [Score((image,), np.array([0]), 30.0, None, 0, 0, 0, 1, 0) for image in found]


def psnr_ssim_scatter():
    series = {"DLG": scores(0), "Inverting gradients with a total-variation prior": scores(1, failed=2)}
    return psnr_ssim(series, title="Each image")


def duel():
    return head_to_head(scores(0), scores(1, failed=1), ("DLG", "Inverting gradients"), title="Image by image")


def heat():
    return heat_table(
        {
            "LeNet, untrained": {"dlg": 38.2, "idlg": 55.1, "inverting_gradients": 18.4, "rgap": math.inf},
            "ResNet-20 after 20 rounds of training": {"dlg": -6.1, "idlg": None, "rgap": math.nan},
        },
        notes={"LeNet, untrained": {"dlg": "20 of 20\n1,204 evaluations"}},
        title="Attack by model",
    )


NEW = [strip, strip_of_one, strip_of_thin_images, psnr_curves, psnr_ssim_scatter, duel, heat]
ALL = [grid, tradeoff, tradeoff_of_two, dense_tradeoff, curves, log_curves, *NEW]


@pytest.mark.slow
@pytest.mark.parametrize("make", ALL)
def test_no_text_is_clipped_or_runs_into_another(make, words):
    figure = make()
    width, height = figure.get_size_inches() * figure.dpi
    found = words(figure)
    assert len(found) > 5
    for text, box in found:
        assert box.x0 >= -0.5, text
        assert box.y0 >= -0.5, text
        assert box.x1 <= width + 0.5, text
        assert box.y1 <= height + 0.5, text
    for (a, u), (b, v) in itertools.combinations(found, 2):
        across = min(u.x1, v.x1) - max(u.x0, v.x0)
        along = min(u.y1, v.y1) - max(u.y0, v.y0)
        assert across < 0.5 or along < 1.5, (a, b)


@pytest.mark.slow
@pytest.mark.parametrize("make", ALL)
def test_text_is_readable_in_print(make):
    assert min(t.get_fontsize() for t in make().findobj(Text) if t.get_text().strip()) >= 7


@pytest.mark.parametrize("make", [curves, log_curves, tradeoff_of_two])
def test_arms_are_named_outside_the_data(make):
    figure = make()
    figure.canvas.draw()
    for axes in figure.axes:
        assert axes.get_legend() is None
        right = axes.get_window_extent().x1
        named = [t for t in axes.texts if t.get_color() not in ("black", "#555555") and t.arrow_patch is not None]
        assert len(named) >= 2
        assert all(Text.get_window_extent(t).x0 >= right for t in named)


def test_the_callers_matplotlib_is_left_alone():
    before = dict(matplotlib.rcParams)
    from matplotlib import _pylab_helpers

    png(curves())
    assert dict(matplotlib.rcParams) == before
    assert not _pylab_helpers.Gcf.figs


@pytest.mark.slow
@pytest.mark.parametrize("make", [grid, curves, strip_of_one, psnr_curves])
def test_the_same_figure_gives_the_same_bytes(make):
    assert png(make(), "t", "c") == png(make(), "t", "c")
    assert pdf(make(), "t", "c") == pdf(make(), "t", "c")


@pytest.mark.slow
def test_a_png_looks_as_it_was_drawn_in_fewer_bytes():
    photographs = reconstruction_grid(images(8, h=32, w=32), {})
    grey = reconstruction_grid(images(8, c=1), {"found": images(8, c=1, seed=1)})
    for figure, mode, error in ((curves(), "P", 0.5), (grey, "P", 0.5), (photographs, "RGB", 0)):
        drawn = _render(figure, "png", {}, 200)
        with Image.open(io.BytesIO(png(figure))) as saved, Image.open(io.BytesIO(drawn)) as before:
            assert saved.mode == mode
            assert round(saved.info["dpi"][0]) == 200
            missed = np.abs(np.asarray(saved.convert("RGB"), float) - np.asarray(before.convert("RGB"), float))
        assert missed.mean() <= error
        assert len(png(figure)) < (0.7 if mode == "P" else 1) * len(drawn)


def test_a_png_of_a_broken_number_of_pixels_has_its_rows_in_place():
    figure = new_figure(10.16, 1.01)  # 1523.99... x 151.5 pixels
    with styled():
        figure.subplots().plot([0, 1])
    with Image.open(io.BytesIO(png(figure, dpi=150))) as saved:
        pixels = np.asarray(saved.convert("L"), float)
    with Image.open(io.BytesIO(_render(figure, "png", {}, 150))) as drawn:
        np.testing.assert_allclose(pixels, np.asarray(drawn.convert("L"), float), atol=8)


def test_saving_writes_png_pdf_and_what_made_them(tmp_path):
    stem = tmp_path / "new" / "noise0.5"
    paths = save(log_curves(), stem, {"title": "T", "caption": "a < b & c", "seed": 3, "best": math.inf})
    assert [p.name for p in paths] == ["noise0.5.png", "noise0.5.pdf", "noise0.5.json"]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert b"a < b & c" in paths[0].read_bytes()
    assert paths[1].read_bytes().startswith(b"%PDF")
    assert json.loads(paths[2].read_text()) == {"title": "T", "caption": "a < b & c", "seed": 3, "best": "inf"}
    for data in (paths[0].read_bytes(), paths[1].read_bytes()):
        assert b"matplotlib.org" not in data
        assert b"CreationDate" not in data


def test_without_metadata_there_is_no_sidecar(tmp_path):
    save(log_curves(), tmp_path / "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.pdf", "x.png"]


def test_saving_where_one_cannot_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FedprivError, match="not a folder"):
        save(log_curves(), tmp_path / "file" / "x")


def test_grid_shows_every_image_as_it_is():
    x = images(2, c=1)
    figure = reconstruction_grid(x, {"found": x[::-1]}, columns=2)
    shown = [np.asarray(a.images[0].get_array()) for a in figure.axes]
    for got, expected in zip(shown, [*x, *x[::-1]], strict=True):
        np.testing.assert_array_equal(got, expected[..., 0])
    assert all(a.images[0].get_clim() == (0, 1) for a in figure.axes)


def test_grid_keeps_the_shape_of_pixels():
    figure = reconstruction_grid(images(1, h=10, w=20), {})
    figure.canvas.draw()
    box = figure.axes[0].get_window_extent()
    assert box.width / box.height == pytest.approx(2, rel=1e-3)


def test_thin_images_are_kept_small_enough_to_print():
    for h, w in ((28, 1), (1, 28), (200, 20)):
        figure = reconstruction_grid(images(2, h=h, w=w, c=1), {"found": images(2, h=h, w=w, c=1) * np.nan})
        assert figure.get_figheight() < 4, (h, w)
        box = figure.axes[0].get_window_extent()
        assert min(box.width, box.height) > 10, (h, w)


def test_grid_says_where_there_is_nothing_to_see(words):
    x = images(2)
    broken = np.full_like(x, np.nan)
    texts = [t for t, _ in words(reconstruction_grid(x, {"shares": None, "b": broken, "c": "attack refused"}))]
    assert texts.count("not\nfound") == 2
    assert any(t.replace("\n", " ") == "no image to reconstruct" for t in texts)
    assert any(t.replace("\n", " ") == "attack refused" for t in texts)


def test_grid_refuses_what_does_not_line_up():
    with pytest.raises(ParameterError, match="'found'"):
        reconstruction_grid(images(2), {"found": images(3)})
    with pytest.raises(ParameterError, match="captions"):
        reconstruction_grid(images(2), {"found": images(2)}, {"found": ["x"]})
    with pytest.raises(ParameterError, match="captions"):
        reconstruction_grid(images(2), {}, {"fuond": ["x", "y"]})
    with pytest.raises(ParameterError, match="originals"):
        reconstruction_grid(np.zeros((2, 30)), {})


def test_quality_captions():
    def image(psnr, ssim):
        return ImageScore(0, psnr, ssim, 0.0, True, True, 1, None, None)

    found = (image(31.44, 0.987), image(math.inf, 1.0), image(20.0, None), image(None, None))
    score = Score(found, np.arange(4), 30, None, 0, 0, 0, 1, 0)
    assert quality_captions(score) == ["31.4 dB\nSSIM 0.99", "exact\nSSIM 1.00", "20.0 dB", ""]


def test_noise_lies_on_a_logarithmic_axis_with_zero_apart():
    figure = privacy_utility([Point("none", 0, 0.9, 40), *points("dp", levels=(0.1, 1, 10))])
    lower = figure.axes[1]
    texts = {t.get_text(): x for t, x in zip(lower.get_xticklabels(), lower.get_xticks(), strict=True)}
    assert texts["1"] - texts["0.1"] == pytest.approx(texts["10"] - texts["1"])
    assert texts["no noise"] < texts["0.1"] - 0.9


def test_levels_that_lie_close_are_named_on_two_lines(check_legible):
    levels = (0.1, 0.5, 0.87, 1, 1.55, 3, 10)
    figure = privacy_utility([Point("none", 0, 0.9, 40), *points("dp", levels=levels)])
    check_legible(figure)
    named = [t.get_text() for t in figure.axes[1].get_xticklabels()]
    assert named == ["no noise", "0.1", "0.5", "0.87", "1", "1.55", "3", "10"]


@pytest.mark.parametrize(
    "bad", [[], [Point("a", None, 0.5)], [Point("a", -1, 0.5)], [Point("a", math.inf, 0.5)], [Point("a", math.nan, 0)]]
)
def test_tradeoff_refuses_points_without_a_place(bad):
    with pytest.raises(ParameterError):
        privacy_utility(bad)


def test_one_point_alone_can_be_drawn():
    png(privacy_utility([Point("a", 1.0, 0.5)]))
    png(privacy_utility([Point("a", None, None, slot="secure aggregation")]))
    png(training_curves({"a": run(0.1, rounds=1)}))


def test_curves_of_next_token_models_show_perplexity():
    rows = [{"round": i, "accuracy": 0.1, "test_loss": 2.0, "metrics": {"test_perplexity": 7.4}} for i in range(3)]
    figure = training_curves({"gpt": rows})
    assert [axes.get_ylabel() for axes in figure.axes] == ["Test accuracy", "Test perplexity"]
    figure = training_curves({"gpt": rows, "classifier": [{**row, "metrics": {}} for row in rows]})
    assert [axes.get_ylabel() for axes in figure.axes] == ["Test accuracy", "Test loss (nats)"]


def test_curves_count_finished_rounds_and_average_seeds():
    figure = training_curves({"a": [[{"round": 0, "accuracy": 0.2}], [{"round": 0, "accuracy": 0.4}]]})
    (line,) = figure.axes[0].lines
    assert line.get_xydata().tolist() == [[1, pytest.approx(0.3)]]


def test_curves_take_history_objects():
    from fedpriv.rounds.record import History, Record

    records = [Record(k, 1, 1, [], 1.0, 2.0 - k, 0.1 * k, 0.0, 0, 0) for k in range(3)]
    figure = training_curves({"a": History(records, np.zeros(1))})
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), [0, 0.1, 0.2])
    np.testing.assert_allclose(figure.axes[1].lines[0].get_ydata(), [2, 1, 0])


def test_curves_mark_where_a_run_diverged():
    figure = training_curves({"a": run(0.2, broken=8)})
    (cross,) = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert cross.get_xdata()[0] == 8


def test_curves_refuse_histories_without_values():
    with pytest.raises(ParameterError, match="at least one"):
        training_curves({})
    with pytest.raises(ParameterError, match="'empty'"):
        training_curves({"a": run(0.1), "empty": [{"round": 0}]})


def test_a_tradeoff_without_accuracies_has_no_empty_panel():
    points = [Point("none", 0.0, None, 60.0), Point("dp", 0.1, None, 20.0), Point("dp", 1.0, None, 8.0)]
    (axes,) = privacy_utility(points).axes
    assert axes.get_ylabel().startswith("Reconstruction PSNR")
    both = privacy_utility([*points, Point("none", 0.0, 0.8)])
    assert [a.get_ylabel().partition(" ")[0] for a in both.axes] == ["Test", "Reconstruction"]
