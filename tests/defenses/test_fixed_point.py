from fractions import Fraction

import numpy as np
import pydantic
import pytest
from fedpriv_defenses.clip import Clip
from fedpriv_defenses.fixed_point import FixedPoint, finest_power_of_two
from fedpriv_defenses.secure_sum.additive_sharing import AdditiveSharing
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.base.errors import ParameterError, StackError
from fedpriv.base.lazy import tf
from fedpriv.defense.domain import Real, Ring
from fedpriv.defense.line import Line
from fedpriv.defense.stations import Plan

SEED = (5, 2**40)


def plan_of(d, cohort=1, weighting="uniform", max_examples=600):
    return Plan.everybody(cohort, d, weighting=weighting, max_examples=max_examples)


def encoded_of(codec, values, plan):
    elements, ok = codec.quantize(tf.constant(values), plan, tf.constant(SEED, tf.int64))
    return elements.numpy().view(np.uint64), bool(ok)


def there_and_back(codec, values, plan):
    return codec.decode(codec.quantize(tf.constant(values), plan, None)[0], 1, plan).numpy()


def test_known_encodings():
    codec, plan = FixedPoint(bits=8, range=1.0, resolution=1 / 64), plan_of(5, weighting="examples", max_examples=4)
    # Five values, a weight in steps of 1/4, and two tallies in the finest steps of which 1 fits 127.
    given_ = [0.0, 1 / 64, -1 / 64, 1.0, -1.0, 1.0, 1.0, -0.5]
    elements, ok = encoded_of(codec, given_, plan)
    assert ok
    np.testing.assert_array_equal(elements, [0, 1, 255, 64, 192, 4, 64, 224])
    np.testing.assert_array_equal(there_and_back(codec, given_, plan), given_)


def test_ties_go_to_even_and_errors_stay_within_half_a_step():
    codec = FixedPoint(bits=16, range=4.0, resolution=0.5)
    np.testing.assert_array_equal(there_and_back(codec, [0.25, 0.75, -0.25, -0.75, 1.0], plan_of(4)), [0, 1, 0, -1, 1])
    values = tf.random.stateless_uniform([10_000], [1, 2], -4, 4)
    decoded = there_and_back(codec, tf.concat([values, [1.0]], 0), plan_of(10_000))
    assert np.abs(decoded[:-1] - values.numpy()).max() <= 0.25


@pytest.mark.parametrize("bad", [1.0001, -1.0001, np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("place", [1, 3], ids=["value", "tally"])
def test_what_does_not_fit_is_seen(bad, place):
    codec, plan = FixedPoint(bits=32, range=1.0), plan_of(2)
    contribution = np.array([0.5, -1.0, 1.0, -1.0], np.float32)
    assert encoded_of(codec, contribution, plan)[1]
    contribution[place] = bad
    elements, ok = encoded_of(codec, contribution, plan)
    assert not ok
    assert elements[place] == 0
    traced = tf.function(lambda x: codec.quantize(x, plan, None)[1])
    assert not bool(traced(tf.constant(contribution)))


@pytest.mark.parametrize("weight", [-0.1, 1.1, np.nan])
def test_a_weight_outside_0_to_1_is_seen(weight):
    assert not encoded_of(FixedPoint(range=4.0), np.array([0.5, weight], np.float32), plan_of(1))[1]


@given(st.floats(1e-30, 1e30), st.integers(1, 2**63 - 1))
def test_finest_power_of_two_is_the_finest(limit, largest):
    step = finest_power_of_two(limit, largest)
    assert np.log2(step) == int(np.log2(step))
    assert Fraction(limit) / Fraction(step) <= largest < 2 * Fraction(limit) / Fraction(step)


def test_all_64_bits_are_used_without_wrapping():
    codec, plan = FixedPoint(bits=64, range=1.0), plan_of(2)
    given_ = [1.0, -1.0, 1.0]
    np.testing.assert_array_equal(encoded_of(codec, given_, plan)[0].view(np.int64), [2**62, -(2**62), 1])
    np.testing.assert_array_equal(there_and_back(codec, given_, plan), given_)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(8, 64),
    st.integers(1, 300),
    st.sampled_from([0.1, 1.0, 3.0, 1e4]),
    st.sampled_from(["uniform", "examples"]),
    st.integers(1, 10**7),
)
def test_the_largest_cohorts_largest_sum_fits_in_every_part(bits, cohort, limit, weighting, most):
    codec, plan = FixedPoint(bits=bits, range=limit), plan_of(2, cohort, weighting, most)
    top, half = float(np.float32(limit)), 2 ** (bits - 1)
    try:
        codec.check(plan)
    except ParameterError:
        assert (half - 1) // cohort < 1
        return
    elements, ok = encoded_of(codec, np.array([top, -top, 1, 1, -1], np.float32), plan)
    assert ok
    signed = [int(e) - 2 * half * (int(e) >= half) for e in elements]
    assert [s > 0 for s in signed] == [True, False, True, True, False]
    assert all(abs(s) * cohort < half for s in signed)
    for part in (signed[0], signed[3]):  # no more than two bits of room go unused
        assert part * 4 * cohort >= half - cohort


@settings(max_examples=100, deadline=None)
@given(st.integers(8, 30), st.integers(1, 50), st.floats(1e-4, 1.0))
def test_a_given_step_is_refused_exactly_when_the_sum_could_wrap(bits, cohort, step):
    codec, plan = FixedPoint(bits=bits, range=1.0, resolution=step), plan_of(1, cohort)
    fits = round(1.0 / step) * cohort <= 2 ** (bits - 1) - 1 and cohort <= 2 ** (bits - 1) - 1
    if not fits:
        with pytest.raises(ParameterError, match="fixed_point: "):
            codec.check(plan)
        return
    codec.check(plan)
    elements, ok = encoded_of(codec, np.array([1.0, 1.0], np.float32), plan)
    assert ok
    assert int(elements[0]) == round(1.0 / step)


def test_parameters_that_could_overflow_are_refused_with_what_would_fit():
    plan = plan_of(2, 100)
    with pytest.raises(ParameterError, match=r"bits >= 32, range <= 0\.0003118\d+, or resolution >= 0\.0625") as caught:
        FixedPoint(bits=16, range=16.0, resolution=2**-20).check(plan)
    assert "100 clients" in str(caught.value)
    with pytest.raises(ParameterError, match="bits=8 cannot hold a sum over 200 clients; use bits >= 9"):
        FixedPoint(bits=8).check(plan_of(2, 200))
    with pytest.raises(ParameterError, match="every value would round away"):
        FixedPoint(range=1.0, resolution=2.0).check(plan)
    with pytest.raises(ParameterError, match="finer than float64"):
        FixedPoint(bits=64, range=1.0, resolution=1e-18).check(plan_of(2))
    with pytest.raises(ParameterError, match="finer than float64"):
        FixedPoint(bits=64, range=1e30, resolution=1e-300).check(plan_of(2))


@pytest.mark.parametrize("word", [FixedPoint, SecretSharing])
def test_ranges_beyond_float32_are_refused_with_those_that_work(word):
    for limit in (1e300, 1e39, 3.5e38, 1e-39, 1e-46, 5e-324):
        with pytest.raises(pydantic.ValidationError, match=r"give a range from 1\.2e-38 to 3\.4e\+38"):
            word(range=limit)
    for limit in (1.2e-38, 3.4e38):
        word(range=limit).check(plan_of(2, 100))
        codec = FixedPoint(range=limit)
        at = codec.steps(plan_of(2, 100))
        assert 0 < at.step < at.limit < np.inf
        decoded = there_and_back(codec, [np.float32(limit), -np.float32(limit), 1.0], plan_of(2, 100))
        np.testing.assert_allclose(decoded[:2], [limit, -limit], rtol=1e-6)
    with pytest.raises(ParameterError, match=r"word: range=none takes the L2 bound .* 1e-40 is beyond what"):
        FixedPoint(range=None).settled(Real(l2=1e-40), plan_of(4, 100), "word")


def test_the_advice_given_for_an_overflow_is_right():
    plan = plan_of(2, 100)
    FixedPoint(bits=16, range=16.0, resolution=16 / 256).check(plan)
    for bits, limit, step in ((32, 16.0, 2**-24), (20, 3.0, 1e-4)):
        with pytest.raises(ParameterError) as caught:
            FixedPoint(bits=bits, range=limit, resolution=step).check(plan)
        text = str(caught.value)
        wider = int(text.split("bits >= ")[1].split(",")[0])
        FixedPoint(bits=wider, range=limit, resolution=step).check(plan)
        with pytest.raises(ParameterError):
            FixedPoint(bits=wider - 1, range=limit, resolution=step).check(plan)
        coarser = float(text.split("resolution >= ")[1])
        FixedPoint(bits=bits, range=limit, resolution=coarser * 1.00001).check(plan)


def test_a_step_that_rounds_updates_away_says_so():
    plan = plan_of(5)
    values = np.array([0.1, -0.2, 0.0, 0.3, 0.9, 1.0, 0.001], np.float32)  # weight and tally do not count
    for step, share in ((0.001, 0), (0.25, 0.25), (0.5, 0.5), (1.0, 0.75)):
        codec = FixedPoint(range=1.0, resolution=step)
        elements, _ = codec.quantize(tf.constant(values), plan, None)
        assert float(codec.diagnose(tf.constant(values), elements, plan)["rounded_away"]) == share
    nothing = tf.zeros([6])
    codec = FixedPoint(range=1.0)
    assert float(codec.diagnose(nothing, codec.quantize(nothing, plan, None)[0], plan)["rounded_away"]) == 0


def test_a_clip_of_the_range_always_fits():
    rng = np.random.default_rng(0)
    for limit in (0.1, 0.3, 1.0, 2.7):
        codec, plan = FixedPoint(range=limit), plan_of(8)
        for _ in range(50):
            long = np.zeros(8, np.float32)
            long[rng.integers(8)] = rng.normal() * 10
            short = Clip(norm=limit).update(tf.constant(long), None).value
            assert bool(codec.quantize(tf.concat([short, [1.0]], 0), plan, None)[1])
        assert not bool(codec.quantize(tf.constant([1.00001 * limit, *[0.0] * 7, 1.0]), plan, None)[1])


def test_rounding_error_is_bounded_and_declared():
    codec, plan = FixedPoint(bits=24), plan_of(100, 10)
    assert codec.l2_error(plan) == pytest.approx(10 * codec.steps(plan).step / 2)
    values = tf.concat([tf.random.stateless_uniform([100], [1, 2], -16, 16), [1.0]], 0)
    moved = np.linalg.norm(there_and_back(codec, values, plan)[:-1] - values[:-1].numpy())
    assert codec.decoded(Real(1.0), plan) == Real(1.0 + codec.l2_error(plan))
    assert 0.3 * codec.l2_error(plan) < moved <= codec.l2_error(plan)
    assert (codec.takes, codec.maps(Real(), plan), codec.replay()) == (Real(), Ring(24), None)


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 40), st.sampled_from(["nearest", "stochastic"]), st.data())
def test_multiples_of_the_step_come_back_exactly(bits, rounding, data):
    codec, plan = FixedPoint(bits=bits, range=2.0, rounding=rounding), plan_of(4, 3)
    step = codec.steps(plan).step
    most = min(int(2 / step), 2**23)  # a float32 holds these integers
    values = np.array([data.draw(st.integers(-most, most)) for _ in range(4)]) * step
    contribution = np.append(values, 1.0).astype(np.float32)
    elements, ok = encoded_of(codec, contribution, plan)
    assert ok
    np.testing.assert_array_equal(codec.decode(elements.view(np.int64), 1, plan).numpy(), contribution)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("counts", [[600, 1, 37], [3, 3, 3], [1, 2, 599]])
def test_weighted_means_are_the_plain_weighted_means_to_half_a_step(rounding, counts):
    codec, plan = FixedPoint(bits=32, range=1.0, rounding=rounding), plan_of(50, 3, "examples", max(counts))
    updates = np.random.default_rng(0).uniform(-1, 1, (3, 50))
    weights = (np.array(counts) / max(counts)).astype(np.float32)
    total = np.zeros(51, np.uint64)
    for update, weight in zip(updates, weights, strict=True):
        elements, ok = encoded_of(codec, np.append(update * weight, weight).astype(np.float32), plan)
        assert ok
        total += elements
    decoded = codec.decode((total & np.uint64(2**32 - 1)).view(np.int64), 3, plan).numpy()
    assert decoded[-1] * max(counts) == pytest.approx(sum(counts), rel=1e-12)  # weights are exact, whatever is rounded
    mean = np.average(updates, axis=0, weights=counts)
    # Each client is off by half a step (a step at random) of its weighted update, and float32 by 2^-25 of 1.
    each = (1 if rounding == "stochastic" else 0.5) * codec.steps(plan).step + 2.0**-24
    assert np.abs(decoded[:-1] / decoded[-1] - mean).max() <= 3 * each * max(counts) / sum(counts)


def test_stochastic_rounding_is_unbiased_and_to_a_neighbour():
    codec, plan = FixedPoint(bits=32, range=4.0, resolution=0.25, rounding="stochastic"), plan_of(100_000)
    for value in (0.05, -0.05, 0.2, -1.3, 3.99):
        elements, ok = encoded_of(codec, np.append(np.full(100_000, value), 1).astype(np.float32), plan)
        assert ok
        steps = codec.decode(elements.view(np.int64), 1, plan).numpy()[:-1] / 0.25
        assert set(steps) == {np.floor(value / 0.25), np.floor(value / 0.25) + 1}
        share = (value / 0.25) % 1
        # Five standard deviations of a mean of 100,000 coin flips.
        assert abs(steps.mean() - value / 0.25) < 5 * np.sqrt(share * (1 - share) / 100_000)
    nearest = FixedPoint(bits=32, range=4.0, resolution=0.25)
    assert not encoded_of(nearest, np.append(np.full(100_000, 0.05), 1).astype(np.float32), plan)[0][:-1].any()


def test_the_seed_fixes_stochastic_rounding_bit_by_bit():
    codec, plan = FixedPoint(bits=16, range=1.0, rounding="stochastic"), plan_of(500)
    contribution = tf.concat([tf.random.stateless_uniform([500], [1, 2], -1, 1), [1.0]], 0)

    def drawn(*seed):
        return codec.quantize(contribution, plan, tf.constant(seed, tf.int64))[0].numpy()

    np.testing.assert_array_equal(drawn(3, 4), drawn(3, 4))
    traced = tf.function(lambda s: codec.quantize(contribution, plan, s)[0])
    np.testing.assert_array_equal(drawn(3, 4), traced(tf.constant([3, 4], tf.int64)))
    for other in ((3, 5), (2, 4), (3 + 2**40, 4), (3, 4 + 2**40)):  # every word of 128 bits counts
        assert (drawn(3, 4) != drawn(*other)).any()


def test_stochastic_rounding_is_accounted_for_by_a_whole_step():
    coarse = {"bits": 16, "range": 1.0, "resolution": 0.3}
    plan = plan_of(100, 10)
    nearest, stochastic = FixedPoint(**coarse), FixedPoint(**coarse, rounding="stochastic")
    assert stochastic.l2_error(plan) == 2 * nearest.l2_error(plan) == pytest.approx(10 * 0.3)
    # Values a hair above a multiple of the step: now and then one goes up by nearly a step.
    moved = np.abs(decoded_by(stochastic, np.full(100, 0.35), plan) - 0.35)
    assert moved.max() > 0.24 > nearest.steps(plan).step / 2
    assert np.linalg.norm(moved) <= stochastic.l2_error(plan)


def decoded_by(codec, values, plan):
    elements, ok = encoded_of(codec, np.append(values, 1).astype(np.float32), plan)
    assert ok
    return codec.decode(elements.view(np.int64), 1, plan).numpy()[:-1]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 50), st.floats(1e-4, 1.0), st.sampled_from(["nearest", "stochastic"]))
def test_the_largest_value_rounded_either_way_never_wraps(cohort, step, rounding):
    codec, plan = FixedPoint(bits=24, range=1.0, resolution=step, rounding=rounding), plan_of(2, cohort)
    codec.check(plan)
    signed = np.abs(decoded_by(codec, np.array([1.0, -1.0]), plan) / step)
    most = np.ceil(1 / step) if rounding == "stochastic" else np.round(1 / step)
    assert (signed <= most + 1e-9).all()
    assert most * cohort < 2 ** (codec.with_(bits=None).steps(plan).bits - 1)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 10_000), st.floats(1e-6, 1.0), st.sampled_from(["uniform", "examples"]), st.integers(1, 10**6))
def test_the_fewest_bits_are_whole_bytes_and_one_byte_less_would_wrap(cohort, step, weighting, most):
    codec, plan = FixedPoint(bits=None, range=1.0, resolution=step), plan_of(1, cohort, weighting, most)
    bits = codec.steps(plan).bits
    assert bits % 8 == 0
    assert codec.maps(Real(), plan) == Ring(bits)
    largest = max(round(1 / step), most if weighting == "examples" else 1)  # values, and weights that stay exact
    assert largest * cohort < 2 ** (bits - 1)
    assert bits == 8 or largest * cohort >= 2 ** (bits - 9)
    if weighting == "examples":
        assert codec.steps(plan).weight == 1 / most


def test_what_is_left_open_is_filled_in_from_the_place_on_the_line():
    plan = plan_of(4, 100)
    open_ended = FixedPoint(bits=None, range=None, resolution=0.001)
    for stack in (
        (Clip(norm=0.5), open_ended, AdditiveSharing(bits=None)),
        (Clip(norm=0.5), SecretSharing(bits=None, range=None, resolution=0.001)),
        (Clip(norm=0.5), SecretSharing(bits=None, range=None, resolution=0.001, threshold=2, among="clients")),
    ):
        line = Line(stack, plan)
        assert line.links[1] == FixedPoint(bits=24, range=0.5, resolution=0.001)  # 500 * 100 takes 17 bits
        assert (line.protocol.bits, line.made[1]) == (24, Ring(24))
    with pytest.raises(StackError, match=r"additive_sharing .*takes integers mod 2\^32\[d\]"):
        Line((Clip(norm=0.5), open_ended, AdditiveSharing()), plan)
    for stack in ((open_ended,), (SecretSharing(range=None),)):
        with pytest.raises(ParameterError, match=f"{stack[0].name}: range=none takes the L2 bound .* put clip"):
            Line(stack, plan)
    with pytest.raises(ParameterError, match=r"secret_sharing: a sum over 100 clients .* takes 72 bits, and there are"):
        Line((SecretSharing(bits=None, resolution=1e-16),), plan)
