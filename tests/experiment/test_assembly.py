"""From a setting's values to data, federation and attacked rounds: one rule for each."""

import numpy as np
import pydantic
import pytest

from fedpriv.base.errors import ParameterError
from fedpriv.experiment.assembly import attacked_data, describe_images, make_federation, make_stage, threat_line
from fedpriv.experiment.setting import Exposed, Setting
from fedpriv.experiment.work import train

TOY = {"data": "tests.experiment.toys:toy", "model": "logistic"}  # 45 examples, 15 of them held out
PROTOCOL = "secret_sharing(aggregators=2)"


def setting(**more):
    return Setting.model_validate(TOY | more)


def training(**more):
    return setting(training={"rounds": 2, "clients": 6, "evaluate_every": 0, **more})


@pytest.mark.parametrize(("images", "auxiliary", "held_out"), [(10, 5, True), (10, 6, False), (16, 0, False)])
def test_the_test_set_is_attacked_where_it_is_large_enough(images, auxiliary, held_out):
    made = setting(attack="dlg", exposure={"images": images, "auxiliary": auxiliary})
    data, said = attacked_data(made)
    assert said is held_out
    assert len(data) == (15 if held_out else 45)
    fresh, trained = make_stage(made, 0), make_stage(made, 0, np.zeros(51, np.float32))
    assert (fresh.pool.members, fresh.pool.outsiders is None) == (None, len(data) == images + auxiliary)
    assert (trained.pool.members is not None) is held_out
    if not held_out:  # what the model was trained on is not new to it
        assert trained.pool.outsiders is None


def attacked(seed, **exposure):
    data = make_stage(setting(attack="dlg", exposure=exposure), seed).exposure.data
    return data.x.reshape(len(data), -1)


def test_a_seed_draws_the_images_attacked_whatever_else_is_attacked():
    drawn = attacked(0, images=6)
    np.testing.assert_array_equal(attacked(0, images=12)[:6], drawn)
    np.testing.assert_array_equal(attacked(0, images=12, cohort=2, batch=3)[:6], drawn)
    assert not np.array_equal(attacked(1, images=6), drawn)


def test_a_folder_sorted_by_class_is_attacked_in_all_classes():
    sorted_by_class = setting(data="tests.experiment.toys:by_class", attack="dlg", exposure={"images": 15})
    staged = make_stage(sorted_by_class, 0)
    assert len(set(staged.exposure.data.y)) == 3
    said = describe_images(sorted_by_class, staged, 0)
    assert len(said["classes"]) == 3
    assert sum(said["classes"].values()) == 15
    in_order = sorted_by_class.model_copy(update={"exposure": Exposed(images=15, order="file")})
    staged = make_stage(in_order, 0)
    assert set(staged.exposure.data.y) == {0}
    assert describe_images(in_order, staged, 0)["attacked"].endswith("the first of its 45: 15 class 0.")


def test_without_a_seed_only_the_partition_is_the_same():
    a, b, zero = (make_federation(training(), seed) for seed in (None, None, 0))
    assert a.seed != b.seed
    assert not a.seeded
    assert zero.seeded
    for one in (a, b):
        for mine, other in zip(one.partition.indices, zero.partition.indices, strict=True):
            np.testing.assert_array_equal(mine, other)


def test_clients_that_drop_out_are_in_a_trainings_rows():
    outcome = train(training(attrition="fixed(count=2)"), 0)
    assert [(len(r["lost"]), r["survivors"], r["aborted"]) for r in outcome.rounds] == [(2, 4, "")] * 2
    gone = setting(defense=PROTOCOL, training={"rounds": 2, "clients": 6, "attrition": "parties(gone=aggregator 1)"})
    outcome = train(gone, 0)
    assert all("aggregator 1" in r["aborted"] for r in outcome.rounds)
    np.testing.assert_array_equal(outcome.arrays["weights"], make_federation(gone, 0).start().weights)


def test_drop_outs_make_another_training_and_none_keep_the_key():
    plain = training().training_identity()
    assert {"attrition", "fraction"}.isdisjoint(plain["training"])
    assert training(attrition="none").training_identity() == plain
    lossy = training(attrition="bernoulli(rate=0.1)").training_identity()
    assert lossy != plain
    assert lossy == training(attrition="bernoulli(rate=0.10)").training_identity()
    assert training(fraction=0.5).training_identity() != plain


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"attrition": "bernouli"}, "Did you mean 'bernoulli'"),
        ({"attrition": "bernoulli(rate=2)"}, "less than or equal to 1"),
        ({"fraction": 0.5, "cohort": 2}, "cohort and fraction exclude each other"),
        ({"fraction": 0.5, "sampling": {"kind": "full"}}, "fraction and sampling exclude each other"),
    ],
)
def test_mistakes(values, says):
    with pytest.raises(pydantic.ValidationError, match=says):
        training(**values)


def test_attacked_cohorts_too_small_for_the_sum_are_refused_before_the_training():
    values = {"defense": ["distributed_dp(clip=1,noise_multiplier=5)", "secagg"], "attack": "dlg"}
    with pytest.raises(pydantic.ValidationError, match="cohort=1 is too small for secagg"):
        Setting(**values, training={"rounds": 1}, exposure={"cohort": 1})
    assert Setting(**values, training={"rounds": 1}, exposure={"cohort": 2}).exposure.cohort == 2


def test_a_phase_that_there_is_not_is_refused_before_the_first_round():
    with pytest.raises(ParameterError, match="no phase 'shares'"):
        train(training(attrition="fixed(count=1,phase=shares)"), 0)


def test_metrics_and_threshold_are_short_for_those_of_reconstruction():
    made = setting(attack="dlg", threshold_db=20, metrics="gap=my_metrics:gap").made_goal()
    assert (made.threshold_db, made.metrics) == (20, ("gap=my_metrics:gap",))
    assert setting(attack="loss_threshold", metrics="gap=my_metrics:gap").made_goal().name == "membership"
    with pytest.raises(ValueError, match="both set it"):
        setting(attack="dlg", goal="reconstruction(metrics=[a=b:c])", metrics="gap=my_metrics:gap")
    with pytest.raises(ValueError, match="not for goal 'labels'"):
        setting(attack="labels", goal="labels", metrics="gap=my_metrics:gap")


@pytest.mark.parametrize(
    ("adversary", "sampling", "beyond"),
    [
        ("observer", {"kind": "poisson", "rate": 0.3}, True),
        ("observer(blind=[num_examples])", {"kind": "poisson", "rate": 0.3}, False),
        ("observer", {"kind": "fixed", "size": 3}, False),  # everybody knows the size
        ("server", {"kind": "poisson", "rate": 0.3}, False),  # the claim is not about it anyway
    ],
)
def test_an_adversary_that_knows_more_than_a_claim_allows_is_said_to(adversary, sampling, beyond):
    made = setting(
        attack="dlg",
        defense="central_dp(clip=1,noise_multiplier=1)",
        training={"rounds": 0, "sampling": sampling, "weighting": "uniform"},
        exposure={"images": 2, "cohort": 2, "adversary": adversary},
    )
    assert ("their epsilon is no bound on it" in threat_line(made, make_stage(made, 0))) is beyond
