"""TabLeak: its parts by closed forms; the whole on rows that nothing was tuned on, and where it should fail."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from fedpriv_attacks.inversion.dlg import DLG
from fedpriv_attacks.inversion.ensemble import pool
from fedpriv_attacks.inversion.inversion import Inversion
from fedpriv_attacks.inversion.tableak import TabLeak
from fedpriv_attacks.parts.relaxed_columns import RelaxedColumns
from fedpriv_defenses.local_dp import LocalDP
from sklearn.metrics import roc_auc_score

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.registry import attacks
from fedpriv.data import load
from fedpriv.data.kinds.columns import Categorical, Columns, Numeric
from fedpriv.data.kinds.features import Features
from fedpriv.metrics.cells import by_column, cells
from fedpriv.metrics.score import score
from fedpriv.models import load as load_model
from fedpriv.procedure.procedure import make_procedure
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.trial import run_trial
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.attack import Finding

KNOWING = Adversary().knowing("labels")
KIND = Columns(
    fields=(
        Numeric(name="age", mean=40, spread=10, low=20, high=90, integer=True),
        Categorical(name="city", values=("Graz", "Linz", "Wien")),
        Numeric(name="same", mean=3, spread=1, low=3, high=3),
    )
)


def quick(**parts):
    return TabLeak(**{"ensemble": 5, "optimizer.steps": 300, **parts})


def exposure(trials, batch, data="anes96", seed=0, adversary=KNOWING, **options):
    """Rows of the test set; settings were tuned on rows of the training set."""
    train, test = load(data)
    model = load_model("mlp(hidden=[100,100],activation=relu)", train.input_shape, train.num_classes)
    return list(Exposure(model, test, trials, batch, adversary=adversary, seed=seed, **options))


def ran(attack, observations):
    return [run_trial(attack, o, 0) for o in observations]


def accuracy(trials):
    return float(np.mean([i.extra["row_accuracy"] for t in trials for i in t.score.images]))


@pytest.fixture(scope="module")
def eights():
    return exposure(2, 8)


@pytest.fixture(scope="module")
def clear(eights):
    return ran(quick(), eights)


def test_every_point_is_a_mixture_of_valid_rows_and_starts_where_it_is_told():
    own = RelaxedColumns(columns=KIND)
    v = tf.random.stateless_normal([6 * 5], [1, 2], stddev=30.0)
    x = own.decode(v, (6, 5)).numpy()
    np.testing.assert_allclose(KIND.project(tf.constant(x)), x, atol=1e-5)
    rows = np.array([[-1.5, 0.2, 0.3, 0.5, 0.0], [4.0, 0.6, 0.3, 0.1, 0.0]], np.float32)
    again = own.decode(own.start(tf.constant(rows), tf.zeros([2], tf.int32)), rows.shape)
    np.testing.assert_allclose(again, rows, atol=1e-4)


def test_a_number_s_variable_is_in_deviations_about_the_mean():
    own = RelaxedColumns(columns=KIND)
    at = tf.zeros([5])
    with tf.GradientTape() as tape:
        tape.watch(at)
        x = own.decode(at, (1, 5))[0]
        age = x[0]
    np.testing.assert_allclose(x, [0, 1 / 3, 1 / 3, 1 / 3, 0], atol=1e-6)
    np.testing.assert_allclose(tape.gradient(age, at), [1, 0, 0, 0, 0], atol=1e-5)


def test_an_ensemble_is_put_in_order_and_pooled():
    rows = np.array([[-1, 1, 0, 0, 0], [0.5, 0, 1, 0, 0], [2, 0, 0, 1, 0]], np.float64)
    rng = np.random.default_rng(0)
    members, targets = [], []
    for m in range(9):
        order = rng.permutation(3) if m else np.arange(3)
        members.append(rows[order])
        targets.append(np.eye(3)[order])
    members = np.stack(members)
    members[4, :, 0] += 0.3  # one that is off, and one that diverged
    members[5, 0, 0] = np.nan
    for groups in (None, np.zeros(3, int)):
        pooled = pool(members, np.stack(targets), np.arange(9.0), KIND, groups)
        np.testing.assert_allclose(pooled.x, rows)
    np.testing.assert_allclose(pooled.entropy[:, 1], 0, atol=1e-6)
    spread = 0.3 * np.sqrt(7) / 8  # of eight members, one of which is off by 0.3
    np.testing.assert_allclose(pooled.entropy[:, 0], 0.5 * np.log(2 * np.pi * np.e * spread**2), rtol=1e-6)
    np.testing.assert_allclose(pooled.uncertainty[:, 0], spread, rtol=1e-6)


def test_entropy_of_categories_and_votes_of_what_are_no_probabilities():
    one = np.array([[[0, 0.5, 0.5, 0, 0]], [[0, 0.5, 0.5, 0, 0]]])
    pooled = pool(one, np.ones((2, 1, 2)), np.zeros(2), KIND, None)
    assert pooled.entropy[0, 1] == pytest.approx(np.log(2) / np.log(3))
    free = np.array([[[0, 9.0, 0, 0, 0]], [[0, 0, 0.4, -3, 0]], [[0, 0, 0.3, 0, 0]]])
    pooled = pool(free, np.ones((3, 1, 2)), np.zeros(3), KIND, np.zeros(1, int))
    np.testing.assert_allclose(pooled.x[0, 1:4], [1 / 3, 2 / 3, 0])


def test_fixed_labels_keep_rows_apart():
    rows = np.array([[-1, 1, 0, 0, 0], [1, 0, 1, 0, 0]], np.float64)
    pooled = pool(np.stack([rows, rows[::-1]]), np.ones((2, 2, 2)), np.array([0.0, 1]), KIND, np.array([0, 1]))
    np.testing.assert_allclose(pooled.x[:, 0], 0)  # the mean of rows that must not change places
    pooled = pool(np.stack([rows, rows[::-1]]), np.ones((2, 2, 2)), np.array([0.0, 1]), KIND, np.array([1, 1]))
    np.testing.assert_allclose(pooled.x, rows)


def test_other_kinds_take_the_median():
    x = np.array([[[0.1, 0.2]], [[0.3, 0.2]], [[0.2, 0.9]]])
    kind = Features(shape=(2,), low=0, high=1)
    pooled = pool(x, np.ones((3, 1, 2)), np.zeros(3), kind, np.zeros(1, int))
    np.testing.assert_allclose(pooled.x, [[0.2, 0.2]])
    assert pooled.entropy is None


@pytest.mark.slow
def test_both_parts_help_and_more_so_together(eights, clear):
    """The paper's order: without its ensemble, or its softmax, it does worse, and the cosine distance alone worst."""
    whole, alone = accuracy(clear), accuracy(ran(quick(ensemble=1), eights))
    without_softmax = accuracy(ran(quick(coordinates="pixels"), eights))
    plain = accuracy(ran(quick(ensemble=1, coordinates="pixels"), eights))
    assert whole > max(alone, without_softmax, 0.9)
    assert min(alone, without_softmax) > plain


@pytest.mark.slow
def test_rows_of_a_generated_table_and_labels_that_nobody_told():
    trials = ran(quick(), exposure(2, 2, data="clinic", adversary=Adversary()))
    assert accuracy(trials) > 0.9
    assert np.mean([t.score.label_accuracy for t in trials]) > 0.7
    assert trials[0].finding.extra["label_source"] == "optimized"


@pytest.mark.slow
def test_local_steps_are_replayed():
    steps = make_procedure(local_epochs=3, batch_size=None, client={"learning_rate": 0.05})
    assert accuracy(ran(quick(ensemble=2), exposure(1, 2, procedure=steps))) > 0.9


@pytest.mark.slow
def test_cells_with_low_entropy_are_right_more_often():
    (observation,) = exposure(1, 24)
    (trial,) = ran(quick(), [observation])
    kind, order = observation.truth.kind, trial.score.matched
    right = kind.right(observation.truth.x, trial.finding.x[order])
    entropy = trial.finding.extra["entropy"][order]
    names = np.array([isinstance(f, Categorical) for f in kind.fields])
    for part in (names, ~names):  # entropies of names and of numbers are not on one scale
        assert roc_auc_score(~right[:, part].ravel(), entropy[:, part].ravel()) > 0.6
    *_, whole = by_column([cells(trial.finding, trial.score, observation.truth, 4)])
    assert whole["surest_accuracy"] > whole["accuracy"] + 0.02
    assert whole["accuracy"] == pytest.approx(right.mean())


@pytest.mark.slow
def test_noise_and_wrong_labels_leave_no_more_than_other_people_s_rows(eights, clear):
    noisy = ran(quick(), exposure(1, 8, defenses=(LocalDP(clip=1.0, noise_multiplier=1.0),)))
    one_class = [replace(o, view=replace(o.view, labels=np.zeros_like(o.view.labels))) for o in eights]
    wrong = ran(quick(), one_class)
    train, _ = load("anes96")
    strangers = [
        accuracy([SimpleNamespace(score=score(Finding(x=train.x[k : k + 8], y=train.y[k : k + 8]), o.truth))])
        for o in eights
        for k in range(0, 160, 8)
    ]
    for failed in (noisy, wrong):
        assert accuracy(failed) < max(strangers) < 0.6
        assert not any(i.success for t in failed for i in t.score.images)
        for measure, factor in (
            (lambda t: t.finding.objective, 10),
            (lambda t: t.finding.extra["uncertainty"].mean(), 1.5),
        ):
            assert np.mean([measure(t) for t in failed]) > factor * np.mean([measure(t) for t in clear])


def test_the_same_seed_gives_the_same_ensemble(eights):
    attack = quick(ensemble=2)
    a, b, c = (attack.run(eights[0].view, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a.x, b.x)
    np.testing.assert_array_equal(a.extra["entropy"], b.extra["entropy"])
    assert (a.extra["entropy"] != c.extra["entropy"]).any()
    assert (a.restarts, a.evaluations) == (2, 2 * 301)


def test_what_does_not_fit_is_refused():
    train, _ = load("tests.experiment.toys:toy")
    (observation,) = Exposure(load_model("mlp", train.input_shape, train.num_classes), train, 1)
    with pytest.raises(CapabilityError, match="relax a table's columns, but the data's examples are of kind 'image'"):
        quick().run(observation.view)
    (observation,) = exposure(1, 1)
    with pytest.raises(CapabilityError, match="by its method `run`"):
        quick().attack(observation.view, 0)
    with pytest.raises(CapabilityError, match="for other columns than the data's"):
        quick(coordinates=RelaxedColumns(columns=KIND)).run(observation.view)
    for parts, says in (
        ("group=2", "group=2 are not"),
        ("stages=2", "stages=2 are not"),
        ("constraint=box", "cannot be projected"),
        ("ensemble=0", "ensemble"),
        ("ensembles=3", "ensemble"),
    ):
        with pytest.raises(ParameterError, match=says):
            attacks.create(f"tableak({parts})")


def test_any_attack_can_be_an_ensemble():
    made = attacks.create("dlg(ensemble=3)")
    assert isinstance(made, Inversion)
    assert (made.starts(4).most, made.starts(4).pooled) == (3, True)
    assert (DLG().starts(4).most, DLG().starts(4).pooled) == (8, False)


@pytest.mark.slow
def test_the_paper_s_size_at_a_batch_of_32():
    observations = exposure(3, 32)
    whole, alone = (accuracy(ran(TabLeak(ensemble=n), observations)) for n in (30, 1))
    assert whole > alone + 0.03
    assert whole > accuracy(ran(TabLeak(coordinates="pixels"), observations)) + 0.05
