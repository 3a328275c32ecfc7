"""Ledger: the formal privacy account of a federation, kept with dp-accounting.

An epsilon is a claim: it names the unit it protects, the neighbouring relation, the adversary and what it
assumes. The ledger composes the defenses' claims over the rounds under the sampling actually used, and raises
LedgerError rather than print a number it cannot justify.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np

from fedpriv.account.accounting import (
    FINE,
    AccountantName,
    central_epsilon,
    checked_accountant,
    checked_delta,
    counted,
    noise_for,
    require_supported,
    sampled,
)
from fedpriv.account.composition import Composition, Concentrated, Keyed
from fedpriv.account.phase import Phase, Spent, choices
from fedpriv.base.errors import LedgerError, ParameterError, did_you_mean
from fedpriv.base.lazy import dp_accounting
from fedpriv.base.types import Config
from fedpriv.defense.claim import Against, Check, Claim, Relation, Unit
from fedpriv.defense.event import RenyiEvent, in_words
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
      rounds: rounds it covers, those of earlier phases included.
      against: who it holds against.
      group: how many units it protects together.
      route: by which theorem phases or groups were put together, where more than one could be.
      instead: why a claim that holds as well gives no number by this accountant, so that another one is stated.
      mu: mu of Gaussian differential privacy, where everything composed is one Gaussian mechanism, so that it is exact;
        zCDP's rho is then mu^2 / 2. For sampled rounds see `Ledger.concentrated`.
    """

    value: float
    delta: float
    unit: Unit
    relation: Relation
    accountant: AccountantName
    assumes: tuple[str, ...] = ()
    rounds: int = 0
    against: Against = "released"
    group: int = 1
    route: str = ""
    mu: float | None = None
    instead: str = ""

    @property
    def rho(self) -> float | None:
        """zCDP's rho, where `mu` is known."""
        return None if self.mu is None else self.mu**2 / 2

    def __str__(self) -> str:
        who = "the server" if self.against == "server" else "whoever sees the released models"
        caveat = "".join(f"; assumes that {a}" for a in self.assumes if a.startswith("delta "))
        simulated = "".join(f", {a.removeprefix(SIMULATED)}" for a in self.assumes if a.startswith(SIMULATED))
        of = f"{self.unit} level" if self.group == 1 else f"groups of {self.group} {self.unit}s"
        also = f"; zCDP rho {self.rho:.4g}, GDP mu {self.mu:.4g}" if self.mu else ""
        route = f", by: {self.route}" if self.route else ""
        instead = f"; by another claim, for one gives no number: {self.instead}" if self.instead else ""
        return (
            f"epsilon {self.value:.4g} at delta {self.delta:g} after {self.rounds} rounds "
            f"({of}, {self.relation}, against {who}, {self.accountant}{route}{also}{caveat}{simulated}{instead})"
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
      earlier: phases of the same data's training that are over, under other noise, sampling or defenses; all that is
        said of this ledger's privacy is then of both.
      interval: what privacy losses are rounded up to in PLDs.
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
        earlier: Sequence[Phase] = (),
        interval: float = FINE,
    ) -> None:
        self.plan, self.interval = plan, interval
        self.claims = tuple(claims)
        self.refusals, self.seeded = tuple(refusals), seeded
        self.broken: dict[str, int] = {}
        self.accountant = checked_accountant(accountant)
        self.objections = tuple(objections)
        self.earlier = tuple(earlier)
        self.rounds = 0
        self._spents: dict[Any, Spent] = {}
        self._compositions: dict[Any, Composition] = {}
        self._values: dict[Any, Any] = {}

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
        group: int = 1,
        relation: Relation | None = None,
    ) -> Epsilon:
        """The strongest guarantee that holds after the rounds spent.

        A claim against the server covers released models too, since they are computed from the messages.

        Args:
          delta: slack of the bound, in (0, 1).
          against: the adversary.
          unit: `client`, `example` or `user`; None takes the first of these that there is a claim of.
          rounds: as if this many rounds of this phase were spent; None is the rounds spent.
          accountant: another than the ledger's own, such as the cheap `rdp` for a progress bar.
          group: how many units are to be protected together.
          relation: the neighbouring relation that it is to be stated for; None takes whichever gives the least.

        Raises:
          LedgerError: no number can be justified; the message says why and what would help.
        """
        delta = checked_delta(delta)
        if relation not in (None, *get_args(Relation)):
            raise ParameterError(f"relation='{relation}' is unknown.{did_you_mean(str(relation), get_args(Relation))}")
        name = checked_accountant(accountant or self.accountant)
        rounds = self.rounds if rounds is None else rounds
        if rounds < 0:
            raise ParameterError(f"rounds={rounds} must be 0 or more")
        if not float(group).is_integer() or group < 1:
            raise ParameterError(f"group={group} must be a whole number of units, 1 or more")
        wanted, ways, without = self._ways(against, unit, rounds, name)
        found: list[tuple[float, str, Relation, float | None, tuple[str, ...]]] = []
        refusals: list[LedgerError] = []
        for shared, phases in ways:
            for parts in choices(phases) if relation in (None, shared) else ():
                try:
                    value, route, mu = self._value(parts, shared, name, delta, int(group))
                except LedgerError as e:
                    refusals.append(e)
                    continue
                found.append((value, route, shared, mu, _assumed(phases, parts)))
        if not ways and relation in (None, "replace_one"):
            found.append(self._added(against, wanted, rounds, name, delta, int(group)))
        if not found and not refusals:
            known = ", ".join(shared for shared, _ in ways) or "replace_one"
            raise LedgerError(
                f"no number is known of a single {wanted} under {relation}, only under {known}; ask for that, or for "
                f"none in particular{''.join(f' ({e})' for e in without[:1])}"
            )
        if not found:
            raise refusals[0]
        value, route, stated, mu, assumes = min(found, key=lambda one: one[0])
        if not math.isfinite(value):
            if group > 1:
                raise LedgerError(
                    f"no epsilon is bounded at delta {delta:g} for groups of {group}; ask for smaller ones"
                )
            events = ", ".join(dict.fromkeys(in_words(claim.event) for claim in self.claims))
            raise LedgerError(f"{events} bounds no epsilon at delta {delta:g}; add noise")
        assumes = (*assumes, *self._premises())
        if wanted in ("client", "user") and delta > 1 / self.plan.accounted_population:
            assumes = (
                *assumes,
                f"delta {delta:g} is small enough, though above 1/{self.plan.accounted_population} ({wanted}s)",
            )
        total = rounds + sum(phase.rounds for phase in self.earlier)
        instead = "".join(str(e) for e in (without + refusals)[:1])
        return Epsilon(value, delta, wanted, stated, name, assumes, total, against, int(group), route, mu, instead)

    def epsilons(self, deltas: Iterable[float], **asked: Any) -> list[Epsilon]:
        """`epsilon` at several deltas."""
        return [self.epsilon(delta, **asked) for delta in deltas]

    def over_rounds(self, delta: float, rounds: Iterable[int], **asked: Any) -> list[Epsilon]:
        """`epsilon` as training goes: after each of these numbers of rounds."""
        return [self.epsilon(delta, rounds=n, **asked) for n in rounds]

    def concentrated(
        self,
        against: Against = "released",
        unit: Unit | None = None,
        rounds: int | None = None,
        relation: Relation | None = None,
    ) -> Concentrated:
        """zCDP's rho and Gaussian DP's mu, where they hold; for sampled rounds this takes seconds.

        Raises:
          LedgerError: as for `epsilon`.
        """
        _, ways, _ = self._ways(against, unit, self.rounds if rounds is None else rounds, "rdp")
        found = [
            replace(Composition(parts, shared, "rdp").concentrated(), relation=shared)
            for shared, phases in ways
            if relation in (None, shared)
            for parts in choices(phases)
        ]
        if not found:
            return Concentrated(None, None, exact=False, why="phases under different neighbouring relations have none")
        best = min(found, key=lambda one: (one.mu is None, one.mu or 0.0))
        several = any(len(spent.readings) > 1 for _, phases in ways for phase in phases for spent in phase)
        return replace(best, why="amplification by sampling not counted") if best.exact and several else best

    def rounds_within(self, epsilon: float, delta: float, most: int, **asked: Any) -> int:
        """The largest number of rounds of this phase, up to `most`, whose epsilon at `delta` is at most that.

        Raises:
          LedgerError: no number can be justified.
        """
        low, high = -1, most

        def holds(rounds: int) -> bool:
            try:
                return self.epsilon(delta, rounds=rounds, **asked).value <= epsilon
            except LedgerError:
                if rounds <= 1:
                    raise
                return False  # so many rounds may bound nothing where fewer do

        if holds(most):
            return most
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if holds(middle) else (low, middle)
        return max(low, 0)

    def closed(self) -> Phase:
        """All that this ledger has spent in its own rounds, as a phase that is over."""
        refused = ""
        spent: list[Spent] = []
        if self.rounds:
            try:
                self._applicable("released", None)
            except LedgerError as e:
                refused = str(e)
            for claim in () if refused else self.claims:
                try:
                    spent.append(self._spent(claim, self.rounds, "rdp"))
                except LedgerError as e:
                    spent.append(Spent(claim.unit, claim.relation, claim.against, (), claim.assumes, str(e)))
        described = self.plan.accounted_sampling.describe(self.plan.accounted_population)
        return Phase(self.rounds, tuple(spent), refused, described, (self._published(),) if self.seeded else ())

    def then(
        self,
        plan: Plan,
        claims: Sequence[Claim],
        accountant: str | None = None,
        objections: Sequence[str] = (),
        *,
        refusals: Sequence[str] = (),
        seeded: bool = False,
    ) -> Ledger:
        """A ledger that goes on where this one stands, under another plan or other claims; arguments as of Ledger."""
        return Ledger(
            plan,
            claims,
            accountant or self.accountant,
            objections,
            refusals=refusals,
            seeded=seeded,
            earlier=self.phases(),
        )

    def phases(self) -> tuple[Phase, ...]:
        """The earlier phases, and this one as it stands if it had rounds."""
        return (*self.earlier, self.closed()) if self.rounds else self.earlier

    def _ways(
        self, against: Against, unit: Unit | None, rounds: int, accountant: AccountantName
    ) -> tuple[Unit, list[tuple[Relation, list[list[Spent]]]], list[LedgerError]]:
        """The unit; for each relation that all phases share what is known of each; and why claims give no number."""
        if against not in ("released", "server"):
            raise ParameterError(f"against='{against}' is unknown. Known: released, server.")
        phases: list[list[Spent]] = []
        refusals: list[LedgerError] = []
        if rounds or not self.earlier:
            claims = self._applicable(against, unit)
            unit = claims[0].unit
            now = []
            for claim in claims:
                try:
                    now.append(self._spent(claim, rounds, accountant))
                except LedgerError as e:
                    refusals.append(e)
            if not now:
                raise refusals[0]
            phases.append(now)
        elif unit is None:
            unit = _first_unit({s.unit for phase in self.earlier for s in phase.spent} or {"client"})
        phases += [phase.applicable(against, unit) for phase in self.earlier]
        shared = set.intersection(*({s.relation for s in phase} for phase in phases))
        ways = [(r, [[s for s in phase if s.relation == r] for phase in phases]) for r in sorted(shared)]
        return unit, ways, refusals

    def _value(
        self, parts: list[tuple[Any, int]], relation: Relation, name: AccountantName, delta: float, group: int
    ) -> tuple[float, str, float | None]:
        key = (tuple((Keyed(event), times) for event, times in parts), relation, name)
        if key not in self._compositions:
            self._compositions[key] = Composition(parts, relation, name, self.interval)
        if (key, delta, group) not in self._values:
            composed = self._compositions[key]
            value, route = composed.group_epsilon(delta, group)
            mu = composed.mu
            self._values[key, delta, group] = value, route, None if mu is None else group * mu
        found: tuple[float, str, float | None] = self._values[key, delta, group]
        return found

    def _added(
        self, against: Against, unit: Unit, rounds: int, name: AccountantName, delta: float, group: int
    ) -> tuple[float, str, Relation, float | None, tuple[str, ...]]:
        """Phases under different relations: each by itself for groups, where replacing is removing and adding.

        Epsilons and deltas add up, each phase taking an equal part of delta.
        """
        every = [[self._spent(c, rounds, name) for c in self._applicable(against, unit)]] if rounds else []
        every += [phase.applicable(against, unit) for phase in self.earlier]
        value, assumes = 0.0, list[str]()
        for phase in every:
            readings = []
            for spent in phase:
                size = group if spent.relation == "replace_one" else 2 * group
                for parts in choices([[spent]]):
                    found = self._value(parts, spent.relation, name, delta / len(every), size)[0]
                    readings.append((found, spent.assumes))
            best = min(readings, key=lambda one: one[0])
            value += best[0]
            assumes += [a for a in best[1] if a not in assumes]
        route = "the sum of the phases' epsilons, one client replaced being one removed and one added"
        return value, route, "replace_one", None, tuple(assumes)

    def _spent(self, claim: Claim, rounds: int, accountant: AccountantName) -> Spent:
        """What `claim` says of so many rounds, or LedgerError where it justifies no number."""
        voided = sorted(self.broken.keys() & claim.checks)
        if voided:
            raise LedgerError(
                f"a claim assumes that {voided[0]}, which did not hold in round {self.broken[voided[0]]}, so it gives "
                "no number for this run"
            )
        key = (id(claim), rounds, accountant)  # which lives as long as the ledger; its text lacks what `run` gives
        if key not in self._spents:
            readings: tuple[tuple[Any, int], ...]
            if claim.run is not None:
                event = claim.run(max(rounds, 1))
                require_supported(event, claim.relation, accountant)
                readings = ((event, 1 if rounds else 0),)
            else:
                # The theorem for fixed cohorts is loose for large ones; without amplification the bound holds as well.
                loose = claim.amplified and self.plan.accounted_sampling.kind == "fixed" and claim.unit == "client"
                ways = [claim, replace(claim, amplified=False)] if loose else [claim]
                readings = tuple((self._event(one, accountant), rounds) for one in ways)
            self._spents[key] = Spent(claim.unit, claim.relation, claim.against, readings, claim.assumes)
        return self._spents[key]

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
        units = {c.unit for c in claims}
        wanted = unit or _first_unit(units)
        claims = [c for c in claims if c.unit == wanted]
        if not claims:
            said = ", ".join(sorted(units))
            raise LedgerError(f"no claim protects a single {wanted} against '{against}'; claimed: {said}")
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
                    f"cohort sampling draws clients, so it amplifies no claim about a single {claim.unit}; put the "
                    "sampling of those into the event itself and claim it without amplification"
                )
            if _sampled_already(event):
                raise LedgerError(
                    f"{in_words(event)}: that is sampled already, and sampling amplifies once; claim it without "
                    "amplification, or claim the event of one round before sampling"
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
        lines += [f"- after an earlier phase of {phase.rounds} rounds: {phase.described}." for phase in self.earlier]
        several = [set(claim.assumes) for claim in self.claims] if len(self.claims) > 1 else []
        shared = [a for a in dict.fromkeys(self.claims[0].assumes) if all(a in s for s in several)] if several else []
        for claim in self.claims:
            amplified = claim.amplified and s.accounted_sampling.kind in ("fixed", "poisson")
            over = "over the run" if claim.run else "a round"
            what = f"{in_words(claim.run(max(self.rounds, 1)) if claim.run else claim.event)} {over}"
            lines.append(
                f"- {claim.unit} level against '{claim.against}', {claim.relation}: {what}"
                f"{', amplified by sampling' if amplified else ''}."
            )
            lines += [f"    It assumes that {a}." for a in dict.fromkeys(claim.assumes) if a not in shared]
        lines += [f"    All of it assumes that {a}." for a in shared]
        if not self.claims and not self.refusals:
            lines.append("- no formal claim: epsilon is unbounded.")
        if self.claims:
            lines += [f"    All of it assumes that {premise}." for premise in self._premises()]
        lines += [f"- {refusal}." for refusal in self.refusals]
        lines += [f"- no number is given: {objection}." for objection in self.objections]
        return "\n".join(lines)

    def _premises(self) -> tuple[str, ...]:
        """What all that is said rests on, of this phase and of earlier ones, each once."""
        own = [self._published()] if self.seeded else []
        return tuple(dict.fromkeys([*own, *(a for phase in self.earlier for a in phase.assumes)]))

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
        made: Config = {"rounds": self.rounds, "claims": self._fingerprint()}
        if self.broken:
            made["broken"] = dict(self.broken)
        if self.earlier:
            made["earlier"] = [phase.state() for phase in self.earlier]
        return made

    def restore(self, state: Config) -> None:
        """Takes over the `state()` of a ledger with the same claims and sampling.

        Raises:
          LedgerError: the saved rounds were spent under other claims, so they cannot be continued here.
        """
        if state.get("claims") != self._fingerprint():
            raise LedgerError(
                "the saved ledger was kept under other defenses, sampling or population; resume with the settings "
                "it was started with, or go on from it with then(...)"
            )
        self.rounds = int(state["rounds"])
        self.broken = {str(k): int(v) for k, v in state.get("broken", {}).items()}
        self.earlier = tuple(Phase.restored(phase) for phase in state.get("earlier", []))


def _first_unit(units: Collection[Unit]) -> Unit:
    order: tuple[Unit, ...] = ("client", "example", "user")
    return min(units, key=order.index)


def _sampled_already(event: Any) -> bool:
    if isinstance(event, dp_accounting.PoissonSampledDpEvent | dp_accounting.SampledWithoutReplacementDpEvent):
        return True
    inner = getattr(event, "event", None)
    return any(map(_sampled_already, [*getattr(event, "events", ()), *([] if inner is None else [inner])]))


def _assumed(phases: Sequence[Sequence[Spent]], parts: Sequence[tuple[Any, int]]) -> tuple[str, ...]:
    """What the claims rest on that the parts were read from, each once."""
    found: list[str] = []
    for phase, part in zip(phases, parts, strict=True):
        owner = next(spent for spent in phase if any(part is reading for reading in spent.readings))
        found += [a for a in owner.assumes if a not in found]
    return tuple(found)


def rounds_shown(rounds: int, most: int = 24) -> list[int]:
    """Numbers of rounds to show an account at: 0, 1, and on to `rounds`, about so many."""
    return sorted({0, min(1, rounds), *(round(n) for n in np.linspace(0, rounds, min(most, rounds + 1)))})
