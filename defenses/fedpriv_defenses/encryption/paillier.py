"""Paillier: homomorphic encryption as users name it: fixed-point encoding, then a sum of Paillier ciphertexts."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from fedpriv.defense.protocol import Protocol
from fedpriv_defenses.encryption.paillier_sum import PaillierSum
from fedpriv_defenses.secure_sum.composite import SecureSum


class Paillier(SecureSum):
    """Homomorphic encryption for small models: as `ckks`, under Paillier's scheme.

    One word for two links of the line: `fixed_point`, which encodes a contribution as integers, and `paillier_sum`,
    which packs and sums these with python-paillier. Needs `fedpriv[encryption]`.

    Formal guarantee: that of `paillier_sum`. Contributions are computationally hidden from the server, and from the key
    holder, as long as the two do not pool; their sum is revealed. This is not differential privacy. The decoded sum is
    exactly the sum of the quantized contributions. A key holder that is gone ends the round with nothing revealed.
    """

    name: ClassVar[str] = "paillier"
    summed_by: ClassVar[type[Protocol]] = PaillierSum
    paper: ClassVar[str] = PaillierSum.paper
    adaptive_attack: ClassVar[str] = PaillierSum.adaptive_attack

    bits: Annotated[int, Field(ge=8, le=60)] = Field(default=32, description="b, from 8 to 60, of the integers.")
    key_bits: Annotated[int, Field(ge=2048, le=3072, multiple_of=1024)] = Field(
        default=2048, description="of the modulus, 2048 or 3072; a ciphertext takes twice as many."
    )
    min_clients: Annotated[int, Field(ge=1)] = Field(
        default=1, description="a round that fewer clients finish is aborted; the key holder sees to it."
    )
