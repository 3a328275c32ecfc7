"""LPIPS against a slow implementation of its definition, and the properties of a distance."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from fedpriv.base.errors import DataError, ParameterError
from fedpriv.metrics.lpips import LPIPS, from_pytorch, lpips

CHANNELS = (3, 64, 192, 384, 256, 256)
SIDES = (11, 5, 3, 3, 3)


@pytest.fixture(scope="module")
def weights():
    """Random weights whose activations neither die nor explode."""
    rng = np.random.default_rng(0)
    arrays = {}
    for i, side in enumerate(SIDES, 1):
        inputs, outputs = CHANNELS[i - 1], CHANNELS[i]
        arrays[f"conv{i}/kernel"] = rng.normal(0, (side * side * inputs) ** -0.5, (side, side, inputs, outputs))
        arrays[f"conv{i}/bias"] = rng.normal(0, 0.3, outputs)
        arrays[f"lin{i}"] = rng.uniform(0, 0.1, outputs)
    return {k: v.astype(np.float32) for k, v in arrays.items()}


@pytest.fixture(scope="module")
def metric(weights):
    return LPIPS(weights)


def images(n, h=64, w=64, c=3, seed=0):
    return np.random.default_rng(seed).random((n, h, w, c)).astype(np.float32)


def slow(a, b, weights):
    """One pair `[h, w, 3]`, in float64, by the published description."""
    total = 0.0
    first, second = _layers(a, weights), _layers(b, weights)
    for i, (f, g) in enumerate(zip(first, second, strict=True), 1):
        f = f / (np.sqrt((f**2).sum(-1, keepdims=True)) + 1e-10)
        g = g / (np.sqrt((g**2).sum(-1, keepdims=True)) + 1e-10)
        total += ((f - g) ** 2 * weights[f"lin{i}"]).sum(-1).mean()
    return total


def _layers(x, weights):
    x = (2 * np.asarray(x, np.float64) - 1 - np.array([-0.030, -0.088, -0.188])) / np.array([0.458, 0.448, 0.450])
    found = []
    for i, (stride, padding) in enumerate(((4, 2), (1, 2), (1, 1), (1, 1), (1, 1)), 1):
        if i in (2, 3):
            rows, columns = ((s - 3) // 2 + 1 for s in x.shape[:2])
            x = np.array(
                [[x[2 * r : 2 * r + 3, 2 * k : 2 * k + 3].max((0, 1)) for k in range(columns)] for r in range(rows)]
            )
        x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
        kernel = weights[f"conv{i}/kernel"].astype(np.float64)
        side = kernel.shape[0]
        windows = sliding_window_view(x, (side, side), axis=(0, 1))[::stride, ::stride]  # [r, k, c, side, side]
        x = np.maximum(np.tensordot(windows, kernel, ((3, 4, 2), (0, 1, 2))) + weights[f"conv{i}/bias"], 0)
        found.append(x)
    return found


def bilinear(x, height, width):
    """Samples at pixel centres, edges repeated."""

    def along(size, new):
        at = np.clip((np.arange(new) + 0.5) * size / new - 0.5, 0, size - 1)
        low = np.floor(at).astype(int)
        matrix = np.zeros((new, size))
        matrix[np.arange(new), low] += 1 - (at - low)
        matrix[np.arange(new), np.minimum(low + 1, size - 1)] += at - low
        return matrix

    return np.einsum("ih,hwc,jw->ijc", along(x.shape[0], height), x.astype(np.float64), along(x.shape[1], width))


def test_it_is_what_the_paper_describes(metric, weights):
    a, b = images(2, 67, 75, seed=1), images(2, 67, 75, seed=2)
    values = metric(a, b)
    assert values.dtype == np.float64
    assert values == pytest.approx([slow(u, v, weights) for u, v in zip(a, b, strict=True)], rel=2e-4)
    assert values.min() > 0.01
    assert metric(a[1], b[1]) == pytest.approx(values[1])


def test_small_images_are_scaled_up_keeping_their_proportions(metric, weights):
    a, b = images(1, 28, 35, seed=3)[0], images(1, 28, 35, seed=4)[0]
    assert metric(a, b) == pytest.approx(slow(bilinear(a, 64, 80), bilinear(b, 64, 80), weights), rel=2e-4)


def test_or_taken_as_they_are_or_refused(weights):
    a, b = images(1, 32, 32, seed=3), images(1, 32, 32, seed=4)
    assert LPIPS(weights, smallest=32)(a, b) == pytest.approx([slow(a[0], b[0], weights)], rel=2e-4)
    with pytest.raises(ParameterError, match="at least 64 pixels a side; these are 32 x 32"):
        LPIPS(weights, upscale=False)(a, b)
    with pytest.raises(ParameterError, match="smallest=30"):
        LPIPS(weights, smallest=30)
    assert LPIPS(weights, smallest=31)(images(1, 31, 31), images(1, 31, 31, seed=1)).shape == (1,)


def test_grey_is_the_same_in_all_three_channels(metric):
    a, b = images(2, c=1, seed=5), images(2, c=1, seed=6)
    np.testing.assert_allclose(metric(a, b), metric(a.repeat(3, -1), b.repeat(3, -1)), rtol=1e-6)


def test_it_is_zero_for_identical_images_symmetric_and_never_negative(metric):
    a, b = images(3, seed=7), images(3, seed=8)
    np.testing.assert_array_equal(metric(a, a), 0)
    np.testing.assert_array_equal(metric(a, b), metric(b, a))
    near = metric(a, np.clip(a + 0.01, 0, 1))
    assert (near > 0).all()
    assert (near < metric(a, b)).all()


def test_batches_are_only_faster(metric, monkeypatch):
    a, b = images(5, seed=9), images(5, seed=10)
    whole = metric(a, b)
    monkeypatch.setattr("fedpriv.metrics.lpips._CHUNK", 2 * 64 * 64)
    np.testing.assert_allclose(metric(a, b), whole, rtol=1e-5)
    np.testing.assert_allclose([metric(u, v) for u, v in zip(a, b, strict=True)], whole, rtol=1e-5)


def test_what_is_not_finite_stays_so_and_spoils_no_other(metric):
    a, b = images(3, seed=11), images(3, seed=12)
    spoiled = a.copy()
    spoiled[1, 0, 0, 0] = np.inf
    values = metric(spoiled, b)
    assert np.isnan(values).tolist() == [False, True, False]
    np.testing.assert_allclose(values[[0, 2]], metric(a, b)[[0, 2]], rtol=1e-5)


def test_embedded_images_are_as_far_apart_as_lpips_says(metric):
    a, b = images(2, seed=13), images(2, seed=14)
    np.testing.assert_allclose(
        np.square(metric.embed(a).astype(np.float64) - metric.embed(b)).sum(1), metric(a, b), rtol=1e-4
    )


@pytest.mark.parametrize("shape", [(2, 30), (2, 64, 64, 2), (64, 64)])
def test_what_is_no_image_is_refused(metric, shape):
    with pytest.raises(ParameterError, match="lpips takes"):
        metric(np.zeros(shape), np.zeros(shape))
    with pytest.raises(ParameterError, match="equal shapes"):
        metric(np.zeros((1, 64, 64, 3)), np.zeros((2, 64, 64, 3)))


def test_weights_come_from_a_file(metric, weights, tmp_path):
    path = tmp_path / "alex.npz"
    np.savez(path, **weights)
    a, b = images(1, seed=15), images(1, seed=16)
    assert lpips(a, b, path) == pytest.approx(metric(a, b))
    with pytest.raises(DataError, match="no file"):
        LPIPS.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("weights")
    with pytest.raises(DataError, match=r"no \.npz archive"):
        LPIPS.load(tmp_path / "text.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match="single array"):
        LPIPS.load(tmp_path / "one.npy")


def spoil(key, change):
    return lambda w: {**w, key: change(w[key])}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: {k: v for k, v in w.items() if k != "conv3/bias"}, r"no array 'conv3/bias'.*Did you mean"),
        (lambda w: {("lin_1" if k == "lin1" else k): v for k, v in w.items()}, "Did you mean 'lin_1'"),
        (spoil("conv5/kernel", lambda k: k.transpose(3, 2, 0, 1)), r"'conv5/kernel'.*OIHW.*transpose\(2, 3, 1, 0\)"),
        (spoil("conv1/kernel", lambda k: k[:7, :7]), r"'conv1/kernel' are \[7, 7, 3, 64\]"),
        (spoil("lin2", lambda k: k[:64]), r"'lin2' are \[64\]"),
        (spoil("lin4", lambda k: -k), "'lin4' has negative"),
        (spoil("conv2/bias", lambda k: k * np.nan), "'conv2/bias'.*not finite"),
        (spoil("conv2/bias", lambda k: k.astype(int)), "'conv2/bias' hold int"),
    ],
)
def test_unusable_weights_are_named(weights, change, says):
    with pytest.raises(DataError, match=says):
        LPIPS(change(weights))


def test_the_published_pytorch_weights_can_be_converted(weights):
    backbone, heads = {}, {}
    for i, place in enumerate((0, 3, 6, 8, 10), 1):
        backbone[f"features.{place}.weight"] = weights[f"conv{i}/kernel"].transpose(3, 2, 0, 1)
        backbone[f"features.{place}.bias"] = weights[f"conv{i}/bias"]
        heads[f"lin{i - 1}.model.1.weight"] = weights[f"lin{i}"].reshape(1, -1, 1, 1)
    converted = from_pytorch(backbone, heads)
    assert converted.keys() == weights.keys()
    for key, value in weights.items():
        np.testing.assert_array_equal(converted[key], value)
    inner = {k.removeprefix("features."): v for k, v in backbone.items()}
    assert from_pytorch(inner, heads).keys() == weights.keys()
    del heads["lin4.model.1.weight"]
    with pytest.raises(DataError, match=r"lin4\.model\.1\.weight"):
        from_pytorch(backbone, heads)
