"""SecAgg and SecAggPlus: secure aggregation as users name it: fixed-point encoding, then masks between clients."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from fedpriv.defense.protocol import Protocol
from fedpriv_defenses.secure_sum.composite import SecureSum
from fedpriv_defenses.secure_sum.pairwise.protocols import NeighbourMasking, PairwiseMasking


class SecAgg(SecureSum):
    """Secure aggregation of Bonawitz et al. (2017): `fixed_point`, then `pairwise_masking`.

    Formal guarantee: that of `pairwise_masking`. Against the server and any t - 1 clients who follow the protocol, and
    with `active=true` against a server that does not, contributions are computationally hidden but for their sum. This
    is not differential privacy. The decoded sum is exactly the sum of the quantized contributions.
    """

    name: ClassVar[str] = "secagg"
    summed_by: ClassVar[type[Protocol]] = PairwiseMasking
    paper: ClassVar[str] = PairwiseMasking.paper
    adaptive_attack: ClassVar[str] = PairwiseMasking.adaptive_attack

    threshold: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="t as a share of the clients that advertise keys; None is just above 1/2 (2/3 with `active`).",
    )
    active: bool = Field(
        default=False, description="sign keys and survivors, against a server that does not follow the protocol."
    )
    min_clients: Annotated[int, Field(ge=1)] = Field(
        default=2, description="a round that fewer clients finish is aborted: a sum over one hides nothing."
    )
    encrypted: bool = Field(default=True, description="whether the channels to the server are private.")


class SecAggPlus(SecureSum):
    """SecAgg+ of Bell et al. (2020): `fixed_point`, then `neighbour_masking`; cheaper than `secagg` in large cohorts.

    Formal guarantee: that of `neighbour_masking`. Against the server and a share `corrupted` of the clients who follow
    the protocol, contributions are computationally hidden but for their sum, except with probability
    2^-security_bits. This is not differential privacy.
    """

    name: ClassVar[str] = "secagg_plus"
    summed_by: ClassVar[type[Protocol]] = NeighbourMasking
    paper: ClassVar[str] = NeighbourMasking.paper
    adaptive_attack: ClassVar[str] = NeighbourMasking.adaptive_attack

    corrupted: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1, description="largest share of the clients that may work with the server."
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1, description="largest share of the clients that may go in a round."
    )
    security_bits: Annotated[float, Field(gt=0, le=128)] = Field(
        default=40.0, description="more than the sum is revealed with probability at most 2^-this."
    )
    correctness_bits: Annotated[float, Field(gt=0, le=128)] = Field(
        default=20.0, description="a round cannot be finished with probability at most 2^-this."
    )
    neighbours: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="k, even, instead of the fewest that suffice; the probabilities then follow."
    )
    threshold: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="t, of the k neighbours and the client itself; given together with `neighbours`."
    )
    min_clients: Annotated[int, Field(ge=1)] = Field(
        default=2, description="a round that fewer clients finish is aborted: a sum over one hides nothing."
    )
    encrypted: bool = Field(default=True, description="whether the channels to the server are private.")
