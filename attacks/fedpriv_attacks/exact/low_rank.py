"""Low rank: how many examples a dense layer's gradient shows, and the two subspaces it spans.

The kernel's gradient X^T D `[inputs, units]` of n examples has rank at most n. The update it is read off is rounded,
so its other singular values are small rather than zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedpriv.base.errors import CapabilityError
from fedpriv_attacks.exact.dense_input import DenseInput


@dataclass(frozen=True)
class LowRank:
    """A kernel's gradient G, cut to its leading singular values: G = inputs diag(values) units^T.

    Attributes:
      inputs: `[inputs, rank]`, orthonormal columns that span the examples.
      values: `[rank]`, falling.
      units: `[units, rank]`, orthonormal columns that span the examples' gradients in the pre-activations.
      numerical_rank: singular values above the rounding, before any cut.
      tail: the largest singular value left out.
    """

    inputs: np.ndarray
    values: np.ndarray
    units: np.ndarray
    numerical_rank: int
    tail: float

    @property
    def rank(self) -> int:
        """Columns kept."""
        return len(self.values)

    @property
    def noise(self) -> float:
        """How much what was left out weighs against the weakest direction kept, in [0, 1]."""
        return self.tail / float(self.values[-1])


def low_rank(layer: DenseInput, examples: int | None = None, epsilon: float = 1e-7) -> LowRank:
    """Cuts the gradient to its rank, or to `examples` if that is less.

    Args:
      layer: the dense layer in an update.
      examples: the number of examples if known; noise may make the rank larger, and repeated or perfectly
        classified examples smaller.
      epsilon: relative rounding of the precision the gradient was computed in.

    Raises:
      CapabilityError: nothing stands out from the rounding, or as many directions as the layer has.
    """
    u, s, vt = np.linalg.svd(layer.kernel, full_matrices=False)
    # The largest singular value of independent errors, with room for their not being quite independent.
    spread = layer.rounding + epsilon * float(np.sqrt(np.mean(np.square(layer.kernel))))
    floor = 3 * spread * (np.sqrt(layer.inputs) + np.sqrt(layer.units))
    floor = max(floor, float(s[0]) * np.finfo(np.float64).eps * max(layer.kernel.shape))
    found = int(np.sum(s > floor))
    if found == 0:
        raise CapabilityError(
            f"the update of '{layer.kernel_name}' does not stand out from its rounding (largest singular value "
            f"{s[0]:.1e}, rounding {floor:.1e}); use an update with a larger learning rate, or in float64"
        )
    rank = found if examples is None else min(found, examples)
    if rank >= len(s):
        raise CapabilityError(
            f"the gradient of '{layer.kernel_name}', of shape ({layer.inputs}, {layer.units}), has full rank {len(s)}: "
            + (
                "the update is noisy, or there are more examples than it can tell apart; give the number of examples"
                if examples is None or examples >= len(s)
                else f"{examples} examples are too many for it"
            )
            + "; use a wider layer or a smaller batch"
        )
    tail = float(s[rank])
    return LowRank(u[:, :rank], s[:rank], vt[:rank].T, found, tail)
