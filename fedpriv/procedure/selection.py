"""Selection: rules of who takes part when, beyond plain sampling; plug-ins that bring their amplification, or none."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Collection
from typing import Annotated, ClassVar

import numpy as np
import pydantic
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

    def check_rounds(self, population: int, seed: int, rounds: int) -> None:
        """Raises ParameterError if it cannot select for so many rounds; it may take as long as selecting does."""

    def apart(self, population: int) -> int:
        """Rounds from one of a client's to its next, at least; by default 1, which is no limit."""
        return 1

    def participations(self, population: int, rounds: int) -> int:
        """Rounds that a client takes part in, at most, of the first so many; by default as its separation allows."""
        return -(-rounds // self.apart(population))

    def amplified(self, event: dp_accounting.DpEvent, relation: str, population: int) -> dp_accounting.DpEvent:
        """One round's `dp_accounting.DpEvent` amplified by the secrecy of who takes part; by default it is not."""
        return event

    def describe(self, population: int) -> str:
        """In words, for the account."""
        return f"{self.config()} of {population} clients"

    def warn(self, population: int, seed: int, round_number: int, lost: Collection[int]) -> str:
        """What a user must be told of a round in which these of its clients did not arrive, as a sentence; or ""."""
        return ""


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

    def apart(self, population: int) -> int:
        """The separation."""
        return self.separation(population)

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


class MinSeparation(Selection):
    """Clients drawn at random among those that may take part again; cohorts are equally large.

    A client sits out the `separation` - 1 rounds after each of its own, and stays away for good once it took part in
    `max_participations`. Bounded participation is what correlated noise (DP-FTRL) is accounted by: min-separation of
    Choquette-Choo, Ganesh, McKenna, McMahan, Rush, Thakurta, Xu 2023, arXiv 2306.08153, as in Xu et al. 2023, arXiv
    2305.18465. Nothing is amplified.
    """

    name: ClassVar[str] = "min_separation"
    paper: ClassVar[str] = "Choquette-Choo et al. 2023, arXiv 2306.08153"
    fixed_size: ClassVar[bool] = True

    size: Annotated[int, Field(ge=1)] = Field(description="clients a round.")
    separation: Annotated[int, Field(ge=1)] = Field(
        description="rounds from one of a client's to its next, at least; 1 lets it stay."
    )
    max_participations: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="rounds that one client takes part in, at most; None is as many as separation allows."
    )

    def draw(self, population: int, seed: int, round_number: int) -> np.ndarray:
        """The round's clients.

        Raises:
          ParameterError: fewer than `size` clients may still take part.
        """
        return _drawn_apart(self, population, seed).round(round_number)

    def apart(self, population: int) -> int:
        """The separation."""
        return self.separation

    def participations(self, population: int, rounds: int) -> int:
        """What separation and limit allow."""
        most = -(-rounds // self.separation)
        return most if self.max_participations is None else min(most, self.max_participations)

    def expected(self, population: int) -> float:
        """The size."""
        return float(self.size)

    def largest(self, population: int) -> int:
        """The size."""
        return self.size

    def check(self, population: int) -> None:
        """Refuses a separation that the population has too few clients for."""
        needed = self.size * self.separation
        if needed > population:
            raise ParameterError(
                f"selection min_separation(size={self.size},separation={self.separation}) needs {needed} clients, so "
                f"that nobody has to come back too early, and there are {population}; choose a separation of at most "
                f"{max(1, population // self.size)} or a smaller size"
            )

    def check_rounds(self, population: int, seed: int, rounds: int) -> None:
        """Refuses more rounds than participations are left for."""
        if self.max_participations is not None and rounds:
            self.draw(population, seed, rounds - 1)

    def describe(self, population: int) -> str:
        """In words."""
        limit = "" if self.max_participations is None else f" and at most {self.max_participations} times in all"
        return (
            f"{self.size} of {population} clients a round, drawn among those that may take part again: each at most "
            f"every {self.separation} rounds{limit}"
        )


class _DrawnApart:
    """The cohorts of a MinSeparation, made in order and kept: a round's depends on those before it."""

    def __init__(self, rule: MinSeparation, population: int, seed: int) -> None:
        self.rule, self.population, self.seed = rule, population, seed
        self.cohorts: list[np.ndarray] = []
        self._free_from = np.zeros(population, np.int64)
        self._left = np.full(population, rule.max_participations or np.iinfo(np.int64).max)

    def round(self, number: int) -> np.ndarray:
        while len(self.cohorts) <= number:
            now = len(self.cohorts)
            free = np.flatnonzero((self._free_from <= now) & (self._left > 0))
            if len(free) < self.rule.size:
                raise ParameterError(
                    f"selection {self.rule.config()}: in round {now} only {len(free)} of {self.population} clients may "
                    f"take part again; train for at most {now} rounds, or allow more participations"
                )
            drawn = generator(self.seed, Purpose.COHORT, now).choice(free, size=self.rule.size, replace=False)
            self._free_from[drawn] = now + self.rule.separation
            self._left[drawn] -= 1
            self.cohorts.append(np.sort(drawn))
        return self.cohorts[number]


@functools.lru_cache(maxsize=8)
def _drawn_apart(rule: MinSeparation, population: int, seed: int) -> _DrawnApart:
    return _DrawnApart(rule, population, seed)


class BatchPartition(Selection):
    """Clients are divided once into batches of `batch`; a round takes whole batches, drawn at random.

    Secure sums of many rounds can be added and subtracted. If clients are drawn one by one, as many rounds as there are
    clients tell nearly every single update, as far as updates change little. Here every sum has the same weight on all
    clients of a batch, so that any combination of any number of rounds is about at least `batch` clients: the
    multi-round privacy T of So, Ali, Güler, Jiao, Avestimehr 2021, "Securing Secure Aggregation: Mitigating Multi-Round
    Privacy Leakage in Federated Learning", arXiv 2106.03328, with T = `batch`. The sums of single batches are not
    hidden. No differential privacy follows, and nothing is amplified: who is in whose batch is no secret.

    It holds as long as batches arrive whole. A client that drops out leaves a sum without it, and the difference
    from one with it is that client's update; a round where this happened says so in its warnings. If `batch` does not
    divide the population, those left over never take part.
    """

    name: ClassVar[str] = "batch_partition"
    paper: ClassVar[str] = "So et al. 2021, arXiv 2106.03328"
    fixed_size: ClassVar[bool] = True

    size: Annotated[int, Field(ge=1)] = Field(description="clients a round, a multiple of `batch`.")
    batch: Annotated[int, Field(ge=1)] = Field(description="T, clients that always take part together.")

    @pydantic.model_validator(mode="after")
    def _whole_batches(self) -> BatchPartition:
        if self.size % self.batch:
            near = max(1, round(self.size / self.batch)) * self.batch
            raise ValueError(f"size={self.size} is no multiple of batch={self.batch}; try size={near}")
        return self

    def batches(self, population: int, seed: int) -> np.ndarray:
        """The clients of each batch, `[batches, batch]`; the same in all rounds."""
        order = generator(seed, Purpose.COHORT).permutation(population)
        return np.sort(order[: population // self.batch * self.batch].reshape(-1, self.batch), axis=1)

    def draw(self, population: int, seed: int, round_number: int) -> np.ndarray:
        """The clients of size // batch batches, drawn without replacement."""
        whole = self.batches(population, seed)
        # Round 0 must not repeat the draws of the batches: a seed's trailing zeros make no difference.
        chosen = generator(seed, Purpose.COHORT, round_number + 1).permutation(len(whole))[: self.size // self.batch]
        return np.sort(whole[chosen].ravel())

    def expected(self, population: int) -> float:
        """The size."""
        return float(self.size)

    def largest(self, population: int) -> int:
        """The size."""
        return self.size

    def check(self, population: int) -> None:
        """Refuses cohorts beyond the whole batches of the population."""
        whole = population // self.batch * self.batch
        if self.size > whole:
            raise ParameterError(
                f"selection batch_partition(size={self.size},batch={self.batch}) exceeds the {whole} clients in whole "
                f"batches of a population of {population}; choose a smaller size"
            )

    def describe(self, population: int) -> str:
        """In words."""
        left = population % self.batch
        rest = f"; {left} of them in no batch, which never take part" if left else ""
        return f"{self.size} of {population} clients a round, in batches of {self.batch} that stay together{rest}"

    def warn(self, population: int, seed: int, round_number: int, lost: Collection[int]) -> str:
        """That batches arrived in part, where they did."""
        gone = set(lost)
        broken = [b for b in self.batches(population, seed) if 0 < len(gone & set(b.tolist())) < len(b)]
        if not broken:
            return ""
        many = "1 batch" if len(broken) == 1 else f"{len(broken)} batches"
        return (
            f"batch_partition: {many} of {self.batch} arrived without all of their clients, so that differences of "
            f"rounds may be about fewer than {self.batch}; abort such rounds (min_clients={self.size})"
        )
