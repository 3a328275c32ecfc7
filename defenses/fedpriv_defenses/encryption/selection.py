"""Selection: which coordinates of an update are encrypted, where not all are; the same for all, from what is public."""

from __future__ import annotations

import atexit
import functools
import hashlib
import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Examples, Flat, Labels
from fedpriv.models.model import Model

Select = Literal["largest", "random", "first"]
#: Public examples that sensitivities are averaged over.
EXAMPLES = 64


def chosen(
    select: Select, fraction: float, size: int, round: int, seed: int, model: Model | None, weights: np.ndarray | None
) -> np.ndarray:
    """The coordinates to encrypt, bool `[size]`: `fraction` of them, rounded up.

    Args:
      select: `largest`, those with the largest `sensitivities`; `random`, drawn anew in each round; `first`, those
        of the first layers.
      fraction: in [0, 1].
      size: d.
      round: the round's number.
      seed: the run's seed. Who knows the choice does not learn it.
      model: the model's functions, for `largest`.
      weights: the broadcast weights `[d]`, for `largest`.

    Raises:
      ParameterError: `largest` without a model and weights.
    """
    mask, count = np.zeros(size, bool), math.ceil(fraction * size)
    if count in (0, size):
        mask[:] = bool(count)
    elif select == "first":
        mask[:count] = True
    elif select == "random":
        key = int(seed).to_bytes(max(8, int(seed).bit_length() // 8 + 1), "little", signed=True)
        digest = hashlib.blake2b(f"encrypted coordinates of round {round}".encode(), digest_size=16, key=key)
        mask[np.random.default_rng(int.from_bytes(digest.digest(), "little")).permutation(size)[:count]] = True
    elif model is None or weights is None:
        raise ParameterError(
            "select=largest looks at the model and the broadcast weights, but the round was opened without them; open "
            "it with model=... and weights=..., or use select=random or first"
        )
    else:
        mask[np.argsort(-sensitivities(model, weights), kind="stable")[:count]] = True
    return mask


def sensitivities(model: Model, weights: np.ndarray) -> np.ndarray:
    """How much each coordinate of a gradient depends on the example's target, `[d]`, at the broadcast weights.

    Jin et al. 2023 ("FedML-HE", arXiv 2303.10837) take the mean absolute derivative of a coordinate of the gradient
    in the true output. For softmax cross-entropy that derivative in class k is the gradient of an example of class k,
    so this is the mean absolute gradient over classes. They take it over each client's own examples and average the
    clients' maps under encryption, once, before training. Here it is taken over public examples, pixels uniform on
    [0, 1] with targets at random, which everybody draws alike: nobody's data go into it, so the map costs no message
    and leaks nothing, and it follows the weights from round to round.
    """
    return _sensitivities(model)(weights)


@functools.lru_cache(maxsize=4)
def _sensitivities(model: Model) -> Callable[[np.ndarray], np.ndarray]:
    """`sensitivities` of that model, compiled once."""
    rng = np.random.default_rng(0)
    # Batch statistics need several examples.
    together = 8 if model.couples_examples else 1
    d, dtype = model.spec.size, model.spec.dtype
    task = model.task
    x = rng.uniform(size=(EXAMPLES, together, *model.input_shape))
    raw = tf.constant(10 * rng.normal(size=(EXAMPLES * together, *task.relaxed_shape)), dtype)
    y = tf.reshape(task.relax(raw), [EXAMPLES, together, *task.relaxed_shape])

    @tf.function(
        input_signature=[
            tf.TensorSpec([d], dtype),
            tf.TensorSpec(x.shape[1:], dtype),
            tf.TensorSpec(y.shape[1:], y.dtype),
        ]
    )
    def slope(flat: Flat, x: Examples, y: Labels) -> Flat:
        with tf.GradientTape() as tape:
            tape.watch(flat)
            loss = tf.reduce_mean(model.example_losses(model.spec.unflatten(flat), x, y))
        return tf.abs(tf.convert_to_tensor(tape.gradient(loss, flat, unconnected_gradients="zero")))

    def mean(weights: np.ndarray) -> np.ndarray:
        total, flat = np.zeros(d), tf.constant(weights, dtype)
        for i in range(EXAMPLES):
            total += np.nan_to_num(slope(flat, tf.constant(x[i], dtype), y[i]).numpy().astype(np.float64))
        return total / EXAMPLES

    return mean


atexit.register(_sensitivities.cache_clear)  # compiled functions must go before TensorFlow does
