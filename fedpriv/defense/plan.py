"""Plan: everything public about a run. Defenses check themselves against it, and adversaries may know all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedpriv.models.spec import Spec
from fedpriv.procedure.procedure import Procedure, Sampling, Simulated

#: What a claim about a simulated federation starts its assumption with; `Plan.simulation` follows.
SIMULATED = "a larger federation is simulated: "


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
      sizes: the different numbers of examples that clients hold, ascending; empty where none are known.
      records_per_user: how many examples of one user (a key of the dataset) are kept at most, all of them with one
        client; None where no defense bounds it.
      rounds: planned number of rounds, or None when open.
      procedure: local training, batches and server step; None where a plan is made for an aggregator alone.
      on_nonfinite: where a client's update is not finite: `stop` the run, `drop` the client, or `abort` the round.
      simulates: the larger federation that noise and account are made for, or None where they are for this one.
      secure_rng: whether noise comes from the operating system and a cipher, rather than from the run's seed.
    """

    spec: Spec
    population: int
    cohort: int
    expected_cohort: float
    sampling: Sampling
    weighting: str
    max_examples: int
    sizes: tuple[int, ...] = ()
    records_per_user: int | None = None
    rounds: int | None = None
    procedure: Procedure | None = None
    on_nonfinite: Literal["stop", "drop", "abort"] = "stop"
    simulates: Simulated | None = None
    secure_rng: bool = False

    @property
    def min_examples(self) -> int:
        """Smallest number of examples of any client."""
        return self.sizes[0] if self.sizes else self.max_examples

    @property
    def noise_factor(self) -> float:
        """What noise on the sum is multiplied with, so that the mean carries as much as the simulated cohort's would.

        That is the expected cohort over the simulated one; 1 where nothing is simulated.
        """
        return 1.0 if self.simulates is None else self.expected_cohort / self.simulates.cohort

    def simulation(self) -> str:
        """What federation is simulated with what, in words; "" where none is."""
        if self.simulates is None:
            return ""
        cohort, population = self.simulates.cohort, self.simulates.population
        return (
            f"cohort {cohort:,} of {population:,} simulated with {self.expected_cohort:,g}; no guarantee for the "
            "clients that took part"
        )

    @property
    def accounted_population(self) -> int:
        """The number of clients that the account is for."""
        return self.population if self.simulates is None else self.simulates.population

    @property
    def accounted_sampling(self) -> Sampling:
        """How the cohorts that the account is for are drawn."""
        return self.sampling if self.simulates is None else self.simulates.sampling(self.sampling)

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
