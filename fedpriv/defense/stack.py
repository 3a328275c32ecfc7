"""Stack: an ordered list of defenses, checked against a federation before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fedpriv.account.ledger import Claim, Ledger
from fedpriv.base.errors import StackError
from fedpriv.base.lazy import dp_accounting
from fedpriv.defense.aggregator import Aggregator
from fedpriv.defense.domain import Domain, Real, Ring
from fedpriv.defense.protocol import Protocol
from fedpriv.defense.stations import Context, Defense, Plan, Station, labels

if TYPE_CHECKING:
    from fedpriv.account.accounting import AccountantName


class Stack:
    """Defenses in the order a client applies them; the server's stations run in reverse.

    Making one checks everything that can be known beforehand: each defense against the federation, the domains in
    order, one message protocol at most, and that nothing undoes what a privacy guarantee rests on.

    Attributes:
      defenses: all of them, in list order.
      plan: the federation's facts.
      client_defenses: those acting at the update station, in order.
      protocol: the one at the message station, or None.
      aggregator: the one that takes the place of the weighted mean, or None.
      server_defenses: those acting at the aggregate station, in the (reverse) order they run.
      fixed_denominator: the public constant the sum must be divided by (the expected cohort size), or None where
        the sum of the clients' weights is right.

    Raises:
      StackError: names the defenses with their positions, and an order or setting that works.
      ParameterError: a defense's parameter that does not fit this federation.
    """

    def __init__(self, defenses: Sequence[Defense], plan: Plan) -> None:
        self.defenses = tuple(defenses)
        self.plan = plan
        for i, defense in enumerate(self.defenses):
            if not isinstance(defense, Defense):
                raise StackError(
                    f"item {i + 1} of the stack is a {type(defense).__name__}, not a Defense; build it with "
                    "registry.defenses.create(...) or derive it from fedpriv.defense.stations.Defense"
                )
        protocols = [i for i, d in enumerate(self.defenses) if isinstance(d, Protocol | Aggregator)]
        self.client_defenses = self.at(Station.UPDATE)
        self.server_defenses = self.at(Station.AGGREGATE)
        if len(protocols) > 1:
            raise StackError(
                f"{' and '.join(map(self._named, protocols))} each replace the client's message; keep one of them"
            )
        self.protocol = next((d for d in self.defenses if isinstance(d, Protocol)), None)
        self.aggregator = next((d for d in self.defenses if isinstance(d, Aggregator)), None)
        self._check_domains()
        self._check_aggregator()
        self._check_gradients()
        self._check_bounds()
        for defense in self.defenses:
            defense.check(plan)
        self.fixed_denominator: float | None = None
        if any(d.fixed_denominator for d in self.defenses):
            self.fixed_denominator = plan.expected_cohort

    def at(self, station: Station) -> tuple[Defense, ...]:
        """The defenses acting at `station`, in the order they run there."""
        acting = [d for d in self.defenses if d.acts_at(station)]
        return tuple(reversed(acting) if station is Station.AGGREGATE else acting)

    def aggregate(self, total: Any, context: Callable[[int], Context]) -> tuple[Any, dict[str, Any]]:
        """The cohort's sum after the aggregate station.

        Args:
          total: weighted sum of the updates, `[d]`.
          context: makes the context of the defense at a position.

        Returns:
          (the sum `[d]`, what the defenses reported, by `label/name`).
        """
        names, metrics = labels(self.defenses), dict[str, Any]()
        for i in reversed(range(len(self.defenses))):
            if self.defenses[i].acts_at(Station.AGGREGATE):
                total, reported = self.defenses[i].aggregate(total, context(i))
                metrics |= {f"{names[i]}/{k}": v for k, v in reported.items()}
        return total, metrics

    def _named(self, position: int) -> str:
        return f"{_name(self.defenses[position])} (position {position + 1})"

    def _check_domains(self) -> None:
        now: Domain = Real()
        giver: int | None = None
        for i, defense in enumerate(self.defenses):
            if not (defense.acts_at(Station.UPDATE) or defense.acts_at(Station.MESSAGE)):
                continue
            if not _fits(now, defense.takes):
                if giver is None:
                    raise StackError(
                        f"{self._named(i)} takes {defense.takes}, but a client's update is {now}; put a defense that "
                        f"gives {defense.takes} before it"
                    )
                order = [_name(d) for d in self.defenses]
                order.insert(i, order.pop(giver))
                raise StackError(
                    f"{self._named(giver)} gives {now}, but {self._named(i)} after it takes {defense.takes}; "
                    f"the order that works is {', '.join(order)}"
                )
            if defense.gives != now:
                now, giver = defense.gives, i

    def _check_aggregator(self) -> None:
        if self.aggregator is not None and self.server_defenses:
            raise StackError(
                f"{self._named(self.defenses.index(self.server_defenses[0]))} acts on the sum of the updates, but "
                f"{self._named(self.defenses.index(self.aggregator))} gives their mean alone; leave one of them out"
            )

    def _check_gradients(self) -> None:
        """Examples' own gradients are averaged for the first defense that wants the mean, and then gone."""
        averaging: int | None = None
        for i, defense in enumerate(self.defenses):
            if not defense.acts_at(Station.GRADIENT):
                continue
            if not defense.per_example:
                averaging = i if averaging is None else averaging
            elif averaging is not None:
                raise StackError(
                    f"{self._named(averaging)} acts on the mean gradient of a batch, but {self._named(i)} after it "
                    f"takes each example's own; put {_name(defense)} first"
                )

    def _check_bounds(self) -> None:
        """A defense that adds its noise at the server rests on the norm its own update station left."""
        resting = [i for i, d in enumerate(self.defenses) if d.fixed_denominator]
        if len(resting) > 1:
            raise StackError(
                f"{' and '.join(map(self._named, resting))} each add noise at the server, but only one can be "
                "accounted for; keep one, with a noise multiplier of sqrt(a^2 + b^2) for the same total noise"
            )
        for i in resting:
            for j in range(i + 1, len(self.defenses)):
                later = self.defenses[j]
                if later.acts_at(Station.UPDATE) and not later.contractive:
                    raise StackError(
                        f"{self._named(j)} may lengthen an update after {self._named(i)} has clipped it, so the noise "
                        f"would no longer cover one client's influence; put {_name(later)} first"
                    )
                if later.acts_at(Station.AGGREGATE):
                    raise StackError(
                        f"{self._named(j)} changes the sum before {self._named(i)} adds its noise, since the server's "
                        f"stations run in reverse; put {_name(later)} first"
                    )

    def objections(self) -> list[str]:
        """Why no epsilon can be justified for this stack, whatever its defenses claim; empty if nothing does."""
        return [
            f"{self._named(i)} carries a state from round to round that is computed from unprotected client metrics"
            for i, d in enumerate(self.defenses)
            if type(d).next_state is not Defense.next_state and not d.private_state
        ]

    def claims(self) -> list[Claim]:
        """The defenses' claims about one round, as they hold within this stack.

        A protocol that rounds (`Protocol.l2_error` above 0) may lengthen a clipped update: the sensitivity under
        noise added at the server grows by that much (twice for replace_one). A claim about the *sum* of noises
        that the clients added themselves holds only if that very sum is what comes out, so it is left out where a
        later defense changes the message or the protocol rounds.
        """
        error = self.protocol.l2_error(self.plan) if self.protocol else 0.0
        kept = []
        for i, defense in enumerate(self.defenses):
            changed = error > 0 or any(d.acts_at(Station.UPDATE) for d in self.defenses[i + 1 :])
            for claim in defense.claims(self.plan):
                if claim.against == "released" and claim.sensitivity is None and changed:
                    continue
                kept.append(_lengthened(claim, error) if claim.sensitivity is not None and error > 0 else claim)
        return kept

    def ledger(self, accountant: AccountantName = "rdp") -> Ledger:
        """A fresh ledger for this stack."""
        return Ledger(self.plan, self.claims(), accountant, self.objections())

    def describe(self) -> str:
        """The stack on one line, in the order the data passes it."""
        return " -> ".join(map(_name, self.defenses)) or "no defense"


def _name(defense: Defense) -> str:
    return defense.name or type(defense).__name__


def _fits(given: Domain, taken: Domain) -> bool:
    if isinstance(given, Ring) and isinstance(taken, Ring):
        return taken.modulus_bits in (None, given.modulus_bits)
    return given == taken


def _lengthened(claim: Claim, error: float) -> Claim:
    assert claim.sensitivity is not None
    grown = claim.sensitivity + error * (2 if claim.relation == "replace_one" else 1)
    if isinstance(claim.event, dp_accounting.GaussianDpEvent):
        event = dp_accounting.GaussianDpEvent(claim.event.noise_multiplier * claim.sensitivity / grown)
    else:
        event = dp_accounting.UnsupportedDpEvent()
    note = f"rounding in the protocol lengthens an update by at most {error:.3g}, which is accounted for"
    return dataclasses.replace(claim, event=event, sensitivity=grown, assumes=(*claim.assumes, note))
