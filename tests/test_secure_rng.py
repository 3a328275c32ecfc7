"""Secure noise comes from fresh entropy by ChaCha20, follows no seed, and is never drawn again."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from fedpriv_defenses.adaptive_central_dp import AdaptiveCentralDP
from fedpriv_defenses.central_dp import CentralDP
from fedpriv_defenses.correlated.dp_ftrl import DPFTRL
from fedpriv_defenses.local_dp import LocalDP
from scipy import stats

from fedpriv.base import seeds
from fedpriv.base.lazy import tf
from fedpriv.procedure.procedure import Sampling


@pytest.fixture
def key():
    return np.arange(1, 5, dtype=np.int64)


@pytest.fixture
def no_philox(monkeypatch):
    def refused(**_):
        raise AssertionError("TensorFlow's generator was asked")

    monkeypatch.setattr(tf.raw_ops, "StatelessRandomUniformFullIntV2", refused)


def chacha(key, nonce, size):
    cipher = Cipher(algorithms.ChaCha20(key.tobytes(), bytes(4) + nonce), mode=None)
    return np.frombuffer(cipher.encryptor().update(bytes(size)), np.int64)


def test_children_and_words_are_the_ciphers(key):
    def child_of(key, index):
        return chacha(key, np.int32(1).tobytes() + np.int64(index).tobytes(), 32)

    for index in (0, 7, 2**40, seeds.WORDS_CHILD):
        np.testing.assert_array_equal(seeds.child(tf.constant(key), index), child_of(key, index))
    stream = chacha(child_of(key, seeds.WORDS_CHILD), bytes(12), 8 * 40_000)
    for count in (1, 9, 40_000):  # more than one stretch
        np.testing.assert_array_equal(seeds.words(tf.constant(key), count), stream[:count])
    traced = tf.function(lambda k, n: seeds.words(k, n), autograph=False)
    np.testing.assert_array_equal(traced(tf.constant(key), tf.constant(40_000)), stream)


def test_values_from_a_key_are_normal_and_uniform(key):
    values = seeds.gaussian(tf.constant(key), [200, 1001], "float64").numpy().ravel()
    assert values.mean() == pytest.approx(0, abs=5 / np.sqrt(values.size))
    assert values.std() == pytest.approx(1, abs=4 / np.sqrt(values.size))
    assert stats.kstest(values, "norm").pvalue > 1e-4
    assert stats.kstest(seeds.uniform(tf.constant(key), [100_000]).numpy(), "uniform").pvalue > 1e-4
    assert not np.array_equal(seeds.fresh_keys(2)[0], seeds.fresh_keys(1)[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "defense",
    [
        pytest.param(CentralDP(clip=1.0, noise_multiplier=1.0), marks=pytest.mark.slow),
        pytest.param(AdaptiveCentralDP(noise_multiplier=1.0), marks=pytest.mark.slow),
        LocalDP(clip=1.0, noise_multiplier=1.0),
        pytest.param(DPFTRL(clip=1.0, noise_multiplier=1.0), marks=pytest.mark.slow),
    ],
    ids=lambda d: d.name,
)
def test_no_run_repeats_and_tensorflows_generator_is_not_asked(federate, defense, no_philox):
    options = {"defenses": (defense,), "weighting": "uniform", "sampling": Sampling.fixed(3), "rounds": 2}
    secure = [federate(**options, secure_rng=True) for _ in range(2)]
    histories = [f.run(2) for f in secure]
    assert not np.isclose(histories[0].weights, histories[1].weights).any()
    np.testing.assert_array_equal(secure[0].start().weights, secure[1].start().weights)  # these follow the seed
    (claim, *_) = secure[0].line.claims()
    said = " ".join(claim.assumes)
    assert "ChaCha20" in said
    assert "Philox" not in said
    assert "Mironov" in said
    assert "Philox" in " ".join(federate(**options).line.claims()[0].assumes)
    assert any("does not follow it" in a for a in histories[0].ledger.epsilon(1e-5).assumes)


@pytest.mark.slow
def test_a_resumed_run_draws_anew(federate, tmp_path, no_philox):
    options = {
        "defenses": (DPFTRL(clip=1.0, noise_multiplier=1.0),),
        "weighting": "uniform",
        "rounds": 4,
        "secure_rng": True,
    }
    ended = []
    federate(**options).run(2, checkpoint=tmp_path / "half")
    for name in ("a", "b"):
        (tmp_path / name).write_bytes((tmp_path / "half").read_bytes())
        ended.append(federate(**options).run(4, checkpoint=tmp_path / name))
    assert [len(h.records) for h in ended] == [4, 4]
    assert ended[0].records[1].metrics == ended[1].records[1].metrics  # what was done is kept
    assert ended[0].records[2].metrics["dp_ftrl/noise_norm"] != ended[1].records[2].metrics["dp_ftrl/noise_norm"]
    assert not np.isclose(ended[0].weights, ended[1].weights).any()
