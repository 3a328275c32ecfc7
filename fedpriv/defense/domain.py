"""Domains: what kind of thing a client's contribution is at a point of the line, and what is known of it.

A bound travels with the value: whoever changes a value says what it makes of the bound (`Defense.maps`), and whoever
does not say so loses it. Sensitivity, and what fits where, follow from the domain that arrives.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from fedpriv.base.errors import ParameterError


@dataclass(frozen=True)
class Domain:
    """Base of the domains a contribution can be in."""

    def accepts(self, given: Domain) -> bool:
        """Whether a `given` value may go where this domain is taken; fields that are None take any."""
        if type(given) is not type(self):
            return False
        fields = [(getattr(self, f.name), getattr(given, f.name)) for f in dataclasses.fields(self)]
        return all(taken is None or taken == value for taken, value in fields)


@dataclass(frozen=True)
class Real(Domain):
    """A float vector `real[d]`.

    Attributes:
      l2: bound on one client's L2 norm, in update units; None where none is known.
    """

    l2: float | None = None

    def __post_init__(self) -> None:
        _checked("l2", self.l2)

    def __str__(self) -> str:
        return "real[d]" if self.l2 is None else f"real[d] of norm at most {self.l2:.6g}"

    def accepts(self, given: Domain) -> bool:
        """As for every domain; a bound that is taken is one that the given value must keep."""
        if not isinstance(given, Real):
            return False
        return self.l2 is None or (given.l2 is not None and given.l2 <= self.l2)


@dataclass(frozen=True)
class Integers(Domain):
    """Integers `[d]` before any modulus, in steps of whatever encoded them.

    Attributes:
      l2, linf: bounds on one client's L2 norm and largest absolute element; None where none is known.
    """

    l2: float | None = None
    linf: float | None = None

    def __post_init__(self) -> None:
        _checked("l2", self.l2)
        _checked("linf", self.linf)

    def __str__(self) -> str:
        return "integers[d]"

    def accepts(self, given: Domain) -> bool:
        """As for every domain; bounds that are taken are ones that the given value must keep."""
        if not isinstance(given, Integers):
            return False
        pairs = ((self.l2, given.l2), (self.linf, given.linf))
        return all(taken is None or (has is not None and has <= taken) for taken, has in pairs)


@dataclass(frozen=True)
class Ring(Domain):
    """Integers modulo 2^bits `[d]`: sums wrap, so no norm, no clipping, no real-valued noise."""

    modulus_bits: int | None = None

    def __str__(self) -> str:
        return f"integers mod {'m' if self.modulus_bits is None else f'2^{self.modulus_bits}'}[d]"


@dataclass(frozen=True)
class Opaque(Domain):
    """Ciphertext: only its scheme's own operations apply."""

    scheme: str | None = "ciphertext"

    def __str__(self) -> str:
        return f"opaque {self.scheme or 'value'}"


def _checked(name: str, bound: float | None) -> None:
    if bound is not None and not (bound >= 0 and not math.isnan(bound)):
        raise ParameterError(f"a bound {name}={bound} is no norm; give 0 or more, or None where none is known")
