"""Aggregator: a defense that takes the place of the weighted mean, by an aggregation process of TFF's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from fedpriv.base.errors import StackError
from fedpriv.base.lazy import tff
from fedpriv.defense.domain import Domain, Opaque
from fedpriv.defense.stations import Defense, Plan, Station


@dataclass
class Aggregate:
    """What an aggregator made of one cohort.

    Attributes:
      mean: the mean update as it defines it, `[d]`.
      state: leaves of its next state.
      metrics: its measurements.
    """

    mean: np.ndarray
    state: tuple[np.ndarray, ...]
    metrics: dict[str, float] = field(default_factory=dict)


class Aggregator(Defense):
    """A defense whose part at client and server is a `tff.aggregators` factory; for engine='tff'.

    Its result is taken as the mean update, as `tff.learning` does. What TFF draws at random is not drawn from the
    federation's seed. What a client sends is inside TFF, so only the released result can be tapped, and bytes are
    counted as if updates were sent as they are.
    """

    replayable: ClassVar[bool] = False

    def make(self, plan: Plan) -> Any:
        """The factory, weighted or not; values are lists of tensors by `plan.spec`."""
        raise NotImplementedError

    def check(self, plan: Plan) -> None:
        """Raises StackError if clients are weighted, but the factory counts each of them once."""
        weighted = isinstance(self.make(plan), tff.aggregators.WeightedAggregationFactory)
        if plan.weighting == "examples" and not weighted:
            raise StackError(
                f"{self.name} counts every client once, whatever the number of its examples; use weighting='uniform'"
            )

    def acts_at(self, station: Station) -> bool:
        """At the message station, besides those that it overrides."""
        return station is Station.MESSAGE or super().acts_at(station)

    def maps(self, given: Domain, plan: Plan) -> Domain:
        """What a client sends is inside TFF."""
        return Opaque("aggregate")
