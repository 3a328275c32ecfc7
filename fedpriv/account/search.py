"""Search: the smallest noise multiplier that spends no more than an epsilon."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from fedpriv.base.errors import BudgetError, LedgerError, ParameterError, StackError

#: What privacy losses are rounded up to in PLDs, and what is ten times as fast and no less valid.
FINE, COARSE = 1e-4, 1e-3
#: Multipliers searched, and how near the found one lies to the smallest that will do, relative to it.
SMALLEST, LARGEST, NEAR = 1e-3, 1e5, 1e-4

_By = Literal["rdp", "pld"]
_Spent = Callable[[float, _By, float], float]


def smallest_multiplier(
    spent: _Spent,
    epsilon: float,
    accountant: _By,
    what: str = "a noise multiplier",
    budget: str = "",
    rounds: int | None = None,
) -> float:
    """The smallest multiplier, within NEAR of it and rounded up to five digits, that spends at most `epsilon`.

    Args:
      spent: (multiplier, accountant, what a PLD rounds losses up to) to the epsilon it spends, which falls as the
        multiplier grows.
      epsilon: the target.
      accountant: by which; the cheap `rdp` comes first in any case, if it can.
      what, budget, rounds: for the error.

    Raises:
      LedgerError: of `spent`, where no multiplier gives a number.
      ParameterError, StackError: of `spent`, where defenses cannot work with what would be enough.
      BudgetError: no multiplier between SMALLEST and LARGEST is enough.
    """
    search = _Search(spent, epsilon, what, budget or f"epsilon={epsilon:g}", rounds)
    found = _rounded_up(math.exp(search.found(accountant)))
    if accountant not in search.answered and search.problem is not None:
        raise search.problem  # the end of what the defenses can work with is no answer
    if accountant == "rdp":  # cheap; says what is wrong where defenses cannot work with it
        spent(found, accountant, FINE)
    return found


class _Search:
    """The search for the logarithm of a multiplier; arguments as of `smallest_multiplier`."""

    def __init__(
        self,
        spent: _Spent,
        epsilon: float,
        what: str,
        budget: str,
        rounds: int | None,
    ) -> None:
        self.spent, self.epsilon, self.what, self.budget, self.rounds = spent, epsilon, what, budget, rounds
        self.problem: LedgerError | None = None
        self.answered: set[_By] = set()
        self._known: dict[tuple[float, str, float], float] = {}

    def excess(self, x: float, by: _By, interval: float) -> float:
        """log(spent / epsilon), above 0 where more is spent; infinite where no number is bounded."""
        key = (x, by, interval)
        if key not in self._known:
            try:
                value = self.spent(math.exp(x), by, interval)
                self.answered.add(by)
            except LedgerError as e:
                self.problem, value = e, math.inf
            except (ParameterError, StackError):  # the defenses cannot work with that much noise, or that little
                value = 0.0 if x > 0 else math.inf
            self._known[key] = math.log(max(value, 1e-12) / self.epsilon) if math.isfinite(value) else math.inf
        return self._known[key]

    def found(self, accountant: _By) -> float:
        """The logarithm of the smallest multiplier that is enough."""
        if accountant == "rdp":
            return self.bisected("rdp", FINE, 0.0)
        try:
            start = self.bisected("rdp", FINE, 0.0)
        except LedgerError:
            return self.bisected("pld", FINE, 0.0)
        slope = (self.excess(start + 0.02, "rdp", FINE) - self.excess(start, "rdp", FINE)) / 0.02
        for interval in (COARSE, FINE):
            start, slope = self.refined(start, slope, interval)
        return start

    def bisected(self, by: _By, interval: float, guess: float) -> float:
        """From a guess that may be far off."""
        from scipy.optimize import brentq

        low, high = self._bracket(by, interval, guess, 0.7)
        # Where epsilon is infinite no line leads to the target; halve until it is a number.
        while high - low > NEAR and math.isinf(self.excess(low, by, interval)):
            middle = (low + high) / 2
            low, high = (middle, high) if self.excess(middle, by, interval) > 0 else (low, middle)
        if high - low > NEAR:
            high = min(high, float(brentq(self.excess, low, high, args=(by, interval), xtol=NEAR / 2, rtol=1e-12)))
        while self.excess(high, by, interval) > 0:
            high += NEAR / 4
        return high

    def _bracket(self, by: _By, interval: float, guess: float, step: float) -> tuple[float, float]:
        low = high = guess
        while self.excess(high, by, interval) > 0:
            if high > math.log(LARGEST):
                if math.isinf(self.excess(high, by, interval)) and self.problem is not None:
                    raise self.problem
                over = "" if self.rounds is None else f" over {self.rounds} rounds"
                raise BudgetError(
                    f"{self.what} of {LARGEST:g} still spends more than {self.budget}{over}; ask for a larger epsilon, "
                    "fewer rounds or rarer sampling"
                )
            low, high = high, high + step
            step *= 1.5
        while low == high or self.excess(low, by, interval) <= 0:
            if low < math.log(SMALLEST):
                return low, low
            high, low = low, low - step
            step *= 1.5
        return low, high

    def refined(self, x: float, slope: float, interval: float) -> tuple[float, float]:
        """From near PLD's answer to it, by secants, for a number may take a second: (answer, slope there)."""
        f = self.excess(x, "pld", interval)
        for _ in range(8):
            if not (math.isfinite(f) and math.isfinite(slope) and slope < 0):
                break
            if 0 <= f / slope <= NEAR:  # enough noise, and hardly more
                return x, slope
            after = max(math.log(SMALLEST), x - f / slope + NEAR / 4)
            if after == x:
                return x, slope
            then = self.excess(after, "pld", interval)
            slope = (then - f) / (after - x)
            x, f = after, then
        return self.bisected("pld", interval, x), slope


def _rounded_up(value: float) -> float:
    unit = 10.0 ** (math.floor(math.log10(value)) - 4)
    return float(f"{math.ceil(value / unit) * unit:.5g}")
