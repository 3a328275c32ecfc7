"""Scale: how long an example is whose direction is known, from the update it would cause."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedpriv.base.errors import CapabilityError
from fedpriv.base.lazy import tf
from fedpriv.threat.view import View
from fedpriv_attacks.inversion.matching import checked_update, noise_floor

_GRID = 128


@dataclass(frozen=True, eq=False)
class Scaled:
    """The scale found.

    Attributes:
      direction: `[inputs]`, of length one.
      scale: the example is this times the direction.
      ambiguous: whether another scale explains the update as well, within its rounding.
      minima: (scale, relative squared distance of the replayed update) of every local minimum, the best first.
    """

    direction: np.ndarray
    scale: float
    ambiguous: bool
    minima: tuple[tuple[float, float], ...]


def scale_by_replay(view: View, direction: np.ndarray, label: int) -> Scaled:
    """The scale at which the replayed update is nearest to the one observed.

    All lengths that an example in [0, 1] can have are tried on a grid, and each local minimum is followed by
    Gauss-Newton steps, whose accuracy is not limited by the squared distance's flatness.

    Args:
      view: of one example; its procedure must be known.
      direction: `[inputs]`, of length one.
      label: the example's.

    Raises:
      CapabilityError: the replay is not possible, or gives no finite update at any scale.
    """
    observed, norm = checked_update(view)
    dtype, shape = view.model.spec.dtype, view.model.input_shape
    along = tf.constant(direction.reshape(1, *shape), dtype)
    y = tf.constant([label], tf.int32)
    unit = observed / norm

    @tf.function(autograph=False)
    def replay(s):  # type: ignore[no-untyped-def]
        with tf.autodiff.ForwardAccumulator(s, tf.ones_like(s)) as forward:
            update = view.simulate(s * along, y)
        return update, forward.jvp(update)

    def at(s: float) -> tuple[float, float]:
        """Relative squared distance, and the Gauss-Newton step from s."""
        update, change = (np.asarray(a, np.float64) / norm for a in replay(tf.constant(s, dtype)))
        left = unit - update
        if not np.all(np.isfinite(left)):
            return float("inf"), 0.0
        return float(left @ left), float(left @ change) / max(float(change @ change), 1e-300)

    longest = 1.0 / max(float(np.max(direction)), 1e-300)
    scales = longest * np.linspace(1.0 / _GRID, 1.0, _GRID)
    values = np.array([at(float(s))[0] for s in scales])
    if not np.any(np.isfinite(values)):
        raise CapabilityError(
            "the client's update cannot be replayed at any length of the example: it is nowhere finite; the client's "
            "learning rate is too high for this model"
        )
    minima: list[tuple[float, float]] = []
    for i in range(_GRID):
        left, right = values[max(i - 1, 0)], values[min(i + 1, _GRID - 1)]
        if not np.isfinite(values[i]) or values[i] > min(left, right):
            continue
        low, high = (float(scales[max(i - 1, 0)]) if i else 0.0), float(scales[min(i + 1, _GRID - 1)])
        best = (float(scales[i]), float(values[i]))
        s = best[0]
        for _ in range(30):
            value, step = at(s)
            if value < best[1]:
                best = (s, value)
            following = float(np.clip(s + step, low, high))
            if abs(following - s) <= 1e-12 * longest:
                break
            s = following
        minima.append(best)
    minima.sort(key=lambda m: m[1])
    floor = noise_floor(view, norm)
    ambiguous = len(minima) > 1 and minima[1][1] <= 10 * max(minima[0][1], floor)
    return Scaled(direction, minima[0][0], ambiguous, tuple(minima))
