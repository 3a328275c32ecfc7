"""CkksSum: contributions are encrypted under CKKS, wholly or the most sensitive part of them."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from fedpriv.defense.protocol import Opening
from fedpriv_defenses.encryption.ckks_parameters import RingDegree, choose
from fedpriv_defenses.encryption.ckks_scheme import CkksScheme
from fedpriv_defenses.encryption.encrypted_sum import EncryptedSum
from fedpriv_defenses.encryption.scheme import Room
from fedpriv_defenses.encryption.selection import Select, chosen
from fedpriv_defenses.encryption.session import EncryptedSession


class CkksSum(EncryptedSum):
    """Secure sum by homomorphic encryption: clients encrypt under CKKS, the server adds, a key holder decrypts the sum.

    In the phase `keys`, the key holder makes a new key and sends its public part through the server to all clients,
    and its fingerprint to each of them directly. In the phase `encrypt`, a client puts its integers into the slots of
    ciphertexts (Cheon, Kim, Kim, Song, 2017, ePrint 2016/421; with TenSEAL, Benaissa et al. 2021, arXiv 2104.03152) and
    sends them to the server, which adds them to one running sum. In the phase `decrypt`, the server sends the sum to
    the key holder, which decrypts and returns it. Parameters are of multiplicative depth 0, and such that the noise
    stays below half an integer by a proven bound (module `ckks_parameters`), so that a sum is exact or the round
    aborts; rounding also hides the noise that attacks on approximate schemes need (Li, Micciancio, 2021, ePrint
    2020/1533).

    With `fraction` below 1 only the most sensitive coordinates are encrypted, as in FedML-HE (Jin et al. 2023, arXiv
    2303.10837); of every client the server then sees the rest in the clear, with the client's weight. Encrypting too
    little leaks: attack it. Which coordinates those are follows from the broadcast weights, so a server that plants
    weights has a say in it.

    Formal guarantee: for what is encrypted, against an honest-but-curious server, contributions are computationally
    hidden (ring learning with errors, 128 bits by the homomorphic encryption standard, Albrecht et al. 2018); the sum
    is revealed to server and key holder. Server and key holder together see every contribution. What is not encrypted
    has no guarantee. It is not differential privacy.

    Whom it trusts: the server adds what it was sent and asks for that sum alone; the key holder decrypts that alone and
    does not pool with the server. Mistakes and changes do not pass: channels are authenticated; a key that is not the
    key holder's, or is of another round, is named, and so is a ciphertext under another key; tags, which only client
    and key holder know, show that the sum is over the right clients, each once; a check, which only clients and server
    know, that the key holder tells the sum it found. The one thing that no such protocol can see is a client that lies
    about its own contribution in a well-formed ciphertext: it is believed.

    Drop-out: a client may be gone before it sends; one that has sent is in the sum. A key holder or server that is gone
    ends the round with nothing revealed.
    """

    name: ClassVar[str] = "ckks_sum"
    paper: ClassVar[str] = "Cheon, Kim, Kim, Song, 2017; Jin et al. 2023, arXiv 2303.10837"

    bits: Annotated[int, Field(ge=8, le=36)] = Field(
        default=32,
        description="b, from 8 to 36, of the integers: theirs and their sums' absolute values are below 2^(b-1).",
    )
    fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="share of the update's coordinates that is encrypted; the rest travels in the clear."
    )
    select: Select = Field(
        default="largest",
        description=(
            "which coordinates, where not all: `largest`, those whose gradient depends most on the target, by the "
            "broadcast weights on public examples; `random`, drawn in each round; `first`, those of the first layers."
        ),
    )
    ring_degree: RingDegree | None = Field(
        default=None,
        description="N: 4096, 8192 or 16384; a ciphertext has N / 2 slots. None takes the smallest with exact sums.",
    )
    scale_bits: Annotated[int, Field(ge=1, le=100)] | None = Field(
        default=None,
        description="log2 of the scale; None takes the largest that fits. One with inexact sums is refused.",
    )

    @property
    def hides_everything(self) -> bool:
        """Unless a part of it travels in the clear."""
        return self.fraction == 1

    def scheme(self, room: Room, speaker: str = "") -> CkksScheme:
        """See EncryptedSum."""
        room.require(speaker or self.name)
        return CkksScheme(choose(room, self.ring_degree, self.scale_bits, speaker or self.name))

    def session(self, opening: Opening) -> EncryptedSession:
        """See Protocol."""
        room = Room(self.bits, len(opening.clients))
        d = opening.length - 1 - opening.tallies
        hidden = chosen(self.select, self.fraction, d, opening.round, opening.seed, opening.model, opening.weights)
        return EncryptedSession(opening, self.scheme(room), room, hidden, self.min_clients)
