import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.base.errors import ParameterError
from fedpriv.metrics.interval import bootstrap_mean, cluster_bootstrap, clustered_wilson, wilson


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


def test_independent_images_have_wilsons_interval():
    right = [True] * 18 + [False] * 2
    assert clustered_wilson(right, range(20)) == wilson(18, 20)
    one_batch = clustered_wilson(right, [0] * 20)
    assert one_batch == wilson(18, 20)  # nothing is known of how batches vary


def test_ten_alike_images_a_batch_count_as_one():
    outcomes = np.arange(40) % 4 != 0
    together = clustered_wilson(np.repeat(outcomes, 10), np.repeat(np.arange(40), 10))
    assert together == pytest.approx(wilson(30, 40), abs=0.01)
    assert clustered_wilson([True] * 80, np.repeat(np.arange(10), 8)) == pytest.approx(wilson(10, 10))
    assert clustered_wilson([False] * 80, np.repeat(np.arange(10), 8)) == pytest.approx(wilson(0, 10))


def test_the_same_images_in_several_runs_are_not_new_images():
    """Whether an image is reconstructed depends on the image alone: five runs say no more than one."""
    outcomes = np.arange(40) % 4 != 0
    batches, runs = np.tile(np.arange(40), 5), np.repeat(np.arange(5), 40)
    low, high = clustered_wilson(np.tile(outcomes, 5), batches, runs)
    assert (low, high) == pytest.approx(wilson(30, 40), abs=0.03)
    assert clustered_wilson([True] * 200, batches, runs) == pytest.approx(wilson(5, 5))


def test_where_none_succeed_their_quality_says_how_alike_they_are():
    """Luck of the images alone: as many trials as images. Of the runs alone: as many as runs. Neither: in between."""
    rng = np.random.default_rng(5)
    batches, runs = np.tile(np.arange(16), 3), np.repeat(np.arange(3), 16)
    none = [False] * 48
    images, seeds = np.tile(rng.normal(size=16), 3), np.repeat(rng.normal(size=3), 16)
    assert clustered_wilson(none, batches, runs, quality=images) == pytest.approx(wilson(0, 16), abs=0.02)
    assert clustered_wilson(none, batches, runs, quality=seeds) == pytest.approx(wilson(0, 3), abs=0.02)
    free = [clustered_wilson(none, batches, runs, quality=rng.normal(size=48))[1] for _ in range(20)]
    assert wilson(0, 48)[1] < np.mean(free) < wilson(0, 16)[1]
    all_right = clustered_wilson([True] * 48, batches, runs, quality=images)
    assert all_right == pytest.approx(wilson(16, 16), abs=0.02)
    # What does not vary tells nothing; where some succeed, the successes themselves do.
    assert clustered_wilson(none, batches, runs, quality=np.ones(48)) == clustered_wilson(none, batches, runs)
    some = np.arange(48) % 5 == 0
    assert clustered_wilson(some, batches, runs, quality=seeds) == clustered_wilson(some, batches, runs)
    with pytest.raises(ParameterError, match="2 qualities given for 48 values"):
        clustered_wilson(none, batches, runs, quality=[1, 2])


def test_bootstrap_over_runs_and_batches_covers_both():
    """On additive effects of images and seeds, the interval is as wide as both demand, and one factor is not."""
    rng = np.random.default_rng(3)
    inside = {"both": 0, "batches": 0}
    for trial in range(100):
        of_image, of_run = rng.normal(0, 1, 12), rng.normal(0, 1, 12)
        values = (of_image[None] + of_run[:, None] + rng.normal(0, 0.1, (12, 12))).ravel()
        batches, runs = np.tile(np.arange(12), 12), np.repeat(np.arange(12), 12)
        for name, given_runs in (("both", runs), ("batches", None)):
            low, high = cluster_bootstrap(values, batches, given_runs, seed=trial, resamples=400)
            inside[name] += low <= 0 <= high
    assert 88 <= inside["both"] <= 100
    assert inside["batches"] < 88


def test_one_run_is_the_bootstrap_of_its_batches():
    values = np.random.default_rng(0).normal(size=12)
    assert cluster_bootstrap(values, range(12), [7] * 12, seed=1) == bootstrap_mean([[v] for v in values], seed=1)
    assert cluster_bootstrap(values, [0] * 12, range(12)) is not None
    assert cluster_bootstrap(values, [0] * 12) is None


def test_bootstrap_of_a_median_has_the_order_statistics_interval():
    """For n = 101 the 95% interval of a median lies near the 41st and 61st values (binomial)."""
    values = np.arange(101.0)
    low, high = cluster_bootstrap(values, range(101), statistic="median")
    assert low == pytest.approx(40, abs=1.5)
    assert high == pytest.approx(60, abs=1.5)
    few = cluster_bootstrap([1.0, np.inf, np.inf, np.inf], range(4), statistic="median")
    assert few == (1.0, np.inf) or few == (np.inf, np.inf)


def test_nested_runs_with_batches_of_their_own():
    values, runs = np.random.default_rng(0).normal(size=12), np.repeat([0, 1, 2], 4)
    low, high = cluster_bootstrap(values, range(12), runs)
    assert low < values.mean() < high


def test_one_name_a_value():
    with pytest.raises(ParameterError, match="2 batches given for 3 values"):
        cluster_bootstrap([1, 2, 3], [0, 1])
    with pytest.raises(ParameterError, match="finite"):
        cluster_bootstrap([1, np.nan], [0, 1], statistic="median")
