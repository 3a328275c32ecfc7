"""Ledger: the formal privacy account of a federation, kept with dp-accounting.

An epsilon is a claim: it names the unit it protects, the neighbouring relation, the adversary and what it
assumes. The ledger composes the defenses' claims over the rounds under the sampling actually used, and raises
LedgerError rather than print a number it cannot justify.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedpriv.account.accounting import (
    AccountantName,
    central_epsilon,
    checked_accountant,
    checked_delta,
    composed_epsilon,
    counted,
    noise_for,
    rdp_epsilon,
    require_supported,
    round_rdp,
    sampled,
)
from fedpriv.base.errors import LedgerError, ParameterError
from fedpriv.base.lazy import dp_accounting
from fedpriv.base.types import Config
from fedpriv.defense.claim import Against, Check, Claim, Relation, Unit
from fedpriv.defense.event import RenyiEvent
from fedpriv.defense.plan import SIMULATED, Plan

__all__ = ["Against", "Claim", "Epsilon", "Ledger", "Unit", "central_epsilon", "noise_for"]

#: What every claim rests on where the seed was chosen.
PUBLISHED_SEED = (
    "nobody who knows the run's seed is the adversary: it was chosen, so its noise and cohorts can be drawn again; the "
    "number is for research, and a deployment leaves the seed to the operating system"
)

#: The same where noise does not follow the seed.
PUBLISHED_COHORTS = (
    "nobody who knows the run's seed is the adversary: it was chosen, and though the noise does not follow it, initial "
    "weights, cohorts, batches and drop-outs do, so that cohorts are no secret"
)


@dataclass(frozen=True)
class Epsilon:
    """A privacy guarantee: (value, delta)-differential privacy of `unit` under `relation`.

    Attributes:
      value: epsilon.
      delta: the slack of the bound.
      unit: what is protected.
      relation: what makes two populations neighbours.
      accountant: `rdp` or `pld`.
      assumes: what the number rests on.
      rounds: rounds it covers.
      against: who it holds against.
    """

    value: float
    delta: float
    unit: Unit
    relation: Relation
    accountant: AccountantName
    assumes: tuple[str, ...] = ()
    rounds: int = 0
    against: Against = "released"

    def __str__(self) -> str:
        who = "the server" if self.against == "server" else "whoever sees the released models"
        caveat = "".join(f"; assumes that {a}" for a in self.assumes if a.startswith("delta "))
        simulated = "".join(f", {a.removeprefix(SIMULATED)}" for a in self.assumes if a.startswith(SIMULATED))
        return (
            f"epsilon {self.value:.4g} at delta {self.delta:g} after {self.rounds} rounds "
            f"({self.unit} level, {self.relation}, against {who}, {self.accountant}{caveat}{simulated})"
        )


class Ledger:
    """Privacy spent by a federation, round by round.

    Args:
      plan: the federation's public facts (sampling, population, weighting).
      claims: what its stack of defenses claims (`Line.claims()`).
      accountant: `rdp` (Renyi DP; microseconds a number after the first) or `pld` (privacy loss distributions;
        tighter, about a second a number).
      objections: reasons why no number can be given whatever the claims (`Line.objections()`).
      refusals: why claims that defenses make do not hold on their line (`Line.refusals()`).
      seeded: whether somebody chose the run's seed, and so may know it.
    """

    def __init__(
        self,
        plan: Plan,
        claims: Sequence[Claim],
        accountant: str = "rdp",
        objections: Sequence[str] = (),
        *,
        refusals: Sequence[str] = (),
        seeded: bool = False,
    ) -> None:
        self.plan = plan
        self.claims = tuple(claims)
        self.refusals, self.seeded = tuple(refusals), seeded
        self.broken: dict[str, int] = {}
        self.accountant = checked_accountant(accountant)
        self.objections = tuple(objections)
        self.rounds = 0
        self._rdp: dict[Any, Any] = {}
        self._values: dict[Any, float] = {}

    def spend(self, rounds: int = 1, broken: Collection[Check] = ()) -> None:
        """Counts rounds as released, all under the same claims.

        Args:
          rounds: how many.
          broken: assumptions of claims that they broke; claims that rest on one give no number from then on.
        """
        for check in broken:
            self.broken.setdefault(check, self.rounds)
        if rounds < 0:
            raise ParameterError(f"rounds={rounds} cannot be spent; privacy is never given back, so give 0 or more")
        self.rounds += rounds

    def epsilon(
        self,
        delta: float,
        against: Against = "released",
        unit: Unit | None = None,
        rounds: int | None = None,
        accountant: str | None = None,
    ) -> Epsilon:
        """The strongest guarantee that holds after the rounds spent.

        A claim against the server covers released models too, since they are computed from the messages.

        Args:
          delta: slack of the bound, in (0, 1).
          against: the adversary.
          unit: `client` or `example`; None takes `client` if there is such a claim.
          rounds: as if this many rounds were spent; None is the rounds spent.
          accountant: another than the ledger's own, such as the cheap `rdp` for a progress bar.

        Raises:
          LedgerError: no number can be justified; the message says why and what would help.
        """
        delta = checked_delta(delta)
        name = checked_accountant(accountant or self.accountant)
        rounds = self.rounds if rounds is None else rounds
        if rounds < 0:
            raise ParameterError(f"rounds={rounds} must be 0 or more")
        found: list[tuple[float, Claim]] = []
        refusals: list[LedgerError] = []
        for claim in self._applicable(against, unit):
            try:
                found.append((self._value(claim, name, rounds, delta), claim))
            except LedgerError as e:
                refusals.append(e)
        if not found:
            raise refusals[0]
        value, claim = min(found, key=lambda pair: pair[0])
        assumes = (*claim.assumes, *((self._published(),) if self.seeded else ()))
        if claim.unit == "client" and delta > 1 / self.plan.accounted_population:
            assumes = (
                *assumes,
                f"delta {delta:g} is small enough, though above 1/{self.plan.accounted_population} (clients)",
            )
        return Epsilon(value, delta, claim.unit, claim.relation, name, assumes, rounds, against)

    def _value(self, claim: Claim, accountant: AccountantName, rounds: int, delta: float) -> float:
        voided = sorted(self.broken.keys() & claim.checks)
        if voided:
            raise LedgerError(
                f"a claim assumes that {voided[0]}, which did not hold in round {self.broken[voided[0]]}, so it gives "
                "no number for this run"
            )
        if claim.run is not None:
            require_supported(claim.run(max(rounds, 1)), claim.relation, accountant)
            return composed_epsilon(claim.run(rounds), claim.relation, accountant, 1, delta) if rounds else 0.0
        key = (repr(claim), accountant, rounds, delta)
        if key not in self._values:
            # The theorem for fixed cohorts is loose for large ones; without amplification the bound holds as well.
            loose = claim.amplified and self.plan.accounted_sampling.kind == "fixed" and claim.unit == "client"
            readings = [claim, replace(claim, amplified=False)] if loose else [claim]
            value = min(self._composed(one, accountant, rounds, delta) for one in readings)
            if not math.isfinite(value):
                raise LedgerError(f"{claim.event} bounds no epsilon at delta {delta:g}; add noise")
            self._values[key] = value
        return self._values[key]

    def _composed(self, claim: Claim, accountant: AccountantName, rounds: int, delta: float) -> float:
        event = self._event(claim, accountant)
        if accountant == "pld":
            return composed_epsilon(event, claim.relation, accountant, rounds, delta)
        one = (repr(claim), "rdp")
        if one not in self._rdp:
            self._rdp[one] = round_rdp(event, claim.relation)
        orders, rdp = self._rdp[one]
        return rdp_epsilon(orders, rounds * rdp, delta) if rounds else 0.0

    def _applicable(self, against: Against, unit: Unit | None) -> list[Claim]:
        if against not in ("released", "server"):
            raise ParameterError(f"against='{against}' is unknown. Known: released, server.")
        if self.objections:
            raise LedgerError("no epsilon can be justified: " + "; ".join(self.objections))
        if not self.claims and self.refusals:
            raise LedgerError("; ".join(self.refusals))
        if not self.claims:
            raise LedgerError(
                "no defense in the stack makes a formal privacy claim, so epsilon is unbounded; add central_dp or "
                "local_dp"
            )
        if self.plan.weighting != "uniform":
            raise LedgerError(
                f"weighting='{self.plan.weighting}' scales each client's share of the sum by its own number of "
                "examples, which no claim covers; use weighting='uniform'"
            )
        # What holds against the server, which sees more, holds against whoever sees what it releases.
        claims = [c for c in self.claims if against == "released" or c.against == against]
        if not claims:
            raise LedgerError(
                f"no defense claims anything against '{against}': the claims made trust the server, which sees each "
                "message before any noise; add local_dp"
            )
        units = sorted({c.unit for c in claims})
        wanted = unit or units[0]
        claims = [c for c in claims if c.unit == wanted]
        if not claims:
            raise LedgerError(f"no claim protects a single {wanted} against '{against}'; claimed: {', '.join(units)}")
        return claims

    def _event(self, claim: Claim, accountant: AccountantName) -> dp_accounting.DpEvent | RenyiEvent:
        """The sampled event of `claim`, or LedgerError where the claim justifies no number."""
        if isinstance(claim.event, dp_accounting.NonPrivateDpEvent):
            raise LedgerError("a defense reports its own round as not private, so epsilon is unbounded; replace it")
        if isinstance(claim.event, dp_accounting.GaussianDpEvent) and not claim.event.noise_multiplier > 0:
            raise LedgerError("the claimed noise multiplier is 0, and clipping alone bounds no epsilon; add noise")
        event = counted(claim.event, accountant)
        if claim.amplified:
            if claim.unit != "client":
                raise LedgerError(
                    "cohort sampling draws clients, so it amplifies no claim about single examples; put the sampling "
                    "of examples into the event itself and claim it without amplification"
                )
            event = sampled(event, claim.relation, self.plan.accounted_sampling, self.plan.accounted_population)
        require_supported(event, claim.relation, accountant)
        return event

    def describe(self) -> str:
        """Plain words: what is claimed, under which sampling, and what it rests on."""
        s = self.plan
        how = s.accounted_sampling.describe(s.accounted_population)
        lines = [f"Privacy account ({self.accountant}) over {self.rounds} rounds: {how}."]
        if s.simulates is not None:
            lines.append(f"- It is a larger federation's: {s.simulation()}.")
        for claim in self.claims:
            amplified = claim.amplified and s.accounted_sampling.kind in ("fixed", "poisson")
            lines.append(
                f"- {claim.unit} level against '{claim.against}', {claim.relation}: {claim.event} a round"
                f"{', amplified by sampling' if amplified else ''}."
            )
            lines += [f"    It assumes that {a}." for a in claim.assumes]
        if not self.claims and not self.refusals:
            lines.append("- no formal claim: epsilon is unbounded.")
        if self.claims and self.seeded:
            lines.append(f"    All of it assumes that {self._published()}.")
        lines += [f"- {refusal}." for refusal in self.refusals]
        lines += [f"- no number is given: {objection}." for objection in self.objections]
        return "\n".join(lines)

    def _published(self) -> str:
        return PUBLISHED_COHORTS if self.plan.secure_rng else PUBLISHED_SEED

    def _fingerprint(self) -> str:
        s = self.plan
        facts = repr(
            (self.claims, s.accounted_sampling.model_dump(), s.accounted_population, s.weighting, self.objections)
        )
        return hashlib.sha256(facts.encode()).hexdigest()[:16]

    def state(self) -> Config:
        """JSON-able state for checkpoints."""
        return {"rounds": self.rounds, "claims": self._fingerprint()}

    def restore(self, state: Config) -> None:
        """Takes over the `state()` of a ledger with the same claims and sampling.

        Raises:
          LedgerError: the saved rounds were spent under other claims, so they cannot be continued here.
        """
        if state.get("claims") != self._fingerprint():
            raise LedgerError(
                "the saved ledger was kept under other defenses, sampling or population; resume with the settings "
                "it was started with"
            )
        self.rounds = int(state["rounds"])
