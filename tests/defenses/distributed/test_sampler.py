"""The discrete noise's sampler: exact probabilities, draws that follow them, and numbers on its table's borders."""

import itertools
import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from fedpriv_defenses.distributed.sampler import TV_BITS, half, reach, table, variance_above
from scipy import stats

from fedpriv.base.lazy import tf
from fedpriv.base.seeds import child, words

ONE = 1 << 126


def cumulative(made):
    """What the table gives every value, exactly: (first value, probabilities)."""
    ends = [(int(h) << 63) + int(low) for h, low in zip(made.high, made.low, strict=True)]
    edges = [0, *ends, ONE]
    return made.first, [Fraction(b - a, ONE) for a, b in itertools.pairwise(edges)]


def gaussian(variance, k):
    """exp(-k^2 / (2 variance)) with 60 digits."""
    with localcontext() as c:
        c.prec = 60
        return (-Decimal(k * k) / (2 * Decimal(variance.numerator) / Decimal(variance.denominator))).exp()


def skellam(variance, k):
    """I_k(variance) by its series, with 60 digits."""
    with localcontext() as c:
        c.prec = 60
        x = Decimal(variance.numerator) / Decimal(variance.denominator) / 2
        return sum((x ** (2 * m + abs(k))) / (math.factorial(m) * math.factorial(m + abs(k))) for m in range(120))


@pytest.mark.parametrize(("mechanism", "weight"), [("discrete_gaussian", gaussian), ("skellam", skellam)])
@pytest.mark.parametrize("variance", [Fraction(1, 4), Fraction(2), Fraction(37, 3)])
def test_probabilities_are_those_of_the_distribution_by_enumeration(mechanism, weight, variance):
    first, found = cumulative(table(mechanism, variance))
    with localcontext() as c:
        c.prec = 60
        wanted = [weight(variance, k) for k in range(first, first + len(found))]
        beyond = sum(2 * weight(variance, k) for k in range(first + len(found), first + len(found) + 200))
        total = sum(wanted) + beyond
        apart = sum(abs(w / total - Decimal(f.numerator) / Decimal(f.denominator)) for w, f in zip(wanted, found))
        assert (apart + beyond / total) / 2 < Decimal(2) ** -TV_BITS


def draws(mechanism, variance, count, seed):
    made = table(mechanism, variance)
    key = tf.constant([seed, 11], tf.int64)
    return tf.function(lambda: made.draw(count, lambda n, s: words(child(key, s), n)), autograph=False)().numpy()


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", ["discrete_gaussian", "skellam"])
@pytest.mark.parametrize("deviation", [0.4, 3.0, 40.0])
def test_draws_follow_it(mechanism, deviation):
    n, variance = 200_000, variance_above(deviation**2)
    values = draws(mechanism, variance, n, 3)
    first, probabilities = cumulative(table(mechanism, variance))
    expected = n * np.array([float(p) for p in probabilities])
    seen = np.bincount(values - first, minlength=len(expected))
    keep = expected > 20
    pooled = [np.append(a[keep], a[~keep].sum()) for a in (seen, expected)]
    assert stats.chisquare(*pooled).pvalue > 1e-3
    mean, fourth = values.mean(), (values.astype(float) ** 4).mean()
    exact = [sum(float(p) * (first + i) ** m for i, p in enumerate(probabilities)) for m in (2, 4, 8)]
    assert abs(mean) < 4 * math.sqrt(exact[0] / n)
    assert abs(fourth - exact[1]) < 4 * math.sqrt((exact[2] - exact[1] ** 2) / n)
    if mechanism == "skellam":
        assert exact[0] == pytest.approx(float(variance), rel=1e-12)


@pytest.mark.parametrize("mechanism", ["discrete_gaussian", "skellam"])
def test_wide_noise_is_nearly_normal(mechanism):
    values = draws(mechanism, variance_above(2000.0**2), 200_000, 5)
    assert stats.kstest(values / 2000, "norm").pvalue > 1e-3


def test_numbers_on_a_border_are_told_apart_by_their_last_bits():
    made = table("discrete_gaussian", Fraction(1, 4))
    ends = [(int(h) << 63) + int(low) for h, low in zip(made.high, made.low, strict=True)]
    numbers = [0, *[e - 1 for e in ends], *ends, ONE - 1]
    wanted = [made.first + sum(e <= n for e in ends) for n in numbers]
    first = tf.constant([n >> 63 for n in numbers], tf.int64)
    second = tf.constant([n & ((1 << 63) - 1) for n in numbers], tf.int64)
    assert made.inverted(first, lambda: second).numpy().tolist() == wanted


def test_streams_are_independent_and_the_same_seed_gives_the_same():
    one, again, other = (draws("skellam", Fraction(9), 5000, s) for s in (1, 1, 2))
    assert np.array_equal(one, again)
    assert abs(np.corrcoef(one, other)[0, 1]) < 4 / math.sqrt(5000)


@pytest.mark.parametrize("mechanism", ["discrete_gaussian", "skellam"])
def test_reach_bounds_what_is_drawn(mechanism):
    for deviation in (0.01, 0.7, 12.0, 300.0):
        variance = variance_above(deviation**2)
        assert table(mechanism, variance).largest <= reach(mechanism, variance)


def test_variances_are_never_below_what_is_asked():
    for value in (1e-12, 0.3, 2.0, 1e6 / 7):
        assert value <= variance_above(value) < value + 2.0**-15


@pytest.mark.parametrize("mechanism", ["discrete_gaussian", "skellam"])
def test_agrees_with_tensorflow_privacy(mechanism):
    import tensorflow_privacy as tfp

    n, deviation = 60_000, 3.0
    query = {
        "discrete_gaussian": lambda: tfp.DistributedDiscreteGaussianSumQuery(1e9, deviation),
        "skellam": lambda: tfp.DistributedSkellamSumQuery(1e9, 1e9, deviation),
    }[mechanism]()
    tf.random.set_seed(7)
    params = query.derive_sample_params(query.initial_global_state())
    theirs = query.preprocess_record(params, [tf.zeros([n], tf.int32)])[0].numpy()
    ours = draws(mechanism, variance_above(deviation**2), n, 8)
    edges = np.arange(-8.5, 9)
    counts = np.array([np.histogram(np.clip(v, -8, 8), edges)[0] for v in (ours, theirs)])
    assert stats.chi2_contingency(counts)[1] > 1e-3


def test_weights_end_where_they_are_negligible():
    for mechanism in ("discrete_gaussian", "skellam"):
        weights = half(mechanism, Fraction(100))
        assert weights == sorted(weights, reverse=True)
        assert weights[0] >> 141 <= weights[-1] < weights[0] >> 138
