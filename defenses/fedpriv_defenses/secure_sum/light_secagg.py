"""LightSecAgg: secure aggregation as users name it: fixed-point encoding, then masks that are recovered at once."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from fedpriv.defense.protocol import Protocol
from fedpriv_defenses.secure_sum.coded_masking import CodedMasking, CountOrShare
from fedpriv_defenses.secure_sum.composite import SecureSum


class LightSecAgg(SecureSum):
    """Secure aggregation by one server that tolerates drop-outs at the price of one decoding, however many go.

    One word for two links of the line: `fixed_point`, which encodes a contribution as integers modulo 2^b, and
    `coded_masking`, which sums these. So, Nolet, Yang, Li, Yu, Ali, Guler, Avestimehr, 2022, arXiv 2109.14236.

    Formal guarantee: that of `coded_masking`. Against the server and any T clients who follow the protocol and pool
    what they saw, the other contributions are computationally hidden; their sum is revealed. This is not differential
    privacy. At least U clients must stay to the end, or the round is aborted. The decoded sum is exactly the sum of
    the quantized contributions, each coordinate of each off by at most half a step (a step with
    `rounding=stochastic`).
    """

    name: ClassVar[str] = "light_secagg"
    summed_by: ClassVar[type[Protocol]] = CodedMasking
    paper: ClassVar[str] = CodedMasking.paper
    adaptive_attack: ClassVar[str] = CodedMasking.adaptive_attack

    bits: Annotated[int, Field(ge=8, le=64)] = Field(
        default=32,
        description=(
            "b, from 8 to 60, less in large cohorts. An element takes 4 bytes on the wire if cohort * 2^(b - 1) < "
            "2^30, as for 100 clients and 24 bits, else 8."
        ),
    )
    colluders: CountOrShare = Field(
        default=0.5,
        description=(
            "T, clients that may pool what they see with the server and learn nothing but the sum: a count, or below 1 "
            "a share of the round's clients, rounded down."
        ),
    )
    dropouts: CountOrShare = Field(
        default=0.3,
        description=(
            "clients that may be gone before the end: a count, or below 1 a share of the round's clients, rounded down."
        ),
    )
    min_clients: Annotated[int, Field(ge=1)] = Field(
        default=1, description="a round that fewer clients finish is aborted."
    )
    encrypted: bool = Field(default=True, description="whether channels to the server are private.")
