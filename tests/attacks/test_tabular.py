"""DLG on tables and on losses that are no softmax: rows come back, and not where they should not."""

import numpy as np
import pytest
from fedpriv_attacks.exact.first_layer import FirstLayer
from fedpriv_attacks.inversion.dlg import DLG
from fedpriv_attacks.inversion.inversion import Inversion
from fedpriv_attacks.labels.attack import LabelsOnly
from fedpriv_attacks.modern import Modern
from fedpriv_attacks.parts.initializers import Constant, Normal, Uniform
from fedpriv_attacks.parts.priors import Box
from fedpriv_defenses.local_dp import LocalDP

from fedpriv.base.errors import CapabilityError
from fedpriv.base.lazy import tf
from fedpriv.data import load
from fedpriv.metrics.score import score
from fedpriv.models import load as load_model
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.trial import run_trial

TABLES = [("clinic", "mlp"), ("clinic", "mlp(task=binary)"), ("diabetes", "mlp")]
QUICK = DLG(restarts=1)


def exposure(data, model, trials, batch=1, **options):
    train, test = load(data)
    made = load_model(model, train.input_shape, train.num_classes)
    return Exposure(made, test, trials, batch, **options)


@pytest.mark.parametrize(
    ("data", "model"), [TABLES[0], *(pytest.param(*t, marks=pytest.mark.slow) for t in TABLES[1:])]
)
def test_dlg_reads_rows_and_targets_off_a_gradient(data, model):
    for observation in exposure(data, model, 2):
        trial = run_trial(QUICK, observation, 0)
        (image,) = trial.score.images
        assert image.psnr is None
        assert image.success
        assert (image.extra["row_accuracy"], image.extra["categorical_hits"]) == (1, 1)
        assert image.extra["numeric_error"] < 0.01
        assert image.label_found == pytest.approx(observation.truth.y[0], abs=1e-2)
        kind = observation.truth.kind
        was, read = (kind.decode(x).iloc[0] for x in (observation.truth.x, trial.finding.x))
        for field in kind.fields:
            if field.kind == "categorical" or field.integer:
                assert read[field.name] == was[field.name]
            else:
                assert read[field.name] == pytest.approx(was[field.name], abs=0.02 * field.spread)


@pytest.mark.slow
@pytest.mark.parametrize(("data", "model"), [TABLES[1], TABLES[2]])
def test_the_default_attack_is_at_home_on_tables_too(data, model):
    (observation,) = exposure(data, model, 1)
    trial = run_trial(Modern(), observation, 0)
    assert trial.score.images[0].success
    assert trial.finding.extra["chosen"] == "dlg"


@pytest.mark.slow
def test_a_batch_of_rows_is_matched_one_to_one():
    (observation,) = exposure("clinic", "mlp(task=binary)", 1, 4)
    trial = run_trial(QUICK, observation, 0)
    assert sorted(trial.score.matched.tolist()) == [0, 1, 2, 3]
    assert [i.success for i in trial.score.images] == [True] * 4
    assert trial.score.label_accuracy == 1.0


@pytest.mark.slow
def test_noise_leaves_hardly_more_than_guessing():
    noisy = exposure("clinic", "mlp(task=binary)", 4, defenses=(LocalDP(clip=1.0, noise_multiplier=1.0),))
    rows = [run_trial(QUICK, o, 0).score.images[0] for o in noisy]
    assert not any(r.success for r in rows)
    assert np.mean([r.extra["row_accuracy"] for r in rows]) < 0.7


@pytest.mark.slow
@pytest.mark.parametrize(("data", "model"), TABLES)
def test_one_example_is_read_off_a_dense_layer_whatever_the_loss(data, model):
    (observation,) = exposure(data, model, 1)
    finding = FirstLayer().run(observation.view)
    assert score(finding, observation.truth).images[0].success


@pytest.mark.slow
def test_what_reads_a_softmax_refuses_others_and_says_so():
    (observation,) = exposure("clinic", "mlp(task=binary)", 1)
    with pytest.raises(CapabilityError, match="joint optimization"):
        LabelsOnly().run(observation.view)
    with pytest.raises(CapabilityError, match=r"softmax cross-entropy \(task 'classes'\)"):
        LabelsOnly(inference="idlg").run(observation.view)
    (observation,) = exposure("clinic", "mlp(task=binary,activation=relu)", 1, 3)
    with pytest.raises(CapabilityError, match="separating 3 examples takes a classifier"):
        FirstLayer().run(observation.view)


@pytest.mark.slow
def test_known_quantities_are_held():
    from fedpriv.threat.adversary import Adversary

    (observation,) = exposure("diabetes", "mlp", 1, adversary=Adversary().knowing("labels"))
    finding = DLG(labels="known", restarts=2).run(observation.view)
    np.testing.assert_array_equal(finding.y, observation.truth.y)
    assert finding.extra["label_source"] == "known"


def test_starts_lie_in_each_column_s_own_range():
    (observation,) = exposure("clinic", "mlp", 1)
    view = observation.view
    kind = view.data_kind
    ends = [kind.from_unit(np.full((1, *kind.shape), u, np.float32)) for u in (0.0, 1.0)]
    drawn = np.concatenate([Uniform()(view, s) for s in range(50)])
    assert (drawn >= ends[0]).all()
    assert (drawn <= ends[1]).all()
    assert ((drawn.max(0) - drawn.min(0)) > 0.7 * (ends[1] - ends[0])).all()
    middle = kind.decode(Normal(spread=0)(view, 0)).iloc[0]
    for field in kind.fields:
        if field.kind == "numeric":
            assert middle[field.name] == pytest.approx(round(field.mean) if field.integer else field.mean)
    np.testing.assert_allclose(Constant(value=0)(view, 0), ends[0], atol=1e-6)


@pytest.mark.slow
def test_a_constraint_keeps_every_step_valid():
    (observation,) = exposure("clinic", "mlp", 1)
    attack = Inversion(optimizer="adam(steps=60,learning_rate=0.5)", constraint="box", path=True, priors=[Box()])
    finding = attack.run(observation.view)
    kind = observation.truth.kind
    for x in finding.path:
        np.testing.assert_allclose(kind.project(tf.constant(x)), x, atol=1e-4)
