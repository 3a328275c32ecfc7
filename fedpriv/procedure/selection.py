"""Selection: rules of who takes part when, beyond plain sampling; plug-ins that bring their amplification, or none."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import dp_accounting
from fedpriv.base.plugin import Plugin
from fedpriv.base.seeds import Purpose, generator


class Selection(Plugin):
    """Base of the selection strategies; registered in the entry-point group `fedpriv.selection`."""

    #: Whether all cohorts are equally large, whoever is in the population.
    fixed_size: ClassVar[bool] = False

    @abstractmethod
    def draw(self, population: int, seed: int, round_number: int) -> np.ndarray:
        """Client ids of one round, ascending int64; a pure function of its arguments."""

    @abstractmethod
    def expected(self, population: int) -> float:
        """Mean cohort size."""

    @abstractmethod
    def largest(self, population: int) -> int:
        """Largest possible cohort."""

    def check(self, population: int) -> None:
        """Raises ParameterError if it cannot select from so many clients."""

    def amplified(self, event: dp_accounting.DpEvent, relation: str, population: int) -> dp_accounting.DpEvent:
        """One round's `dp_accounting.DpEvent` amplified by the secrecy of who takes part; by default it is not."""
        return event

    def describe(self, population: int) -> str:
        """In words, for the account."""
        return f"{self.config()} of {population} clients"


class Cyclic(Selection):
    """Every client takes part once a cycle, in an order that the seed shuffles; cohorts are equally large.

    What correlated noise (DP-FTRL) asks for: a client's rounds lie at least population // size apart (min-separation
    participation; Choquette-Choo, Ganesh, McKenna, McMahan, Rush, Thakurta, Xu 2023, arXiv 2306.08153). Who takes part
    when is no secret that amplifies anything, and nothing is claimed for it: every round counts in full.
    """

    name: ClassVar[str] = "cyclic"
    paper: ClassVar[str] = "Choquette-Choo et al. 2023, arXiv 2306.08153"
    fixed_size: ClassVar[bool] = True

    size: Annotated[int, Field(ge=1)] = Field(description="clients a round.")

    def separation(self, population: int) -> int:
        """Rounds from one of a client's to its next, at least."""
        return population // self.size

    def draw(self, population: int, seed: int, round_number: int) -> np.ndarray:
        """The round's stretch of the shuffled order; the clients left over at a cycle's end sit out that cycle."""
        order = generator(seed, Purpose.COHORT).permutation(population)
        place = round_number % self.separation(population) * self.size
        return np.sort(order[place : place + self.size])

    def expected(self, population: int) -> float:
        """The size."""
        return float(self.size)

    def largest(self, population: int) -> int:
        """The size."""
        return self.size

    def check(self, population: int) -> None:
        """Refuses cohorts beyond the population."""
        if self.size > population:
            raise ParameterError(
                f"selection cyclic(size={self.size}) exceeds the population of {population} clients; choose at most "
                f"{population}"
            )

    def describe(self, population: int) -> str:
        """In words."""
        return f"{self.size} of {population} clients a round, each at most every {self.separation(population)} rounds"
