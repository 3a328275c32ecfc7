"""Attack bounds: what differential privacy leaves the attack of a cell, where it leaves less than everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedpriv.account.accounting import composed_epsilon, counted, sampled
from fedpriv.account.bounds import GaussianTradeOff, Least, TradeOff, claimed, of_replacing, prior_success
from fedpriv.base.errors import LedgerError
from fedpriv.base.lazy import dp_accounting
from fedpriv.base.types import Row
from fedpriv.experiment.assembly import attacked_data, make_federation
from fedpriv.experiment.setting import Setting
from fedpriv.metrics.goals.membership import Membership
from fedpriv.metrics.goals.reconstruction import Reconstruction

if TYPE_CHECKING:
    from fedpriv.defense.claim import Claim
    from fedpriv.federation.federation import Federation
    from fedpriv.rounds.stage import Stage

#: Candidates compared for the chance of a guess without any output.
_CANDIDATES = 2000


@dataclass(frozen=True, eq=False)
class Exposed:
    """What one claim says of what was attacked.

    Attributes:
      one: how well neighbours by the claim's own relation can be told apart.
      replaced: how well one candidate in place of another can (`of_replacing`).
      epsilon: at the setting's delta, by the claim's relation.
    """

    one: TradeOff
    replaced: TradeOff
    epsilon: float


def attack_bounds(setting: Setting, staged: Stage, seed: int) -> Row:
    """Upper bounds on the success of any attack on what a cell's adversary saw, as facts.

    They stand where the theory gives them and nowhere else: a claim of the defenses must hold against this adversary
    for the attacked rounds (or the training, where the goal asks about it), with cohorts taken as known to it; and a
    reconstruction must be of one client's only image, for what one-to-one matching among several finds is another
    chance. The prior is uniform over up to 2,000 examples of the set that the attacked ones are drawn from.

    Returns:
      `exposed_epsilon` at the setting's delta; `bound_tpr` (at the goal's false positive rate) and `bound_advantage`,
      or `bound_success_rate` and `prior_success`; `exposed_mu` and `bound_mu` where all is exactly Gaussian; and
      `bounds`, a sentence of what they rest on, or of why there are none. Nothing without any defense that makes a
      claim.
    """
    goal = staged.goal
    if not setting.made_defenses() or not isinstance(goal, Membership | Reconstruction):
        return {}
    training = isinstance(goal, Membership) and goal.of == "model"
    try:
        found = _exposed(setting, staged, seed, training)
    except LedgerError as e:
        return {"bounds": f"No bound holds: {e}"}
    row: Row = {"exposed_epsilon": min(e.epsilon for e in found)}
    if isinstance(goal, Membership):
        parts = tuple(e.replaced for e in found)
        whole = Least(parts)
        row["bound_tpr"], row["bound_advantage"] = float(whole.tpr(goal.fpr)), whole.advantage
        what = "a candidate's membership, one candidate in place of another"
    else:
        several = setting.exposure.batch * setting.exposure.cohort
        if several > 1:
            return {
                "bounds": f"No bound on reconstruction is given: {several} images are behind a view, and bounds are "
                "for one of them, not for the best match among several."
            }
        data, _ = attacked_data(setting)
        chosen = np.random.default_rng(0).permutation(len(data))[:_CANDIDATES]
        prior = prior_success(data.floats(chosen), 10 ** (-goal.threshold_db / 20))
        parts = tuple(e.one for e in found)
        whole = Least(parts)
        row |= {"prior_success": prior, "bound_success_rate": whole.reconstruction(prior)}
        what = (
            f"the client's image, drawn from {len(chosen)} equally likely ones of '{data.name}', of which a guess "
            f"without the update comes within {goal.threshold_db:g} dB with a chance of at most {prior:.2g}"
        )
    ones = [e.one for e in found]
    if len(found) == 1 and isinstance(ones[0], GaussianTradeOff) and isinstance(parts[0], GaussianTradeOff):
        row |= {"exposed_mu": ones[0].mu, "bound_mu": parts[0].mu}
    seen = f"{setting.exposure.rounds} attacked round(s)"
    if training:
        seen = f"the training's {setting.training.rounds} rounds"
    return row | {"bounds": f"Bounds are on {what}; they hold for whatever is made of {seen}."}


def _exposed(setting: Setting, staged: Stage, seed: int, training: bool) -> list[Exposed]:
    """Of every claim that holds against the adversary.

    Raises:
      LedgerError: none does.
    """
    adversary, exposure = staged.exposure.adversary, setting.exposure
    if adversary.at.name not in ("server", "eavesdropper") and not adversary.at.sees_only_released:
        raise LedgerError(f"no claim is made against a coalition such as '{adversary}'")
    if training:
        if not setting.training.rounds or not setting.training.defended:
            raise LedgerError("the attacked model was not trained under the defenses")
        federation, rounds = make_federation(setting, seed), setting.training.rounds
        dropping = setting.training.attrition
    else:
        federation, rounds, dropping = staged.exposure.federation, exposure.rounds, exposure.attrition
    try:
        claims = _claims(federation, released=adversary.at.sees_only_released)
        if federation.plan.simulates is not None:
            raise LedgerError(
                "noise stands for a cohort larger than the one that was trained with, so the account is of a "
                "federation that was not attacked"
            )
        if dropping != "none":
            claims = [c for c in claims if "everyone arrives" not in c.checks]
        found = [_of(claim, federation, rounds, setting.delta, amplified=training) for claim in claims]
    finally:
        if training:
            federation.close()
    if not found:
        raise LedgerError("no defense claims anything against this adversary")
    return found


def _claims(federation: Federation, *, released: bool) -> list[Claim]:
    line, plan = federation.line, federation.plan
    if line.objections():
        raise LedgerError("; ".join(line.objections()))
    claims = [c for c in line.claims() if released or c.against == "server"]
    if claims and plan.weighting != "uniform":
        raise LedgerError("clients are weighed by how many examples they have, which no claim covers")
    if not claims:
        raise LedgerError(
            "; ".join(line.refusals()) or "what is claimed trusts the server, which sees each message before any noise"
            if line.claims() or line.refusals()
            else "no defense makes a claim"
        )
    return claims


def _of(claim: Claim, federation: Federation, rounds: int, delta: float, *, amplified: bool) -> Exposed:
    if isinstance(claim.event, dp_accounting.NonPrivateDpEvent):
        raise LedgerError("a defense reports its own round as not private")
    plan = federation.plan
    event = claim.event
    if isinstance(event, dp_accounting.GaussianDpEvent) and not event.noise_multiplier > 0:
        raise LedgerError("the claimed noise multiplier is 0, and clipping alone bounds nothing")
    # A Gaussian's trade-off is exact however little noise there is; what is computed otherwise needs some.
    if not isinstance(event, dp_accounting.GaussianDpEvent) or (amplified and claim.amplified):
        event = counted(event, "rdp")
    readings = [event]
    if amplified and claim.amplified and claim.unit == "client" and claim.run is None:
        readings.append(sampled(event, claim.relation, plan.accounted_sampling, plan.accounted_population))
    distinct = list({repr(e): e for e in readings}.values())
    curves = [claimed(claim, e, rounds) for e in distinct]
    one = curves[0] if len(curves) == 1 else Least(tuple(curves))
    if isinstance(one, GaussianTradeOff):
        epsilon = one.epsilon(delta)
    elif claim.run is not None:
        epsilon = composed_epsilon(claim.run(rounds), claim.relation, "rdp", 1, delta)
    else:
        epsilon = min(composed_epsilon(e, claim.relation, "rdp", rounds, delta) for e in distinct)
    return Exposed(one, of_replacing(claim, one), epsilon)
