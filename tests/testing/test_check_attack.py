"""The kit passes every attack that ships, and catches what must not pass."""

from __future__ import annotations

import dataclasses
import itertools
import os
from typing import Any, ClassVar

import numpy as np
import pytest

from fedpriv.base import registry
from fedpriv.base.errors import CapabilityError, CheckError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.rounds.exposure import Exposure
from fedpriv.testing import CASES, Case, check_attack
from fedpriv.testing.attack import WITHOUT
from fedpriv.testing.case import OVER_ROUNDS, own_case
from fedpriv.testing.references import holds
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.lab import Lab
from fedpriv.threat.view import View

#: Every attack that ships, with few steps, and the case it is made for; None lets the kit choose.
SHIPPED: dict[str, list[tuple[str, str | None]]] = {
    "inversion": [("inversion(optimizer.max_evaluations=200)", None)],
    "modern": [("modern(attacks=[spear,rgap])", "single")],
    "dlg": [
        ("dlg(optimizer.max_evaluations=200,restarts=1)", "single"),
        ("dlg(labels=known,optimizer.max_evaluations=200,restarts=1)", None),
    ],
    "idlg": [("idlg(optimizer.max_evaluations=200,restarts=1)", None)],
    "inverting_gradients": [("inverting_gradients(optimizer.steps=200)", "single_relu")],
    "cpl": [("cpl(optimizer.max_evaluations=200)", None)],
    "gradinversion": [("gradinversion(optimizer.steps=200,group=2)", "running_statistics")],
    "class_representatives": [("class_representatives(optimizer.max_evaluations=200)", None)],
    "sme": [("sme(optimizer.steps=200)", "fedavg")],
    "dlf": [("dlf(optimizer.steps=200)", "fedavg")],
    "ggl": [("ggl(optimizer.steps=100)", "clothes")],
    "gias": [("gias(optimizer.steps=50,restarts=1,refine_optimizer=adam(steps=30,learning_rate=0.02))", "clothes")],
    "first_layer": [("first_layer", None)],
    "labels": [("labels", "single_relu")],
    "rgap": [("rgap", None)],
    "spear": [("spear(max_samples=1000)", "batch")],
    "peel": [("peel", "batch")],
    "cocktail_party": [("cocktail_party(optimizer=adam(steps=700,learning_rate=0.01))", "batch")],
    "sparse_first_layer": [("sparse_first_layer", "single_relu")],
    "sum_difference": [("sum_difference(inner=first_layer)", None)],
    "tag": [("tag(optimizer.steps=300)", "text")],
    "lamp": [("lamp(optimizer.steps=300,initializer=points(draws=10,permutations=10))", "text")],
    "dager": [("dager", "text")],
    "token_set": [("token_set", "text")],
    "cocktail_party_box": [("cocktail_party_box(optimizer=adam(steps=700,learning_rate=0.01))", "batch")],
}
#: Made for noise that is declared, one client's rounds, gossip, tables or planted weights; no case of the kit is. They
#: have own tests.
ELSEWHERE = {
    "decepticons",
    "robbing_the_fed",
    "loki",
    "maximum_posterior",
    "round_average",
    "functional_marginalization",
    "tableak",
    *("curious", "fishing", "suppression", "unmix", "untransform"),
}
RUNS = [(text, case) for name in SHIPPED for text, case in SHIPPED[name]]
#: The default run has another preset of the same class for these, or they take long.
SLOW = (
    *("inversion(", "dlg(labels=known", "idlg(", "class_representatives(", "cpl(", "gias(", "cocktail_party("),
    *("tag(", "lamp(", "dager", "cocktail_party_box(", "gradinversion(", "spear(", "ggl(", "dlf("),
)


@pytest.mark.parametrize(
    ("text", "case"),
    [
        pytest.param(text, case, id=text.partition("(")[0], marks=[pytest.mark.slow] if text.startswith(SLOW) else [])
        for text, case in RUNS
    ],
)
def test_a_shipped_attack_keeps_its_promises(text, case):
    checked = check_attack(text, case)
    assert checked.case == case or case is None
    assert len(checked.found) == 2
    assert "REAL_UPDATE" in checked.refused


def test_every_shipped_attack_is_checked():
    ours = {n: registry.attacks.load(n) for n in registry.attacks.names()}
    ours = {n: a for n, a in ours.items() if a.__module__.startswith("fedpriv_attacks")}
    answering = {n for n, a in ours.items() if {"reconstruction", "labels"} & set(a.goals)}
    assert answering == SHIPPED.keys() | ELSEWHERE
    with pytest.raises(ParameterError, match="answers membership; check_attack knows cases of reconstruction"):
        check_attack("loss_threshold")


@pytest.mark.parametrize(
    "name",
    [
        "spear",
        "labels",
        *(pytest.param(preset, marks=pytest.mark.slow) for preset in ("gradinversion", "cpl", "class_representatives")),
    ],
)
def test_an_attack_made_to_refuse_everything_is_caught(name, monkeypatch):
    def refuse(self: Any, view: View, seed: int) -> Finding:
        raise CapabilityError("nothing suits me")

    monkeypatch.setattr(registry.attacks.load(name), "attack", refuse)
    with pytest.raises(CheckError, match="refuses every case of the kit") as caught:
        check_attack(name)
    assert "single: nothing suits me" in str(caught.value) or "running_statistics: nothing" in str(caught.value)
    with pytest.raises(CheckError, match="refuses observation 0, on which it should work: nothing suits me"):
        check_attack(name, "running_statistics")


class Ratio(Attack):
    """The ratio of the first kernel's and bias's gradients: a single example in front of a dense layer."""

    name: ClassVar[str] = "ratio"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.REAL_UPDATE, Capability.NUM_EXAMPLES})

    units: int = 1000

    def attack(self, view: View, seed: int) -> Finding:
        if view.total_examples != 1 or not np.any(view.observed) or not np.all(np.isfinite(view.observed)):
            raise CapabilityError("no single example")
        return Finding(self.example(view, seed), None)

    def example(self, view: View, seed: int) -> np.ndarray:
        kernel, bias = view.model.spec.unflatten_numpy(view.observed)[:2]
        if not bias.any():
            raise CapabilityError("nothing moved")
        i = np.argmax(np.abs(bias[: self.units]))
        return np.clip(kernel[:, i] / bias[i], 0, 1).reshape(1, *view.model.input_shape).astype(np.float32)


def test_a_third_partys_attack_passes_and_the_numbers_are_told():
    checked = check_attack(Ratio)
    assert checked.case == "single"
    assert min(c.psnr for c in checked.found) > 60
    assert max(checked.blank) < 15
    assert checked.control.psnr < max(checked.blank)
    assert set(checked.refused) == {"zeros", "not-a-number", "REAL_UPDATE", "NUM_EXAMPLES"}
    with pytest.raises(CheckError, match="its examples come to"):
        check_attack(Ratio, gain=145)


class Noise(Ratio):
    """Draws what it claims."""

    def example(self, view, seed):
        return np.random.default_rng(seed).random((1, *view.model.input_shape)).astype(np.float32)


class Blank(Ratio):
    """Always the same answer."""

    def example(self, view, seed):
        return np.full((1, *view.model.input_shape), 0.4, np.float32)


class Chance(Ratio):
    """A little noise that no seed fixes."""

    def example(self, view, seed):
        noise = np.frombuffer(os.urandom(4), np.uint32)[0] / 2**32
        return np.clip(super().example(view, seed) - 1e-3 * noise, 0, 1).astype(np.float32)


_calls = itertools.count()


class Counting(Ratio):
    """Counts how often it was called."""

    def example(self, view, seed):
        return np.clip(super().example(view, seed) - 1e-5 * next(_calls), 0, 1).astype(np.float32)


class Baked(Ratio):
    """Part of the first view's update stays behind in a graph that serves all views of the model."""

    graphs: ClassVar[dict[Any, Any]] = {}

    def example(self, view, seed):
        if view.model not in self.graphs:
            kept = np.abs(view.observed).sum() * 1e-6
            self.graphs[view.model] = tf.function(lambda x: tf.clip_by_value(x - kept, 0.0, 1.0))
        return self.graphs[view.model](super().example(view, seed)).numpy()


class Writing(Ratio):
    """Scales the update in place."""

    def example(self, view, seed):
        view.observed[:] /= np.linalg.norm(view.observed)
        return super().example(view, seed)


class Prepared(Ratio):
    """Knows the answer from elsewhere."""

    answers: ClassVar[list[np.ndarray]] = []

    def example(self, view, seed):
        own = super().example(view, seed)
        return min(self.answers, key=lambda a: float(np.sum((a - own) ** 2)))[None]


class Careless(Ratio):
    """Uses the procedure without saying so."""

    def attack(self, view, seed):
        assert view.procedure.local_epochs == 1
        return super().attack(view, seed)


class Undemanding(Ratio):
    """Does not look whether it has what it needs."""

    def run(self, view, seed=0):
        return Finding(self.example(view, seed), None) if view.observed is not None else Finding(None, None)


class Doubles(Ratio):
    """Another precision than promised."""

    def example(self, view, seed):
        return super().example(view, seed).astype(np.float64)


class Flat(Ratio):
    """Flat vectors in place of images."""

    def example(self, view, seed):
        return super().example(view, seed).reshape(1, -1)


class Labelled(Ratio):
    """Labels beyond the classes, and two for one example."""

    def attack(self, view, seed):
        found = super().attack(view, seed)
        return Finding(found.x, np.array([3, 77]))


class Silent(Ratio):
    """Claims nothing."""

    def attack(self, view, seed):
        super().attack(view, seed)
        return Finding(None, None)


class Thawed(Ratio):
    """Its parameters can be changed."""

    model_config = {"frozen": False}


class Told(Attack):
    """Labels that it was told, not read off the update."""

    name: ClassVar[str] = "told"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.REAL_UPDATE})

    def attack(self, view: View, seed: int) -> Finding:
        truths = [o.truth.y for o in own_case("single").observations]
        views = [o.view.weights for o in own_case("single").observations]
        return Finding(None, next(y for y, w in zip(truths, views) if np.array_equal(w, view.weights)))


def test_labels_that_do_not_come_from_the_update_are_caught():
    with pytest.raises(CheckError, match="finds 100% of the labels with noise in place of the update"):
        check_attack(Told)


class Crashing(Ratio):
    """Meets a case nobody thought of."""

    def example(self, view, seed):
        raise IndexError("list index out of range")


@pytest.mark.parametrize(
    ("attack", "says"),
    [
        (Noise, "above a blank image and above what it finds in noise"),
        (Blank, "above a blank image and above what it finds in noise"),
        (Chance, "the same view and seed give another x the second time"),
        (Counting, "the same view and seed give another x the second time"),
        (Baked, "after another view it gives another x than in a graph of its own"),
        (Writing, "it changes its view: observed"),
        (Careless, "without PROCEDURE, which it does not say it needs, it raises AttributeError"),
        (Undemanding, "without REAL_UPDATE, which it needs, it must raise a CapabilityError; got a finding"),
        (Doubles, "x is a ndarray of float64; return a NumPy array of float32"),
        (Flat, r"x has shape \[1, 49\]; return \[n, 7, 7, 1\]"),
        (Labelled, "y has labels from 3 to 77, but there are 10 classes"),
        (Silent, "claim nothing that the adversary does not know"),
        (Thawed, "its parameter 'units' can be changed after it is made"),
        (Crashing, "on observation 0 it raises IndexError"),
    ],
)
def test_what_must_not_pass_is_caught_and_named(attack, says):
    with pytest.raises(CheckError, match=says) as caught:
        check_attack(attack)
    assert isinstance(caught.value, AssertionError)
    assert str(caught.value).startswith("attack 'ratio' fails its check on case 'single'")


def test_an_attack_that_has_the_answer_from_elsewhere_is_caught(monkeypatch):
    truths = [o.truth for o in own_case("single").observations]
    monkeypatch.setattr(Prepared, "answers", [x for t in truths for x in t.x])
    with pytest.raises(CheckError, match=r"finds the examples \(\d+.* dB\) with noise in place of the update"):
        check_attack(Prepared)


class Keeping(Ratio):
    """Was given more than a view."""

    kept: Any = None


def test_an_attack_that_holds_the_truth_is_caught():
    truth = own_case("single").observations[1].truth
    with pytest.raises(CheckError, match="the attack holds a reference to the truth of observation 1"):
        check_attack(Keeping(kept=lambda: truth))


ONE_VIEW = [name for name in CASES if name not in OVER_ROUNDS]


def test_the_case_over_rounds_is_of_sums_that_tell_single_clients():
    one, other = own_case("sums").observations
    assert not np.array_equal(one.truth.y, other.truth.y)
    for episode in (one, other):
        pages, members, matrix = episode.dossier.participation()
        assert [v.kind for v in pages] == ["sum"] * 3
        assert len(members) == len(episode.truth.y) == 3
        np.testing.assert_array_equal(matrix, 1 - np.eye(3, dtype=int))
        for page, row in zip(pages, matrix.astype(bool), strict=True):
            simulated = page.simulate(tf.constant(episode.truth.x[row]), tf.constant(episode.truth.y[row])).numpy()
            np.testing.assert_allclose(simulated, page.observed, atol=1e-5 * np.abs(page.observed).max())
        assert not holds(episode.dossier, episode.truth.x)


@pytest.mark.parametrize("name", ONE_VIEW)
def test_a_case_is_what_it_says_and_gives_nothing_away(name):
    case = own_case(name)
    assert len(case.observations) == 2
    one, other = case.observations
    assert one.view.static == other.view.static
    assert not np.array_equal(one.truth.y, other.truth.y)
    for o in case.observations:
        simulated = o.view.simulate(tf.constant(o.truth.x), tf.constant(o.truth.y)).numpy()
        np.testing.assert_allclose(simulated, o.view.observed, atol=1e-5 * np.abs(o.view.observed).max())
        assert not holds(o.view, o.truth.x)
    named = {
        "labels": Capability.LABELS,
        "running_statistics": Capability.RUNNING_STATISTICS,
        "batch_statistics": Capability.BATCH_STATISTICS,
    }
    assert (Capability.SINGLE_STEP in one.view.capabilities) == (name != "fedavg")
    if name in named:
        assert named[name] in one.view.capabilities


def test_every_capability_can_be_taken_away():
    assert set(WITHOUT) == set(Capability)
    seen = set()
    views = [own_case(name).observations[0].view for name in ONE_VIEW]
    equipped = views[0].adversary.knowing("auxiliary(fashion_small)", "generator(fashion)")
    lab = Lab(own_data(), views[0].model)
    for view in [*views, dataclasses.replace(views[0], adversary=equipped, lab=lab)]:
        for capability in view.capabilities:
            seen.add(capability)
            poorer = WITHOUT[capability](view)
            assert capability not in poorer.capabilities
            assert capability in view.capabilities
    assert seen == set(Capability)


def test_a_case_of_ones_own():
    exposure = Exposure(own_case("single").observations[0].view.model, own_data(), trials=3)
    checked = check_attack(Ratio, exposure)
    assert checked.case == "own"
    assert len(checked.found) == 3
    with pytest.raises(ParameterError, match="give at least 2"):
        Case.of(Exposure(exposure.model, exposure.data, trials=1))
    with pytest.raises(ParameterError, match="mixes views"):
        Case("mixed", own_case("single").observations + own_case("batch").observations)


def own_data():
    from fedpriv.data.dataset import Dataset

    rng = np.random.default_rng(3)
    return Dataset("random", rng.random((5, 7, 7, 1)).astype(np.float32), np.arange(5, dtype=np.int32), 10)


class Demanding(Ratio):
    """Cannot be made without its parameter."""

    units: int


@pytest.mark.parametrize(
    ("attack", "case", "says"),
    [
        (Ratio, "singel", "Did you mean 'single'"),
        (Demanding, None, "cannot be made without parameters"),
        (own_data, None, "takes an Attack, its class or its name"),
        ("dlgg", None, "Did you mean 'dlg'"),
    ],
)
def test_mistakes_are_named(attack, case, says):
    from fedpriv.base.errors import FedprivError

    with pytest.raises(FedprivError, match=says):
        check_attack(attack, case)
