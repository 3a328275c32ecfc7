"""PaillierSum: contributions are packed and encrypted under Paillier."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.defense.protocol import Opening
from fedpriv_defenses.encryption.encrypted_sum import EncryptedSum
from fedpriv_defenses.encryption.paillier_scheme import PaillierScheme
from fedpriv_defenses.encryption.scheme import Room
from fedpriv_defenses.encryption.session import EncryptedSession


class PaillierSum(EncryptedSum):
    """Secure sum by homomorphic encryption: clients encrypt under Paillier, the server adds, a key holder decrypts.

    The messages are those of `ckks_sum`; the scheme is Paillier's (1999), with as many integers in one plaintext as
    have room for the cohort's sum, as in BatchCrypt (Zhang et al. 2020, USENIX ATC). Exact by itself, and slow: for
    small models. Randomness is new for every ciphertext, from the operating system.

    Formal guarantee: against an honest-but-curious server, contributions are computationally hidden (decisional
    composite residuosity; a modulus of 2048 bits is counted as 112 bits of security and one of 3072 as 128, NIST SP
    800-57); the sum is revealed to server and key holder. Server and key holder together see every contribution. It is
    not differential privacy.

    Whom it trusts, and what happens on drop-out and to messages that are not what they should be: as in `ckks_sum`.
    """

    name: ClassVar[str] = "paillier_sum"
    paper: ClassVar[str] = "Paillier, 1999; Zhang et al. 2020, USENIX ATC"

    bits: Annotated[int, Field(ge=8, le=60)] = Field(
        default=32,
        description="b, from 8 to 60, of the integers: theirs and their sums' absolute values are below 2^(b-1).",
    )
    key_bits: Annotated[int, Field(ge=2048, le=3072, multiple_of=1024)] = Field(
        default=2048, description="of the modulus, 2048 or 3072; a ciphertext takes twice as many."
    )

    def scheme(self, room: Room, speaker: str = "") -> PaillierScheme:
        """See EncryptedSum."""
        room.require(speaker or self.name)
        return PaillierScheme(self.key_bits, room)

    def session(self, opening: Opening) -> EncryptedSession:
        """See Protocol."""
        room = Room(self.bits, len(opening.clients))
        hidden = np.ones(opening.length - 1 - opening.tallies, bool)
        return EncryptedSession(opening, self.scheme(room), room, hidden, self.min_clients)
