"""AdditiveSharing: contributions are split among holders, all of whose sums together are the sum, and fewer nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from fedpriv.defense.dealt import Dealt
from fedpriv.defense.ring import RingFormat
from fedpriv_defenses.secure_sum.scheme import Scheme
from fedpriv_defenses.secure_sum.shared_sum import SharedSum


class AdditiveSharing(SharedSum):
    """Secure sum by additive secret sharing: each client splits its ring elements among k holders of shares.

    In the phase `share`, a client sends one additive share to each holder over a private, authenticated channel; each
    holder adds up what it received. In the phase `publish`, the holders compare whose shares they have, and send
    their sums to the server, which puts them together and tells them the result. This is the summing part of Prio
    (Corrigan-Gibbs, Boneh, 2017, arXiv 1703.06255), including keys in place of expanded shares, without its proofs
    that inputs are well-formed. The holders are k aggregators from outside, or, as in Ben-Or, Goldwasser and Wigderson
    (1988), the clients themselves: all of the round, or a committee drawn for it. A client that holds shares keeps its
    own without sending it.

    Formal guarantee: against any k - 1 holders who follow the protocol and pool what they saw, with the server or
    without, the contributions are computationally hidden (as long as ChaCha20's keystream looks random); the k sums
    together reveal the sum of the contributions, who sent them, and nothing more. Clients of a coalition can take
    their own contributions out of that sum: all but one together know the last one's. It hides who sent what and is
    not differential privacy: a cohort of one has no sum to hide in, and the ledger counts it as nothing.

    Trusts: one holder of k; whoever knows the run's seed beforehand knows each round's committee. Parties follow the
    protocol. A message that is changed, lost or malformed, and holders that differ in whose shares they have, end the
    round. A client that contributes something false, and a holder that publishes a false sum, go unseen;
    `shamir_sharing` with holders to spare sees the latter.

    Drop-out: a client may be gone before it sends; one that has sent is in the sum, gone or not. All k holders must
    stay to the end, or the round is aborted with nothing revealed. Where all clients hold shares, they are those who
    are there as the round begins, and one that then contributes nothing ends it.
    """

    name: ClassVar[str] = "additive_sharing"
    paper: ClassVar[str] = "Corrigan-Gibbs, Boneh, 2017, arXiv 1703.06255"
    adaptive_attack: ClassVar[str] = "dlg"

    def least(self, holders: int) -> int:
        """All of them."""
        return holders

    def scheme(self, holders: Sequence[int], length: int, clients: int) -> Scheme:
        """Additive shares in the ring."""
        return RingShares(RingFormat(self.ring_bits(), length), len(holders), self.compressed)


class RingShares(Scheme):
    """Additive shares modulo 2^b.

    Args:
      form: how elements lie in messages.
      holders: k.
      compressed: whether the first k - 1 get keys.
    """

    def __init__(self, form: RingFormat, holders: int, compressed: bool) -> None:
        self._form, self._compressed = form, compressed
        self.needed, self.share_bytes = holders, form.vector_bytes
        self.keyed = holders - 1 if compressed else 0

    def split(self, encoded: np.ndarray) -> list[bytes]:
        """See Scheme."""
        return self._form.split(encoded, self.needed, self._compressed)

    def masks(self) -> Dealt:
        """See Scheme: all shares but the last, as keys."""
        return Dealt.drawn([-1] * (self.needed - 1), self._form.bits)

    def split_masked(self, masked: np.ndarray, dealt: Dealt) -> list[bytes]:
        """See Scheme. What is left under the masks is the last share."""
        keys = [row.tobytes() for row in dealt.keys]
        first = keys if self._compressed else [self._form.pack(self._form.expand(key)) for key in keys]
        return [*first, self._form.pack(masked.astype(self._form.dtype))]

    def share(self, holder: int, message: bytes) -> np.ndarray:
        """See Scheme."""
        return self._form.expand(message) if holder < self.keyed else self.unpack(message)

    def plus(self, holder: int, total: np.ndarray | None, message: bytes) -> np.ndarray:
        """See Scheme. Not reduced before it is packed."""
        total = np.zeros(self._form.length, self._form.dtype) if total is None else total
        if holder < self.keyed:
            for where, block in self._form.blocks(message):
                np.add(total[where], block, out=total[where])
        else:
            np.add(total, self.unpack(message), out=total)
        return total

    def minus(self, total: np.ndarray, share: np.ndarray) -> np.ndarray:
        """See Scheme."""
        return self._form.reduce(total - share)

    def pack(self, total: np.ndarray | None) -> bytes:
        """See Scheme."""
        total = np.zeros(self._form.length, self._form.dtype) if total is None else total.copy()
        return self._form.pack(self._form.reduce(total))

    def unpack(self, message: bytes) -> np.ndarray:
        """See Scheme."""
        return self._form.unpack(message)

    def combined(self, shares: Mapping[int, np.ndarray], count: int) -> tuple[np.ndarray, tuple[int, ...]]:
        """See Scheme: their sum, which nothing can be seen of."""
        total = np.zeros(self._form.length, self._form.dtype)
        for share in shares.values():
            np.add(total, share, out=total)
        return self._form.reduce(total).astype(np.uint64), ()
