"""Plan: everything public about a run. Defenses check themselves against it, and adversaries may know all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedpriv.models.spec import Spec
from fedpriv.procedure.procedure import Procedure, Sampling


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is fixed about a federation before its first round.

    Attributes:
      spec: the flat update's layout.
      population: K, the number of clients.
      cohort: the largest cohort a round can have (for Poisson sampling the population).
      expected_cohort: the mean cohort size.
      sampling: how cohorts are drawn.
      weighting: `examples` or `uniform`.
      max_examples: largest number of examples of any client.
      rounds: planned number of rounds, or None when open.
      procedure: local training, batches and server step; None where a plan is made for an aggregator alone.
      on_nonfinite: where a client's update is not finite: `stop` the run, `drop` the client, or `abort` the round.
    """

    spec: Spec
    population: int
    cohort: int
    expected_cohort: float
    sampling: Sampling
    weighting: str
    max_examples: int
    rounds: int | None = None
    procedure: Procedure | None = None
    on_nonfinite: Literal["stop", "drop", "abort"] = "stop"

    @classmethod
    def everybody(
        cls, clients: int, size: int, *, weighting: Literal["uniform", "examples"] = "uniform", max_examples: int = 1
    ) -> Plan:
        """Of rounds in which all of some clients take part, for a protocol or a codec that is run by itself.

        Args:
          clients: how many.
          size: d, values of an update.
          weighting: as the attribute.
          max_examples: as the attribute.
        """
        return cls(
            spec=Spec(("values",), ((size,),)),
            population=clients,
            cohort=clients,
            expected_cohort=float(clients),
            sampling=Sampling.full(),
            weighting=weighting,
            max_examples=max_examples,
        )
