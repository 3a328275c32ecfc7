"""Budget: how much privacy a training may spend; and what holds a run to it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from fedpriv.account.accounting import checked_delta
from fedpriv.account.ledger import Ledger
from fedpriv.base.errors import BudgetError, LedgerError, ParameterError, did_you_mean
from fedpriv.defense.claim import Against, Relation, Unit

_FIELDS = ("epsilon", "delta", "against", "unit", "relation")


@dataclass(frozen=True)
class Budget:
    """An epsilon at a delta that a training must not exceed.

    Attributes:
      epsilon: above 0.
      delta: in (0, 1); well below 1 over the number of units.
      against: the adversary, `released` or `server`.
      unit: `client`, `example` or `user`; None takes the first of these that a defense protects.
      relation: the neighbouring relation that epsilon is meant for; None takes whichever gives the least.

    Raises:
      ParameterError: no such budget.
    """

    epsilon: float
    delta: float
    against: Against = "released"
    unit: Unit | None = None
    relation: Relation | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.epsilon, int | float) or not 0 < self.epsilon < math.inf:
            raise ParameterError(
                f"a budget of epsilon={self.epsilon} must be a number above 0; no finite noise gives 0, and none "
                "infinity"
            )
        checked_delta(self.delta)
        for name, allowed in (
            ("against", get_args(Against)),
            ("unit", (None, *get_args(Unit))),
            ("relation", (None, *get_args(Relation))),
        ):
            given = getattr(self, name)
            if given not in allowed:
                known = [str(one) for one in allowed if one is not None]
                raise ParameterError(f"a budget's {name}='{given}' is unknown.{did_you_mean(str(given), known)}")

    @staticmethod
    def of(value: Budget | str | Mapping[str, Any] | None) -> Budget | None:
        """A budget, or one written as `epsilon=2, delta=1e-6`, or as these fields; None stays None.

        Raises:
          ParameterError: it cannot be read.
        """
        if value is None or isinstance(value, Budget):
            return value
        if isinstance(value, str):
            pairs = [part.partition("=") for part in re.split(r"[,;]", value) if part.strip()]
            fields = {name.strip(): text.strip() for name, _, text in pairs}
            if len(fields) < len(pairs):
                raise ParameterError(f"budget '{value}' says something twice; give each of {', '.join(_FIELDS)} once")
        elif not isinstance(value, Mapping):
            raise ParameterError(f"budget={value!r} is none; write it as 'epsilon=2, delta=1e-6', or give a Budget")
        else:
            fields = {str(name): str(text) for name, text in value.items() if text is not None}
        for name in fields:
            if name not in _FIELDS:
                raise ParameterError(f"budget '{value}' has no '{name}'.{did_you_mean(name, _FIELDS)}")
        for name in ("epsilon", "delta"):
            if name not in fields:
                raise ParameterError(f"budget '{value}' lacks {name}; write it as 'epsilon=2, delta=1e-6'")
        numbers = {}
        for name in ("epsilon", "delta"):
            try:
                numbers[name] = float(fields[name])
            except ValueError:
                raise ParameterError(f"budget '{value}': {name}={fields[name]!r} is no number") from None
        return Budget(**numbers, **{name: fields[name] for name in fields if name not in numbers})  # type: ignore[arg-type]

    @property
    def asked(self) -> dict[str, Any]:
        """What `Ledger.epsilon` is asked for, beside its delta."""
        return {"against": self.against, "unit": self.unit, "relation": self.relation}

    def spent(self, ledger: Ledger, rounds: int | None = None, accountant: str | None = None) -> float:
        """What a ledger has spent of it, in epsilon; infinite where no number can be justified.

        Args:
          ledger: the account.
          rounds: as if so many rounds of its phase were spent.
          accountant: another than the ledger's own.
        """
        try:
            found = ledger.epsilon(self.delta, **self.asked, rounds=rounds, accountant=accountant)
        except LedgerError:
            return math.inf
        return found.value

    def __str__(self) -> str:
        more = [f"against={self.against}"] if self.against != "released" else []
        more += [f"unit={self.unit}"] if self.unit is not None else []
        more += [f"relation={self.relation}"] if self.relation is not None else []
        return ", ".join([f"epsilon={self.epsilon:g}", f"delta={self.delta:g}", *more])


class Guard:
    """Holds a run to its budget: says before each round whether it may still be run.

    Args:
      budget: the budget.
      ledger: of the run; it is asked as it stands.
      rounds: that the run is to have.

    Raises:
      LedgerError: the ledger gives no number for that adversary and unit, so that no budget can be kept.
      BudgetError: earlier phases, or the rounds of a resumed run, have spent more than it already, or it does not
        reach for one round.
    """

    def __init__(self, budget: Budget, ledger: Ledger | None, rounds: int) -> None:
        if ledger is None:
            raise LedgerError(
                f"a budget of {budget} cannot be kept, since no defense makes a formal claim; add one, such as "
                "central_dp, or leave the budget out"
            )
        self.budget, self.ledger, self.rounds = budget, ledger, rounds
        ledger.epsilon(budget.delta, **budget.asked, rounds=max(1, ledger.rounds))
        self._broken: frozenset[str] = frozenset()
        self.allowed = self._allowed()
        spent = budget.spent(ledger)
        if spent > budget.epsilon:
            raise BudgetError(
                f"the budget of {budget} is spent already: epsilon is {spent:.4g} after {self._so_far()}; give a "
                "larger one, or start anew"
            )
        if ledger.rounds == 0 and self.allowed == 0 and rounds:
            one = budget.spent(ledger, 1)
            earlier = f" after {self._so_far()}" if ledger.earlier else ""
            raise BudgetError(
                f"the budget of {budget} does not reach for one round{earlier}, which would make epsilon {one:.4g}; "
                "add noise, leave noise_multiplier to the budget, or give a larger one"
            )

    def _so_far(self) -> str:
        earlier = sum(phase.rounds for phase in self.ledger.earlier)
        return f"{earlier + self.ledger.rounds} rounds"

    def _allowed(self) -> int:
        b = self.budget
        try:
            return self.ledger.rounds_within(b.epsilon, b.delta, self.rounds, **b.asked)
        except LedgerError:
            return 0

    def stop(self) -> str:
        """Why the next round must not be run, as a sentence without a full stop; "" where it may be."""
        broken = frozenset(self.ledger.broken)
        if broken != self._broken:
            self._broken, self.allowed = broken, self._allowed()
        done = self.ledger.rounds
        if done >= self.rounds or done < self.allowed:
            return ""
        spent, then = (self.budget.spent(self.ledger, n) for n in (done, done + 1))
        if math.isinf(spent):
            return (
                f"stopped after {done} of {self.rounds} rounds: no epsilon can be justified any more, so the budget of "
                f"{self.budget} cannot be kept"
            )
        return (
            f"stopped after {done} of {self.rounds} rounds by the budget of {self.budget}: epsilon is {spent:.4g}, and "
            f"one more round would make it {then:.4g}"
        )
