import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from fedpriv.base.errors import ParameterError
from fedpriv.metrics.image import mse, psnr, ssim


def picture(*shape, seed=0):
    return np.random.default_rng(seed).random(shape)


@given(st.floats(1e-4, 1.0))
def test_a_constant_offset_has_its_closed_form(offset):
    a = np.zeros((2, 5, 4, 3))
    assert mse(a, a + offset) == pytest.approx([offset**2] * 2)
    assert psnr(a, a + offset) == pytest.approx([-20 * np.log10(offset)] * 2)


def test_an_offset_of_a_tenth_is_twenty_decibel():
    assert psnr(np.full((4, 4, 1), 0.25), np.full((4, 4, 1), 0.35)) == pytest.approx(20.0)


def test_identical_images():
    a = picture(2, 16, 16, 3)
    assert mse(a, a).tolist() == [0, 0]
    assert psnr(a, a).tolist() == [np.inf, np.inf]
    assert ssim(a, a) == pytest.approx([1, 1])


def test_one_image_gives_a_float_and_a_batch_an_array():
    a, b = picture(3, 12, 12, 1), picture(3, 12, 12, 1, seed=1)
    for metric in (mse, psnr, ssim):
        assert metric(a, b).shape == (3,)
        assert isinstance(metric(a[1], b[1]), float)
        assert metric(a[1], b[1]) == pytest.approx(metric(a, b)[1])


def test_feature_vectors_have_mse_and_psnr_but_no_ssim():
    a = np.zeros((2, 30))
    assert mse(a, a + 0.1) == pytest.approx([0.01, 0.01])
    assert psnr(a[0], a[0] + 0.1) == pytest.approx(20.0)
    with pytest.raises(ParameterError, match="channel axis"):
        ssim(a, a)


@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1), (11, 40, 3), (64, 17, 1)])
def test_ssim_is_scikit_images_with_the_settings_of_the_paper(shape):
    a = picture(*shape)
    b = np.clip(a + 0.1 * picture(*shape, seed=1), 0, 1)
    expected = structural_similarity(
        a, b, data_range=1, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(a, b) == pytest.approx(expected, abs=1e-12)


def test_ssim_by_hand():
    """The paper's formula at every position of an 11 x 11 window, written out."""
    a, b = picture(13, 12, 1), picture(13, 12, 1, seed=1)
    r = np.arange(-5, 6)
    window = np.exp(-(r[:, None] ** 2 + r[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for i in range(3):
        for j in range(2):
            u, v = a[i : i + 11, j : j + 11, 0], b[i : i + 11, j : j + 11, 0]
            mu, mv = (window * u).sum(), (window * v).sum()
            su, sv = (window * u * u).sum() - mu**2, (window * v * v).sum() - mv**2
            suv = (window * u * v).sum() - mu * mv
            values.append((2 * mu * mv + 1e-4) * (2 * suv + 9e-4) / ((mu**2 + mv**2 + 1e-4) * (su + sv + 9e-4)))
    assert ssim(a, b) == pytest.approx(np.mean(values), abs=1e-12)


def test_ssim_averages_channels():
    a, b = picture(16, 16, 3), picture(16, 16, 3, seed=1)
    assert ssim(a, b) == pytest.approx(np.mean([ssim(a[..., [c]], b[..., [c]]) for c in range(3)]))


@pytest.mark.parametrize("side", range(3, 12))
def test_ssim_of_small_images_is_one_for_identical_and_less_for_others(side):
    a, b = picture(side, side + 1, 1), picture(side, side + 1, 1, seed=1)
    assert ssim(a, a) == pytest.approx(1)
    assert ssim(a, b) < 0.9
    assert ssim(a, b) == pytest.approx(ssim(b, a))


def test_ssim_needs_three_pixels_a_side():
    with pytest.raises(ParameterError, match="3 x 3"):
        ssim(np.zeros((2, 8, 1)), np.zeros((2, 8, 1)))


@pytest.mark.parametrize("metric", [mse, psnr, ssim])
def test_shapes_must_be_equal(metric):
    with pytest.raises(ParameterError, match="equal shapes"):
        metric(np.zeros((2, 8, 8, 1)), np.zeros((1, 8, 8, 1)))


def test_not_a_number_comes_out():
    a = np.zeros((8, 8, 1))
    assert np.isnan(psnr(a, a * np.nan))
