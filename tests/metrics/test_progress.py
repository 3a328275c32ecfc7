import numpy as np
import pytest

from fedpriv.base.errors import ParameterError
from fedpriv.metrics.progress import progress
from fedpriv.threat.attack import Finding

HISTORY = np.array([[1, 1.0], [7, 0.1]])


def images(n=3, shape=(5, 4, 3)):
    return np.random.default_rng(0).random((n, *shape)).astype(np.float32)


def test_the_way_is_in_the_originals_order_as_the_end_says():
    x = images()
    # At first the path is nearest to other originals than at its end: the end decides.
    path = np.stack([x[[0, 1, 2]], x[[2, 0, 1]]])
    way = progress(Finding(x[[2, 0, 1]], None, history=HISTORY, path=path), x)
    np.testing.assert_array_equal(way.x[1], x)
    np.testing.assert_array_equal(way.x[0], x[[1, 2, 0]])
    assert np.isinf(way.psnr[1]).all()
    assert way.psnr[0] == pytest.approx(-10 * np.log10(np.square(x[[1, 2, 0]].astype(float) - x).mean((1, 2, 3))))
    assert way.evaluations.tolist() == [1, 7]
    assert way.objective.tolist() == [1, 0.1]


def test_frames_are_clipped_and_failures_have_no_quality():
    x = images(2)
    path = np.stack([x * 9 - 4, x])
    path[0, 1, 0, 0, 0] = np.nan
    way = progress(Finding(x, None, history=HISTORY, path=path), x)
    assert np.nanmin(way.x) >= 0
    assert np.nanmax(way.x) <= 1
    assert way.psnr[0, 1] == 0
    assert way.psnr[0, 0] > 0


def test_fewer_and_more_examples_than_originals():
    x = images()
    fewer = progress(Finding(x[1:2], None, history=HISTORY, path=np.stack([x[1:2]] * 2)), x)
    assert np.isinf(fewer.psnr).tolist() == [[False, True, False]] * 2
    assert np.isnan(fewer.x[:, 0]).all()
    more = progress(Finding(None, None, history=HISTORY, path=np.stack([x] * 2)), x[:2])
    assert np.isinf(more.psnr).all()


def test_feature_vectors_have_a_way_too():
    x = images(2, (6,))
    assert progress(Finding(x, None, history=HISTORY, path=np.stack([x, x])), x).psnr.shape == (2, 2)


def test_no_way_or_one_that_does_not_fit_is_refused():
    x = images()
    with pytest.raises(ParameterError, match="holds no path"):
        progress(Finding(x, None, history=HISTORY), x)
    with pytest.raises(ParameterError, match="holds no path"):
        progress(Finding(x, None, path=np.stack([x])), x)
    with pytest.raises(ParameterError, match="does not fit"):
        progress(Finding(x, None, history=HISTORY, path=np.stack([x])), x)
    with pytest.raises(ParameterError, match="does not fit"):
        progress(Finding(x, None, history=HISTORY, path=np.stack([x, x])), x[:, :2])
