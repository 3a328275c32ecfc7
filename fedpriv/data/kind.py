"""Kind: what an example is. Its shape and range, what is valid, how two are compared, scored and shown."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.column import Column
from fedpriv.base.errors import DataError
from fedpriv.base.lazy import tf
from fedpriv.base.plugin import Plugin
from fedpriv.base.types import Array, Examples, Row

Shape = tuple[Annotated[int, Field(ge=1)], ...]


@dataclass(frozen=True)
class Measured:
    """What is said of a kind's examples where the examples themselves are not at hand, as in a report.

    Attributes:
      noun: what one is called.
      columns: what a score of one gives.
    """

    noun: str
    columns: tuple[Column, ...]

    def dump(self) -> Row:
        """As JSON can hold it."""
        return {"noun": self.noun, "columns": [asdict(c) for c in self.columns]}

    @classmethod
    def load(cls, saved: Mapping[str, Any]) -> Measured:
        """What `dump` made."""
        return cls(saved["noun"], tuple(Column(**c) for c in saved["columns"]))


class Kind(Plugin):
    """Base of kinds: frozen, hashable, and public. It holds the format of examples and nothing of any one of them.

    An example reaches the model as an array of `shape`. An adversary knows the kind, so attacks may keep their
    examples valid (`project`) and start in the middle of the range (`from_unit`), and the scorer makes a finding
    valid before it is judged (`settle`).

    Attributes:
      shape: one example's, as the model gets it.
      noun: what one example is called, such as "image".
    """

    noun: ClassVar[str]

    if TYPE_CHECKING:  # a field in some kinds, computed in others

        @property
        def shape(self) -> tuple[int, ...]:
            """Shape of one example as the model gets it."""

    @property
    def dtype(self) -> str:
        """Type of an example's values, `float32` unless they are no quantities."""
        return "float32"

    @property
    @abstractmethod
    def columns(self) -> tuple[Column, ...]:
        """What `score` gives, in its order; the first says most."""

    @property
    def measured(self) -> Measured:
        """What one is called, and its columns."""
        return Measured(self.noun, self.columns)

    @abstractmethod
    def checked(self, x: np.ndarray, where: str) -> np.ndarray:
        """Examples `[n, *shape]` as they are kept: contiguous, in a type that `unit_floats` reads.

        Raises:
          DataError: another shape or type, NaN or infinite values, values out of range; names `where` and the example.
        """

    @abstractmethod
    def project(self, x: Examples) -> Examples:
        """The points nearest to `x [n, *shape]` among mixtures of valid examples; traceable, differentiable."""

    @abstractmethod
    def settle(self, x: np.ndarray) -> np.ndarray:
        """The valid examples nearest to `x [n, *shape]`; what is not finite stays so."""

    def claimed(self, x: np.ndarray) -> np.ndarray:
        """Which of reconstructions `[n, *shape]` are any, bool `[n]`: by default those that are finite throughout."""
        x = np.asarray(x)
        finite: np.ndarray = np.isfinite(x).all(axis=tuple(range(1, x.ndim)))
        return finite

    @abstractmethod
    def from_unit(self, u: Examples | Array) -> Examples | Array:
        """Values in [0, 1] `[n, *shape]`, arrays or tensors, stretched to each value's range; 0.5 is its middle."""

    @abstractmethod
    def to_unit(self, x: Examples | Array) -> Examples | Array:
        """The inverse of `from_unit`."""

    @abstractmethod
    def costs(self, found: np.ndarray, true: np.ndarray) -> np.ndarray:
        """Cost of matching each of `found [m, *shape]` to each of `true [n, *shape]`: `[n, m]`, 0 for equal ones."""

    @abstractmethod
    def score(self, original: np.ndarray, found: np.ndarray) -> dict[str, float | None]:
        """How near one settled example is to its original, by the names of `columns`; None where undefined."""

    def score_batch(self, originals: np.ndarray, found: np.ndarray) -> list[dict[str, float | None]]:
        """What can only be said of a batch as a whole, laid over each original's `score`; by default nothing.

        Args:
          originals: `[n, *shape]`.
          found: all that was found, settled and finite, `[m, *shape]`; matched or not.
        """
        return [{} for _ in originals]

    @abstractmethod
    def missing(self, original: np.ndarray) -> dict[str, float | None]:
        """The worst possible score: of an original whose example is missing or not finite."""

    @abstractmethod
    def success(self, score: dict[str, float | None], threshold: float) -> bool:
        """Whether an example with that score counts as reconstructed.

        Args:
          score: from `score`.
          threshold: PSNR in dB, for kinds that have one; others go by what they say in their docstring.
        """

    def picture(self, x: np.ndarray) -> np.ndarray | None:
        """One example as an image `[height, width, 1 or 3]` in [0, 1], or None where it is none."""
        return None

    def text(self, x: np.ndarray) -> str | None:
        """One example in words, or None where numbers say as much."""
        return None

    def words(self, x: np.ndarray) -> list[str] | None:
        """One example as a text to draw, place by place, "" for places without a token; None where it is no text."""
        return None


def unit_floats(raw: Examples | Array, dtype: str) -> Examples:
    """Examples as they are kept, as floats of `dtype`: bytes are levels of 1/255. Traceable."""
    return tf.cast(raw, dtype) / tf.constant(255, dtype) if raw.dtype == tf.uint8 else tf.cast(raw, dtype)


def check_finite(x: np.ndarray, where: str, what: str, expected: str, wrong: str = "NaN or infinite") -> None:
    """Refuses NaN and infinite values, which are called `wrong`; says how many, and the first example with one."""
    finite = np.isfinite(x)
    if not finite.all():
        first = int(np.argmin(finite.reshape(len(x), -1).all(axis=1)))
        raise DataError(
            f"{where}: {int(finite.size - finite.sum())} {what} are {wrong} (the first in example {first}); "
            f"expected {expected}"
        )
