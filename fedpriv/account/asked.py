"""Asked: a mechanism and a run that somebody asks the privacy of, without data or a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from fedpriv.account.accounting import AccountantName, central_event, checked_accountant, checked_rounds
from fedpriv.account.budget import Budget
from fedpriv.account.correlated import tree_sensitivity
from fedpriv.account.ledger import Ledger
from fedpriv.account.search import FINE, smallest_multiplier
from fedpriv.base.errors import ParameterError, did_you_mean
from fedpriv.base.lazy import dp_accounting
from fedpriv.defense.claim import Claim
from fedpriv.defense.line import Line
from fedpriv.defense.noise import leaves_noise_open
from fedpriv.defense.plan import Plan
from fedpriv.defense.stations import Defense, labels
from fedpriv.models.spec import Spec
from fedpriv.procedure.procedure import Sampling, make_procedure

_PLAIN = ("poisson", "fixed", "full")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked about; a bare Gaussian mechanism on a sum of clipped contributions where nothing else is said.

    Attributes:
      rounds: of the run; or steps.
      rate: with which each unit takes part in a round.
      cohort, population: (expected) clients a round, and in all; in place of `rate`.
      sampling: `poisson`, `fixed`, `full`, or a strategy such as `cyclic(size=10)`; None is `fixed` where there is a
        cohort, as of a training, `poisson` where there is a rate, else `full`.
      examples, batch_size, epochs: of DP-SGD: examples in all, (expected) in a batch, and passes; the rate is their
        quotient and the unit an example. Of `defenses` each client's, in each round; without `rounds` there is one.
      participations, separation, restart_every: of DP-FTRL by a binary tree: rounds that one client takes part in at
        most, rounds from one to the next at least, and rounds after which a tree is begun anew (None for one tree).
      defenses: registered ones in place of a bare mechanism.
      size: d, values of an update, for `defenses`.

    Raises:
      ParameterError: what was given does not fit together.
    """

    rounds: int | None = None
    rate: float | None = None
    cohort: int | None = None
    population: int | None = None
    sampling: str | None = None
    examples: int | None = None
    batch_size: int | None = None
    epochs: float | None = None
    participations: int | None = None
    separation: int | None = None
    restart_every: int | None = None
    defenses: tuple[Defense, ...] = ()
    size: int = 10_000

    def __post_init__(self) -> None:
        if self.rate is not None and not 0 < self.rate <= 1:
            raise ParameterError(f"rate={self.rate} must lie in (0, 1]; or give cohort and population")
        if self.sgd:
            self._check_sgd()
        elif self.rounds is None:
            raise ParameterError("the number of rounds is missing; give rounds, or examples, batch_size and epochs")
        if self.rounds is not None:
            checked_rounds(self.rounds, 1)
        if self.correlated:
            if self.separation is None and (self.participations or 0) > 1:
                raise ParameterError(
                    f"participations={self.participations} need separation, the least number of rounds from one to the "
                    "next; 1 lets consecutive rounds"
                )
            if self.rate is not None or self.cohort is not None or self.defenses or self.sgd:
                raise ParameterError(
                    "participations are for DP-FTRL, whose noise is correlated over rounds and which no sampling "
                    "amplifies; leave out rate, cohort, examples and defense"
                )
        self.plan  # noqa: B018  checks cohort and population

    @property
    def sgd(self) -> bool:
        """Whether it is DP-SGD, over examples."""
        return self.epochs is not None or self.batch_size is not None or self.examples is not None

    @property
    def correlated(self) -> bool:
        """Whether it is DP-FTRL."""
        return self.participations is not None or self.separation is not None or self.restart_every is not None

    def _check_sgd(self) -> None:
        given = (self.examples, self.batch_size, self.epochs)
        both = self.rounds is not None and self.epochs is not None and not self.defenses
        if None in given[:2] or both or (self.epochs is None and self.rounds is None):
            raise ParameterError(
                "DP-SGD takes examples and batch_size, and either epochs or rounds (steps); got "
                f"examples={self.examples}, batch_size={self.batch_size}, epochs={self.epochs}, rounds={self.rounds}"
            )
        if (self.rate is not None or self.cohort is not None) and not self.defenses:
            raise ParameterError("examples and batch_size give the rate of DP-SGD; leave out rate and cohort")
        assert self.examples is not None
        assert self.batch_size is not None
        if not 0 < self.batch_size <= self.examples:
            raise ParameterError(
                f"batch_size={self.batch_size} of examples={self.examples} is a rate outside of (0, 1]; give a batch "
                "no larger than the data"
            )
        if self.epochs is not None and not 0 < self.epochs < math.inf:
            raise ParameterError(f"epochs={self.epochs} must be a number above 0")

    @property
    def steps(self) -> int:
        """Rounds, or steps of DP-SGD."""
        if self.rounds is not None:
            return int(self.rounds)
        return 1 if self.defenses else self._local_steps

    @property
    def _local_steps(self) -> int:
        """Steps of DP-SGD over `epochs`."""
        assert self.examples and self.batch_size and self.epochs  # noqa: PT018  checked together
        return math.ceil(self.epochs * self.examples / self.batch_size)

    @property
    def plan(self) -> Plan:
        """The public facts of a run like that."""
        sampling, population = self._cohorts()
        return Plan(
            spec=Spec(("values",), ((self.size,),)),
            population=population,
            cohort=sampling.largest(population),
            expected_cohort=sampling.expected(population),
            sampling=sampling,
            weighting="uniform",
            max_examples=self.examples or 1,
            rounds=self.steps,
            procedure=make_procedure(
                sampling=sampling, weighting="uniform", batch_size=self.batch_size, **self._local_training()
            ),
        )

    def _local_training(self) -> dict[str, Any]:
        """What DP-SGD does at a client, for `defenses`."""
        if not self.sgd or not self.defenses:
            return {}
        steps = None if self.epochs is None else self._local_steps
        passes = math.ceil(self.epochs or 1)
        return {"batch_selection": "poisson", "local_epochs": passes, "max_local_steps": steps}

    def _cohorts(self) -> tuple[Sampling, int]:
        kind = self.sampling
        if kind is not None and kind not in _PLAIN and "(" not in kind:
            raise ParameterError(
                f"sampling='{kind}' is none the ledger can account.{did_you_mean(kind, _PLAIN)} Or give a strategy, "
                "such as cyclic(size=10)"
            )
        if kind is not None and kind not in _PLAIN:
            if self.population is None:
                raise ParameterError(f"sampling='{kind}' needs population, the number of clients")
            made: Sampling = make_procedure(sampling=Sampling(kind="strategy", strategy=kind)).sampling
            assert made.selection is not None
            made.selection.check(self.population)
            return made, self.population
        if self.cohort is not None:
            if self.population is None or self.rate is not None or not 0 < self.cohort <= self.population:
                raise ParameterError(
                    f"give either rate, or cohort and population with 0 < cohort <= population; got rate={self.rate}, "
                    f"cohort={self.cohort}, population={self.population}"
                )
            if kind == "full":
                return Sampling.full(), self.population
            if kind == "poisson":
                return Sampling.poisson(self.cohort / self.population), self.population
            return Sampling.fixed(self.cohort), self.population
        if kind == "fixed":
            raise ParameterError("fixed-size sampling needs cohort and population; give both")
        if self.rate is None or kind == "full":
            return Sampling.full(), self.population or 1
        if self.defenses and self.population is None:
            raise ParameterError(f"rate={self.rate} of a defense's clients needs population, how many there are")
        return Sampling.poisson(self.rate), self.population or 1

    def ledger(self, multiplier: float | None, accountant: AccountantName, interval: float = FINE) -> Ledger:
        """The account of that run with that noise multiplier; None takes the one that a defense has."""
        plan = self.plan
        if not self.defenses:
            assert multiplier is not None
            return Ledger(plan, [self._claim(multiplier)], accountant, interval=interval)
        defenses = self.defenses
        if multiplier is not None:
            place = self._noised()
            made = defenses[place].with_(noise_multiplier=multiplier)
            defenses = (*defenses[:place], made, *defenses[place + 1 :])
        line = Line(defenses, plan)
        told = {"refusals": line.refusals(), "interval": interval}
        return Ledger(plan, line.claims(), accountant, line.objections(), **told)  # type: ignore[arg-type]

    def _noised(self) -> int:
        """Which defense the multiplier is of: the one that leaves it open, else the only one that has any."""
        unset = [i for i, d in enumerate(self.defenses) if leaves_noise_open(d)]
        having = [i for i, d in enumerate(self.defenses) if "noise_multiplier" in type(d).model_fields]
        found = unset or having
        if len(found) != 1:
            named = ", ".join(labels(self.defenses)[i] for i in found) or ", ".join(labels(self.defenses))
            what = "more than one defense has a noise_multiplier" if found else "no defense has a noise_multiplier"
            raise ParameterError(f"{what} ({named}); leave open the one that is asked for, and give the others'")
        return found[0]

    def _claim(self, multiplier: float) -> Claim:
        if not 0 < multiplier < math.inf:
            raise ParameterError(f"noise_multiplier={multiplier} bounds no epsilon; give a number above 0")
        if self.correlated:
            k, apart = self.participations or self.steps, self.separation or 1

            def run(rounds: int) -> dp_accounting.DpEvent:
                return dp_accounting.GaussianDpEvent(
                    multiplier / tree_sensitivity(rounds, k, apart, self.restart_every)
                )

            return Claim(
                event=run(1), unit="client", relation="replace_special", against="released", amplified=False, run=run
            )
        if self.sgd:
            event: dp_accounting.DpEvent = dp_accounting.GaussianDpEvent(multiplier)
            assert self.examples is not None
            assert self.batch_size is not None
            if self.batch_size < self.examples:
                event = dp_accounting.PoissonSampledDpEvent(self.batch_size / self.examples, event)
            return Claim(event=event, unit="example", relation="add_or_remove_one", against="released", amplified=False)
        plan = self.plan
        event, relation = central_event(multiplier, plan.sampling, plan.population)
        return Claim(event=event, unit="client", relation=relation, against="released", amplified=True)

    def multiplier_for(self, budget: Budget, accountant: str) -> float:
        """The smallest noise multiplier that spends no more than the budget.

        Raises:
          LedgerError: no number can be justified.
          BudgetError: no multiplier is enough.
        """
        name, rounds = checked_accountant(accountant), self.steps

        def spent(multiplier: float, by: AccountantName, interval: float) -> float:
            ledger = self.ledger(multiplier, by, interval)
            return ledger.epsilon(budget.delta, **budget.asked, rounds=rounds).value

        return smallest_multiplier(spent, budget.epsilon, name, budget=str(budget), rounds=rounds)

    def describe(self) -> str:
        """In words, with what is a neighbour where the sampling says it."""
        if self.correlated:
            restart = "one tree" if self.restart_every is None else f"a new tree every {self.restart_every} rounds"
            limit = "any number of" if self.participations is None else f"at most {self.participations}"
            return f"DP-FTRL, {restart}: {limit} participations, {self.separation or 1} rounds apart"
        if self.sgd and not self.defenses:
            return f"DP-SGD: batches of {self.batch_size} of {self.examples} examples, Poisson-sampled"
        sampling, population = self._cohorts()
        if sampling.kind == "poisson" and population == 1:
            said = f"each client with probability {self.rate:g} a round"
        else:
            said = sampling.describe(population) if population > 1 else "everybody in every round"
        if sampling.kind in ("fixed", "poisson"):
            said += {"fixed": " (fixed-size sampling)", "poisson": " (Poisson sampling)"}[sampling.kind]
        if self.sgd:
            passes = f"{self.epochs or 1:g} epochs a round"
            said += f"; batches of {self.batch_size} of a client's {self.examples} examples, Poisson-sampled, {passes}"
        return said


def accountants(text: str | None) -> Sequence[AccountantName]:
    """`rdp`, `pld`, or both where nothing or `both` is given."""
    return get_args(AccountantName) if text in (None, "both") else (checked_accountant(str(text)),)
