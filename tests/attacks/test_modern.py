"""Modern: takes what explains the update, and says what it tried."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fedpriv_attacks.inversion.stages import mismatch
from fedpriv_attacks.modern import Modern

from fedpriv.base import registry
from fedpriv.base.errors import CapabilityError
from fedpriv.data.dataset import Dataset
from fedpriv.data.kinds.tokens import Tokens
from fedpriv.metrics.image import psnr
from fedpriv.models import load
from fedpriv.threat.attack import Finding

SHAPE = (8, 8, 1)
SEARCH = ("dlg(labels=auto,optimizer.max_evaluations=400)", "inverting_gradients(objective=l1,optimizer.steps=60)")


def test_an_exact_attack_is_enough_where_one_applies(helpers):
    model = registry.models.load("2nn")(SHAPE, 10, hidden=[20, 20])
    x, y = helpers.smooth_images(1, SHAPE, 1), [4]
    finding = Modern().run(helpers.make_view(model, x, y))
    assert finding.extra["chosen"] == "first_layer"
    assert [t["attack"] for t in finding.extra["tried"] if "refused" not in t] == ["first_layer"]
    assert float(psnr(finding.x[0], x[0])) > 60
    assert list(finding.y) == y


def test_it_goes_on_until_something_explains_the_update(helpers):
    model = helpers.dense(SHAPE)
    x, y = helpers.smooth_images(2, SHAPE, 4), [1, 8]
    finding = Modern(attacks=("idlg", *SEARCH)).run(helpers.make_view(model, x, y))
    tried = finding.extra["tried"]
    assert "2 examples" in tried[0]["refused"]
    assert finding.extra["chosen"] == "dlg" or tried[-1]["mismatch"] < tried[1]["mismatch"]
    assert finding.evaluations == sum(t.get("evaluations", 0) for t in tried)


@pytest.mark.slow
def test_under_heavy_noise_the_prior_has_the_last_word(helpers):
    model = helpers.dense(SHAPE)
    x, y = helpers.smooth_images(1, SHAPE, 4), [1]
    clean = helpers.make_view(model, x, y).observed
    noise = np.random.default_rng(0).normal(size=clean.shape) * np.linalg.norm(clean) / np.sqrt(clean.size)
    view = helpers.make_view(model, x, y, observed=(clean + 2 * noise).astype(np.float32))
    finding = Modern(attacks=SEARCH).run(view)
    assert finding.extra["chosen"] == "inverting_gradients"
    assert len(finding.extra["tried"]) == 2


@pytest.mark.slow
def test_it_keeps_the_way_of_the_attack_that_it_takes(helpers):
    """After the evaluations of those that were tried before."""
    model = helpers.dense(SHAPE)
    x, y = helpers.smooth_images(2, SHAPE, 4), [1, 8]
    view = helpers.make_view(model, x, y)
    first = "inverting_gradients(objective=l1,optimizer.steps=60)"
    finding = Modern(attacks=(first, "dlg(labels=auto,optimizer.max_evaluations=400)"), path=True).run(view)
    assert finding.extra["chosen"] == "dlg"
    before = finding.extra["tried"][0]["evaluations"]
    assert finding.history[0, 0] > before
    assert finding.history[-1, 0] <= finding.evaluations
    assert finding.path.shape == (len(finding.history), 2, *SHAPE)
    np.testing.assert_allclose(finding.path[-1], finding.x, atol=1e-3)
    assert Modern(attacks=SEARCH).run(view).path is None
    exact = helpers.make_view(registry.models.load("2nn")(SHAPE, 10, hidden=[20, 20]), x[:1], y[:1])
    assert Modern(path=True).run(exact).path is None


def test_the_mismatch_is_zero_at_the_truth_and_one_at_nothing(helpers):
    model = helpers.dense(SHAPE, dtype="float64")
    x, y = helpers.smooth_images(2, SHAPE, 4), [1, 8]
    view = helpers.make_view(model, x, y)
    assert mismatch(view, Finding(x=x, y=np.array(y))) < 1e-12
    assert mismatch(view, Finding(x=1 - x, y=np.array(y))) > 1e-3
    assert mismatch(view, Finding(x=x[:1], y=np.array(y[:1]))) == float("inf")
    assert mismatch(view, Finding(x=x, y=None)) == float("inf")


def test_where_nothing_applies_every_reason_is_given(helpers):
    view = helpers.make_view(helpers.dense(SHAPE), helpers.smooth_images(2, SHAPE), [1, 2])
    with pytest.raises(CapabilityError, match=r"idlg: .*2 examples"):
        Modern(attacks=("idlg",)).run(view)


@pytest.mark.slow
def test_texts_are_judged_by_their_tokens(helpers):
    kind = Tokens(length=5, vocabulary=20, padding=0)
    x, y = np.array([[3, 7, 4, 9, 2]], np.int32), np.array([1], np.int32)
    model = load("gpt(layers=1,width=8,heads=1,dtype=float64)", Dataset("made", x, y, 2, kind=kind))
    view = dataclasses.replace(helpers.make_view(model, x.astype(np.float32), y), data_kind=kind)
    finding = Modern(attacks=("rgap", "tag(restarts=1,optimizer.steps=200)")).run(view)
    assert finding.extra["chosen"] == "tag"
    assert finding.extra["tried"][-1]["mismatch"] == mismatch(view, finding)
    assert finding.x.shape == (1, 5)


def test_peeling_comes_first_where_a_dense_relu_layer_does(helpers):
    model = load("2nn(hidden=[150],spread=0.5)", input_shape=(6, 7, 1), num_classes=5)
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=(6, 6, 7, 1)).astype(np.float32), rng.integers(0, 5, 6)
    view = helpers.make_view(model, x, y)
    finding = registry.attacks.create("modern").run(view)
    assert finding.extra["chosen"] == "peel"
    assert [t["attack"] for t in finding.extra["tried"]] == ["peel"]
    apart = np.abs(finding.x[:, None] - x).max(axis=(2, 3, 4))
    assert sorted(apart.argmin(axis=1)) == list(range(6))
    assert apart.min(axis=1).max() < 1e-3
    # Who asks for other attacks gets those alone, and the setting's identity knows nothing of it.
    named = registry.attacks.create("modern(attacks=[first_layer])")
    assert [a.name for a in named.tried_on(view)] == ["first_layer"]
    assert "peel" not in str(registry.attacks.create("modern").config())
    smooth = helpers.make_view(helpers.dense((6, 7, 1), 5), x, y)
    assert "peel" not in [a.name for a in registry.attacks.create("modern").tried_on(smooth)]


def test_on_models_with_kinks_curvature_is_not_tried(helpers):
    shape = (16, 16, 1)
    x, y = helpers.smooth_images(1, shape, 1), [4]
    modern = registry.attacks.create("modern")

    def tried(model, attack=modern):
        return [a.name for a in attack.tried_on(helpers.make_view(model, x, y))]

    rectified, smooth = (registry.models.load(name)(shape, 10) for name in ("cnn", "tanh_cnn"))
    assert tried(rectified) == ["first_layer", "rgap", "spear", "inverting_gradients"]
    assert tried(smooth) == [a.name for a in modern.attacks]
    assert tried(rectified, modern.with_(attacks=SEARCH)) == ["dlg", "inverting_gradients"]
    thorough = registry.attacks.create("modern(thorough=true)")
    assert tried(rectified, thorough) == tried(rectified)
    quick, long = (a.tried_on(helpers.make_view(rectified, x, y))[-1] for a in (modern, thorough))
    evaluations = [a.stages * a.optimizer.steps for a in (quick, long, modern.attacks[-1])]
    assert evaluations == [2001, 3999, 4000]
    assert long.with_(optimizer=quick.optimizer).config() == quick.config()
    assert "thorough" not in modern.config()
    assert thorough.config()["thorough"] is True
