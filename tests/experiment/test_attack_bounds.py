"""Bounds beside attacks: where the theory gives them, what they are, and none elsewhere."""

from __future__ import annotations

import pytest

from fedpriv.account.bounds import GaussianTradeOff
from fedpriv.experiment.arm import arms, fact
from fedpriv.experiment.assembly import make_stage, threat_line
from fedpriv.experiment.attack_bounds import attack_bounds
from fedpriv.experiment.drawings import drawings
from fedpriv.experiment.setting import Setting
from fedpriv.experiment.table import gather
from fedpriv.figures.success_epsilon import Bound, EpsilonPoint, success_epsilon
from tests.experiment.conftest import finish

LOCAL = "local_dp(clip=1,noise_multiplier=2)"
SHARED = [LOCAL, "secret_sharing(aggregators=3,range=99)"]
PIXELS = "dlg(restarts=1,optimizer.max_evaluations=5)"


def bounds(**fields):
    exposure = {"images": 4, "batch": 4, **fields.pop("exposure", {})}
    setting = Setting(model="logistic", exposure=exposure, **{"attack": "loss_threshold", "defense": LOCAL, **fields})
    return attack_bounds(setting, make_stage(setting, 0), 0)


def test_a_message_with_noise_bounds_membership():
    """Replacing moves a clipped message by 2 clip, so mu is 1 at multiplier 2."""
    found = bounds(goal="membership(fpr=0.05)")
    assert found["exposed_mu"] == found["bound_mu"] == pytest.approx(1.0)
    assert found["bound_tpr"] == pytest.approx(float(GaussianTradeOff(1.0).tpr(0.05)))
    assert found["bound_advantage"] == pytest.approx(0.3829, abs=1e-4)
    assert found["exposed_epsilon"] == pytest.approx(GaussianTradeOff(1.0).epsilon(1e-5))


def test_an_image_is_bounded_by_its_prior_and_all_rounds_seen():
    one = bounds(attack=PIXELS, exposure={"images": 1, "batch": 1}, threshold_db=20.0)
    assert 0.01 < one["prior_success"] < 0.3
    assert one["bound_success_rate"] == pytest.approx(GaussianTradeOff(1.0).reconstruction(one["prior_success"]))
    assert "2000 equally likely" in one["bounds"]
    average = {"attack": f"round_average(inner={PIXELS})", "threshold_db": 20.0}
    nine = bounds(**average, exposure={"images": 1, "batch": 1, "rounds": 9})
    assert nine["bound_mu"] == pytest.approx(3.0)
    assert nine["bound_success_rate"] > one["bound_success_rate"]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"defense": "central_dp(clip=1,noise_multiplier=2)"}, "trusts the server"),
        ({"defense": "clip(norm=1)"}, "no defense"),
        ({"attack": PIXELS}, "best match among several"),
        (
            {"defense": [LOCAL, "secret_sharing(aggregators=3,range=99)"], "exposure": {"adversary": "aggregators(0)"}},
            "coal",
        ),
        ({"goal": "membership(of=model)", "attack": "loss_threshold"}, "was not trained"),
    ],
)
def test_elsewhere_there_is_no_number(fields, why):
    found = bounds(**fields)
    assert set(found) == {"bounds"}
    assert why in found["bounds"]


def test_who_sees_what_is_released_is_bounded_by_noise_on_the_sum():
    found = bounds(defense="central_dp(clip=1,noise_multiplier=2)", exposure={"adversary": "observer"})
    assert found["bound_mu"] == pytest.approx(1.0)
    assert bounds(defense="none") == {}


@pytest.mark.parametrize("name", ["central_dp", "dp_ftrl"])
def test_the_same_noise_on_a_sum_bounds_the_same_whatever_relations_are_claimed(name):
    """A client's update in place of another's moves it by 2 clip; in place of zeros, for reconstruction, by clip."""
    seen = {"adversary": "observer"}
    member = bounds(defense=f"{name}(clip=1,noise_multiplier=2)", goal="membership(fpr=0.05)", exposure=seen)
    assert member["bound_tpr"] == pytest.approx(0.2595, abs=1e-4)
    assert member["bound_advantage"] == pytest.approx(0.3829, abs=1e-4)


def test_zeros_in_an_images_place_bound_its_reconstruction():
    one = {"images": 1, "batch": 1, "adversary": "observer"}
    found = bounds(defense="dp_ftrl(clip=1,noise_multiplier=2)", attack=PIXELS, exposure=one, threshold_db=20.0)
    assert found["bound_success_rate"] == pytest.approx(GaussianTradeOff(0.5).reconstruction(found["prior_success"]))


def test_the_threat_line_has_the_noise_that_is_known():
    setting = Setting(model="logistic", attack="loss_threshold", defense=LOCAL)
    assert "gaussian, standard deviation 2, at 'update' (local_dp)" in threat_line(setting, make_stage(setting, 0))
    blind = Setting(model="logistic", attack="loss_threshold", defense=LOCAL, exposure={"blind": ["defense"]})
    assert "noise's size" not in threat_line(blind, make_stage(blind, 0))


@pytest.mark.slow
def test_bounds_are_drawn_and_stand_in_the_table(write, content, tmp_path):
    setting = {**content["setting"], "training": {"rounds": 0}, "exposure": {"images": 4, "batch": 4, "auxiliary": 5}}
    defenses = {"none": "none", "much": LOCAL, "less": "local_dp(clip=1,noise_multiplier=0.5)"}
    experiment, store = finish(
        write(grid={"attack": ["likelihood_ratio(backgrounds=8)"], "defense": defenses}, setting=setting),
        tmp_path / "r",
    )
    made = arms(gather(experiment, store))
    much, less = (next(a for a in made if a.labels["defense"] == name) for name in ("much", "less"))
    assert fact(less, "bound_tpr") > fact(much, "bound_tpr") > 0.01
    assert much.row()["bound_advantage"] < less.row()["bound_advantage"]
    assert much.row()["attack_knows_defense"]
    figures = {d.stem: d for d in drawings(experiment, made)}
    assert {"bounds_tpr", "bounds_advantage"} <= set(figures)
    axes = figures["bounds_advantage"].draw().axes[0]
    (curve,) = [line for line in axes.lines if len(line.get_xdata()) == 60]
    at = [
        float(y)
        for x, y in zip(curve.get_xdata(), curve.get_ydata(), strict=True)
        if x <= fact(much, "exposed_epsilon")
    ]
    assert max(at) <= fact(much, "bound_advantage") + 1e-6


@pytest.mark.slow
def test_accuracy_is_drawn_against_epsilon(write, content, tmp_path):
    training = {**content["setting"]["training"], "rounds": 2, "weighting": "uniform"}
    setting = {**content["setting"], "training": training, "attack": None}
    noise = {
        "none": {"defense": "none"},
        "much": {"defense": "central_dp(clip=1,noise_multiplier=3)"},
        "less": {"defense": "central_dp(clip=1,noise_multiplier=1)"},
    }
    experiment, store = finish(write(grid={"noise": noise}, setting=setting, seeds=1), tmp_path / "r")
    made = arms(gather(experiment, store))
    (figure,) = [d for d in drawings(experiment, made) if d.stem == "accuracy_epsilon"]
    assert figure.draw().axes[0].get_ylabel() == "Test accuracy"


def test_a_single_bound_is_a_level_line():
    points = [EpsilonPoint("a", 1.0, 0.5, 0.4, 0.6), EpsilonPoint("a", 4.0, 0.7, 0.6, 0.8)]
    figure = success_epsilon(points, delta=1e-5, bounds=[Bound("most", [2.0], [0.9])], floor=0.3)
    axes = figure.axes[0]
    (line,) = [one for one in axes.lines if list(one.get_ydata()) == [0.9, 0.9]]
    assert line.get_xdata()[0] < 2 < line.get_xdata()[1]
    assert axes.get_ylim()[0] == pytest.approx(0.3, abs=0.03)
