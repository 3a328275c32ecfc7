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
from fedpriv.data.tokenizer import Tokenizer


class Tokens(Kind):
    """A sequence of `length` token numbers below `vocabulary`. A sequence that is right at every place counts as
    reconstructed. Numbers of tokens are names, so no attack that follows a gradient in them applies as it is.

    Attributes:
      length: places of a sequence.
      vocabulary: how many tokens there are.
      padding: the token that fills up sequences that are shorter; None where there is none.
      tokenizer: what the tokens stand for; None where only numbers are known. It is public, as the vocabulary is.
    """

    name: ClassVar[str] = "tokens"
    noun: ClassVar[str] = "sequence"

    length: Annotated[int, Field(ge=1)]
    vocabulary: Annotated[int, Field(ge=2)]
    padding: Annotated[int, Field(ge=0)] | None = None
    tokenizer: Tokenizer | None = None

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
        """The fraction of tokens found."""
        return (
            Column(
                name="token_accuracy",
                label="Tokens right",
                format=".3f",
                description="Fraction of a sequence's places that have the right token.",
            ),
        )

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

    def from_unit(self, u: Examples | Array) -> Examples | Array:
        """`u (vocabulary - 1)`."""
        return u * (self.vocabulary - 1)

    def to_unit(self, x: Examples | Array) -> Examples | Array:
        """`x / (vocabulary - 1)`."""
        return x / (self.vocabulary - 1)

    def costs(self, found: np.ndarray, true: np.ndarray) -> np.ndarray:
        """Fractions of places that differ, `[n, m]`."""
        return (self.settle(found)[None] != np.asarray(true)[:, None]).mean(axis=2)

    def score(self, original: np.ndarray, found: np.ndarray) -> dict[str, float | None]:
        """The fraction of places that are right."""
        return {"token_accuracy": float(np.mean(np.asarray(original) == np.asarray(found)))}

    def missing(self, original: np.ndarray) -> dict[str, float | None]:
        """0."""
        return {"token_accuracy": 0.0}

    def success(self, score: dict[str, float | None], threshold: float) -> bool:
        """Whether every token is right."""
        return score["token_accuracy"] == 1.0

    def text(self, x: np.ndarray) -> str:
        """A sequence `[length]` in words, without padding; the token numbers where there is no tokenizer."""
        numbers = self._numbers(x)
        return " ".join(map(str, numbers)) if self.tokenizer is None else self.tokenizer.decode(numbers)

    def tokens(self, x: np.ndarray) -> list[str]:
        """What stands at each place of a sequence `[length]`: its token as a text, or its number."""
        numbers = self._numbers(x)
        return [str(n) if self.tokenizer is None else self.tokenizer.entries[n] for n in numbers]

    def _numbers(self, x: np.ndarray) -> list[int]:
        return [int(n) for n in self.settle(np.asarray(x, np.float64))]
