"""A dossier links views only where its adversary can, holds nothing of the truth, and lets an attack remember."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest
from fedpriv_defenses.clip import Clip
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.rounds.trial import isolated
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.dossier import Dossier, dossiers
from fedpriv.threat.tap import Tap
from tests.test_trial import Burglar, holds, stack

ROUNDS = 3


def listen(federation, text, **tap):
    """(dossier, observations) of one adversary over all rounds."""
    adversary = Adversary.parse(text)
    seen = federation.run(ROUNDS, taps=[Tap(adversary, **tap)], evaluate_every=0).observations
    (dossier,) = dossiers(o.view for o in seen)
    return dossier, seen


def clients_of(seen, views):
    """Ids of the clients behind views, from the truth beside them."""
    return [o.truth.clients for v in views for o in seen if o.view is v]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "linked"),
    [
        ("server", True),
        ("server(identified=false)", False),
        ("eavesdropper", False),
        ("eavesdropper(persistent=true)", True),
    ],
)
def test_views_are_linked_where_the_position_can(federate, text, linked):
    dossier, seen = listen(federate(batch_size=None), text)
    assert dossier.rounds == (0, 1, 2)
    assert len(dossier.pages) == 5 * ROUNDS
    groups = [dossier.by(p) for p in dossier.pseudonyms]
    assert len(groups) == (5 if linked else 5 * ROUNDS)
    for group in groups:
        assert len(set(clients_of(seen, group))) == 1
        assert [v.round for v in group] == ([0, 1, 2] if linked else [group[0].round])


@pytest.mark.slow
def test_neither_names_nor_order_tell_who_sent_what_where_nobody_can(federate):
    """A rerun with clients renumbered gives the same pages in the same order under the same names."""
    from fedpriv.data.partition import Partition

    plain = federate(batch_size=None, weighting="uniform")
    turned = dataclasses.replace(plain, partition=Partition("turned", tuple(reversed(plain.partition.indices))))
    one, two = (listen(f, "server(identified=false)", rounds=[0])[0] for f in (plain, turned))
    assert one.pseudonyms == two.pseudonyms
    for a, b in zip(one.pages, two.pages, strict=True):
        np.testing.assert_array_equal(a.observed, b.observed)
        assert "client" not in a.pseudonym


@pytest.mark.parametrize("text", ["observer", "client(1)"])
def test_released_models_come_from_nobody_in_particular(federate, text):
    dossier, _ = listen(federate(batch_size=None), text)
    assert dossier.pseudonyms == ()
    assert [v.kind for v in dossier.pages] == ["released"] * ROUNDS
    assert len(dossier.at(1)) == 1
    with pytest.raises(ParameterError, match="nobody is called 'client 1' here; known are: none"):
        dossier.by("client 1")


def test_a_secure_sum_links_nobody(federate):
    dossier, _ = listen(federate(batch_size=None, defenses=(SecretSharing(),)), "server")
    assert dossier.pseudonyms == ()
    assert [v.kind for v in dossier.pages] == ["sum"] * ROUNDS


CASES = {
    "server": ("server(knows=[labels])", ()),
    "nameless": ("server(identified=false)", (Clip(norm=0.1),)),
    "eavesdropper": ("eavesdropper(persistent=true)", ()),
    "observer": ("observer", ()),
    "client": ("client(1)", ()),
    "coalition": ("aggregators(0)", (SecretSharing(),)),
    "whole coalition": ("aggregators(0,1)", (SecretSharing(),)),
}


class Archivist(Burglar):
    """Looks through its dossier and the whole stack of calls above it."""

    name: ClassVar[str] = "archivist"

    def attack_dossier(self, dossier, seed):
        return Finding(x=None, y=np.zeros(1, int), extra={"things": [dossier, stack()]})


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_no_reference_leads_from_a_dossier_to_the_truth(federate, case):
    text, defenses = CASES[case]
    dossier, seen = listen(federate(batch_size=4, local_epochs=2, defenses=defenses), text)
    for view in dossier.pages:
        view.capabilities, hash(view.static), view.inputs()
        view.describe()
    dossier.describe()
    finding = isolated(Archivist(), dossier)
    for o in seen:
        assert not holds(finding.extra["things"], o.truth.x)
    assert holds(seen, seen[0].truth.x)  # the walk would have found it


def test_what_leads_to_a_client_s_own_examples_is_its_own(federate, toy, parts):
    dossier, seen = listen(federate(batch_size=None), "client(1)")
    own = toy.x[parts.indices[1]]
    assert holds(dossier, own)
    assert not any(1 in o.truth.clients for o in seen)
    assert all(len(o.truth.y) == 30 - 12 for o in seen)


class Drift(Attack):
    """How far the released model went between the first two rounds: needs both, and looks at nothing else."""

    name: ClassVar[str] = "drift"
    needs: ClassVar[frozenset] = frozenset({Capability.REAL_UPDATE})
    least_rounds: ClassVar[int] = 2

    def attack_dossier(self, dossier, seed):
        first, second = (dossier.at(r)[0] for r in dossier.rounds[:2])
        return Finding(x=None, y=None, extra={"drift": second.weights - first.weights})


def test_an_attack_uses_two_rounds(federate):
    """The difference of two broadcast models is what the first round released."""
    dossier, seen = listen(federate(batch_size=None), "observer")
    finding = isolated(Drift(), dossier)
    np.testing.assert_allclose(finding.extra["drift"], seen[0].view.observed, atol=1e-6)
    assert np.linalg.norm(finding.extra["drift"]) > 0
    with pytest.raises(CapabilityError, match="'drift' needs views of 2 rounds, but this is what observer holds"):
        Drift().run(dossier.pages[0])


class Last(Attack):
    """Looks at one page."""

    name: ClassVar[str] = "last"

    def attack(self, view, seed):
        return Finding(x=None, y=None, extra={"round": view.round, "seed": seed})


def test_an_attack_on_one_view_takes_the_one_page(federate):
    dossier, _ = listen(federate(batch_size=None), "observer")
    page = Dossier.of(dossier.pages[1])
    assert Last().run(page, 4).extra == Last().run(dossier.pages[1], 4).extra == {"round": 1, "seed": 4}
    with pytest.raises(CapabilityError, match=r"attack 'last' looks at one view, but there are 3: .*dossier.pages"):
        Last().run(dossier)
    assert Drift.remembers()
    assert not Last.remembers()


def test_dossiers_are_one_adversary_s(federate):
    federation = federate(batch_size=None)
    taps = [Tap(Adversary()), Tap(Adversary("observer"))]
    views = [o.view for o in federation.run(2, taps=taps, evaluate_every=0).observations]
    server, observer = dossiers(views)
    assert (len(server.pages), len(observer.pages)) == (10, 2)
    with pytest.raises(ParameterError, match="one adversary's"):
        Dossier(tuple(views))
    with pytest.raises(ParameterError, match="give each view once"):
        Dossier.of(views[0], views[0])
    with pytest.raises(ParameterError, match="needs a view"):
        Dossier(())
