"""Mixture: what a defense that trains on mixtures of examples makes of a batch; public, for attacks that undo it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """How each row of a batch is mixed.

    Attributes:
      images: how many images a row is made of, k.
      public: how many of them are from public data, which give the row's label nothing.
      data: which public data, a dataset's name or path.
      pool: how many of its images are drawn from, from the first on.
      largest: the largest coefficient that an image can have.
      flips: whether each value's sign about `middle` is drawn anew.
      middle: what signs are about, in the units of examples.
    """

    images: int
    public: int = 0
    data: str | None = None
    pool: int = 0
    largest: float = 1.0
    flips: bool = False
    middle: float = 0.5

    @property
    def private(self) -> int:
        """How many of them are the client's own."""
        return self.images - self.public
