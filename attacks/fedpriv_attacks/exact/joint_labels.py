"""Joint labels: those of known examples, all at once, where an example's gradient depends on its whole batch."""

from __future__ import annotations

import numpy as np

from fedpriv.base.lazy import tf
from fedpriv.base.types import Array
from fedpriv.threat.capability import Capability
from fedpriv.threat.replays import unmeasured
from fedpriv.threat.view import View
from fedpriv_attacks.exact.single_gradient import relative_misfit

#: At most so many numbers in the equations, 400 MB of them.
LARGEST = 10**8


def joint_labels(view: View, x: Array) -> Array | None:
    """The labels under which examples give the observed update, `[n]` int32; None where there are none to be sure of.

    Cross-entropy is linear in its targets, and so is the update of one step of SGD. Its parts, one for each example and
    class, are replayed; least squares under the constraint that each example's targets sum to 1 weighs them (without
    it, targets that equal the model's predictions would be free, as they give no gradient). The largest weight of each
    example is its label, if the update replayed from all of them is nearer than one wrong label would leave it.

    Args:
      view: what was observed.
      x: the examples `[n, *input_shape]`, all of them and right.
    """
    n, classes, d = len(x), view.model.num_classes, view.update_size
    if Capability.SINGLE_STEP not in view.capabilities or Capability.SOFTMAX not in view.capabilities:
        return None
    if not np.all(np.isfinite(x)) or n * classes * (d + n) > LARGEST:
        return None
    examples, dtype = tf.constant(x, view.model.spec.dtype), view.model.spec.dtype

    @tf.function(autograph=False)
    def replayed(targets: tf.Tensor) -> tf.Tensor:
        return view.simulate(examples, targets)

    unit = np.eye(n * classes, dtype=dtype).reshape(-1, n, classes)
    with unmeasured():
        parts = np.stack([replayed(tf.constant(one)).numpy().astype(np.float64) for one in unit], axis=1)
    observed = np.asarray(view.observed, np.float64)
    heavy = float(np.linalg.norm(parts, axis=0).max()) or 1.0
    sums = heavy * np.kron(np.eye(n), np.ones(classes))
    weights, *_ = np.linalg.lstsq(np.vstack([parts, sums]), np.concatenate([observed, heavy * np.ones(n)]), rcond=None)
    labels = weights.reshape(n, classes).argmax(1).astype(np.int32)
    misfit = relative_misfit(view, x, [int(label) for label in labels])
    return labels if misfit < 0.1 / n**2 else None
