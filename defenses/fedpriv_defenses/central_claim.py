"""Central claim: what a clipped sum promises that a trusted server adds Gaussian noise to."""

from __future__ import annotations

from fedpriv.account.accounting import central_event
from fedpriv.defense.claim import Check, Claim
from fedpriv.defense.plan import SIMULATED
from fedpriv.defense.stations import Plan

#: What such a claim takes for granted and a run may break.
CHECKS: frozenset[Check] = frozenset({"cohorts are drawn", "rounds are finished", "cohort sizes stay unpublished"})


def trusts_the_server(plan: Plan) -> tuple[str, ...]:
    """What claims rest on where a server draws the noise: on it, the denominator, and what federation is meant."""
    given = "" if plan.sampling.replaces else f" (from the {plan.population} clients there are, taken as public)"
    return (
        *simulation_assumed(plan),
        "the server is trusted to draw the noise and to publish nothing but the models: not the cohorts, their "
        "sizes, who was left out of one, or training losses and other metrics of clients",
        f"the sum is divided by {plan.expected_cohort:g}, a public number set without looking at who takes part{given}",
    )


def simulation_assumed(plan: Plan) -> tuple[str, ...]:
    """What larger federation a claim is about, where one is simulated."""
    return () if plan.simulates is None else (f"{SIMULATED}{plan.simulation()}",)


def central_claim(
    multiplier: float,
    plan: Plan,
    assumes: tuple[str, ...],
    longest: float | None = None,
    *,
    covers_tally: bool = False,
) -> Claim:
    """A client-level claim against whoever sees released models.

    Args:
      multiplier: the noise's standard deviation over the longest contribution, in the federation accounted for.
      plan: the run's public facts.
      assumes: what it rests on besides what is said here of the server, the denominator and the cohorts.
      longest: L2 norm of the longest contribution, in update units; None where the aggregator keeps to it by itself.
      covers_tally: as in Claim.
    """
    event, relation = central_event(multiplier, plan.accounted_sampling, plan.accounted_population)
    return Claim(
        event=event,
        unit="client",
        relation=relation,
        against="released",
        amplified=True,
        assumes=(
            *trusts_the_server(plan),
            "cohorts are drawn as the sampling says, secret from whoever sees the models",
            *assumes,
        ),
        sensitivity=None if longest is None else longest * (2 if relation == "replace_one" else 1),
        covers_tally=covers_tally,
        checks=CHECKS,
    )
