"""TF Privacy's Gaussian sum query with its noise drawn from a stateless generator."""

from __future__ import annotations

import functools
from typing import Any

from fedpriv.base.lazy import tf, tfp
from fedpriv.base.seeds import child, gaussian
from fedpriv.base.types import Nested, Seed


def gaussian_sum_query(clip: float, stddev: float, seed: Seed) -> Any:
    """A `tensorflow_privacy.GaussianSumQuery` whose noise is a pure function of `seed`.

    Clipping, state and DP event are TF Privacy's own. Its noise comes from a stateful generator, which neither
    repeats with a seed nor survives a resumed run, so only that draw is replaced: by 128 bits of `seed`.

    Args:
      clip: L2 norm that each record is clipped to.
      stddev: standard deviation of the noise on each coordinate of the sum.
      seed: int64 `[2]`, may be symbolic; one query object draws once with it.
    """
    return _query_class()(clip, stddev, seed)


@functools.cache
def _query_class() -> type:
    class StatelessGaussianSumQuery(tfp.GaussianSumQuery):  # type: ignore[misc]
        def __init__(self, l2_norm_clip: float, stddev: float, seed: Seed) -> None:
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

    return StatelessGaussianSumQuery


#: What every guarantee from this noise rests on, besides the defense's own assumptions.
NOISE_ASSUMPTIONS = (
    "the run's seed, of 128 bits from the operating system unless one was chosen, is secret from the adversary, and "
    "Philox, TensorFlow's generator and no cryptographic one, stands for randomness",
    "floating-point Gaussian noise stands for real-valued noise (Mironov, 2012, shows how its low bits can leak)",
)
