import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.base.errors import ParameterError
from fedpriv.base.seeds import Purpose, generator, graph_seed
from fedpriv.procedure.procedure import Sampling
from fedpriv.procedure.sampling import cohort


@given(st.integers(1, 200), st.integers(0, 2**31), st.integers(0, 1000), st.data())
def test_a_fixed_cohort_is_that_many_different_clients(population, seed, round_number, data):
    size = data.draw(st.integers(1, population))
    drawn = cohort(Sampling.fixed(size), population, seed, round_number)
    assert len(drawn) == size
    assert (np.diff(drawn) > 0).all()
    assert drawn.min() >= 0
    assert drawn.max() < population
    np.testing.assert_array_equal(drawn, cohort(Sampling.fixed(size), population, seed, round_number))


def test_rounds_and_seeds_draw_apart():
    draws = {(s, r): tuple(cohort(Sampling.fixed(10), 1000, s, r)) for s in range(10) for r in range(10)}
    assert len(set(draws.values())) == 100


@pytest.mark.parametrize(("sampling", "rate"), [(Sampling.fixed(5), 0.1), (Sampling.poisson(0.1), 0.1)])
def test_every_client_is_equally_likely(sampling, rate):
    counts = np.zeros(50)
    for r in range(4000):
        counts[cohort(sampling, 50, 0, r)] += 1
    deviation = np.sqrt(4000 * rate * (1 - rate))
    assert np.abs(counts - 4000 * rate).max() < 5 * deviation
    assert np.abs(counts - 4000 * rate).max() > 0.5 * deviation


def test_poisson_cohorts_have_a_binomial_size():
    sizes = np.array([len(cohort(Sampling.poisson(0.1), 100, 1, r)) for r in range(4000)])
    assert sizes.mean() == pytest.approx(10, abs=5 * 3 / np.sqrt(4000))
    assert sizes.var() == pytest.approx(9, rel=5 * np.sqrt(2 / 4000))
    assert any(len(cohort(Sampling.poisson(0.1), 5, 0, r)) == 0 for r in range(50))
    assert len(cohort(Sampling.poisson(1.0), 7, 0, 0)) == 7


def test_full_is_everyone():
    np.testing.assert_array_equal(cohort(Sampling.full(), 4, 0, 9), np.arange(4))


def test_too_large_a_cohort_is_refused():
    with pytest.raises(ParameterError, match="cohort size 6 exceeds the population of 5"):
        cohort(Sampling.fixed(6), 5, 0, 0)


def test_streams_of_different_purposes_are_apart():
    values = {generator(s, p, r).random() for s in range(3) for p in Purpose for r in range(5)}
    assert len(values) == 3 * len(Purpose) * 5
    assert graph_seed(1, Purpose.CLIENT, 2).dtype == np.int32
