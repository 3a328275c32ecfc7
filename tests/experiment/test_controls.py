"""Controls in experiments: kept beside each score, resumed, and worded in the report."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from fedpriv.base.column import Column
from fedpriv.experiment import conclusion, runner
from fedpriv.experiment.arm import arms
from fedpriv.experiment.estimate import amount
from fedpriv.experiment.experiment import load
from fedpriv.experiment.report import write_report
from fedpriv.experiment.setting import Setting
from fedpriv.experiment.store import Store
from fedpriv.experiment.table import gather, image_rows
from fedpriv.metrics.disclosed import RULE, Controlled, Disclosed, disclosed
from fedpriv.metrics.goals.labels import Labels
from fedpriv.metrics.goals.membership import Membership
from fedpriv.metrics.goals.reconstruction import Reconstruction
from fedpriv.metrics.paired import Paired
from fedpriv.threat.attack import Finding
from fedpriv.threat.truth import Truth
from tests.experiment.conftest import finish

GGL = "ggl(optimizer.steps=60,restarts=1)"
GRID = {
    "name": "small",
    "setting": {"data": "fashion_small", "model": "logistic", "exposure": {"images": 3}},
    "grid": {"attack": {"GGL": GGL, "first layer": "first_layer"}},
    "seeds": 1,
    "draw": ["reconstructions"],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(file, experiment, store): GGL, which has a control by itself, and an attack that has none."""
    import yaml

    folder = tmp_path_factory.mktemp("controls")
    (folder / "e.yaml").write_text(yaml.safe_dump(GRID, sort_keys=False))
    return folder / "e.yaml", *finish(folder / "e.yaml", folder / "r")


@pytest.mark.slow
def test_a_generative_attack_has_its_control_beside_each_score_and_others_have_none(finished):
    _, experiment, store = finished
    ggl, exact = arms(gather(experiment, store))
    assert exact.disclosed is None
    assert [v.control for r in exact.results for v in r.views] == [None] * 3
    rows = image_rows(gather(experiment, store))
    for row in rows[:3]:
        assert 0 < row["control_psnr"] < row["psnr"]
        assert row["control_evaluations"] == row["evaluations"] == 61
    assert "control_psnr" not in rows[3]
    told = ggl.disclosed
    assert told.pair.pairs == 3
    assert told.evaluations == 3 * 61
    assert told.gain == pytest.approx(np.mean([r["psnr"] - r["control_psnr"] for r in rows[:3]]))
    assert ggl.row()["evaluations_median"] == 61
    assert ggl.row()["beyond_control_interval"] == told.interval
    arrays = ggl.results[0].attacked.arrays
    assert arrays["from_noise"].shape == arrays["found"].shape == (3, 28, 28, 1)
    assert not np.array_equal(arrays["from_noise"], arrays["found"])


def test_the_report_words_it(finished):
    _, experiment, store = finished
    page = write_report(experiment, store, ["fedpriv", "run", "small.yaml"]).read_text()
    found = re.search(
        r"GGL: of [\d.]+ dB mean PSNR, noise in place of the update gives [\d.]+ dB; the update gave away "
        r"[\d.]+ dB \(95% interval [\d.]+ to [\d.]+, 3 images\)\.",
        page,
    )
    assert found, page
    assert "What the update gave away" in page
    assert RULE[:60] in page
    assert "what the same attack made of noise" in page
    (said,) = (s for s in conclusion.sentences(experiment, arms(gather(experiment, store))) if "in place of" in s)
    assert said == found[0]


def test_what_is_done_is_not_done_again_and_without_a_control_it_is_another_cell(finished):
    file, _, store = finished
    assert not runner.survey(load(file), store).attacks
    for text, many in (("control=none", 1), ("control=noise", 1), ("control=auto", 0)):
        assert len(runner.survey(load(file, [text]), Store(store.folder)).attacks) == many


def test_a_control_takes_as_long_again():
    with_, without = (Setting(attack=GGL, control=c) for c in ("auto", "none"))
    job = type("Job", (), {"kind": "attack"})
    job.cell = type("Cell", (), {"setting": with_})
    assert amount(job) == 16
    job.cell.setting = without
    assert amount(job) == 8


def told(gains, interval, **changes):
    pair = Paired("psnr", 4, 10.0, 10.0 + gains, gains, interval, None, 4)
    fields = {
        "column": Reconstruction().column("psnr_mean"),
        "pair": pair,
        "trials": 4,
        "missing": Counter(),
        "alike": False,
        "unit": "image",
        "generative": True,
        "drawn": True,
        "seconds": 1.0,
        "evaluations": 5,
    }
    return Disclosed(**{**fields, **changes})


def test_the_words_follow_the_interval():
    sure = told(2.3, (1.1, 3.4))
    assert sure.sentence() == (
        "Of 12.3 dB mean PSNR, noise in place of the update gives 10.0 dB; the update gave away 2.3 dB (95% "
        "interval 1.1 to 3.4, 4 images)."
    )
    assert sure.reading() == "the update's"
    perhaps = told(0.3, (-0.5, 1.2))
    assert perhaps.sentence().endswith(
        "the update gave away 0.3 dB (95% interval -0.5 to 1.2, 4 images, which holds 0): what is drawn is the "
        "generator's, not the update's."
    )
    worse = told(-2.0, (-3.0, -1.0), generative=False)
    assert "gave away nothing (95% interval -3.0 to -1.0, 4 images, none of it above 0)" in worse.sentence()
    assert worse.reading() == "the attack's"
    hair = told(0.02, (0.01, 0.03))
    assert (hair.shown, hair.reading()) == (False, "the generator's")
    assert "0.0 dB (95% interval 0.0 to 0.0, 4 images, which is 0 as printed)" in hair.sentence()
    assert "-0.0" not in told(-0.02, (-0.03, -0.01)).sentence()
    once = told(2.0, None, pair=Paired("psnr", 3, 10.0, 12.0, 2.0, None, None, 1))
    assert "in a single trial (3 images), which has no interval" in once.sentence()
    assert (once.shown, once.reading()) == (None, "no interval")
    some = told(2.3, (1.1, 3.4), missing=Counter({"it looks like noise.": 2}))
    assert some.sentence().endswith("In 2 of 4 trials there is no control: it looks like noise.")


def test_where_lower_is_better_less_is_more():
    column = Column(name="gap_mean", label="Mean gap", better="lower", format=".1f")
    lower = told(-2.0, (-3.0, -1.0), column=column)
    assert (lower.gain, lower.interval, lower.shown) == (2.0, (1.0, 3.0), True)


def scored(goal, truth, findings, controls):
    trials = [
        Controlled(score=goal.score(f, truth), control=goal.score(c, truth), reason="", batch=k, run=0)
        for k, (f, c) in enumerate(zip(findings, controls, strict=True))
    ]
    return disclosed(goal, trials, generative=False)


def test_other_goals_go_by_their_own_columns():
    truth = Truth(np.zeros((2, 2, 2, 1), np.float32), np.array([0, 1]), (0,), num_classes=3)
    right, wrong = Finding(x=None, y=np.array([0, 1])), Finding(x=None, y=np.array([2, 1]))
    labels = scored(Labels(), truth, [right] * 4, [right, wrong, wrong, right])
    assert (labels.column.name, labels.gain) == ("label_accuracy", 0.25)
    assert labels.sentence().startswith("Of 100% labels found, noise in place of the update gives 75%")
    asked = replace(truth, answer=np.array([True, False, True, False]))

    def answers(confidence, guess):
        return Finding(x=None, y=None, confidence=np.array(confidence), guess=guess)

    good, bad = [0.9, 0.1, 0.8, 0.2], [0.1, 0.9, 0.8, 0.2]
    sure = scored(
        Membership(),
        asked,
        [answers(good, np.array(good) > 0.5)] * 2,
        [answers(bad, np.array(bad) > 0.5), answers(good, np.array(good) > 0.5)],
    )
    assert (sure.column.name, sure.gain, sure.pair.pairs) == ("accuracy_of_answers", 0.25, 8)
    ranked = scored(Membership(), asked, [answers(good, None)] * 2, [answers(bad, None)] * 2)
    assert (ranked.column.name, ranked.unit, ranked.interval, ranked.shown) == ("auc", "", None, None)
    assert ranked.gain == pytest.approx(0.75)  # of a yes and a no, the noise's ranking has one pair of four right
    assert "without an interval" in ranked.sentence()
    claimed = scored(Reconstruction(), truth, [right] * 2, [wrong] * 2)
    assert (claimed.column.name, claimed.gain) == ("label_accuracy", 0.5)
