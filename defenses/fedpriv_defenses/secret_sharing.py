"""SecretSharing: secure aggregation as users name it: fixed-point encoding, then additive sharing."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from fedpriv.defense.stations import Defense, Plan
from fedpriv_defenses.additive_sharing import AdditiveSharing
from fedpriv_defenses.fixed_point import FixedPoint


class SecretSharing(Defense):
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
    replayable: ClassVar[bool] = False
    adaptive_attack: ClassVar[str] = AdditiveSharing.adaptive_attack

    aggregators: Annotated[int, Field(ge=2, le=64)] = Field(
        default=2, description="k, from 2 to 64, of which one must be honest."
    )
    bits: Annotated[int, Field(ge=8, le=64)] = Field(
        default=32, description="b, from 8 to 64; an element takes ceil(b / 8) bytes on the wire."
    )
    range: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=16.0,
        description=(
            "largest absolute coordinate of a contribution (the update times the client's weight, which is at most "
            "1). Clip the update first to be sure of it: an L2 clip of C allows range = C."
        ),
    )
    resolution: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description=(
            "step between two values, in update units; None takes the finest power of two that fits the largest cohort."
        ),
    )
    compressed: bool = Field(default=True, description="send 32-byte keys in place of the k - 1 pseudo-random shares.")
    min_clients: Annotated[int, Field(ge=1)] = Field(
        default=1, description="a round that fewer clients finish is aborted."
    )
    encrypted: bool = Field(default=True, description="whether channels are private.")

    def parts(self) -> tuple[FixedPoint, AdditiveSharing]:
        """The two links that this stands for, in order."""
        return (
            FixedPoint(bits=self.bits, range=self.range, resolution=self.resolution),
            AdditiveSharing(
                aggregators=self.aggregators,
                bits=self.bits,
                compressed=self.compressed,
                min_clients=self.min_clients,
                encrypted=self.encrypted,
            ),
        )

    def check(self, plan: Plan) -> None:
        """Checks both parts, in this defense's name.

        Raises:
          ParameterError: the largest cohort's sum could wrap.
          StackError: no cohort is large enough.
        """
        codec, protocol = self.parts()
        protocol.check_cohort(plan, self.name)
        codec.steps(plan, self.name)

    def replay(self) -> Defense | None:
        """Nothing to replay; see the parts."""
        return None
