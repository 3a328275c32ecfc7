import numpy as np
import pytest
from fedpriv_defenses.gaussian_query import gaussian_sum_query
from scipy import stats

from fedpriv.base.lazy import tf, tfp


def noised(seed, n=200_000, clip=2.0, stddev=3.0, dtype=tf.float32):
    query = gaussian_sum_query(clip, stddev, tf.cast(seed, tf.int64))
    return query.get_noised_result(tf.zeros([n], dtype), query.initial_global_state())


def test_noise_is_gaussian_with_the_stated_deviation():
    draw = noised((3, 4))[0].numpy()
    # The sample deviation of n normals has a relative standard error of 1 / sqrt(2n) = 0.16 %.
    assert draw.std() == pytest.approx(3.0, rel=0.008)
    assert abs(draw.mean()) < 5 * 3.0 / np.sqrt(len(draw))
    assert stats.kstest(draw[:20_000] / 3.0, "norm").pvalue > 1e-4


def test_same_seed_same_bits_other_seed_other_bits():
    first, again, other = noised((3, 4))[0], noised((3, 4))[0], noised((3, 5))[0]
    np.testing.assert_array_equal(first, again)
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.02


def test_in_a_graph_as_outside_it():
    graph = tf.function(lambda seed: noised(seed, n=100)[0])
    np.testing.assert_array_equal(graph(tf.constant([3, 4])), noised((3, 4), n=100)[0])


def test_leaves_of_a_structure_get_noise_of_their_own():
    query = gaussian_sum_query(1.0, 1.0, tf.constant([1, 2]))
    (a, b), _, _ = query.get_noised_result([tf.zeros([1000]), tf.zeros([1000])], query.initial_global_state())
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.15


def test_clipping_and_event_are_tf_privacys():
    theirs, ours = tfp.GaussianSumQuery(2.0, 3.0), gaussian_sum_query(2.0, 3.0, tf.constant([0, 0]))
    record = [tf.random.stateless_normal([100], [5, 6])]
    np.testing.assert_array_equal(theirs.preprocess_record(2.0, record)[0], ours.preprocess_record(2.0, record)[0])
    expected = theirs.get_noised_result(tf.zeros([3]), theirs.initial_global_state())[2]
    event = noised((1, 2))[2]
    assert type(event) is type(expected)
    assert float(event.noise_multiplier) == float(expected.noise_multiplier) == 1.5


def test_a_double_precision_sum_gets_double_precision_noise():
    draw = noised((1, 2), n=10, dtype=tf.float64)[0]
    assert draw.dtype == tf.float64
    assert not np.array_equal(draw.numpy(), draw.numpy().astype(np.float32).astype(np.float64))
