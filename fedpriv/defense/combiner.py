"""Combiner: a defense that takes the place of the weighted mean, by a rule on the clients' own updates."""

from __future__ import annotations

from typing import ClassVar

from fedpriv.base.errors import StackError
from fedpriv.base.types import Flat, Tensor
from fedpriv.defense.domain import Domain, Opaque, Real
from fedpriv.defense.passed import Passed
from fedpriv.defense.plan import Plan
from fedpriv.defense.stations import Defense, Station


class Combiner(Defense):
    """A rule that makes one update of all clients' own, such as a median.

    It stands where messages arrive, so it must see each of them: no secure sum goes with it, and whoever holds the
    server's place reads every update. What a client may do to the result has no bound in the L2 norm that noise could
    cover, so no claim follows from what stands behind it.
    """

    #: Whether the rule takes clients' weights into account.
    weighs: ClassVar[bool] = False

    def combine(self, updates: Tensor, weights: Tensor) -> Passed | Flat:
        """What takes the place of the weighted mean. Pure, traceable, differentiable in `updates`.

        Args:
          updates: `[m, d]`, of the clients that are there, in order.
          weights: `[m]` above 0: 1, or the share of their examples.

        Returns:
          `[d]`, or a Passed of it with a log.
        """
        raise NotImplementedError

    def least(self) -> int:
        """The fewest updates it can combine."""
        return 1

    def check(self, plan: Plan) -> None:
        """Raises StackError if clients are weighted, but the rule counts each once, or cohorts are too small."""
        if plan.weighting == "examples" and not self.weighs:
            raise StackError(
                f"{self.name} counts every client once, whatever the number of its examples; use weighting='uniform'"
            )
        if plan.sampling.equal_cohorts and plan.cohort < self.least():
            raise StackError(
                f"{self.name} needs at least {self.least()} clients a round with these parameters, but a cohort has "
                f"{plan.cohort}; take larger cohorts, or let it reckon with fewer liars"
            )

    def acts_at(self, station: Station) -> bool:
        """At the message station, besides those that it overrides."""
        return station is Station.MESSAGE or super().acts_at(station)

    def maps(self, given: Domain, plan: Plan) -> Domain:
        """What arrives has been read, so that nothing after it can hide it."""
        return Opaque("update that was read") if isinstance(given, Real) else given
