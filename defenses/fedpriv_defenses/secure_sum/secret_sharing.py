"""SecretSharing: secure aggregation as users name it: fixed-point encoding, then additive sharing."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from fedpriv_defenses.secure_sum.additive_sharing import AdditiveSharing
from fedpriv_defenses.secure_sum.composite import SecureSum


class SecretSharing(SecureSum):
    """Secure aggregation: each client splits its update among k aggregators, who see only sums together.

    One word for two links of the line: `fixed_point`, which encodes a contribution as integers modulo 2^b, and
    `additive_sharing`, which sums these. The protocol is the summing part of Prio (Corrigan-Gibbs, Boneh, 2017,
    arXiv 1703.06255), without its proofs that inputs are well-formed.

    Formal guarantee: that of `additive_sharing`. Against any k - 1 aggregators who follow the protocol, with the
    server or without, the contributions are computationally hidden; their sum is revealed. This is not differential
    privacy. The decoded sum is exactly the sum of the quantized contributions, each coordinate of each off by at most
    half a step. Overflow cannot pass unseen: the largest cohort's largest sum is checked to fit when the federation is
    made, the cohort when a round is opened, and each contribution when it is encoded.
    """

    name: ClassVar[str] = "secret_sharing"
    paper: ClassVar[str] = AdditiveSharing.paper
    adaptive_attack: ClassVar[str] = AdditiveSharing.adaptive_attack

    aggregators: Annotated[int, Field(ge=2, le=64)] = Field(
        default=2, description="k, from 2 to 64, of which one must be honest."
    )
    compressed: bool = Field(default=True, description="send 32-byte keys in place of the k - 1 pseudo-random shares.")
    min_clients: Annotated[int, Field(ge=1)] = Field(
        default=1, description="a round that fewer clients finish is aborted."
    )
    encrypted: bool = Field(default=True, description="whether channels are private.")

    def protocol(self) -> AdditiveSharing:
        """The second part."""
        return AdditiveSharing(
            aggregators=self.aggregators,
            bits=self.bits,
            compressed=self.compressed,
            min_clients=self.min_clients,
            encrypted=self.encrypted,
        )
