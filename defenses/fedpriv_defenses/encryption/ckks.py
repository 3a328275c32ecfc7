"""Ckks: homomorphic encryption as users name it: fixed-point encoding, then a sum of CKKS ciphertexts."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from fedpriv.defense.protocol import Protocol
from fedpriv_defenses.encryption.ckks_parameters import RingDegree
from fedpriv_defenses.encryption.ckks_sum import CkksSum
from fedpriv_defenses.encryption.selection import Select
from fedpriv_defenses.secure_sum.composite import SecureSum


class Ckks(SecureSum):
    """Homomorphic encryption: clients encrypt their updates, the server adds them, a key holder decrypts the sum.

    One word for two links of the line: `fixed_point`, which encodes a contribution as integers, and `ckks_sum`, which
    sums these under CKKS with TenSEAL (Benaissa et al. 2021, arXiv 2104.03152). Needs `fedpriv[encryption]`. With
    `fraction` below 1 it encrypts the most sensitive coordinates alone, as FedML-HE does (Jin et al. 2023, arXiv
    2303.10837).

    Formal guarantee: that of `ckks_sum`. What is encrypted is computationally hidden from the server, and from the key
    holder, as long as the two do not pool; their sum is revealed; what is not encrypted the server sees, of every
    client. This is not differential privacy. The decoded sum is exactly the sum of the quantized contributions, each
    coordinate of each off by at most half a step (a step with `rounding=stochastic`). A key holder that is gone ends
    the round with nothing revealed.
    """

    name: ClassVar[str] = "ckks"
    summed_by: ClassVar[type[Protocol]] = CkksSum
    paper: ClassVar[str] = CkksSum.paper
    adaptive_attack: ClassVar[str] = CkksSum.adaptive_attack

    bits: Annotated[int, Field(ge=8, le=36)] = Field(default=32, description="b, from 8 to 36, of the integers.")
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
    min_clients: Annotated[int, Field(ge=1)] = Field(
        default=1, description="a round that fewer clients finish is aborted; the key holder sees to it."
    )
    ring_degree: RingDegree | None = Field(
        default=None,
        description="N: 4096, 8192 or 16384; a ciphertext has N / 2 slots. None takes the smallest with exact sums.",
    )
    scale_bits: Annotated[int, Field(ge=1, le=100)] | None = Field(
        default=None,
        description="log2 of the scale; None takes the largest that fits. One with inexact sums is refused.",
    )
