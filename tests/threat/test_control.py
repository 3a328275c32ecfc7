"""Noise in place of the update: as large, in the same places, and with nothing of the update behind it."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from fedpriv_attacks.inversion.generative import GGL, GIAS
from fedpriv_attacks.modern import Modern
from fedpriv_attacks.parts.latent import Latent
from fedpriv_attacks.rounds.sum_difference import SumDifference
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing

from fedpriv.base.errors import CapabilityError
from fedpriv.procedure.procedure import make_procedure
from fedpriv.testing.references import holds, reachable
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.attack import Attack
from fedpriv.threat.control import in_noise, is_controlled, is_generative
from fedpriv.threat.dossier import Dossier
from fedpriv.threat.exchange import Letter
from fedpriv.threat.finding import Finding
from fedpriv.threat.knowledge import Generator
from fedpriv.threat.tap import Tap

HELD = "ggl(coordinates=latent(generator=held))"


SUM = SecretSharing(aggregators=2, range=4.0)


@pytest.fixture(scope="module")
def views(toy, parts, logistic_model):
    """`views(federation's options, adversaries)`: what each adversary saw of client 1 in one round, or of all."""
    from fedpriv.federation.federation import Federation

    def make(*adversaries, defenses=()):
        procedure = make_procedure(batch_size=None, weighting="uniform")
        federation = Federation(logistic_model, toy, parts, procedure, defenses, seed=0)
        taps = [Tap(Adversary.parse(text), clients=None if defenses else (1,)) for text in adversaries]
        seen = federation.run(1, taps=taps, evaluate_every=0).observations
        return {str(o.view.adversary): o.view for o in seen}

    return make


@pytest.fixture(scope="module")
def single(views):
    """By adversary, a view of one round without defenses."""
    return views("server", "server(knows=[labels])", "observer")


@pytest.fixture(scope="module")
def shared(views):
    """By adversary, a view of one round of a secure sum."""
    return views("aggregators(0,1)", "eavesdropper", defenses=(SUM,))


@pytest.fixture
def view(single):
    return single["server"]


def test_noise_has_the_updates_norm_and_nothing_of_its_direction(view):
    made = in_noise(view, 3)
    assert made.observed.dtype == view.observed.dtype
    assert np.linalg.norm(made.observed) == pytest.approx(np.linalg.norm(view.observed), rel=1e-6)
    cosine = made.observed @ view.observed / np.linalg.norm(view.observed) ** 2
    assert abs(cosine) < 4 / np.sqrt(len(view.observed))
    again, other = in_noise(view, 3), in_noise(view, 4)
    np.testing.assert_array_equal(again.observed, made.observed)
    assert not np.array_equal(other.observed, made.observed)
    # What the adversary knows of its own is what it knew.
    kept = ("adversary", "kind", "round", "model", "plan", "procedure", "num_examples", "clients", "defenses", "states")
    assert all(getattr(made, name) is getattr(view, name) for name in kept)


def test_what_a_protocol_hides_stays_hidden(view):
    visible = np.arange(len(view.observed)) % 3 == 0
    view = replace(view, visible=visible, observed=np.where(visible, view.observed, 0).astype(np.float32))
    made = in_noise(view, 0)
    assert not made.observed[~visible].any()
    assert made.observed[visible].all()
    assert np.linalg.norm(made.observed) == pytest.approx(np.linalg.norm(view.observed), rel=1e-6)


def test_an_update_of_zeros_is_its_own_control(view):
    assert not in_noise(replace(view, observed=np.zeros_like(view.observed)), 0).observed.any()


def test_no_reference_leads_to_the_update(single):
    assert len(single) == 3
    for view in single.values():
        assert holds(view, view.observed[None])
        made = in_noise(view, 0)
        assert not holds(made, view.observed[None])
        assert all(thing is not view for thing in reachable(made))


@pytest.mark.slow
def test_of_a_protocols_messages_it_is_known_that_they_passed(shared):
    view = shared["aggregators(0,1)"]
    said = [m.payload for m in view.payloads if m.payload is not None]
    assert any(isinstance(payload, bytes) for payload in said)
    made = in_noise(view, 0)
    assert [(m.phase, m.sender, m.size) for m in made.payloads] == [(m.phase, m.sender, m.size) for m in view.payloads]
    inside = {id(thing) for thing in reachable(made)}
    assert not any(id(payload) in inside for payload in said)
    assert not holds(made, view.observed[None])


def test_every_page_of_several_rounds_is_noise_and_the_model_stands_still(view):
    steps = np.random.default_rng(0).normal(size=(3, view.update_size)).astype(np.float32)
    weights = view.weights + np.cumsum(steps, 0) - steps
    pages = [replace(view, round=r, weights=weights[r], observed=steps[r]) for r in range(3)]
    dossier = Dossier(tuple(pages))
    noised = in_noise(dossier, 0)
    assert isinstance(noised, Dossier)
    assert noised.rounds == dossier.rounds
    for page in pages:
        assert not holds(noised, page.observed[None])
        twin = next(p for p in noised.pages if p.round == page.round)
        assert np.linalg.norm(twin.observed) == pytest.approx(np.linalg.norm(page.observed), rel=1e-6)
        assert twin.pseudonym == page.pseudonym
        # A model that moves tells of the updates that moved it.
        np.testing.assert_array_equal(twin.weights, pages[0].weights)
    assert len({p.observed.tobytes() for p in noised.pages}) == len(pages)


def test_batch_statistics_become_noise_of_their_size(view):
    rng = np.random.default_rng(0)
    view = replace(view, batch_statistics=tuple((rng.normal(size=c), rng.random(c) + 0.1) for c in (4, 6)))
    made = in_noise(view, 0)
    for (mean, variance), (own, spread) in zip(made.batch_statistics, view.batch_statistics, strict=True):
        assert np.linalg.norm(mean) == pytest.approx(np.linalg.norm(own), rel=1e-5)
        assert np.linalg.norm(variance) == pytest.approx(np.linalg.norm(spread), rel=1e-5)
        assert (variance > 0).all()
        assert not np.allclose(mean, own)
        assert not np.allclose(variance, spread)


def test_where_noise_has_no_meaning_it_says_so(view, shared):
    assert shared["eavesdropper"].observed is None
    with pytest.raises(CapabilityError, match="ring elements or ciphertexts alone"):
        in_noise(shared["eavesdropper"], 0)
    with pytest.raises(CapabilityError, match="norm is nan"):
        in_noise(replace(view, observed=np.full_like(view.observed, np.nan)), 0)
    sent = replace(view, letter=Letter("peer 1", None, view.weights + view.observed, {}))
    with pytest.raises(CapabilityError, match="peers' models of several rounds"):
        in_noise(Dossier.of(sent, replace(sent, round=1)), 0)
    assert in_noise(sent, 0).letter is None


class Bringing(Attack):
    """Brings a generator by itself, as attacks of other packages may."""

    name: ClassVar[str] = "bringing"

    def brings(self):
        return (Generator(source="mine"),)

    def attack(self, view, seed):
        return Finding(x=None, y=np.zeros(1, np.int64))


def test_attacks_that_use_a_generator_are_found_wherever_it_stands():
    from fedpriv.base.registry import attacks

    generative = [
        GGL(),
        GIAS(refine="residual"),
        attacks.create(HELD),
        Modern(attacks=("dlg", "ggl")),
        Modern(attacks=("dlg", HELD)),
        SumDifference(inner="ggl"),
        SumDifference(inner=HELD),
        attacks.create("dlg(coordinates=latent,labels=auto)"),
        attacks.create("inverting_gradients(initializer=analytic(attack=ggl))"),
        Bringing(),
    ]
    assert all(map(is_generative, generative))
    assert isinstance(generative[2].coordinates, Latent)
    plain = [attacks.create(name) for name in ("dlg", "modern", "first_layer", "sum_difference", "labels", "lamp")]
    assert not any(map(is_generative, plain))
    assert is_controlled(plain[0], "noise")
    assert not is_controlled(plain[0], "auto")
    assert not is_controlled(generative[0], "none")
