"""MaskCode: a mask as n pieces of which any U determine it, while any T tell nothing of it.

The code of LightSecAgg (So et al., 2022, arXiv 2109.14236): a mask is cut into U - T parts, T uniform parts are put
after them, and piece j is the value at x = j of the polynomial of degree U - 1 that goes through all U parts, at
points that no piece has. It is linear, so that the sums of pieces are the pieces of the sum of the masks.

Any T pieces are uniform whatever the mask: the block of the encoder that meets the T uniform parts, for any T pieces,
is a Cauchy matrix with its rows and columns scaled, which has an inverse. Any U pieces lie on one polynomial only.
m pieces with T < m < U determine m - T linear combinations of the mask's parts, and no more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedpriv_defenses.secure_sum.decoding import suspects
from fedpriv_defenses.secure_sum.field import PrimeField
from fedpriv_defenses.secure_sum.shamir import lagrange


class MaskCode:
    """A code for masks of `length` elements.

    Args:
      field: where it happens.
      length: d, elements of a mask.
      pieces: n, how many pieces there are; they have the numbers 0 to n - 1.
      private: T, pieces that tell nothing.
      enough: U, pieces that determine a mask; more than T, at most n.

    Attributes:
      parts: U - T, parts that a mask is cut into.
      width: elements of a part and of a piece, ceil(d / (U - T)).
      encoder: `[n, U]`: what each piece takes of the parts, and of the T uniform ones after them.
    """

    def __init__(self, field: PrimeField, length: int, pieces: int, private: int, enough: int) -> None:
        if not 0 <= private < enough <= pieces:
            raise ValueError(
                f"private={private}, enough={enough}, pieces={pieces}; give 0 <= private < enough <= pieces"
            )
        self.field, self.length = field, length
        self.pieces, self.private, self.enough = pieces, private, enough
        self.parts = enough - private
        self.width = -(-length // self.parts)
        self._at = range(1, pieces + 1)
        self._of_parts = range(pieces + 1, pieces + enough + 1)
        self.encoder = lagrange(field, self._of_parts, self._at)

    @property
    def padded(self) -> int:
        """Elements of a mask with what fills up its last part."""
        return self.parts * self.width

    def encode(self, mask: np.ndarray) -> np.ndarray:
        """The pieces `[n, width]` of a mask `[length]`, with fresh uniform parts; zeros fill up its last part."""
        rows = np.zeros((self.enough, self.width), np.uint64)
        rows.reshape(-1)[: self.length] = mask
        rows[self.parts :] = self.field.uniform(self.private, self.width)
        return self.field.matmul(self.encoder, rows)

    def decode(self, numbers: Sequence[int], pieces: np.ndarray) -> np.ndarray | None:
        """The mask `[length]` behind pieces `[m, width]` with these numbers; None if they contradict each other.

        The first U determine it; every further one must lie on the same polynomials.

        Raises:
          ValueError: fewer than U.
        """
        if len(numbers) < self.enough:
            raise ValueError(f"{len(numbers)} pieces do not determine a mask that takes {self.enough}")
        parts, fits = self._extended(numbers, pieces)
        return parts.reshape(-1)[: self.length] if fits.all() else None

    def odd_one(self, numbers: Sequence[int], pieces: np.ndarray) -> int | None:
        """The number of the false piece if one alone is; None if none, or more than one must be, or it cannot be told.

        It takes two more than U to tell. m - U false pieces or more, of m, can be chosen to throw it on another.
        """
        wrong = np.flatnonzero(~self._extended(numbers, pieces)[1])[:16]  # columns where something does not fit
        if len(numbers) < self.enough + 2 or not len(wrong):
            return None
        for i, number in enumerate(numbers):
            others = [n for n in numbers if n != number]
            if self._extended(others, np.delete(pieces[:, wrong], i, axis=0))[1].all():
                return number
        return None

    def consistent(self, numbers: Sequence[int], pieces: np.ndarray) -> list[int] | None:
        """Places of pieces that fit each other, the false ones not among them if of m at most (m - U) // 2 are.

        None where too many are false to tell, or there is but one piece more than U.
        """
        if len(numbers) < self.enough + 2:
            return None
        # All columns at once, by a random combination: what is false in one stays so but once in p times.
        mixed = self.field.matmul(pieces, self.field.uniform(self.width, 1))[:, 0]
        may = set(suspects([self._at[i] for i in numbers], mixed.tolist(), self.enough, self.field.p))
        kept = [i for i in range(len(numbers)) if i not in may]
        fit = len(kept) > self.enough and self._extended([numbers[i] for i in kept], pieces[kept])[1].all()
        return kept if fit else None

    def combinations(self, numbers: Sequence[int], pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What m pieces with these numbers tell of the mask, where they are more than T.

        Returns:
          (weights `[m - T, U - T]`, values `[m - T, width]`): the mask's parts, weighted so, add up to these values.
        """
        t, field = self.private, self.field
        known, rest = list(numbers[:t]), list(numbers[t:])
        weights = self.encoder[rest, : self.parts]
        values = pieces[t:]
        if t and rest:
            # The uniform parts' share of a piece is r(x) w(x), where r has degree T - 1 and w vanishes where the
            # mask's parts lie; T pieces determine r, and the others lose their uniform part by what it says.
            vanishing = self._vanishing()
            at = np.asarray(self._at, np.uint64)
            told = lagrange(field, [int(at[i]) for i in known], [int(at[i]) for i in rest])
            told = field.multiply(told, field.inverse(vanishing[known])[None])
            told = field.multiply(told, vanishing[rest][:, None])
            weights = field.subtract(weights, field.matmul(told, self.encoder[known, : self.parts]))
            values = field.subtract(values, field.matmul(told, pieces[:t]))
        return weights, values

    def _vanishing(self) -> np.ndarray:
        """The polynomial that is 0 where the mask's parts lie, at each piece's point."""
        zeros, at = np.asarray(self._of_parts[: self.parts], np.uint64), np.asarray(self._at, np.uint64)
        return self.field.product(self.field.subtract(at[None, :], zeros[:, None]))

    def _extended(self, numbers: Sequence[int], pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The parts that the first U pieces say, and the columns in which the others fit them."""
        known, rest = numbers[: self.enough], numbers[self.enough :]
        wanted = [*self._of_parts[: self.parts], *(self._at[i] for i in rest)]
        weights = lagrange(self.field, [self._at[i] for i in known], wanted)
        found = self.field.matmul(weights, pieces[: self.enough])
        return found[: self.parts], (found[self.parts :] == pieces[self.enough :]).all(0)
