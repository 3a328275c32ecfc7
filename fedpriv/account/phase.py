"""Phase: what a stretch of rounds under the same defenses and sampling has spent, once it is over."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedpriv.account.accounting import Event, round_rdp
from fedpriv.base.errors import LedgerError, ParameterError, shown
from fedpriv.base.lazy import dp_accounting
from fedpriv.base.types import Config
from fedpriv.defense.claim import Against, Relation, Unit
from fedpriv.defense.event import RenyiEvent

#: Why rounds that no defense made a claim about give no number.
UNDEFENDED = (
    "no defense in it made a formal claim, and the weights that it released are unprotected; protect those rounds as "
    "well, or begin from weights that no client's data touched"
)


@dataclass(frozen=True)
class Spent:
    """What one claim says of all rounds of a phase.

    Attributes:
      unit, relation, against: as the claim's.
      readings: (event, times) in several ways, each of which holds.
      assumes: what it rests on.
      refused: why it gives no number; empty if it does.
    """

    unit: Unit
    relation: Relation
    against: Against
    readings: tuple[tuple[Event, int], ...]
    assumes: tuple[str, ...] = ()
    refused: str = ""

    def state(self) -> Config:
        """JSON-able; a Renyi event as its divergences at the accountant's orders."""
        readings = [{"event": _written(event, self.relation), "times": times} for event, times in self.readings]
        facts = {"unit": self.unit, "relation": self.relation, "against": self.against, "refused": self.refused}
        return {**facts, "assumes": list(self.assumes), "readings": readings}

    @staticmethod
    def restored(state: Config) -> Spent:
        """From `state()`."""
        readings = tuple((_read(r["event"]), int(r["times"])) for r in state["readings"])
        facts = {name: str(state[name]) for name in ("unit", "relation", "against", "refused")}
        return Spent(readings=readings, assumes=tuple(state["assumes"]), **facts)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Phase:
    """A phase that is over.

    Attributes:
      rounds: it had.
      spent: what each claim says of it.
      refused: why no number can be given for it at all; empty if one may.
      described: in words, for the account.
      assumes: what all of it rests on, such as that nobody knows a seed that was chosen.
    """

    rounds: int
    spent: tuple[Spent, ...]
    refused: str = ""
    described: str = ""
    assumes: tuple[str, ...] = ()

    @staticmethod
    def undefended(rounds: int) -> tuple[Phase, ...]:
        """What rounds without any defense that makes a claim come to: one phase without a number; none of no rounds."""
        return (Phase(rounds, (), UNDEFENDED, "no defense made a formal claim"),) if rounds else ()

    def applicable(self, against: Against, unit: Unit) -> list[Spent]:
        """What gives numbers for that adversary and unit; what holds against the server holds for what it releases.

        Raises:
          LedgerError: nothing does.
        """
        if self.refused:
            raise LedgerError(f"an earlier phase of {self.rounds} rounds gives no number: {self.refused}")
        fitting = [s for s in self.spent if s.unit == unit and (against == "released" or s.against == against)]
        usable = [s for s in fitting if not s.refused]
        if not usable:
            why = fitting[0].refused if fitting else f"nothing in it protects a single {unit} against '{against}'"
            raise LedgerError(f"an earlier phase of {self.rounds} rounds gives no number: {why}")
        return usable

    def state(self) -> Config:
        """JSON-able."""
        spent = [s.state() for s in self.spent]
        facts = {"rounds": self.rounds, "spent": spent, "refused": self.refused, "described": self.described}
        return {**facts, **({"assumes": list(self.assumes)} if self.assumes else {})}

    @staticmethod
    def restored(state: Config) -> Phase:
        """From `state()`."""
        spent = tuple(Spent.restored(s) for s in state["spent"])
        assumes = tuple(str(a) for a in state.get("assumes", []))
        return Phase(int(state["rounds"]), spent, str(state["refused"]), str(state["described"]), assumes)


def as_phases(earlier: Any) -> tuple[Phase, ...]:
    """Phases, a ledger's, or none.

    Raises:
      ParameterError: it is something else.
    """
    given = earlier.phases() if callable(getattr(earlier, "phases", None)) else earlier
    found = () if given is None else tuple(given) if isinstance(given, list | tuple) else (given,)
    for one in found:
        if not isinstance(one, Phase):
            raise ParameterError(
                f"earlier={shown(earlier)} holds no phases of an account; give an earlier run's history.ledger, or its "
                "phases()"
            )
    return found


def choices(phases: Sequence[Sequence[Spent]], most: int = 64) -> list[list[tuple[Event, int]]]:
    """Ways to compose phases: one reading of one claim for each, at most so many ways."""
    options = [[reading for spent in phase for reading in spent.readings] for phase in phases]
    return [list(way) for way in itertools.islice(itertools.product(*options), most)]


def _written(event: Event, relation: Relation) -> Any:
    if isinstance(event, RenyiEvent):
        orders, rdp = round_rdp(event, relation)
        table = {"orders": np.asarray(orders).tolist(), "rdp": np.asarray(rdp).tolist()}
        return {"kind": "Renyi", "name": event.name, "parameters": [list(p) for p in event.parameters], **table}
    fields: dict[str, Any] = {}
    for attribute in type(event).__attrs_attrs__:
        value = getattr(event, attribute.name)
        if isinstance(value, dp_accounting.DpEvent):
            value = _written(value, relation)
        elif isinstance(value, list | tuple):
            value = [_written(v, relation) if isinstance(v, dp_accounting.DpEvent) else v for v in value]
        fields[attribute.name] = value
    return {"kind": type(event).__name__, **fields}


def _read(state: Any) -> Event:
    fields = dict(state)
    kind = fields.pop("kind")
    if kind == "Renyi":
        orders, rdp = np.array(fields["orders"]), np.array(fields["rdp"])

        def curve(order: float) -> float:  # Renyi divergences grow with the order
            at = int(np.searchsorted(orders, order - 1e-12))
            return float(rdp[at]) if at < len(orders) else float("inf")

        return RenyiEvent(fields["name"], tuple((str(k), float(v)) for k, v in fields["parameters"]), curve)
    made = getattr(dp_accounting, kind, None)
    if not (isinstance(made, type) and issubclass(made, dp_accounting.DpEvent)):
        raise LedgerError(f"the saved ledger holds an event '{kind}' that dp-accounting lacks; it is damaged")

    def inner(value: Any) -> Any:
        if isinstance(value, dict):
            return _read(value)
        return [inner(v) for v in value] if isinstance(value, list) else value

    return made(**{name: inner(value) for name, value in fields.items()})
