"""DistributedDP: differential privacy against the server, by noise that clients share and a secure sum."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from fedpriv.base.errors import StackError
from fedpriv.defense.domain import Domain
from fedpriv.defense.protocol import Protocol
from fedpriv.defense.stations import Defense, Plan
from fedpriv_defenses.clip import Clip, Norm
from fedpriv_defenses.distributed.discrete_noise import DiscreteNoise
from fedpriv_defenses.distributed.sampler import Mechanism


class DistributedDP(Defense):
    """Distributed differential privacy: each client adds a share of discrete noise, and only a secure sum is seen.

    Each client clips its update to `clip`, spreads it over its coordinates by a random rotation that everybody knows,
    scales it to integers, rounds it at random without making it longer than a bound, adds its share of the noise, and
    takes the result modulo 2^bits. The secure sum behind it (`secret_sharing`, `secagg`, `secagg_plus`,
    `light_secagg`, `ckks`, `paillier`), which then leaves out its own fixed-point encoding, adds these up; the server
    scales and rotates the sum back and divides it by the number of clients in it. Noise: the distributed discrete
    Gaussian of Kairouz, Liu, Steinke, 2021, arXiv 2102.06387, or Skellam's of Agarwal, Kairouz, Liu, 2021, arXiv
    2110.04995, whose sum is Skellam's again. The noise is drawn in integer arithmetic (module `sampler`), so that it
    has none of the artefacts of floating-point noise.

    Formal guarantee, client level, against a server that follows the protocol, and so against whoever sees released
    models: the sum of the integers has a bounded Renyi divergence between neighbours, for one client's update replaced
    by another (`replace_one`) and for one replaced by zeros, the client still adding its noise (`replace_special`). No
    update, however large, moves the sum by more than the stated bound. Sampling does not amplify it against the server,
    which sees who takes part; against whoever sees released models alone it does where cohorts have a fixed size.
    Uniform weighting is required.

    Drop-out: every client's share is sized for the fewest clients that a finished round can hold, less `colluding`,
    which the protocol's `min_clients` says; rounds of fewer are aborted. That a round was aborted tells how many
    clients there were and nothing of their examples.

    Log: at the client `norm` and `clipped` as for Clip, `attempts` at rounding; at the server `outer_quarter`, the
    share of the sum's coordinates near the modulus.
    """

    name: ClassVar[str] = "distributed_dp"
    paper: ClassVar[str] = DiscreteNoise.paper
    replayable: ClassVar[bool] = False
    adaptive_attack: ClassVar[str] = "maximum_posterior"

    clip: Norm = Field(description="L2 norm bound of one update, in update units.")
    noise_multiplier: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description=(
            "standard deviation of the noise on the sum over `clip`, where as few clients finish a round as may; none "
            "leaves it to a budget."
        ),
    )
    mechanism: Mechanism = Field(default="skellam", description="`discrete_gaussian` or `skellam`.")
    bits: Annotated[int, Field(ge=8, le=60)] | None = Field(
        default=16,
        description=(
            "b, from 8 to 60, of the integers mod 2^b; none takes the fewest, up to 32, with which rounding costs less "
            "than 1%."
        ),
    )
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description=(
            "integers that one update unit is; none takes the largest with which `sigmas` standard deviations of a "
            "coordinate of the sum stay within the modulus, and one client's noise is at most 4096 integers wide."
        ),
    )
    sigmas: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=4.0, description="k: standard deviations of a coordinate of the sum that the modulus leaves room for."
    )
    beta: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.6065306597126334,
        description="how likely an attempt at rounding may fail; exp(-1/2). Smaller ones lengthen updates more.",
    )
    colluding: Annotated[int, Field(ge=0)] = Field(
        default=0, description="clients that may work with the server, so that their noise does not count."
    )
    rotation_seed: int = Field(default=0, description="of the random rotation; everybody may know it.")

    def parts(self) -> tuple[Clip, DiscreteNoise]:
        """The clip, which tells people what it clips, and the codec, which clips again in higher precision."""
        return Clip(norm=self.clip), DiscreteNoise(**dict(self))

    def fitted(self, part: Defense, given: Domain, plan: Plan, protocol: Protocol | None) -> Defense:
        """The codec, knowing the protocol behind it.

        Raises:
          StackError: there is none, or it hides only some of a contribution.
        """
        if not isinstance(part, DiscreteNoise) or protocol is None:
            return part
        if not protocol.hides_everything:
            raise StackError(
                f"{self.name} needs a secure sum that hides the whole contribution, and {protocol.name} sends a part "
                "of it in the clear; use fraction=1"
            )
        return part.with_(
            least_clients=protocol.least_clients, reveals_integers=protocol.reveals_integers, wraps=protocol.wraps
        )

    def replay(self) -> Defense:
        """The clip alone."""
        return Clip(norm=self.clip)
