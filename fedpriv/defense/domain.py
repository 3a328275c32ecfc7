"""Domains: what kind of thing an update is at a point of the line (real vector, ring elements, opaque)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Domain:
    """Base of the domains an update can be in."""


@dataclass(frozen=True)
class Real(Domain):
    """A float vector `real[d]`."""

    def __str__(self) -> str:
        return "real[d]"


@dataclass(frozen=True)
class Ring(Domain):
    """Integers modulo m `[d]`: sums wrap, so no norm, no clipping, no real-valued noise."""

    modulus_bits: int | None = None

    def __str__(self) -> str:
        return f"integers mod {'m' if self.modulus_bits is None else f'2^{self.modulus_bits}'}[d]"


@dataclass(frozen=True)
class Opaque(Domain):
    """Ciphertext: only its scheme's own operations apply."""

    scheme: str = "ciphertext"

    def __str__(self) -> str:
        return f"opaque {self.scheme}"
