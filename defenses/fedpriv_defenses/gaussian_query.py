"""TF Privacy's queries with their noise drawn from a stateless generator, and what noise of any origin rests on."""

from __future__ import annotations

import functools
from typing import Any

from fedpriv.base.lazy import tf, tfp
from fedpriv.base.seeds import child, gaussian
from fedpriv.base.types import Nested, Scalar, Seed
from fedpriv.defense.plan import Plan


def gaussian_sum_query(clip: Scalar | float, stddev: Scalar | float, seed: Seed) -> Any:
    """A `tensorflow_privacy.GaussianSumQuery` whose noise is a pure function of `seed`.

    Clipping, state and DP event are TF Privacy's own. Its noise comes from a stateful generator, which neither
    repeats with a seed nor survives a resumed run, so only that draw is replaced: by 128 bits of `seed`, or by the
    cipher where it is a key.

    Args:
      clip: L2 norm that each record is clipped to.
      stddev: standard deviation of the noise on each coordinate of the sum.
      seed: int64 `[2]`, or a key `[4]`, may be symbolic; one query object draws once with it.
    """
    return _query_classes()[0](clip, stddev, seed)


def quantile_query(
    estimate: Scalar | float, quantile: float, learning_rate: float, stddev: float, expected: float, seed: Seed
) -> Any:
    """A `tensorflow_privacy.QuantileEstimatorQuery` with geometric steps, whose noise is a pure function of `seed`.

    Args:
      estimate: of the quantile, before the round; may be symbolic.
      quantile: that is looked for, in (0, 1).
      learning_rate: largest step of the estimate's logarithm.
      stddev: standard deviation of the noise on the count of records at or below the estimate.
      expected: records a round, a public constant.
      seed: as in `gaussian_sum_query`.
    """
    return _query_classes()[1](estimate, quantile, learning_rate, stddev, expected, seed)


@functools.cache
def _query_classes() -> tuple[type, type]:
    class StatelessGaussianSumQuery(tfp.GaussianSumQuery):  # type: ignore[misc]
        def __init__(self, l2_norm_clip: Scalar | float, stddev: Scalar | float, seed: Seed) -> None:
            super().__init__(l2_norm_clip, stddev)
            self._seed = seed

        def get_noised_result(self, sample_state: Nested, global_state: Any) -> tuple[Nested, Any, Any]:
            # Over an empty structure the parent draws nothing and still reports its state and event.
            _, global_state, event = super().get_noised_result([], global_state)
            leaves = tf.nest.flatten(sample_state)
            noised = [
                leaf
                + tf.cast(global_state.stddev, leaf.dtype) * gaussian(child(self._seed, i), tf.shape(leaf), leaf.dtype)
                for i, leaf in enumerate(leaves)
            ]
            return tf.nest.pack_sequence_as(sample_state, noised), global_state, event

    class StatelessQuantileQuery(tfp.QuantileEstimatorQuery):  # type: ignore[misc]
        def __init__(
            self,
            estimate: Scalar | float,
            quantile: float,
            learning_rate: float,
            stddev: float,
            expected: float,
            seed: Seed,
        ) -> None:
            self._seed = seed
            super().__init__(estimate, quantile, learning_rate, stddev, expected, geometric_update=True)

        def _construct_below_estimate_query(self, stddev: float, expected: float) -> Any:
            # Counts are moved by 1/2, which halves what one record adds to them.
            return tfp.NormalizedQuery(StatelessGaussianSumQuery(0.5, stddev, self._seed), denominator=expected)

    return StatelessGaussianSumQuery, StatelessQuantileQuery


_FLOATS = "floating-point Gaussian noise stands for real-valued noise (Mironov, 2012, shows how its low bits can leak)"

#: What every guarantee from seeded noise rests on, besides the defense's own assumptions.
NOISE_ASSUMPTIONS = (
    "the run's seed, of 128 bits from the operating system unless one was chosen, is secret from the adversary, and "
    "Philox, TensorFlow's generator and no cryptographic one, stands for randomness: noise for research, which "
    "secure_rng (--secure-rng) replaces",
    _FLOATS,
)
#: The same where noise is drawn securely.
SECURE_NOISE_ASSUMPTIONS = (
    "the operating system's entropy, expanded by ChaCha20, stands for randomness",
    _FLOATS,
)


def noise_assumptions(plan: Plan) -> tuple[str, ...]:
    """What a guarantee from Gaussian noise rests on in that run, besides the defense's own assumptions."""
    return SECURE_NOISE_ASSUMPTIONS if plan.secure_rng else NOISE_ASSUMPTIONS
