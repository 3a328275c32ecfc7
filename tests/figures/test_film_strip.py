"""The film strip shows the right frames of the right images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.base.errors import ParameterError
from fedpriv.figures.film_strip import film_strip, log_spaced
from fedpriv.threat.attack import Finding

ORDER = [2, 0, 1]


@pytest.fixture
def batch():
    """Three images, and a finding that has them in another order: half as bright at first, exact at the end."""
    x = np.random.default_rng(0).random((3, 6, 5, 1)).astype(np.float32)
    found = x[ORDER]
    path = np.stack([found * level for level in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)])
    history = np.array([[e, 1.0 / e] for e in (1, 10, 50, 100, 1000, 10000)], float)
    return x, Finding(found, None, history=history, path=path)


def shown(figure):
    return [np.asarray(a.images[0].get_array()) for a in figure.axes if a.images]


def texts(figure):
    return [t.get_text() for t in figure.texts] + [t.get_text() for a in figure.axes for t in a.texts]


def test_rows_are_originals_and_columns_evaluations(batch):
    x, finding = batch
    figure = film_strip(finding, x, frames=5)
    frames = shown(figure)
    assert len(frames) == 3 * 6
    for i in range(3):
        row = frames[6 * i : 6 * i + 6]
        np.testing.assert_array_equal(row[-1], x[i, ..., 0])
        np.testing.assert_array_equal(row[-2], x[i, ..., 0])
        np.testing.assert_allclose(row[0], 0.5 * x[i, ..., 0])
    words = texts(figure)
    assert [w for w in ("1", "10", "100", "1,000", "10,000", "Original") if w in words] == [
        "1", "10", "100", "1,000", "10,000", "Original",
    ]  # fmt: skip
    assert words.count("exact") == 3
    first = -10 * np.log10(np.mean(np.square(0.5 * x[0].astype(np.float64))))
    assert f"{first:.1f} dB" in words


def test_some_images_with_names(batch):
    x, finding = batch
    figure = film_strip(finding, x, frames=2, images=[2], names=["the last"])
    np.testing.assert_array_equal(shown(figure)[-1], x[2, ..., 0])
    assert "the last" in texts(figure)


def test_eight_rows_at_most_unless_asked():
    x = np.random.default_rng(0).random((10, 4, 4, 3)).astype(np.float32)
    finding = Finding(x, None, history=np.array([[1, 1.0], [2, 0.5]]), path=np.stack([x, x]))
    assert len(shown(film_strip(finding, x))) == 8 * 3
    assert len(shown(film_strip(finding, x, images=range(10)))) == 10 * 3


def test_what_is_missing_or_not_finite_says_so(batch):
    x, finding = batch
    one = Finding(finding.x[:1], None, history=finding.history, path=finding.path[:, :1])
    words = texts(film_strip(one, x, frames=3))
    assert words.count("none") == 2 * 3
    finding.path[3:, 0] = np.inf
    words = texts(film_strip(finding, x, frames=3))
    assert words.count("not\nfound") + words.count("not found") == 2


def test_a_strip_of_nothing_is_refused(batch):
    x, finding = batch
    with pytest.raises(ParameterError, match="holds no path"):
        film_strip(Finding(finding.x, None), x)
    with pytest.raises(ParameterError, match="does not fit"):
        film_strip(finding, x[:, :4])
    with pytest.raises(ParameterError, match="indices of 3"):
        film_strip(finding, x, images=[3])
    with pytest.raises(ParameterError, match="2 frames"):
        film_strip(finding, x, frames=1)
    with pytest.raises(ParameterError, match="a name for each"):
        film_strip(finding, x, names=["a"])
    with pytest.raises(ParameterError, match="images"):
        film_strip(finding, x.reshape(3, -1))


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=80, unique=True), st.integers(2, 12))
def test_frames_are_spread_with_both_ends_and_none_twice(evaluations, frames):
    points = np.sort(np.array(evaluations, float))
    chosen = log_spaced(points, frames)
    assert chosen == sorted(set(chosen))
    assert (chosen[0], chosen[-1]) == (0, len(points) - 1)
    assert len(chosen) <= max(frames, 1)
    if len(points) >= frames:
        assert len(chosen) == frames


def test_frames_fall_on_powers_where_there_are_such():
    assert log_spaced(np.arange(1, 10001.0), 5) == [0, 9, 99, 999, 9999]
