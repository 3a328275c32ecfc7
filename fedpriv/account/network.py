"""Network: what peers learn of each other where noise is added once and then averaged along a graph.

Cyffers, Even, Bellet, Massoulié 2022, "Muffliato: Peer-to-Peer Privacy Amplification for Decentralized Optimization and
Averaging", arXiv 2206.05091: peers add Gaussian noise to their values and average them with their neighbours; what peer
v learns of peer u depends on where they stand (pairwise network differential privacy). Everything that v is sent is
linear in the noised values, so that its view is one Gaussian mechanism, whose privacy is exact rather than bounded
message by
message: Koskela, Kulkarni 2025, "Differential Privacy Analysis of Decentralized Gossip Averaging under Varying Threat
Models", arXiv 2505.19969.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fedpriv.account.accounting import AccountantName, composed_epsilon
from fedpriv.base.lazy import dp_accounting
from fedpriv.base.types import Array
from fedpriv.defense.claim import Relation

#: Shares below this are none: rounding of the projection.
_NOTHING = 1e-9


def shares(matrix: Array, links: np.ndarray, steps: int, observers: Sequence[int], masked: bool = False) -> np.ndarray:
    """Which part of its local privacy loss each peer has towards the observers, float64 `[n]` from 0 to 1.

    With noised values `y = x + z`, the messages of step s are rows of `W^s y`. The observers hold the rows of those who
    send to them (with masks, their weighted sum), and their own values. Given these, replacing `x_u` moves the mean of
    a Gaussian with a precision that is the squared length of `u`'s unit vector's projection on the rows' span, over the
    variance: 1 is what local differential privacy gives, 0 nothing at all.

    Args:
      matrix: `W [n, n]`.
      links: int `[m, 2]` of (sender, receiver).
      steps: exchanges after the noise.
      observers: who pools what they hold.
      masked: whether each observer learns its weighted sum alone.
    """
    weights = np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, np.float64)
    n = len(weights)
    ours = sorted(set(observers))
    rows = [np.eye(n)[o] for o in ours]
    power = np.eye(n)
    for _ in range(steps):
        for o in ours:
            senders = [int(i) for i, j in links if j == o]
            if masked:
                rows.append(weights[o, senders] @ power[senders])
            else:
                rows += list(power[senders])
        power = weights @ power
    _, sizes, right = np.linalg.svd(np.array(rows), full_matrices=False)
    span = right[sizes > 1e-9 * sizes[0]]
    found = (span**2).sum(0)
    found[found < _NOTHING] = 0.0
    return np.minimum(found, 1.0)


def epsilons(
    found: np.ndarray, noise_multiplier: float, relation: Relation, accountant: AccountantName, delta: float
) -> np.ndarray:
    """Epsilon at `delta` of each peer towards the observers, `[n]`; 0 where nothing of it reaches them.

    Args:
      found: `shares`.
      noise_multiplier: of the local mechanism: standard deviation over the sensitivity under `relation`.
      relation: neighbouring relation.
      accountant: `rdp` or `pld`.
      delta: in (0, 1).
    """
    values = {
        share: composed_epsilon(
            dp_accounting.GaussianDpEvent(noise_multiplier / math.sqrt(share)), relation, accountant, 1, delta
        )
        for share in set(np.round(found, 12).tolist())
        if share > 0
    }
    return np.array([values.get(share, 0.0) for share in np.round(found, 12).tolist()])
