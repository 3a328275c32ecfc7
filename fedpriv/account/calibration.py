"""Calibration: the smallest noise that keeps a training within its budget, for whatever mechanism makes claims.

A defense whose parameter `noise_multiplier` is None leaves it to the budget. The multiplier is found by trying: the
line is made with it, its claims are composed by a ledger, and epsilon is compared. Nothing needs to be known of a
mechanism but that its epsilon falls as the multiplier grows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fedpriv.account.accounting import AccountantName, checked_accountant, checked_rounds
from fedpriv.account.budget import Budget
from fedpriv.account.ledger import Ledger
from fedpriv.account.phase import Phase
from fedpriv.account.search import smallest_multiplier
from fedpriv.base.errors import BudgetError, ParameterError
from fedpriv.defense.claim import Claim
from fedpriv.defense.line import Line
from fedpriv.defense.noise import leaves_noise_open
from fedpriv.defense.plan import Plan
from fedpriv.defense.stations import Defense, labels


def calibrated(
    defenses: Sequence[Defense],
    plan: Plan,
    budget: Budget,
    *,
    rounds: int,
    accountant: str = "rdp",
    earlier: Sequence[Phase] = (),
    counted: Callable[[Line], tuple[list[Claim], list[str]]] = lambda line: (line.claims(), line.refusals()),
) -> tuple[Defense, ...]:
    """The defenses, with the noise multiplier that is left open set to the smallest that keeps to the budget.

    Args:
      defenses: in order; at most one leaves its multiplier open.
      plan: of the federation.
      budget: to be spent by all `rounds` together, and by the earlier phases.
      rounds: that are planned.
      accountant: `rdp` or `pld`.
      earlier: phases that are over.
      counted: the claims of a line that hold under the federation's topology, and why others do not.

    Raises:
      ParameterError: several are open.
      LedgerError: no number can be justified, whatever the noise.
      BudgetError: no multiplier in reach is enough.
    """
    name, rounds = checked_accountant(accountant), checked_rounds(rounds, 1)
    unset = [i for i, defense in enumerate(defenses) if leaves_noise_open(defense)]
    if not unset:
        return tuple(defenses)
    named = [labels(defenses)[i] for i in unset]
    if len(unset) > 1:
        raise ParameterError(
            f"{' and '.join(named)} leave noise_multiplier to the budget, which can set one; give the others a number"
        )
    place = unset[0]
    if earlier:
        over = Ledger(plan, (), name, earlier=earlier)
        over.epsilon(budget.delta, against=budget.against, unit=budget.unit, rounds=0)  # says why there is none
        before = budget.spent(over, 0)
        if before >= budget.epsilon:
            raise BudgetError(
                f"the budget of {budget} is spent already: epsilon was {before:.4g} before this training; give a "
                "larger one"
            )

    def with_noise(multiplier: float) -> tuple[Defense, ...]:
        made = defenses[place].with_(noise_multiplier=multiplier)
        return (*defenses[:place], made, *defenses[place + 1 :])

    def spent(multiplier: float, accountant: AccountantName, interval: float) -> float:
        line = Line(with_noise(multiplier), plan)
        (claims, refusals), objections = counted(line), line.objections()
        told = {"refusals": refusals, "earlier": earlier, "interval": interval}
        ledger = Ledger(plan, claims, accountant, objections, **told)  # type: ignore[arg-type]
        return ledger.epsilon(budget.delta, **budget.asked, rounds=rounds).value

    found = smallest_multiplier(spent, budget.epsilon, name, f"{named[0]}'s noise multiplier", str(budget), rounds)
    return with_noise(found)
