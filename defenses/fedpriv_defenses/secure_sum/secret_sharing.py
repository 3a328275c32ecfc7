"""SecretSharing: secure aggregation as users name it: fixed-point encoding, then additive or Shamir's sharing."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from fedpriv_defenses.secure_sum.additive_sharing import AdditiveSharing
from fedpriv_defenses.secure_sum.composite import SecureSum
from fedpriv_defenses.secure_sum.shamir_sharing import ShamirSharing
from fedpriv_defenses.secure_sum.shared_sum import Among, SharedSum


class SecretSharing(SecureSum):
    """Secure aggregation: each client splits its update among holders of shares, who see only sums together.

    One word for two links of the line: `fixed_point`, which encodes a contribution as integers modulo 2^b, and a
    protocol that sums these: `additive_sharing`, where all holders are needed, or with a `threshold` t
    `shamir_sharing`, where any t suffice. The holders are k aggregators from outside, all clients of the round, or a
    committee of them. The former is the summing part of Prio (Corrigan-Gibbs, Boneh, 2017, arXiv 1703.06255), without
    its proofs that inputs are well-formed; the latter is Shamir's (1979).

    Formal guarantee: that of `additive_sharing` or `shamir_sharing`. Against any k - 1 holders (any t - 1) who follow
    the protocol, with the server or without, the contributions are computationally hidden; their sum is revealed. This
    is not differential privacy. The decoded sum is exactly the sum of the quantized contributions, each coordinate of
    each off by at most half a step (a step with `rounding=stochastic`). Overflow cannot pass unseen: the largest
    cohort's largest sum is checked to fit when the federation is made, the cohort when a round is opened, and each
    contribution when it is encoded.
    """

    name: ClassVar[str] = "secret_sharing"
    paper: ClassVar[str] = AdditiveSharing.paper
    adaptive_attack: ClassVar[str] = AdditiveSharing.adaptive_attack

    aggregators: Annotated[int, Field(ge=2, le=64)] = Field(
        default=2, description="k, from 2 to 64, of which one must be honest; with among=aggregators."
    )
    among: Among = Field(
        default="aggregators",
        description=(
            "who holds shares: `aggregators`, k parties from outside; `clients`, all of the round, each of all others; "
            "`committee`, some of them, drawn anew in each round."
        ),
    )
    committee: Annotated[int, Field(ge=2, le=64)] | None = Field(
        default=None, description="m, from 2 to 64, clients in the committee; with among=committee, and only then."
    )
    threshold: Annotated[int, Field(ge=2)] | None = Field(
        default=None,
        description=(
            "t: Shamir's sharing, where t holders determine the sum and could open every contribution; none is "
            "additive sharing, where all are needed for either."
        ),
    )
    compressed: bool = Field(default=True, description="send 32-byte keys in place of the pseudo-random shares.")
    min_clients: Annotated[int, Field(ge=1)] = Field(
        default=1, description="a round that fewer clients finish is aborted."
    )
    encrypted: bool = Field(default=True, description="whether channels are private.")

    def protocol(self) -> SharedSum:
        """The second part."""
        shared = {name: getattr(self, name) for name in SharedSum.model_fields}
        return (
            AdditiveSharing(**shared) if self.threshold is None else ShamirSharing(**shared, threshold=self.threshold)
        )
