"""Unmixing: independent sources come apart, and each part of the contrast is what it says."""

from __future__ import annotations

import numpy as np
import pytest
from fedpriv_attacks.exact.unmixing import Contrast, Mixture, objective, unmix
from fedpriv_attacks.parts.optimizers.first_order import Adam

from fedpriv.base.lazy import tf

NONE = Contrast(0.0, 1.0, False, 0.0, 5.0, 0.0, 0.0)


def contrast(**changed):
    return Contrast(**{**NONE.__dict__, **changed})


def value(u, mixture, c, scale=None, shape=(6, 6, 1)):
    white, offset = (tf.constant(a) for a in (mixture.white, mixture.offset))
    return float(objective(tf.constant(u), white, offset, None if scale is None else tf.constant(scale), shape, c))


def mixed(rank=3, size=36, seed=0):
    rng = np.random.default_rng(seed)
    sources = rng.uniform(size=(rank, size))
    return sources, Mixture.of(rng.normal(size=(rank, rank)) @ sources)


def test_whitening():
    sources, m = mixed(4, 500)
    np.testing.assert_allclose(m.white.mean(1), 0, atol=1e-10)
    np.testing.assert_allclose(m.white @ m.white.T / 499, np.eye(4), atol=1e-8)
    np.testing.assert_allclose(m.whitening @ m.mixed, m.white + m.offset[:, None], atol=1e-9)
    assert np.linalg.matrix_rank(np.vstack([sources, m.mixed])) == 4


def test_a_constant_direction_is_not_blown_up():
    m = Mixture.of(np.vstack([np.random.default_rng(0).normal(size=50), np.ones(50)]))
    assert np.isfinite(m.white).all()
    assert np.abs(m.white[1]).max() < 1e-3


def test_the_parts_of_the_contrast():
    rng = np.random.default_rng(1)
    _, m = mixed()
    u = rng.normal(size=(3, 3))
    rows = u / np.linalg.norm(u, axis=1, keepdims=True)
    s = rows @ m.white
    x = s + (rows @ m.offset)[:, None]
    log_cosh = np.log(np.cosh(2 * s)).mean(1) / 2
    assert value(u, m, contrast(negentropy=3.0, sharpness=2.0)) == pytest.approx(-3 * np.mean(log_cosh**2))
    distance = np.log(np.cosh(s)).mean(1) - 0.3745672075
    assert value(u, m, contrast(negentropy=1.0, from_normal=True)) == pytest.approx(-np.mean(distance**2))
    assert value(u, m, contrast(independence=2.0)) == pytest.approx(2 * np.mean(np.exp(5 * np.abs(rows @ rows.T)) - 1))
    images = x.reshape(3, 6, 6)
    variation = np.abs(np.diff(images, axis=1)).mean() + np.abs(np.diff(images, axis=2)).mean()
    assert value(u, m, contrast(total_variation=0.5)) == pytest.approx(0.5 * variation)
    scale = rng.uniform(1, 2, 3)
    by = rows @ scale
    by = np.where(np.abs(by) > 1e-3, by, np.where(by < 0, -1e-3, 1e-3))
    scaled = x / by[:, None]
    outside = np.maximum(-scaled, 0) + np.maximum(scaled - 1, 0)
    assert value(u, m, contrast(box=4.0), scale) == pytest.approx(4 * outside.mean())
    ranged = x / (np.sign(x.sum(1)) * np.abs(x).max(1))[:, None]
    assert value(u, m, contrast(box=4.0)) == pytest.approx(4 * np.maximum(-ranged, 0).mean())
    assert value(u, m, NONE) == 0


def test_what_is_no_image_has_no_variation():
    _, m = mixed()
    assert value(np.eye(3), m, contrast(total_variation=1.0), shape=(36,)) == 0
    assert np.isfinite(value(np.eye(3), m, contrast(total_variation=1.0), shape=(1, 36, 1)))


def test_the_length_of_the_rows_does_not_matter():
    _, m = mixed()
    u = np.random.default_rng(2).normal(size=(3, 3))
    c = contrast(negentropy=1.0, independence=1.0, total_variation=1.0, box=1.0)
    assert value(u, m, c, np.ones(3)) == pytest.approx(value(u * [[2.0], [0.1], [30.0]], m, c, np.ones(3)))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_independent_sources_come_apart(dtype):
    """Flat sources, where the contrast is the textbook's: each one found is one source, up to sign and scale."""
    rng = np.random.default_rng(0)
    sources = rng.uniform(size=(5, 4000))
    m = Mixture.of(rng.normal(size=(5, 5)) @ sources)
    c = contrast(negentropy=1000.0, from_normal=True, independence=0.1)
    rows, minimum, _ = unmix(m, None, (4000,), c, Adam(steps=1500, learning_rate=1e-2), np.eye(5), dtype)
    correlation = np.abs(np.corrcoef(rows @ m.white, sources)[:5, 5:])
    assert np.all(np.sort(correlation.max(0)) > 0.98)
    assert sorted(correlation.argmax(1)) == list(range(5))
    assert minimum.evaluations > 100


def test_normal_sources_do_not():
    rng = np.random.default_rng(0)
    sources = rng.normal(size=(5, 4000))
    m = Mixture.of(rng.normal(size=(5, 5)) @ sources)
    c = contrast(negentropy=1000.0, from_normal=True, independence=0.1)
    rows, _, _ = unmix(m, None, (4000,), c, Adam(steps=300, learning_rate=1e-2), np.eye(5), "float32")
    assert np.abs(np.corrcoef(rows @ m.white, sources)[:5, 5:]).max(0).min() < 0.95


def test_one_graph_for_mixtures_of_one_shape():
    _, a = mixed(3, 36, 5)
    _, b = mixed(3, 36, 6)
    c, adam = contrast(negentropy=1.25), Adam(steps=3)
    first = unmix(a, None, (6, 6, 1), c, adam, np.eye(3), "float32")
    second = unmix(b, None, (6, 6, 1), c, adam, np.eye(3), "float32")
    assert first[2] > 0
    assert second[2] == 0
