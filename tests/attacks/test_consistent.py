"""Matching compressed updates by what they leave open: zero at the truth, better than without it, named refusals."""

import numpy as np
import pytest
from fedpriv_attacks.inversion.dlg import DLG
from fedpriv_attacks.parts.consistent import Consistent
from fedpriv_attacks.parts.objectives import SquaredError

from fedpriv.base.errors import CapabilityError
from fedpriv.base.lazy import tf
from fedpriv.base.registry import defenses
from fedpriv.data.embedded import fashion_small
from fedpriv.experiment.setting import Exposed, Setting
from fedpriv.experiment.work import adaptive
from fedpriv.models.zoo import lenet, mlp
from fedpriv.procedure.procedure import make_procedure
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.trial import run_trial
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.replays import CELLS
from tests.attacks.conftest import seen

WITH_CELLS = (
    "top_k(fraction=0.1)",
    "random_k(fraction=0.1)",
    "random_k(fraction=0.1,unbiased=true)",
    "low_precision",
    "low_precision(format=bfloat16)",
    "low_precision(format=int8)",
    "qsgd(norm=max,levels=7)",
    "terngrad(clip=none)",
    "dgc(fraction=0.1)",
)


@pytest.fixture(scope="module")
def data():
    return fashion_small()[1]


@pytest.fixture(scope="module")
def model():
    return mlp((28, 28, 1), 10, hidden=(16,), activation="sigmoid")


def distances(observation, objective):
    """At the truth and at other examples, relative to what was observed."""
    fitted, view = objective.prepared(observation.view)
    truth, spec = observation.truth, view.model.spec
    observed = tf.constant(observation.view.observed)
    return [
        float(fitted(view.simulate(tf.constant(x), tf.constant(truth.y)), observed, spec))
        for x in (truth.x, 1 - truth.x)
    ]


@pytest.mark.parametrize("text", WITH_CELLS)
def test_it_is_zero_at_the_truth_and_nowhere_near_it_at_other_examples(text, model, data):
    at_truth, elsewhere = distances(seen(model, data, text), Consistent())
    assert at_truth < 1e-9
    # A sign that was drawn tells little beyond itself; what counts ten times is relative to a norm ten times as large.
    assert elsewhere > (1e-6 if text.startswith("terngrad") else 1e-4 if "unbiased" in text else 0.01)


@pytest.mark.parametrize("rate", [1e-2, 1e-4])
def test_it_is_zero_at_the_truth_where_values_are_below_float16s_smallest(rate, data):
    # In double precision, so that nothing but the format rounds.
    model = mlp((28, 28, 1), 10, hidden=(16,), activation="sigmoid", dtype="float64")
    procedure = make_procedure(batch_size=None, client={"learning_rate": rate}, weighting="uniform")
    made = (defenses.create("low_precision"),)
    observation = next(iter(Exposure(model, data, 1, 1, defenses=made, procedure=procedure)))
    fitted, view = Consistent().prepared(observation.view)
    spec, observed = view.model.spec, tf.constant(view.observed)
    scale = 1 / tf.norm(observed)
    truth, other = (
        view.simulate(tf.constant(x), tf.constant(observation.truth.y))
        for x in (observation.truth.x, 1 - observation.truth.x)
    )
    assert np.mean(np.abs(truth) < 2.0**-14) > (0.1 if rate > 1e-3 else 0.7)
    assert float(fitted.matched(truth, observed * scale, scale, spec)) < 1e-9
    assert float(fitted(truth, observed, spec)) < 1e-9
    assert float(fitted.matched(other, observed * scale, scale, spec)) > 0.01


def test_layers_count_alone(model, data):
    observation = seen(model, data, "low_precision(format=int8)")
    for layers in ("-1:", "0:1"):
        at_truth, elsewhere = distances(observation, Consistent(layers=layers))
        assert at_truth < 1e-9 < elsewhere


def test_defenses_before_the_compressor_are_still_replayed(model, data):
    at_truth, _ = distances(seen(model, data, "clip(norm=0.01)", "top_k(fraction=0.1)"), Consistent())
    assert at_truth < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("texts", "options", "words"),
    [
        ((), {}, "was changed by no known defense"),
        (("clip(norm=1)",), {}, "'clip', which has none"),
        (("sign_sgd",), {}, "'sign_sgd', which has none; use 'signed' for signs, .*'informed'"),
        (("qsgd",), {}, "leaves no cells"),
        (("top_k(fraction=0.1)", "secret_sharing(aggregators=3,range=8)"), {"cohort": 2}, "no single client's update"),
        (("top_k(fraction=0.1)",), {"adversary": Adversary.parse("server(blind=[defense])")}, "no known defense"),
    ],
)
def test_views_that_have_no_cells_are_refused_by_name(texts, options, words, model, data):
    with pytest.raises(CapabilityError, match=words):
        Consistent().prepared(seen(model, data, *texts, **options).view)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["top_k(fraction=0.1)", pytest.param("low_precision(format=int8)", marks=pytest.mark.slow)]
)
def test_it_beats_the_same_attack_without_it(text, data):
    model = lenet((28, 28, 1), 10, init="uniform")
    attack = DLG(restarts=1, labels="known", **{"optimizer.max_evaluations": 300})
    known = Adversary.parse("server(knows=[labels])")
    observation = seen(model, data, text, adversary=known)
    static = run_trial(attack.with_(objective=SquaredError()), observation, 0)
    adapted = run_trial(attack.with_(objective=Consistent()), observation, 0)
    assert adapted.score.images[0].psnr > static.score.images[0].psnr + 3
    assert CELLS + text.partition("(")[0] in adapted.finding.replayed
    assert CELLS + text.partition("(")[0] not in static.finding.replayed


def test_having_reckoned_with_cells_counts_as_knowing_the_defense():
    setting = Setting(attack="dlg(objective=consistent)", defense=("qsgd(norm=max)",), exposure=Exposed(images=1))
    assert adaptive(setting, {CELLS + "qsgd"})
    assert not adaptive(setting, {"qsgd"})
    unknowing = setting.model_copy(update={"exposure": Exposed(images=1, knows_defense=False)})
    assert not adaptive(unknowing, {CELLS + "qsgd"})
    assert unknowing.exposure.identity() == Exposed(images=1, blind=("defense",)).identity()
    blind = setting.model_copy(update={"exposure": Exposed(images=1, blind=("defense",))})
    assert not adaptive(blind, {CELLS + "qsgd"})


def test_what_is_not_explained_is_as_far_as_the_nearest_update_that_would_be(model, data):
    """For integers the distance is that to the box around what was observed."""
    observation = seen(model, data, "low_precision(format=int8)")
    fitted, view = Consistent().prepared(observation.view)
    spec, observed = view.model.spec, observation.view.observed
    moved = np.asarray(observed + np.random.default_rng(0).normal(size=observed.shape) * 0.01, np.float32)
    half = np.concatenate([np.full(p.size, np.abs(p).max() / 254) for p in spec.unflatten_numpy(observed)])
    nearest = np.clip(moved, observed - half, observed + half)
    expected = np.sum((moved - nearest) ** 2) / np.sum(observed**2)
    assert float(fitted(tf.constant(moved), tf.constant(observed), spec)) == pytest.approx(expected, rel=1e-3)
