"""Cohort sampling: which clients take part in a round."""

from __future__ import annotations

import numpy as np

from fedpriv.base import registry
from fedpriv.base.errors import ParameterError
from fedpriv.base.seeds import Purpose, generator
from fedpriv.procedure.procedure import Sampling


def cohort(sampling: Sampling, population: int, seed: int, round_number: int) -> np.ndarray:
    """Client ids of one round, ascending int64, a pure function of its arguments.

    `fixed` draws without replacement, `poisson` includes each client independently (so the cohort may be empty).

    Raises:
      ParameterError: a fixed cohort larger than the population.
    """
    if sampling.selection is not None:
        return sampling.selection.draw(population, seed, round_number)
    if sampling.kind == "full":
        return np.arange(population)
    rng = generator(seed, Purpose.COHORT, round_number)
    if sampling.kind == "poisson":
        return np.flatnonzero(rng.random(population) < (sampling.rate or 0.0))
    check(sampling, population)
    return np.sort(rng.choice(population, size=int(sampling.size or 0), replace=False))


def check(sampling: Sampling, population: int) -> None:
    """Raises ParameterError if a fixed cohort exceeds the population, or a strategy cannot select from it."""
    if sampling.selection is not None:
        sampling.selection.check(population)
    if sampling.kind == "fixed" and (sampling.size or 0) > population:
        raise ParameterError(
            f"cohort size {sampling.size} exceeds the population of {population} clients; "
            f"choose at most {population}, or full participation"
        )


def trial_sampling(size: int, population: int, selection: str | None) -> Sampling:
    """How a trial's cohorts of `size` are drawn from its `population`.

    Raises:
      ParameterError: no such strategy.
    """
    if selection is not None:
        registry.selection.create(selection)  # says what is wrong with it
        return Sampling(kind="strategy", strategy=selection)
    return Sampling.full() if size == population else Sampling.fixed(size)


def check_cohorts(sampling: Sampling, size: int, population: int) -> None:
    """Raises ParameterError if cohorts of that size cannot be drawn so from so many clients."""
    if size > population:
        raise ParameterError(f"cohort={size} exceeds the trial's clients={population}; choose at most {population}")
    check(sampling, population)
    if not sampling.equal_cohorts or sampling.largest(population) != size:
        raise ParameterError(
            f"selection '{sampling.strategy}' draws {sampling.largest(population)} clients a round, or not always as "
            f"many, but cohort={size}; give a strategy with cohorts of that one size"
        )
