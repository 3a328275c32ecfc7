"""CkksParameters: ring degree, moduli and scale with which a sum of integers under CKKS is exact.

CKKS (Cheon, Kim, Kim, Song, 2017, ePrint 2016/421) is approximate: a decrypted slot is the value times the scale,
plus noise. Here values are integers, and the noise is bounded so far below one half that rounding always gives the
very sum. Rounding also takes the noise away from whoever is told the sum: it is through a decryption's noise that Li
and Micciancio (2021, ePrint 2020/1533) recover keys of approximate schemes.

The bound, for N the ring degree, m clients, scale D: SEAL encrypts under the full modulus and divides by the last
prime p. In each of N coefficients one ciphertext is off by at most

- 1/2 for rounding the encoded plaintext,
- (1 + N) / 2 for rounding both of its polynomials after that division, since the secret key is ternary,
- 21 (1 + 2N) / p for what encryption adds, whose errors SEAL bounds by 21, under ternary keys and randomness.

A slot is a sum of N coefficients times roots of unity, so it is off by at most N times the sum of these, over D. To
that comes what float64 does in the two transforms: each has an error of at most e = 8 log2(N) 2^-53 relative to the
length of its vector (Higham, 2002, Accuracy and Stability of Numerical Algorithms, theorem 24.2, where the constant is
below 8), which is at most sqrt(N) e max|value| in one slot; the values of all clients together are below 2^(b-1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator

from fedpriv.base.errors import ParameterError
from fedpriv_defenses.encryption.scheme import Room

#: Bits of the primes by ring degree, the last one for encryption alone, smallest ciphertexts first. The sums are within
#: what the homomorphic encryption standard (Albrecht et al. 2018) allows for 128 bits of security and ternary keys:
#: 109, 218 and 438 bits. SEAL refuses more.
MODULI: dict[int, tuple[tuple[int, ...], ...]] = {
    4096: ((54, 55), (36, 36, 37)),
    8192: ((60, 60, 60),),
    16384: ((60, 60, 60),),
}


def _known(degree: int) -> int:
    if degree not in MODULI:
        raise ValueError(f"the ring degree is one of {', '.join(map(str, MODULI))}")
    return degree


RingDegree = Annotated[int, AfterValidator(_known)]
#: Largest error of a slot in a sum that is still allowed; rounding would bear anything below 1/2.
ALLOWED = 0.25


@dataclass(frozen=True)
class CkksParameters:
    """Settings under which sums are exact; made by `choose`.

    Attributes:
      degree: N.
      moduli: bits of the primes, the last one for encryption alone.
      scale_bits: log2 of D.
      room: of the integers.
    """

    degree: int
    moduli: tuple[int, ...]
    scale_bits: int
    room: Room

    @property
    def slots(self) -> int:
        """Integers a ciphertext holds."""
        return self.degree // 2

    @property
    def scale(self) -> float:
        """D."""
        return 2.0**self.scale_bits

    @property
    def modulus_bits(self) -> int:
        """What log2 of a ciphertext's modulus is at least: a prime of k bits is above 2^(k-1)."""
        return sum(bits - 1 for bits in self.moduli[:-1])

    @property
    def error(self) -> float:
        """The largest error of a slot in a sum over `room.clients`, in units of an integer."""
        n = self.degree
        coefficient = 1 / 2 + (1 + n) / 2 + 21 * (1 + 2 * n) / 2.0 ** (self.moduli[-1] - 1)
        noise = max(self.room.clients, 1) * n * coefficient / self.scale
        transform = math.sqrt(n) * 8 * math.log2(n) * 2.0**-53
        return noise + 2 * transform * 2.0 ** (self.room.bits - 1)

    @property
    def fits(self) -> bool:
        """Whether the largest sum, scaled, stays within half the modulus."""
        return self.room.bits - 1 + self.scale_bits < self.modulus_bits - 1


def choose(
    room: Room, degree: int | None = None, scale_bits: int | None = None, speaker: str = "ckks_sum"
) -> CkksParameters:
    """The parameters with the smallest ciphertexts whose sums are exact.

    Args:
      room: of the integers.
      degree: N; None takes the smallest that will do.
      scale_bits: log2 of the scale; None takes the largest that fits, which gives the smallest error.
      speaker: in whose name to complain.

    Raises:
      ParameterError: none are; says which bits would do.
    """
    found = _exact(room, degree, scale_bits)
    if found is not None:
        return found
    within = [b for b in range(8, room.bits) if _exact(Room(b, room.clients), degree, scale_bits)]
    given = [f"bits={room.bits}"]
    given += [f"ring_degree={degree}"] if degree is not None else []
    given += [f"scale_bits={scale_bits}"] if scale_bits is not None else []
    out = [f"bits <= {max(within)}"] if within else []
    out += ["scale_bits=none"] if scale_bits is not None else []
    out += ["ring_degree=none"] if degree is not None else []
    raise ParameterError(
        f"{speaker}: with {', '.join(given)} a sum over {room.clients} clients would not be exact; use "
        f"{', or '.join(out or ['smaller cohorts'])}"
    )


def _exact(room: Room, degree: int | None, scale_bits: int | None) -> CkksParameters | None:
    for n in MODULI if degree is None else (degree,):
        for moduli in MODULI[n]:
            largest = CkksParameters(n, moduli, 0, room).modulus_bits - room.bits - 1
            made = CkksParameters(n, moduli, largest if scale_bits is None else scale_bits, room)
            if made.scale_bits > 0 and made.fits and made.error <= ALLOWED:
                return made
    return None
