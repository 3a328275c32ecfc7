"""Seeds that protect carry 128 bits from the run to the generator."""

import numpy as np
import pytest
from scipy import stats

from fedpriv.base.lazy import tf
from fedpriv.base.seeds import Purpose, child, fresh, gaussian, secret, secrets_of, uniform


def rows(seeds):
    return np.ascontiguousarray(seeds).view("V16").ravel()


@pytest.mark.slow
def test_no_two_of_a_million_derived_seeds_collide_even_in_any_32_bits_alone():
    seeds = secrets_of(7, Purpose.CLIENT, [3], range(1_000_000))
    assert len(np.unique(rows(seeds))) == len(seeds)
    # Of a million draws of 32 bits about 116 pairs meet; a word of fewer bits would show as many more.
    for word in seeds.view(np.uint32).T:
        assert len(word) - len(np.unique(word)) < 200


def test_children_of_a_seed_never_meet_and_are_no_32_bit_words():
    traced = tf.function(lambda s, i: tf.map_fn(lambda j: child(s, j), i), autograph=False)
    found = traced(tf.constant(secret(1, Purpose.SERVER, 0)), tf.range(20_000, dtype=tf.int64)).numpy()
    assert len(np.unique(rows(found))) == len(found)
    bits = np.unpackbits(found.view(np.uint8), axis=1)
    np.testing.assert_allclose(bits.mean(0), 0.5, atol=5 * 0.5 / np.sqrt(len(found)))
    assert np.linalg.matrix_rank(bits.astype(float)[:1000] - 0.5) == 128


def test_every_bit_of_a_seed_reaches_the_noise():
    base = secret(1, Purpose.CLIENT, 0, 0)
    reference = gaussian(tf.constant(base), [64]).numpy()
    for bit in range(128):
        changed = base.copy()
        changed.view(np.uint64)[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
        other = gaussian(tf.constant(changed), [64]).numpy()
        assert abs(np.corrcoef(reference, other)[0, 1]) < 0.6
        assert not (reference == other).any()


def test_seeds_differ_by_every_coordinate_and_by_the_runs_seed():
    seen = {secret(s, p, r, c).tobytes() for s in (0, 1, -1, 2**127) for p in Purpose for r in (0, 1) for c in (0, 1)}
    assert len(seen) == 4 * len(Purpose) * 4
    assert fresh().bit_length() > 90
    assert fresh() != fresh()


def test_normal_values_are_normal_and_reach_into_the_tails():
    values = gaussian(tf.constant(secret(5, Purpose.CLIENT, 0)), [1_000_001], "float64").numpy()
    assert values.mean() == pytest.approx(0, abs=5e-3)
    assert values.std() == pytest.approx(1, abs=4e-3)
    assert stats.kstest(values[:100_000], "norm").pvalue > 1e-4
    assert stats.kurtosis(values) == pytest.approx(0, abs=0.03)


def test_uniform_values_are_uniform_whole_and_no_child_of_the_seed():
    seed = tf.constant([3, 5], tf.int64)
    drawn = uniform(seed, [200, 1000]).numpy()
    assert drawn.dtype == np.float64
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert stats.kstest(drawn.ravel(), "uniform").pvalue > 1e-6
    assert (drawn * 2.0**53 == np.floor(drawn * 2.0**53)).all()
    assert len(np.unique(drawn)) == drawn.size  # 53 bits: 32-bit draws would repeat
    np.testing.assert_array_equal(drawn, tf.function(uniform)(seed, [200, 1000]))
    assert not np.array_equal(drawn, uniform(child(seed, 0), [200, 1000]))


def test_the_smallest_uniform_lies_beyond_nine_deviations():
    """The largest value that Box and Muller's transform gives, from its smallest uniform; 32 bits stop at 6.7."""
    assert np.sqrt(-2 * np.log(0.5 * 2.0**-63)) > 9.3


def test_two_federations_without_a_seed_differ_and_say_nothing_of_it(federate):
    one, other = federate(seed=None), federate(seed=None)
    assert not one.seeded
    assert one.seed != other.seed
    assert one.config()["seed"] is None
    assert federate(seed=3).seeded


@pytest.mark.slow
def test_a_run_without_a_seed_resumes_to_the_same_bits(federate, tmp_path):
    from fedpriv_defenses.local_dp import LocalDP

    from fedpriv.rounds.checkpoint import Checkpoint

    options = {"defenses": (LocalDP(clip=1.0, noise_multiplier=0.1),), "batch_size": 4}
    federate(seed=None, **options).run(2, checkpoint=tmp_path / "a.ckpt")
    resumed = federate(seed=None, **options).run(4, checkpoint=tmp_path / "a.ckpt")
    drawn = Checkpoint.load(tmp_path / "a.ckpt").seed
    assert drawn.bit_length() > 90
    assert resumed.weights.tobytes() == federate(seed=drawn, **options).run(4).weights.tobytes()


def test_a_chosen_seed_is_named_in_the_account(federate):
    from fedpriv_defenses.central_dp import CentralDP

    def assumptions(seed):
        defense = CentralDP(clip=1.0, noise_multiplier=1.0)
        ledger = federate(seed=seed, weighting="uniform", defenses=(defense,)).ledger()
        return ledger.epsilon(1e-5, rounds=1).assumes, ledger.describe()

    chosen, described = assumptions(3)
    assert any("it was chosen" in a for a in chosen)
    assert "it was chosen" in described
    assert not any("it was chosen" in a for a in assumptions(None)[0])


@pytest.mark.slow
def test_two_runs_of_one_unseeded_federation_share_no_noise(federate):
    from fedpriv_defenses.central_dp import CentralDP

    federation = federate(seed=None, weighting="uniform", defenses=(CentralDP(clip=1.0, noise_multiplier=1.0),))
    weights = np.zeros(federation.plan.spec.size, np.float32)
    first, second = (federation.run(1, weights=weights).weights for _ in range(2))
    assert np.std(first - second) > 0.1
    seeded = federate(seed=1, weighting="uniform", defenses=(CentralDP(clip=1.0, noise_multiplier=1.0),))
    assert seeded.run(1).weights.tobytes() == seeded.run(1).weights.tobytes()


def test_declared_noise_is_the_noise_there_is():
    from fedpriv_defenses.gaussian_query import gaussian_sum_query

    found = []
    for number in range(20):
        query = gaussian_sum_query(1.0, 2.0, tf.constant(secret(number, Purpose.SERVER, 0)))
        noised, _, _ = query.get_noised_result(tf.zeros([5000]), query.initial_global_state())
        found.append(noised.numpy())
    every = np.concatenate(found)
    assert every.std() == pytest.approx(2.0, rel=0.01)
    assert stats.kstest(every / 2, "norm").pvalue > 1e-4
