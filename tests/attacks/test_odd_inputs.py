"""No attack crashes on odd input: it ends in a finite finding of the right shape, or says in words why it cannot.

A new attack is one more line of ATTACKS, with a budget that makes it quick. Each pair compiles a graph of its own, so
only the first attack on some inputs is in the quick suite.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from fedpriv.base import registry
from fedpriv.base.errors import CapabilityError, DivergenceError, FedprivError
from fedpriv.metrics.progress import progress
from fedpriv.metrics.score import score
from fedpriv.threat.truth import Truth

SLOW = pytest.mark.slow
LBFGS = "optimizer.max_evaluations=4,restarts=1"
ADAM = "optimizer.steps=4,restarts=1"


ATTACKS = [
    f"dlg({LBFGS},path=true)",
    f"idlg({LBFGS})",
    f"cpl({LBFGS})",
    f"class_representatives({LBFGS})",
    f"inverting_gradients({ADAM},path=true)",
    f"gradinversion({ADAM},group=2)",
    f"sme({ADAM})",
    f"dlf({ADAM})",
    f"inversion({ADAM.replace('optimizer.', 'optimizer=adam,optimizer.')},objective=l1,labels=joint)",
    "modern(attacks=[first_layer,spear(seconds=1),dlg(restarts=1,optimizer.max_evaluations=4)])",
    "labels",
    "first_layer",
    "rgap",
    "spear(seconds=1)",
    "cocktail_party(optimizer=adam(steps=4))",
    f"ggl({ADAM})",
]

#: These leave an example out (not-a-number) rather than guess it.
LEAVES_OUT = {"first_layer", "spear", "cocktail_party"}


@dataclass(frozen=True)
class Odd:
    """One client's examples and model.

    Attributes:
      shape: of an example.
      labels: one an example.
      classes: number of classes.
      level: every value of every example; None draws them.
      steps: local steps.
      model: settings of the model.
      clients: how many clients' sum is seen.
    """

    shape: tuple[int, ...] = (6, 6, 1)
    labels: tuple[int, ...] = (1,)
    classes: int = 3
    level: float | None = None
    steps: int = 1
    model: tuple[tuple[str, Any], ...] = ()
    clients: int = 1


INPUTS = {
    "one channel": Odd(),
    "two channels": Odd(shape=(5, 5, 2)),
    "not square": Odd(shape=(4, 9, 3)),
    "one pixel wide": Odd(shape=(8, 1, 1)),
    "one pixel high": Odd(shape=(1, 8, 3)),
    "a single pixel": Odd(shape=(1, 1, 1)),
    "features": Odd(shape=(7,)),
    "two classes": Odd(classes=2),
    "two classes, a batch": Odd(classes=2, labels=(0, 1, 0)),
    "more images than classes": Odd(labels=(0, 1, 2, 0, 1, 2, 0), classes=3),
    "repeated labels": Odd(labels=(2, 2, 2)),
    "double precision": Odd(model=(("dtype", "float64"),)),
    "double precision, a batch of features": Odd(shape=(7,), labels=(0, 2), model=(("dtype", "float64"),)),
    "no bias in the last layer": Odd(labels=(0, 1), model=(("bias", False),)),
    "all black": Odd(level=0.0, labels=(1, 2)),
    "all white": Odd(level=1.0),
    "all black through ReLU": Odd(level=0.0, model=(("activation", "relu"),)),
    "a batch through ReLU": Odd(labels=(0, 1), model=(("activation", "relu"),)),
    "several local steps": Odd(labels=(0, 1), steps=3),
    "a sum of two clients": Odd(labels=(0, 0, 2, 1), clients=2),
}

QUICK = ("not square", "one pixel wide", "features", "more images than classes", "double precision", "all black")

#: These need nothing special of the model or the batch.
REFUSES_NOTHING = {"dlg"}


def observation(helpers, odd: Odd):
    """View and truth."""
    model = helpers.dense(odd.shape, classes=odd.classes, hidden=5, **dict(odd.model))
    n = len(odd.labels)
    x = np.random.default_rng(0).uniform(0.1, 0.9, (n, *odd.shape)).astype(np.float32)
    if odd.level is not None:
        x[:] = odd.level
    y = np.array(odd.labels, np.int32)
    procedure = helpers.local_steps(odd.steps) if odd.steps > 1 else None
    view = helpers.make_view(model, x, y, procedure)
    if odd.clients > 1:
        # One step each: the mean of the clients' updates is the batch's.
        view = replace(view, kind="sum", clients=odd.clients, num_examples=(n // odd.clients,) * odd.clients)
    return view, Truth(x, y, tuple(range(odd.clients)))


def pairs() -> list[Any]:
    """Every attack on every input."""
    quick = {(ATTACKS[0], name) for name in QUICK}
    return [
        pytest.param(
            attack, name, id=f"{attack.partition('(')[0]}-{name}", marks=() if (attack, name) in quick else SLOW
        )
        for attack in ATTACKS
        for name in INPUTS
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("attack", "name"), pairs())
def test_odd_input_ends_in_a_finding_or_in_words(helpers, attack, name):
    view, truth = observation(helpers, INPUTS[name])
    made = registry.attacks.create(attack)
    refusal = None
    try:
        finding = made.run(view, seed=1)
    except FedprivError as e:
        refusal = e
    if refusal is not None:
        assert made.name not in REFUSES_NOTHING, refusal
        assert len(str(refusal)) > 40
        return
    n, shape = len(truth.y), truth.x.shape[1:]
    assert finding.x is not None or finding.y is not None
    if finding.x is not None:
        assert finding.x.shape == (n, *shape)
        assert finding.x.dtype == np.float32
        whole = np.isfinite(finding.x).reshape(n, -1)
        assert whole.all() or made.name in LEAVES_OUT
        assert (whole.all(1) | ~whole.any(1)).all()
    if finding.y is not None:
        assert np.shape(finding.y) == (n,)
        assert np.issubdtype(np.asarray(finding.y).dtype, np.integer)
        assert 0 <= np.min(finding.y) <= np.max(finding.y) < view.model.num_classes
    assert finding.evaluations >= 0
    scored = score(finding, truth)
    assert len(scored.images) == n
    if finding.path is not None:
        assert progress(finding, truth.x).psnr.shape == (len(finding.history), n)


@pytest.mark.parametrize("attack", [ATTACKS[0], *(pytest.param(a, marks=SLOW) for a in ATTACKS[1:])])
@pytest.mark.parametrize("level", [0.0, np.nan, np.inf])
def test_an_update_that_says_nothing_is_refused(helpers, attack, level):
    view, _ = observation(helpers, Odd())
    view = replace(view, observed=np.full_like(view.observed, level))
    with pytest.raises((CapabilityError, DivergenceError)):
        registry.attacks.create(attack).run(view, seed=1)


@pytest.mark.parametrize("attack", ATTACKS)
def test_secret_shares_alone_are_refused(helpers, attack):
    view, _ = observation(helpers, Odd())
    with pytest.raises(CapabilityError, match="real-valued update"):
        registry.attacks.create(attack).run(replace(view, kind="shares", observed=None), seed=1)
