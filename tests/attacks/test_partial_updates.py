"""Attacks on updates of which some coordinates are encrypted."""

import numpy as np
import pytest

from fedpriv.base import registry
from fedpriv.base.errors import CapabilityError
from fedpriv.data.embedded import fashion_small
from fedpriv.models import load as load_model
from fedpriv.rounds.exposure import Exposure
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.position import Server


@pytest.fixture(scope="module")
def victims():
    train, _ = fashion_small()
    model = load_model("lenet(init=uniform)", input_shape=(28, 28, 1), num_classes=10)

    def make(written, sums=False):
        return Exposure(
            model,
            train,
            trials=1,
            cohort=2,
            defenses=(registry.defenses.create(written),),
            adversary=Adversary(Server(sums=sums)),
            seed=0,
        ).observe(0)

    return make


def error(observation, written="dlg"):
    finding = registry.attacks.create(written).run(observation.view, seed=0)
    return float(np.mean((finding.x - observation.truth.x) ** 2)), finding


@pytest.mark.slow
@pytest.mark.parametrize("select", ["largest", *(pytest.param(s, marks=pytest.mark.slow) for s in ("random", "first"))])
def test_dlg_finds_the_image_where_a_tenth_is_encrypted(victims, select):
    first = victims(f"ckks(range=4,fraction=0.1,select={select})")[0]
    far, finding = error(first)
    assert far < 1e-4
    np.testing.assert_array_equal(finding.y, first.truth.y)


@pytest.mark.slow
def test_dlg_finds_nothing_where_the_most_sensitive_are_encrypted_and_little_is_left(victims):
    # 134 numbers are left for 784 pixels.
    far, _ = error(victims("ckks(range=4,fraction=0.99,select=largest)")[0])
    assert far > 0.02


def test_all_encrypted_leaves_the_sum_in_which_neither_is_found_alone(victims):
    (whole,) = victims("ckks(range=4)")
    assert (whole.view.kind, whole.view.clients) == ("sum", 2)
    with pytest.raises(CapabilityError, match="single"):
        registry.attacks.create("idlg").run(whole.view, seed=0)


def test_what_needs_hidden_coordinates_is_refused(victims):
    first = victims("ckks(range=4,fraction=0.1,select=largest)")[0].view
    for name in ("first_layer", "rgap", "spear"):
        with pytest.raises(CapabilityError, match=rf"attack '{name}' needs .*every coordinate of the update"):
            registry.attacks.create(name).run(first, seed=0)
    with pytest.raises(CapabilityError, match="coordinates of the last layer are encrypted"):
        registry.attacks.create("idlg").run(first, seed=0)
    with pytest.raises(CapabilityError, match="leaves the labels of this update"):
        registry.attacks.create("labels").run(first, seed=0)
    # Where the last layer travels in the clear, labels are read off it.
    seen = victims("ckks(range=4,fraction=0.1,select=first)")[0]
    finding = registry.attacks.create("labels").run(seen.view, seed=0)
    np.testing.assert_array_equal(finding.y, seen.truth.y)
