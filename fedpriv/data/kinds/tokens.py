"""Tokens: sequences over a vocabulary."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
import pydantic
from pydantic import Field

from fedpriv.base.column import Column
from fedpriv.base.errors import DataError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Array, Examples
from fedpriv.data.kind import Kind
from fedpriv.data.kinds import text_quality
from fedpriv.data.tokenizer import Tokenizer, read


def _read(given: object) -> object:
    """A tokenizer's file where its path is given, as an `.npz` does."""
    return read(given) if isinstance(given, str) else given


class Tokens(Kind):
    """A sequence of `length` token numbers below `vocabulary`. A text that is right at every place, with nothing where
    the original is padding, counts as reconstructed. Numbers of tokens are names, so no attack that follows a gradient
    in them applies as it is.

    Attributes:
      length: places of a sequence.
      vocabulary: how many tokens there are.
      padding: the token that fills up sequences that are shorter; None where there is none.
      tokenizer: what the tokens stand for, or the path of its `tokenizer.json`; None where only numbers are known. It
        is public, as the vocabulary is.
    """

    name: ClassVar[str] = "tokens"
    noun: ClassVar[str] = "text"

    length: Annotated[int, Field(ge=1)]
    vocabulary: Annotated[int, Field(ge=2)]
    padding: Annotated[int, Field(ge=0)] | None = None
    tokenizer: Annotated[Tokenizer | None, pydantic.BeforeValidator(_read)] = None

    @pydantic.model_validator(mode="after")
    def _one_vocabulary(self) -> Tokens:
        if self.padding is not None and self.padding >= self.vocabulary:
            raise ValueError(f"padding={self.padding} is no token; expected one below vocabulary={self.vocabulary}")
        if self.tokenizer is not None and self.tokenizer.size != self.vocabulary:
            raise ValueError(
                f"vocabulary={self.vocabulary}, but tokenizer '{self.tokenizer.name}' has {self.tokenizer.size} tokens"
            )
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """`(length,)`."""
        return (self.length,)

    @property
    def dtype(self) -> str:
        """Integers."""
        return "int32"

    @property
    def columns(self) -> tuple[Column, ...]:
        """ROUGE, tokens right in place, edit distance, and tokens found anywhere in the batch."""
        return COLUMNS

    def checked(self, x: np.ndarray, where: str) -> np.ndarray:
        """int32 `[n, length]`.

        Raises:
          DataError: see `Kind.checked`.
        """
        if x.shape[1:] != self.shape or x.dtype.kind not in "iu":
            raise DataError(
                f"{where}: sequences have shape {x.shape[1:]} and dtype {x.dtype}; expected {self.length} integers each"
            )
        outside = ((x < 0) | (x >= self.vocabulary)).any(axis=1)
        if outside.any():
            first = int(np.argmax(outside))
            raise DataError(
                f"{where}: {int(outside.sum())} sequences have tokens out of range (the first is example {first}); "
                f"expected 0 to {self.vocabulary - 1}"
            )
        return np.ascontiguousarray(x.astype(np.int32))

    def project(self, x: Examples) -> Examples:
        """Clipped to the vocabulary's numbers."""
        return tf.clip_by_value(x, tf.cast(0, x.dtype), tf.cast(self.vocabulary - 1, x.dtype))

    def settle(self, x: np.ndarray) -> np.ndarray:
        """Rounded and clipped."""
        return np.clip(np.rint(x), 0, self.vocabulary - 1)

    def claimed(self, x: np.ndarray) -> np.ndarray:
        """Those with a token at any place: not a number is a place that nothing is claimed of."""
        known: np.ndarray = np.isfinite(np.asarray(x)).any(axis=1)
        return known

    def from_unit(self, u: Examples | Array) -> Examples | Array:
        """`u (vocabulary - 1)`."""
        return u * (self.vocabulary - 1)

    def to_unit(self, x: Examples | Array) -> Examples | Array:
        """`x / (vocabulary - 1)`."""
        return x / (self.vocabulary - 1)

    def costs(self, found: np.ndarray, true: np.ndarray) -> np.ndarray:
        """By ROUGE-L and ROUGE-1, `[n, m]`; see `text_quality.matching_costs`."""
        return text_quality.matching_costs(self.settle(found), np.asarray(true), self.padding)

    def score(self, original: np.ndarray, found: np.ndarray) -> dict[str, float | None]:
        """See `text_quality`; what is found anywhere is looked for in this one text."""
        ours, theirs = text_quality.held(original, self.padding), text_quality.held(found, self.padding)
        return {
            **text_quality.rouge(ours, theirs),
            "token_accuracy": text_quality.in_place(original, found, self.padding),
            "edit_distance": text_quality.edit_distance(ours, theirs),
            "bag_accuracy": text_quality.in_bag([ours], [theirs])[0],
            "set_accuracy": text_quality.in_set([ours], [theirs])[0],
        }

    def score_batch(self, originals: np.ndarray, found: np.ndarray) -> list[dict[str, float | None]]:
        """What is found anywhere in the batch: an attack on the embedding's rows knows no text from another."""
        ours, theirs = ([text_quality.held(x, self.padding) for x in texts] for texts in (originals, found))
        bags, sets = text_quality.in_bag(ours, theirs), text_quality.in_set(ours, theirs)
        return [{"bag_accuracy": bag, "set_accuracy": some} for bag, some in zip(bags, sets, strict=True)]

    def missing(self, original: np.ndarray) -> dict[str, float | None]:
        """0, and an edit distance of 1."""
        return {c.name: 1.0 if c.better == "lower" else 0.0 for c in COLUMNS}

    def success(self, score: dict[str, float | None], threshold: float) -> bool:
        """Whether every token is right, in its place, and there is no other."""
        return score["edit_distance"] == 0.0 and score["token_accuracy"] == 1.0

    def text(self, x: np.ndarray) -> str:
        """A sequence `[length]` in words, without padding; the token numbers where there is no tokenizer."""
        x = np.asarray(x, np.float64)
        numbers = self._numbers(x[np.isfinite(x)])
        return " ".join(map(str, numbers)) if self.tokenizer is None else self.tokenizer.decode(numbers)

    def tokens(self, x: np.ndarray) -> list[str]:
        """What stands at each place of a sequence `[length]`: its token as a text, or its number."""
        numbers = self._numbers(x)
        return [str(n) if self.tokenizer is None else self.tokenizer.entries[n] for n in numbers]

    def _numbers(self, x: np.ndarray) -> list[int]:
        return [int(n) for n in self.settle(np.asarray(x, np.float64))]

    def words(self, x: np.ndarray) -> list[str] | None:
        """Each place's token, "" for padding and places that nothing is claimed of; None for a text of these alone."""
        x = np.asarray(x, np.float64)
        there = np.isfinite(x)
        if not there.any():
            return None
        words = self.tokens(np.where(there, x, 0))
        return [word if known and t != self.padding else "" for t, word, known in zip(x, words, there, strict=True)]


COLUMNS = (
    Column(
        name="rouge_l",
        label="ROUGE-L",
        format=".3f",
        description="F-measure of the longest common subsequence of tokens (Lin 2004).",
    ),
    Column(name="rouge_1", label="ROUGE-1", format=".3f", description="F-measure of the tokens, in any order."),
    Column(name="rouge_2", label="ROUGE-2", format=".3f", description="F-measure of the pairs of adjacent tokens."),
    Column(
        name="token_accuracy",
        label="Tokens in place",
        format=".3f",
        description="Fraction of a text's places that have the right token; padding does not count.",
    ),
    Column(
        name="edit_distance",
        label="Edit distance",
        better="lower",
        format=".3f",
        description="Tokens to insert, delete or replace, over those of the longer text.",
    ),
    Column(
        name="bag_accuracy",
        label="Tokens anywhere",
        format=".3f",
        description="Fraction of a text's tokens that are anywhere in what was found for the batch, once each.",
    ),
    Column(
        name="set_accuracy",
        label="Token set",
        format=".3f",
        together=True,
        description="Fraction of a text's different tokens that are anywhere in what was found for the batch.",
    ),
)
