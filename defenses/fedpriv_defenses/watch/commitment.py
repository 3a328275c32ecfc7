"""BroadcastCommitment: clients compare a hash of what they were sent."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from fedpriv.defense.stations import Defense


class BroadcastCommitment(Defense):
    """Clients tell each other a hash of the weights they were sent, and all refuse the round if two differ.

    SHA-256 of the round's number and the weights, over a channel of the clients' own that the server cannot change. It
    is what Pasquini, Francati, Ateniese 2022, arXiv 2111.07380, ask for against model inconsistency: parameters that
    only some clients get, so that a secure sum holds one client's update in the clear. No client trains in a round
    that is refused; no sum comes out, and the federation's `on_abort` says what follows.

    Fails against an act that sends all clients the same malicious weights, and against one that works over several
    rounds on a cohort of one. The hash hides nothing and needs no key: who compares knows the weights.

    Formal guarantee: within a round, collision resistance of SHA-256: all clients that train have the same weights.
    """

    name: ClassVar[str] = "broadcast_commitment"
    paper: ClassVar[str] = "Pasquini, Francati, Ateniese 2022, arXiv 2111.07380"
    replayable: ClassVar[bool] = False

    def refusal(self, received: Mapping[int, np.ndarray], number: int) -> str:
        """Why the clients refuse, naming those that got others than most; empty where all are the same."""
        digests = {
            client: hashlib.sha256(number.to_bytes(8, "big") + np.ascontiguousarray(weights).tobytes()).hexdigest()
            for client, weights in received.items()
        }
        counts = Counter(digests.values())
        if len(counts) <= 1:
            return ""
        most = counts.most_common(1)[0][0]
        others = [client for client, digest in digests.items() if digest != most]
        shown = ", ".join(map(str, others[:5])) + (", ..." if len(others) > 5 else "")
        return (
            f"broadcast_commitment: the clients were sent {len(counts)} different sets of weights ({len(others)} of "
            f"{len(digests)} clients got others than most: {shown}), and refuse"
        )
