"""Goals: what they ask gives nothing away, and answers are scored as they should be."""

import json
from dataclasses import replace

import numpy as np
import pytest
from fedpriv_attacks.labels.attack import LabelsOnly

from fedpriv.base import registry
from fedpriv.base.atomic import to_json
from fedpriv.base.errors import DataError, FedprivError, ParameterError
from fedpriv.data.dataset import Dataset
from fedpriv.metrics.goals.answers import AnswerScore, ranking
from fedpriv.metrics.goals.labels import Labels
from fedpriv.metrics.goals.membership import Membership
from fedpriv.metrics.goals.property import Property
from fedpriv.metrics.goals.reconstruction import Reconstruction
from fedpriv.models.zoo import logistic
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.stage import stage
from fedpriv.threat.attack import Finding
from fedpriv.threat.goal import Pool, goal_of, interval_name
from fedpriv.threat.truth import Truth


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y = (np.arange(120) % 3).astype(np.int32)
    return Dataset("toy", rng.random((120, 4, 4, 1)).astype(np.float32), y, 3)


@pytest.fixture(scope="module")
def exposed(data):
    model = logistic((4, 4, 1), 3)
    return lambda **options: Exposure(model, data, **{"trials": 4, "batch": 6, **options})


def answers(confidence, truth, guess=None):
    made = Finding(confidence=np.asarray(confidence, float), guess=None if guess is None else np.asarray(guess))
    return Membership().score(made, Truth(np.zeros((1, 1)), np.zeros(1, int), (0,), np.asarray(truth)))


@pytest.mark.parametrize("name", ["reconstruction", "labels", "membership", "property"])
def test_every_goal_describes_its_own_columns(name):
    goal = registry.goals.create(name)
    names = [c.name for c in goal.columns()]
    assert len(set(names)) == len(names)
    for wanted in (goal.headline, goal.shade, *goal.curves):
        assert goal.column(wanted).label
    assert goal.curves[0] == goal.headline
    with pytest.raises(ParameterError, match="has no column 'nonsense'"):
        goal.column("nonsense")


def rows_of(array):
    return {row.tobytes() for row in np.asarray(array, np.float32)}


def test_candidates_are_members_and_as_many_others_and_nobody_can_tell_by_the_order(exposed, data):
    goal = Membership()
    staged = stage(exposed(), goal, seed=1, auxiliary=40)
    held = rows_of(staged.lab.data.floats())
    met = []
    for seen in staged:
        question, answer = seen.view.question, seen.truth.answer
        assert answer.sum() == 6
        assert len(answer) == len(question.x) == 12
        members = rows_of(seen.truth.x)
        assert [row.tobytes() in members for row in question.x] == answer.tolist()
        assert not rows_of(question.x) & held
        met.append(answer)
    attacked = rows_of(data.x[:24])
    others = rows_of(np.concatenate([s.view.question.x[~s.truth.answer] for s in staged]))
    assert not others & attacked
    assert len({a.tobytes() for a in met}) > 1


@pytest.mark.slow
def test_the_same_seed_asks_the_same(exposed):
    def asked(seed):
        return [s.view.question.x.tobytes() for s in stage(exposed(), Membership(), seed=seed, auxiliary=10)]

    assert asked(3) == asked(3)
    assert asked(3) != asked(4)


@pytest.mark.slow
def test_what_a_model_was_trained_on_is_asked_of_its_own_data(exposed, data):
    x = np.random.default_rng(1).random((20, 4, 4, 1)).astype(np.float32)
    trained = Dataset("trained", x, data.y[:20], 3)
    staged = stage(exposed(trials=1), Membership(of="model", candidates=20), members=trained)
    (seen,) = staged
    members = rows_of(trained.x)
    assert [row.tobytes() in members for row in seen.view.question.x] == seen.truth.answer.tolist()
    with pytest.raises(DataError, match="never trained"):
        next(iter(stage(exposed(), Membership(of="model"))))


def test_too_little_data_is_named(exposed):
    with pytest.raises(DataError, match="there are 6 members"):
        next(iter(stage(exposed(), Membership(candidates=7))))
    with pytest.raises(DataError, match="0 others"):
        next(iter(stage(exposed(), Membership(), auxiliary=96)))
    with pytest.raises(DataError, match="96 examples left"):
        stage(exposed(), Membership(), auxiliary=97)


@pytest.mark.slow
def test_half_of_the_trials_have_the_property(exposed):
    goal = Property(of="label:2", share=0.5, otherwise=0.17)
    found = [(int((s.truth.y == 2).sum()), bool(s.truth.answer[0])) for s in stage(exposed(trials=6), goal)]
    assert sorted(found) == [(1, False)] * 3 + [(3, True)] * 3
    fewer = Property(of="label:2", share=0.17, otherwise=0.5)
    found = [(int((s.truth.y == 2).sum()), bool(s.truth.answer[0])) for s in stage(exposed(trials=6), fewer)]
    assert sorted(found) == [(1, True)] * 3 + [(3, False)] * 3


def test_a_clients_examples_are_nobody_elses(exposed):
    staged = stage(exposed(trials=3, cohort=2, batch=5), Property(of="label:0", share=0.6), auxiliary=30)
    seen = np.concatenate([s.truth.x for s in staged])
    assert len(rows_of(seen)) == 30
    assert not rows_of(seen) & rows_of(staged.lab.data.floats())


def test_a_property_can_be_anything_of_the_examples(exposed):
    goal = Property(of="tests.metrics.goals.traits:bright", share=0.5, otherwise=0.0)
    found = [(int((s.truth.x.mean((1, 2, 3)) > 0.5).sum()), s.truth.answer[0]) for s in stage(exposed(), goal)]
    assert sorted(found) == [(0, False)] * 2 + [(3, True)] * 2
    with pytest.raises(ParameterError, match="one bool each"):
        replace(goal.question(), trait=lambda x, y: y).holds(np.ones((2, 4, 4, 1)), np.zeros(2))


def test_impossible_properties_are_named(exposed):
    for text, says in (
        ("property(of=3)", "write label:3"),
        ("property(of=label:x)", "write label:3"),
        ("property(share=2)", "share"),
    ):
        with pytest.raises(ParameterError, match=says):
            registry.goals.create(text)
    with pytest.raises(ParameterError, match="are both 0"):
        stage(exposed(batch=1), Property(of="label:0", share=0.3))
    with pytest.raises(DataError, match="examples with it, too few for 1 clients of 6"):
        stage(exposed(trials=20), Property(of="label:0", share=1))


def test_answers_of_known_quality():
    row = Membership(fpr=0.5).summarize([answers([4, 3, 2, 1], [1, 0, 1, 0], [True, True, False, False])])
    assert (row["answers"], row["yes"], row["auc"], row["tpr"]) == (4, 2, 0.75, 1)
    assert (row["accuracy_of_answers"], row["advantage"]) == (0.5, 0)
    low, high = row[interval_name("advantage")]
    assert -1 <= low < 0 < high <= 1
    ranks = Membership().summarize([answers([1, 0], [1, 0])])
    assert ranks["advantage"] is None
    assert ranks["auc"] == 1


def test_one_kind_of_answer_is_no_number():
    row = Property().summarize([answers([1.0], [True], [True])])
    assert row["auc"] is row["tpr"] is None
    assert row["accuracy_of_answers"] == 1
    assert "nothing can be told apart" in Property().verdict(row)


def test_verdicts_follow_from_the_interval():
    goal, rng = Membership(), np.random.default_rng(0)
    truth = np.arange(80) % 2 == 0
    assert "tells them apart" in goal.verdict(goal.summarize([answers(truth + rng.normal(size=80), truth)]))
    assert "no better than guessing" in goal.verdict(goal.summarize([answers(rng.normal(size=80), truth)]))


def test_scores_survive_their_file():
    goal = Membership()
    made = answers([np.inf, -1.5], [1, 0], [True, False])
    again = goal.load(json.loads(to_json(goal.dump(made))))
    assert again.rows() == made.rows()
    assert isinstance(again, AnswerScore)
    t = Truth(np.random.default_rng(0).random((2, 4, 4, 1)), np.array([1, 2]), (0,))
    for kind in (Reconstruction(), Labels()):
        score = kind.score(Finding(t.x, t.y), t)
        assert kind.load(json.loads(to_json(kind.dump(score)))).rows() == score.rows()


def test_labels_do_not_see_reconstructions():
    t = Truth(np.random.default_rng(0).random((2, 4, 4, 1)), np.array([1, 2]), (0,))
    both = Finding(t.x, np.array([2, 0]))
    row = Labels().summarize([Labels().score(both, t)])
    assert (row["label_accuracy"], row["batches_right"]) == (0.5, 0)
    with pytest.raises(ParameterError, match="claims no labels"):
        Labels().score(Finding(t.x, None), t)


def test_which_classes_are_there_is_a_number_of_its_own():
    """Of classes 1, 2, 2 claimed as 2, 2, 0: class 1 is missed and class 0 invented, the other three are right."""
    t = Truth(np.random.default_rng(0).random((3, 4, 4, 1)), np.array([1, 2, 2]), (0,), num_classes=5)
    goal = Labels()
    scored = goal.score(Finding(None, np.array([2, 2, 0])), t)
    row = goal.summarize([scored])
    assert (row["label_existence"], row["label_accuracy"]) == (pytest.approx(3 / 5), pytest.approx(2 / 3))
    assert goal.load(json.loads(to_json(goal.dump(scored)))).label_existence == scored.label_existence
    assert "label_existence" not in goal.summarize([goal.score(Finding(None, t.y), replace(t, num_classes=0))])


def test_a_batch_is_whole_where_each_of_its_images_is_reconstructed():
    x = np.random.default_rng(0).random((2, 8, 8, 1))
    t, goal = Truth(x, np.array([1, 2]), (0,)), Reconstruction()
    half = Finding(np.stack([x[0], 1 - x[1]]), t.y)
    scores = [goal.score(f, t) for f in (Finding(x, t.y), half)]
    assert goal.summarize(scores)["batches_whole"] == 0.5
    one = Truth(x[:1], np.array([1]), (0,))
    assert "batches_whole" not in goal.summarize([goal.score(Finding(x[:1], one.y), one)])


def test_findings_that_do_not_answer_are_named():
    t = Truth(np.zeros((1, 1)), np.zeros(1, int), (0,), np.array([True, False]))
    goal = Membership()
    for finding, says in (
        (Finding(), "no confidences"),
        (Finding(confidence=np.zeros(3)), "2 answers were asked for"),
        (Finding(confidence=np.zeros(2), guess=np.zeros(2)), "must be bool"),
    ):
        with pytest.raises(ParameterError, match=says):
            goal.score(finding, t)
    with pytest.raises(ParameterError, match="has no answer"):
        goal.score(Finding(confidence=np.zeros(1)), replace(t, answer=None))


def test_an_attack_answers_its_own_goals_only():
    assert goal_of(LabelsOnly()).name == "labels"
    assert goal_of(LabelsOnly(), "reconstruction", threshold_db=20).threshold_db == 20
    with pytest.raises(ParameterError, match="answers 'labels', 'reconstruction', not 'membership'"):
        goal_of(LabelsOnly(), "membership")
    with pytest.raises(FedprivError, match="Did you mean 'membership'"):
        goal_of(LabelsOnly(), "memberships")


def test_image_quality_is_one_place():
    """A failure is the worst there is, whatever the columns are."""
    from fedpriv.metrics.image_quality import COLUMNS, quality

    x = np.random.default_rng(0).random((8, 8, 1))
    good, none, bad = quality(x, x), quality(x, None), quality(x, np.full_like(x, np.nan))
    assert list(good) == list(none) == [c.name for c in COLUMNS]
    assert none == bad == {"psnr": 0.0, "ssim": 0.0, "mse": 1.0}
    assert good["psnr"] == np.inf
    assert quality(x.ravel(), x.ravel())["ssim"] is None


def test_extra_metrics_are_written_by_name(tmp_path):
    goal = registry.goals.create("reconstruction", metrics=["gap=fedpriv.metrics.image:mse"])
    t = Truth(np.random.default_rng(0).random((2, 4, 4, 1)), np.array([1, 2]), (0,))
    row = goal.summarize([goal.score(Finding(np.clip(t.x + 0.1, 0, 1), t.y), t)])
    assert 0 < row["gap_mean"] <= 0.0101
    assert goal.column("gap_mean").better == "lower"
    for wrong, says in (("gap", "no name=where"), ("gap=none.npz", "no file"), ("gap=no.module:f", "no module 'no'")):
        with pytest.raises(FedprivError, match=says):
            registry.goals.create("reconstruction", metrics=[wrong]).check((4, 4, 1))


def test_pooling_names_what_does_not_fit():
    with pytest.raises(ParameterError, match="no scores"):
        ranking([])
    with pytest.raises(ParameterError, match="give one each"):
        ranking([answers([1, 0], [1, 0])], runs=[0, 1])
    assert Pool().outsiders is None
