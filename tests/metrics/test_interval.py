import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.errors import ParameterError
from fedpriv.metrics.interval import bootstrap_mean, wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # 81/263, 15/148, 0/20 and 1/29 are the score intervals tabulated in Newcombe (1998), table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (18, 20, 0.6990, 0.9721),
    ],
)
def test_wilson_matches_published_intervals(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500), st.data())
def test_wilson_holds_the_rate_and_mirrors(trials, data):
    successes = data.draw(st.integers(0, trials))
    low, high = wilson(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    assert low < high
    mirrored = wilson(trials - successes, trials)
    assert mirrored == pytest.approx((1 - high, 1 - low))


def test_wilson_of_nothing_is_everything():
    assert wilson(0, 0) == (0, 1)


@pytest.mark.parametrize(("successes", "trials"), [(3, 2), (-1, 2)])
def test_wilson_refuses_impossible_counts(successes, trials):
    with pytest.raises(ParameterError, match="impossible"):
        wilson(successes, trials)


def test_bootstrap_is_deterministic_under_its_seed():
    groups = [[v] for v in np.random.default_rng(0).normal(size=12)]
    assert bootstrap_mean(groups, seed=1) == bootstrap_mean(groups, seed=1)
    assert bootstrap_mean(groups, seed=1) != bootstrap_mean(groups, seed=2)


def test_bootstrap_of_many_values_is_near_the_normal_interval():
    values = np.random.default_rng(0).normal(30, 5, size=400)
    half = 1.96 * values.std() / 20
    assert bootstrap_mean([[v] for v in values]) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.05
    )


def test_bootstrap_draws_whole_groups():
    """Ten identical values a group hold no more information than one."""
    values = np.random.default_rng(0).normal(size=10)
    assert bootstrap_mean([[v] * 10 for v in values]) == pytest.approx(bootstrap_mean([[v] for v in values]))
    apart = bootstrap_mean([[v] for v in np.repeat(values, 10)])
    whole = bootstrap_mean([[v] for v in values])
    assert apart[1] - apart[0] < 0.5 * (whole[1] - whole[0])


def test_bootstrap_of_equal_values_is_that_value():
    assert bootstrap_mean([[4.0]] * 5) == (4.0, 4.0)


@pytest.mark.parametrize("groups", [[], [[1.0]], [[1.0, 2.0, 3.0]], [[1.0], []]])
def test_bootstrap_of_one_trial_is_none(groups):
    assert bootstrap_mean(groups) is None


def test_bootstrap_refuses_infinities():
    with pytest.raises(ParameterError, match="finite"):
        bootstrap_mean([[1.0], [np.inf]])


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_confidence_is_a_fraction(confidence):
    with pytest.raises(ParameterError, match="confidence"):
        wilson(1, 2, confidence)
