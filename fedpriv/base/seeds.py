"""Seeds: every random draw is a pure function of (run seed, purpose, round, client, step).

Host-side draws (cohorts, initial weights) come from numpy's SeedSequence; draws inside graphs fold the same
coordinates into a stateless int32 `[2]` seed. Nothing depends on the order in which things are computed.
"""

from __future__ import annotations

import enum
from typing import Any

import numpy as np

from fedpriv.base.lazy import tf


class Purpose(enum.IntEnum):
    """What a random draw is for; keeps the streams apart."""

    WEIGHTS = 0
    COHORT = 1
    CLIENT = 2
    SERVER = 3
    PARTITION = 4
    ATTACK = 5
    QUESTION = 6
    LAB = 7


def generator(seed: int, purpose: Purpose, *coordinates: int) -> np.random.Generator:
    """A numpy generator for one purpose and coordinates (such as the round)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, int(purpose), *coordinates])))


def graph_seed(seed: int, purpose: Purpose, *coordinates: int) -> np.ndarray:
    """An int32 `[2]` seed for `tf.random.stateless_*`."""
    state = np.random.SeedSequence([seed, int(purpose), *coordinates]).generate_state(2, np.uint32)
    return state.view(np.int32)


def integer_seed(seed: int, purpose: Purpose, *coordinates: int) -> int:
    """A non-negative 31-bit seed, for whatever takes one integer (initializers, attacks)."""
    return int(graph_seed(seed, purpose, *coordinates)[0]) & 0x7FFFFFFF


def fold(seed: Any, value: Any) -> Any:
    """A new int32 `[2]` seed from a seed and an integer tensor (traceable)."""
    return tf.random.experimental.stateless_fold_in(seed, tf.cast(value, tf.int32))
