"""Label inference: exact where theory says so, refused or wrong where it says so, and the best choice for each view."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fedpriv_attacks.labels.attack import LabelsOnly
from fedpriv_attacks.labels.auto import Auto
from fedpriv_attacks.labels.batch import ILRG, LLG, Bias, ColumnMinimum, LLGPlus, LLGStar
from fedpriv_attacks.labels.inference import Joint, Known, SignRule

from fedpriv.base.errors import CapabilityError, DivergenceError, ParameterError
from fedpriv.data import load as load_data
from fedpriv.metrics.labels import label_existence_accuracy
from fedpriv.metrics.matching import label_accuracy
from fedpriv.models import load as load_model
from fedpriv.models.zoo import logistic
from fedpriv.procedure.procedure import make_procedure
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.trial import run_trial

BATCH = [7, 0, 3, 3, 9, 3, 0, 5, 3, 0, 7, 7]  # more examples than most tests have classes to spare, and repeats
COUNTING = [ILRG(), ILRG(ridge=0), Bias(inputs="zeros"), LLGStar(inputs="zeros")]


def described(inference):
    return inference.describe() if hasattr(inference, "describe") else str(inference)


def same_images(n, shape, level=0.0):
    """All examples alike: the features and predictions of one are those of all."""
    return np.full((n, *shape), level, np.float32)


def check(found, labels, classes=10):
    assert found.y.dtype == np.int32
    assert found.y.tolist() == sorted(labels)
    assert found.counts.tolist() == np.bincount(labels, minlength=classes).tolist()


@pytest.mark.parametrize("inference", COUNTING, ids=described)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_counts_are_exact_where_all_examples_have_the_same_features(helpers, inference, dtype):
    model = helpers.dense(dtype=dtype)
    view = helpers.make_view(model, same_images(len(BATCH), model.input_shape), BATCH)
    found = inference(view)
    check(found, BATCH)
    assert found.notes == ()
    if not isinstance(inference, LLGStar):
        assert found.margin > 0.95


@pytest.mark.parametrize("inference", [ILRG(), Bias()], ids=described)
def test_signed_features_do_not_matter_to_what_reads_the_bias(helpers, inference):
    model = helpers.dense(activation="tanh")
    for seed in range(5):
        labels = np.random.default_rng(seed).integers(0, 10, 8).tolist()
        view = helpers.make_view(model, helpers.smooth_images(8, model.input_shape, seed), labels, seed=seed)
        found = inference(view)
        assert label_accuracy(found.y, labels) >= 0.875


def test_logistic_regression_on_black_images_is_p_minus_y_with_known_p():
    model = logistic((4, 4, 1), 3)
    from fedpriv.data.dataset import Dataset
    from fedpriv.threat.adversary import Adversary

    y = np.array([2, 2, 2, 0, 2, 1, 2], np.int32)
    data = Dataset("black", same_images(7, (4, 4, 1)), y, 3)
    (observation,) = Exposure(model, data, 1, 7, adversary=Adversary(), seed=1)
    check(Bias(inputs="zeros")(observation.view), y, 3)
    check(Bias(inputs="calibrated")(observation.view), y, 3)  # its biases start at zero


@pytest.mark.parametrize("inference", COUNTING, ids=described)
def test_several_local_steps_are_read_and_said_to_be(helpers, inference):
    model = helpers.dense()
    view = helpers.make_view(model, same_images(len(BATCH), model.input_shape), BATCH, helpers.local_steps(5, 0.02))
    found = inference(view)
    check(found, BATCH)
    assert "5 local steps" in found.notes[0]


def test_ilrg_averages_predictions_on_the_way(helpers):
    """At a rate where the last layer learns a good part of the labels, the broadcast weights alone mislead."""
    model = helpers.dense()
    view = helpers.make_view(model, same_images(len(BATCH), model.input_shape), BATCH, helpers.local_steps(5, 0.1))
    check(ILRG()(view), BATCH)
    from fedpriv_attacks.labels.last_layer import read_last_layer

    early = dataclasses.replace(read_last_layer(view), midpoints=(0.0,))
    off = np.abs(ILRG().counts(early, len(BATCH)) - np.bincount(BATCH, minlength=10)).max()
    assert off > 3 * np.abs(ILRG().counts(read_last_layer(view), len(BATCH)) - np.bincount(BATCH, minlength=10)).max()


@pytest.mark.parametrize("inference", [ILRG(), Bias(inputs="zeros"), LLGStar(inputs="zeros"), Auto()], ids=described)
def test_a_sum_of_clients_is_read_as_one_batch(helpers, inference):
    model = helpers.dense()
    view = helpers.make_view(model, same_images(len(BATCH), model.input_shape), BATCH)
    summed = dataclasses.replace(view, kind="sum", clients=3, num_examples=(2, 9, 1))
    x = same_images(len(BATCH), model.input_shape)
    summed = dataclasses.replace(summed, observed=np.asarray(summed.simulate(x, np.array(BATCH, np.int32))))
    check(inference(summed), BATCH)


@pytest.mark.slow
def test_ridge_saves_ilrg_where_a_class_is_as_frequent_as_predicted(helpers):
    """Its bias gradient is then near zero, and the paper's quotient anything; on 2nn this is common."""
    train, _ = load_data("fashion_small")
    order = np.random.default_rng(2).permutation(len(train))[: 12 * 24]
    model = load_model("2nn", input_shape=(28, 28, 1), num_classes=10)
    exposure = Exposure(model, train.take(order), 12, 24)
    existence = {0.0: [], 1.0: []}
    for observation in exposure:
        for ridge, values in existence.items():
            y = ILRG(ridge=ridge)(observation.view).y
            values.append(label_existence_accuracy(y, observation.truth.y, 10))
    assert np.mean(existence[1.0]) >= 0.98
    assert np.mean(existence[0.0]) <= 0.96


@pytest.mark.slow
def test_a_batch_of_24_on_an_untrained_fully_connected_network():
    _, test = load_data("fashion_small")
    data = test.take(np.random.default_rng(0).permutation(len(test)))
    exposure = Exposure(load_model("2nn", input_shape=(28, 28, 1), num_classes=10), data, 83, 24, seed=5)
    scores = []
    for o in exposure:
        y = ILRG()(o.view).y
        scores.append((label_existence_accuracy(y, o.truth.y, 10), label_accuracy(y, o.truth.y)))
    existence, instances = np.mean(scores, 0)
    assert existence >= 0.99
    assert instances >= 0.97


def test_gradinversion_finds_labels_that_differ(helpers):
    model = helpers.dense(scale=0.2)  # predictions near 1/C, as in an untrained network
    for seed in range(10):
        labels = np.random.default_rng(seed).permutation(10)[:4].tolist()
        view = helpers.make_view(model, helpers.smooth_images(4, model.input_shape, seed), labels, seed=seed)
        check(ColumnMinimum()(view), labels)


def test_a_repeated_label_makes_gradinversion_claim_an_absent_one(helpers):
    model = helpers.dense()
    view = helpers.make_view(model, helpers.smooth_images(3, model.input_shape), [4, 4, 1])
    found = ColumnMinimum()(view)
    assert len(set(found.y.tolist()) - {4, 1}) == 1
    assert found.notes == ("takes every label to be different",)


def test_gradinversion_refuses_more_examples_than_classes(helpers):
    model = helpers.dense(classes=3)
    view = helpers.make_view(model, helpers.smooth_images(4, model.input_shape), [0, 1, 2, 0])
    with pytest.raises(CapabilityError, match="4 examples of 3 classes"):
        ColumnMinimum()(view)


def test_llg_counts_repeats_where_one_class_dominates(helpers):
    model = helpers.dense()
    for seed in range(5):
        view = helpers.make_view(model, helpers.smooth_images(4, model.input_shape, seed), [6, 6, 6, 2], seed=seed)
        assert label_accuracy(LLG()(view).y, [6, 6, 6, 2]) >= 0.75


def test_llg_needs_features_that_are_not_signed(helpers):
    """With tanh the columns' sums may cancel: the paper says non-negative activations."""
    model, right = helpers.dense(activation="tanh"), []
    for seed in range(20):
        labels = np.random.default_rng(seed).integers(0, 10, 6).tolist()
        view = helpers.make_view(model, helpers.smooth_images(6, model.input_shape, seed), labels, seed=seed)
        try:
            right.append(label_accuracy(LLG()(view).y, labels))
        except CapabilityError:
            right.append(0.0)
    assert np.mean(right) < 0.8


def test_scale_free_inferences_do_not_care_about_the_rate(helpers):
    model = helpers.dense()
    x, labels = helpers.smooth_images(5, model.input_shape), [8, 1, 1, 4, 8]
    view = helpers.make_view(model, x, labels)
    scaled = dataclasses.replace(view, observed=view.observed * 1e-3, procedure=None, client_rate=None)
    for inference in (LLG(), ColumnMinimum()):
        assert inference(view).y.tolist() == inference(scaled).y.tolist()
    for inference in (ILRG(), Bias(), LLGStar()):
        with pytest.raises(CapabilityError, match="procedure"):
            inference(scaled)


@pytest.mark.slow
def test_auxiliary_data_serve_llg_and_bias():
    _, test = load_data("fashion_small")
    data = test.take(np.random.default_rng(1).permutation(len(test))[:40])
    model = load_model("2nn", input_shape=(28, 28, 1), num_classes=10)
    observations = list(Exposure(model, data, 5, 8))
    public = {"auxiliary": "fashion_small", "per_class": 20}
    for inference, least in ((Bias(**public), 0.97), (LLGPlus(**public), 0.8)):
        right = [label_accuracy(inference(o.view).y, o.truth.y) for o in observations]
        assert np.mean(right) >= least
        assert inference.config()["auxiliary"] == "fashion_small"


def test_auxiliary_data_of_another_kind_are_refused(helpers):
    model = helpers.dense()
    view = helpers.make_view(model, helpers.smooth_images(2, model.input_shape), [0, 1])
    with pytest.raises(ParameterError, match=r"\[28, 28, 1\] of 10 classes"):
        LLGPlus(auxiliary="fashion_small")(view)


def test_a_last_layer_without_bias_names_what_works_instead(helpers):
    model = helpers.dense(bias=False)
    view = helpers.make_view(model, helpers.smooth_images(3, model.input_shape), [0, 1, 1])
    for inference in (ILRG(), Bias()):
        with pytest.raises(CapabilityError, match=r"bias of a dense last layer.*llg_star"):
            inference(view)
    assert LLGStar()(view).y.shape == (3,)


def test_a_last_layer_without_a_dense_kernel_names_what_works_instead(helpers):
    model = helpers.dense()
    model = dataclasses.replace(model, layers=("dense", "dense", "other", "dense"))
    view = helpers.make_view(model, same_images(3, model.input_shape), [0, 1, 1])
    for inference in (ILRG(), LLG(), LLGStar(), ColumnMinimum()):
        with pytest.raises(CapabilityError, match=r"kernel of a dense last layer.*labels=bias"):
            inference(view)
    check(Bias(inputs="zeros")(view), [0, 1, 1])


@pytest.mark.parametrize("labels", [[3], [3, 1]])
def test_labels_are_left_to_the_attack_where_the_last_layer_is_kept_back(helpers, labels):
    """A client that keeps its last layer to itself sends no labels; all else is matched as ever."""
    model = helpers.dense()
    view = helpers.make_view(model, helpers.smooth_images(len(labels), model.input_shape), labels)
    kept = view.observed.copy()
    for part in (model.classifier_kernel(), model.classifier_bias()):
        kept[part] = 0
    assert len(labels) > 1 or Auto()(view) is not None
    assert Auto()(dataclasses.replace(view, observed=kept)) is None
    with pytest.raises(CapabilityError, match="did not move"):
        (SignRule() if len(labels) == 1 else LLG())(dataclasses.replace(view, observed=kept))


@pytest.mark.parametrize(
    "inference", [SignRule(), Auto(), ILRG(), Bias(), LLG(), LLGStar(), ColumnMinimum()], ids=described
)
def test_broken_updates_are_named(helpers, inference):
    model = helpers.dense()
    view = helpers.make_view(model, helpers.smooth_images(1, model.input_shape), [3])
    with pytest.raises(CapabilityError, match="did not move"):
        inference(dataclasses.replace(view, observed=0 * view.observed))
    with pytest.raises(DivergenceError, match="not finite"):
        inference(dataclasses.replace(view, observed=view.observed + np.nan))
    with pytest.raises(CapabilityError, match="number of examples"):
        inference(dataclasses.replace(view, num_examples=None))


def test_simulations_repeat_by_seed(helpers):
    model = helpers.dense()
    view = helpers.make_view(model, helpers.smooth_images(3, model.input_shape), [0, 1, 1])
    for inference in (Bias(examples=5), LLGStar(examples=5)):
        first, again, other = inference(view, 4), inference(view, 4), inference(view, 5)
        assert first.evidence.tolist() == again.evidence.tolist()
        assert first.evidence.tolist() != other.evidence.tolist()


def test_idlg_reads_one_example_and_no_more(helpers):
    model = helpers.dense()
    view = helpers.make_view(model, helpers.smooth_images(1, model.input_shape), [3])
    check(SignRule()(view), [3])
    for labels in ([6, 6, 6, 6, 6], [6, 2]):  # one class alone rises in the first; that proves nothing
        several = helpers.make_view(model, helpers.smooth_images(len(labels), model.input_shape), labels)
        with pytest.raises(CapabilityError, match=f"{len(labels)} examples are behind this one"):
            SignRule()(several)


def test_joint_and_known(helpers):
    model = helpers.dense()
    x = helpers.smooth_images(3, model.input_shape)
    assert Joint()(helpers.make_view(model, x, [9, 0, 4])) is None
    known = Known()(helpers.make_view(model, x, [9, 0, 4], knows=("labels",)))
    assert known.y.tolist() == [9, 0, 4]  # whose they are is known as well
    assert known.counts.sum() == 3
    with pytest.raises(CapabilityError, match="labels"):
        Known()(helpers.make_view(model, x, [9, 0, 4]))


class TestAuto:
    """The best choice for each view."""

    def test_by_what_the_view_holds(self, helpers):
        model = helpers.dense()
        x = helpers.smooth_images(4, model.input_shape)
        view = helpers.make_view(model, x, [1, 2, 3, 3])
        assert Auto()(view).source == "ilrg, kernel and bias"
        assert Auto()(helpers.make_view(model, x[:1], [1])).source == "idlg, bias"
        assert Auto()(helpers.make_view(model, x, [1, 2, 3, 3], knows=("labels",))).source == "known"
        assert Auto()(dataclasses.replace(view, procedure=None, client_rate=None)).source == "llg, kernel"

    def test_by_the_last_layer(self, helpers):
        bare = helpers.dense(bias=False)
        x = helpers.smooth_images(4, bare.input_shape)
        assert Auto()(helpers.make_view(bare, x, [1, 2, 3, 3])).source == "llg_star, kernel, random"
        model = helpers.dense()
        biased = dataclasses.replace(model, layers=("dense", "dense", "other", "dense"))
        assert Auto()(helpers.make_view(biased, x, [1, 2, 3, 3])).source == "bias, random"
        other = dataclasses.replace(model, layers=("dense", "dense", "other", "other"))
        assert Auto()(helpers.make_view(other, x, [1, 2, 3, 3])) is None

    def test_a_model_that_tells_classes_apart_gets_the_calibrated_bias(self, helpers):
        model = logistic((10,), 10)
        weights = model.spec.flatten_numpy([6 * np.eye(10, dtype=np.float32), np.zeros(10, np.float32)])
        sources, right = [], []
        for seed in range(6):
            rng = np.random.default_rng(seed)
            labels = rng.integers(0, 10, 24)
            seen = np.where(rng.random(24) < 0.7, labels, rng.integers(0, 10, 24))  # the rest look like another class
            x = (0.7 * np.eye(10)[seen] + 0.3 * rng.random((24, 10))).astype(np.float32)
            found = Auto()(helpers.make_view(model, x, labels, weights=weights))
            sources.append(found.source)
            right.append(label_accuracy(found.y, labels) - label_accuracy(ILRG()(helpers.make_view(
                model, x, labels, weights=weights)).y, labels))  # fmt: skip
        assert sources.count("bias, calibrated") >= 5
        assert np.mean(right) > 0.05
        assert Auto(spread=1.0)(helpers.make_view(model, x, labels, weights=weights)).source == "ilrg, kernel and bias"

    def test_a_small_batch_of_such_a_model_is_taken_to_have_different_labels(self, helpers):
        model = logistic((10,), 10)
        weights = model.spec.flatten_numpy([6 * np.eye(10, dtype=np.float32), np.zeros(10, np.float32)])
        x = (0.7 * np.eye(10)[[0, 1, 2, 3]] + 0.3 * np.random.default_rng(0).random((4, 10))).astype(np.float32)
        view = helpers.make_view(model, x, [0, 1, 2, 7], weights=weights)  # the last looks like a 3
        learned = Auto(spread=0.0, whole=0.0)
        assert learned(view).source == "gradinversion, kernel"
        assert learned.with_(pairs=0.0)(view).source == "bias, calibrated"

    def test_an_adaptive_optimizer_leaves_a_batch_to_the_search(self, helpers):
        model = helpers.dense()
        x = helpers.smooth_images(4, model.input_shape)
        adam = make_procedure(local_epochs=1, batch_size=None, client={"kind": "adam", "learning_rate": 0.01})
        assert Auto()(helpers.make_view(model, x, [1, 2, 3, 3], adam)) is None
        assert Auto()(helpers.make_view(model, x[:1], [5], adam)).y.tolist() == [5]


class TestLabelsOnly:
    """The attack that claims labels and nothing else."""

    def test_it_is_scored_by_the_labels(self):
        _, test = load_data("fashion_small")
        data = test.take(np.array([0, 1, 1, 5, 5, 5]))
        model = load_model("2nn(hidden=[20])", input_shape=(28, 28, 1), num_classes=10)
        (observation,) = Exposure(model, data, 1, 6)
        trial = run_trial(LabelsOnly(), observation)
        assert trial.score.label_accuracy == 1.0
        assert trial.finding.x is None
        assert trial.finding.extra["label_source"] == "ilrg, kernel and bias"

    def test_it_cannot_leave_the_labels_open(self, helpers):
        model = helpers.dense()
        view = helpers.make_view(model, helpers.smooth_images(2, model.input_shape), [0, 1])
        with pytest.raises(CapabilityError, match="joint"):
            LabelsOnly(inference=Joint()).run(view)
