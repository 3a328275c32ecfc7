"""Peeling of executed secure sums, and the short way to what is near the row space."""

from __future__ import annotations

import numpy as np
import pytest
from fedpriv_attacks.exact import peel
from fedpriv_attacks.exact.dense_input import dense_input, find_dense_input
from fedpriv_attacks.exact.first_layer import FirstLayer

from fedpriv.base import registry
from fedpriv.data.dataset import Dataset
from fedpriv.models import zoo
from fedpriv.procedure.procedure import Procedure
from fedpriv.rounds.exposure import Exposure

SHAPE, CLASSES = (12, 12, 1), 5
SHARING = "secret_sharing(aggregators=3,bits=48,range=256)"


def sum_of(model, clients, *defenses):
    """The sum over clients of one image each, as an executed protocol gives it."""
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (clients, *SHAPE)).astype(np.uint8)
    data = Dataset(name="noise", x=x, y=rng.integers(0, CLASSES, clients), num_classes=CLASSES)
    made = tuple(registry.defenses.create(text) for text in defenses)
    (observation,) = Exposure(model, data, 1, 1, clients, procedure=Procedure.fedsgd(), defenses=made, seed=3)
    return observation


def found_in(finding, x):
    """Which of `x` were found, each to a hundredth in its worst value; and the number of finds that are none."""
    claimed = finding.x[: finding.extra["recovered"]].reshape(-1, 1, x[0].size)
    apart = np.abs(claimed - x.reshape(1, len(x), -1)).max(axis=2)
    right = apart.min(axis=1) < 1e-2
    return set(apart.argmin(axis=1)[right]), int(np.sum(~right))


@pytest.mark.parametrize(("clients", "width"), [(24, 300), pytest.param(64, 1200, marks=pytest.mark.slow)])
def test_a_secure_sum_falls_and_lone_units_alone_do_not_do_it(clients, width):
    observation = sum_of(zoo.mlp_2nn(SHAPE, CLASSES, [width], spread=0.5), clients, SHARING)
    finding = peel.Peel().run(observation.view)
    assert found_in(finding, observation.truth.x) == (set(range(clients)), 0)
    assert len(finding.extra["waves"]) > 1
    assert FirstLayer().run(observation.view).extra["separated"] < clients


@pytest.mark.slow
def test_noise_at_the_clients_keeps_the_sum_closed():
    model = zoo.mlp_2nn(SHAPE, CLASSES, [300], spread=0.5)
    observation = sum_of(model, 24, "local_dp(clip=100,noise_multiplier=1e-5)", SHARING)
    finding = peel.Peel().run(observation.view)
    found, wrong = found_in(finding, observation.truth.x)
    assert not wrong
    assert len(found) < 4


@pytest.mark.slow
def test_dense_layers_behind_the_first():
    observation = sum_of(zoo.mlp_2nn(SHAPE, CLASSES, [600, 40], spread=0.5), 16, SHARING)
    finding = peel.Peel().run(observation.view)
    assert found_in(finding, observation.truth.x) == (set(range(16)), 0)


def coordinates(space, layer, x):
    """Coordinates of examples, with the bias's 1, in the space of the columns."""
    rows = x @ space.left[: layer.inputs]
    return rows if layer.bias is None or len(space.left) == layer.inputs else rows + space.left[-1]


@pytest.mark.parametrize("bias", [True, False])
def test_without_gradients_the_same_is_near(helpers, bias):
    model = zoo.mlp_2nn(SHAPE, CLASSES, [60], spread=0.5, first_bias=bias)
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=(12, *SHAPE)).astype(np.float32), rng.integers(0, CLASSES, 12)
    view = helpers.make_view(model, x, y)
    names, layer = find_dense_input(model), dense_input(view)
    assert peel._is_dense(model, names)
    space = peel._space(layer.kernel, 12, layer.rounding, 0)
    tail = peel._tail(view, names, layer, space)
    other = rng.uniform(size=(20, x[0].size))
    both = np.concatenate([x.reshape(12, -1), other])
    wanted = peel._shares(view, names)(both)
    pairs = np.indices(wanted.shape[:2]).reshape(2, -1)
    z = layer.preactivations(both)
    assert np.abs(tail.preactivations(coordinates(space, layer, both[:12])) - z[:12]).max() < 1e-5
    given = tail.shares(z, *pairs).reshape(wanted.shape)
    # Where a label is sure, a share is a small difference of large numbers.
    assert np.abs(given - wanted).max() < 1e-5 * np.abs(wanted).max()
    outside = tail.outside(z)
    np.testing.assert_allclose(outside, space.outside(wanted.astype(np.float64)), atol=1e-4)
    # Shares of two labels differ by what one output's gradient differs from another's.
    between = wanted[:, :1].astype(np.float64) - wanted[:, 1:]
    proof = tail.proof(z)
    spanned = proof.on[:, None] * (proof.residuals @ proof.kernel.T)
    np.testing.assert_allclose(spanned, between, atol=1e-5 * np.abs(wanted).max())
    inside, products = proof.inside(space.right)
    np.testing.assert_allclose(inside, spanned @ space.right, atol=1e-6)
    np.testing.assert_allclose(products, spanned @ spanned.transpose(0, 2, 1), rtol=1e-6, atol=1e-9)
    assert (outside[np.arange(12), y] < peel.SCREEN).all()


def test_a_second_layer_behind_takes_gradients(helpers):
    model = zoo.mlp_2nn(SHAPE, CLASSES, [60, 20])
    assert not peel._is_dense(model, find_dense_input(model))
