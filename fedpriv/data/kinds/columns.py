"""Columns: rows of a table, numbers standardized and categories one-hot."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
import pydantic
from pydantic import Field

from fedpriv.base.column import Column
from fedpriv.base.errors import DataError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Array, Examples, Tensor
from fedpriv.data.kind import Kind, check_finite

if TYPE_CHECKING:
    import pandas

#: How near a number must be to count as right, in standard deviations: guessing the mean is right for a quarter of
#: normally distributed values.
TOLERANCE = 0.319


class Numeric(pydantic.BaseModel):
    """A column of numbers, which the model gets as (value - mean) / spread.

    Attributes:
      name: the column's.
      mean: what is taken off, in the column's own unit.
      spread: what is divided by, usually the standard deviation.
      low: the least value that is valid, in the column's own unit.
      high: the greatest.
      integer: whether only whole numbers are valid.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    kind: Literal["numeric"] = "numeric"
    name: str
    mean: float = 0.0
    spread: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    low: float
    high: float
    integer: bool = False

    @pydantic.model_validator(mode="after")
    def _some_range(self) -> Numeric:
        if not self.low <= self.high:
            raise ValueError(f"column '{self.name}': low={self.low} is above high={self.high}")
        return self

    @property
    def width(self) -> int:
        """How many of an example's values it takes."""
        return 1

    @property
    def ends(self) -> tuple[float, float]:
        """The range, as the model gets it."""
        return (self.low - self.mean) / self.spread, (self.high - self.mean) / self.spread

    def encode(self, values: np.ndarray) -> np.ndarray:
        """`[n, 1]` from `[n]` numbers in the column's own unit."""
        return ((np.asarray(values, np.float64) - self.mean) / self.spread)[:, None]

    def decode(self, x: np.ndarray) -> np.ndarray:
        """`[n]` valid numbers in the column's own unit, nearest to `x [n, 1]`."""
        values = np.clip(np.asarray(x, np.float64)[:, 0] * self.spread + self.mean, self.low, self.high)
        return np.rint(values) if self.integer else values


class Categorical(pydantic.BaseModel):
    """A column of names, which the model gets as one 1 among zeros.

    Attributes:
      name: the column's.
      values: the names that it can hold.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    kind: Literal["categorical"] = "categorical"
    name: str
    values: Annotated[tuple[str, ...], Field(min_length=1)]

    @property
    def width(self) -> int:
        """One value a name."""
        return len(self.values)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """`[n, width]` from `[n]` names.

        Raises:
          DataError: a name that is not among `values`.
        """
        number = {value: i for i, value in enumerate(self.values)}
        strange = sorted({str(v) for v in values} - set(number))
        if strange:
            raise DataError(
                f"column '{self.name}' holds '{strange[0]}', which is none of its values {', '.join(self.values)}"
            )
        made = np.zeros((len(values), self.width))
        made[np.arange(len(values)), [number[str(v)] for v in values]] = 1
        return made

    def decode(self, x: np.ndarray) -> np.ndarray:
        """`[n]` names of the largest entries of `x [n, width]`."""
        return np.array(self.values)[np.argmax(x, axis=1)]


TableColumn = Annotated[Numeric | Categorical, Field(discriminator="kind")]


class Columns(Kind):
    """Rows of a table. Numbers are standardized, categories one-hot; `decode` reads examples as rows again.

    A row counts as reconstructed if every category is right and every number within 0.319 standard deviations of its
    column (guessing the mean is then right for a quarter of normally distributed values). `row_accuracy`, the fraction
    of columns that are right, is the measure of Vero, Balunovic, Dimitrov, Vechev 2022, "TabLeak: Tabular Data Leakage
    in Federated Learning", arXiv 2210.01785. The scaling and the ranges are part of the kind and so public: all clients
    must agree on them.

    Attributes:
      fields: the columns, in the order of an example's values.
      target: the column that is predicted, or None; says how targets are read.
    """

    name: ClassVar[str] = "columns"
    noun: ClassVar[str] = "row"

    fields: Annotated[tuple[TableColumn, ...], Field(min_length=1)]
    target: TableColumn | None = None

    @pydantic.model_validator(mode="after")
    def _names_differ(self) -> Columns:
        slugs = [_slug(f.name) for f in self.fields]
        for i, slug in enumerate(slugs):
            if slug in slugs[:i]:
                raise ValueError(f"two columns are called '{self.fields[i].name}', or nearly so; rename one")
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """`(sum of the columns' widths,)`."""
        return (sum(f.width for f in self.fields),)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The row's accuracy, numeric error and categorical hits where it has such columns, then one a column."""
        made = [
            Column(
                name="row_accuracy",
                label="Row accuracy",
                format=".3f",
                description=f"Fraction of a row's columns that are right: the category, or the number within "
                f"{TOLERANCE} standard deviations (Vero et al. 2022).",
            )
        ]
        if self._numeric:
            made.append(
                Column(
                    name="numeric_error",
                    label="Numeric error",
                    unit="sd",
                    better="lower",
                    format=".3f",
                    description="Mean absolute error of a row's numbers, in standard deviations of their columns.",
                )
            )
        if len(self._numeric) < len(self.fields):
            made.append(
                Column(
                    name="categorical_hits",
                    label="Categories right",
                    format=".3f",
                    description="Fraction of a row's categories that are right.",
                )
            )
        for f in self.fields:
            numeric = isinstance(f, Numeric)
            what = "Absolute error, in the column's own unit" if numeric else "Whether the category is right"
            made.append(
                Column(
                    name=_column_name(f),
                    label=f.name,
                    better="lower" if numeric else "higher",
                    format=".3g" if numeric else ".0f",
                    description=f"{what}.",
                )
            )
        return tuple(made)

    @property
    def _numeric(self) -> list[Numeric]:
        return [f for f in self.fields if isinstance(f, Numeric)]

    def encode(self, table: pandas.DataFrame) -> np.ndarray:
        """Examples `[n, width]`, float32, from a table that has these columns.

        Raises:
          DataError: a column is missing, or holds something that it cannot.
        """
        absent = [f.name for f in self.fields if f.name not in table.columns]
        if absent:
            raise DataError(f"the table has no column '{absent[0]}'; it has {', '.join(map(str, table.columns))}")
        return np.concatenate([f.encode(table[f.name].to_numpy()) for f in self.fields], axis=1).astype(np.float32)

    def decode(self, x: np.ndarray, y: np.ndarray | None = None) -> pandas.DataFrame:
        """The valid rows nearest to examples `[n, width]`, in the columns' own units; with `y`, their targets too."""
        import pandas

        rows = {f.name: f.decode(part) for f, part in zip(self.fields, self._parts(np.asarray(x)))}
        if y is not None and self.target is not None:
            goal, values = self.target, np.asarray(y)
            named = isinstance(goal, Categorical)
            rows[goal.name] = goal.decode(np.eye(goal.width)[values] if named else values[:, None])
        table = pandas.DataFrame(rows)
        whole = [f.name for f in self.fields if isinstance(f, Numeric) and f.integer]
        finite = np.isfinite(np.asarray(x)).all()
        return table.astype(dict.fromkeys(whole, np.int64)) if finite else table

    def _parts(self, x: np.ndarray) -> list[np.ndarray]:
        return np.split(x, np.cumsum([f.width for f in self.fields])[:-1], axis=-1)

    def checked(self, x: np.ndarray, where: str) -> np.ndarray:
        """float32 `[n, width]`.

        Raises:
          DataError: see `Kind.checked`; also a category whose entries are not one 1 among zeros.
        """
        if x.shape[1:] != self.shape or x.dtype.kind != "f":
            raise DataError(
                f"{where}: rows have shape {x.shape[1:]} and dtype {x.dtype}; expected {self.shape[0]} floats each, "
                "as Columns.encode gives them"
            )
        check_finite(x, where, "values", "finite ones")
        for f, part in zip(self.fields, self._parts(x)):
            if isinstance(f, Numeric):
                low, high = f.ends
                wrong = ((part < low - 1e-4) | (part > high + 1e-4)).any(axis=1)
                expected = f"{f.low:g} to {f.high:g}"
            else:
                wrong = (np.sort(part, axis=1) != np.eye(f.width)[-1]).any(axis=1)
                expected = "one 1 among zeros"
            if wrong.any():
                raise DataError(
                    f"{where}: column '{f.name}' of example {int(np.argmax(wrong))} is out of range; "
                    f"expected {expected}"
                )
        return np.ascontiguousarray(x.astype(np.float32))

    def project(self, x: Examples) -> Examples:
        """Numbers clipped to their ranges, categories moved to the nearest probabilities."""
        parts = tf.split(x, [f.width for f in self.fields], axis=-1)
        made = []
        for f, part in zip(self.fields, parts):
            if isinstance(f, Numeric):
                low, high = f.ends
                made.append(tf.clip_by_value(part, tf.cast(low, x.dtype), tf.cast(high, x.dtype)))
            else:
                made.append(_onto_simplex(part))
        return tf.concat(made, axis=-1)

    def settle(self, x: np.ndarray) -> np.ndarray:
        """Numbers clipped (and rounded, where only whole ones are valid), categories one-hot."""
        x = np.asarray(x)
        parts = [
            f.encode(f.decode(part)) if isinstance(f, Numeric) else np.eye(f.width)[np.argmax(part, axis=1)]
            for f, part in zip(self.fields, self._parts(x))
        ]
        settled = np.concatenate(parts, axis=1).astype(x.dtype)
        return np.where(np.isfinite(x).all(axis=1, keepdims=True), settled, np.nan)

    def from_unit(self, u: Examples | Array) -> Examples | Array:
        """Numbers from 0 at the low end through 0.5 at the mean to 1 at the high end; categories as they are."""
        low, middle, high = self._ends
        lower, upper = (tf.minimum, tf.maximum) if tf.is_tensor(u) else (np.minimum, np.maximum)
        return low + 2 * lower(u, 0.5) * (middle - low) + 2 * upper(u - 0.5, 0) * (high - middle)

    def to_unit(self, x: Examples | Array) -> Examples | Array:
        """The inverse of `from_unit`; a column of a single value is 0."""
        low, middle, high = self._ends
        lower, upper = (tf.minimum, tf.maximum) if tf.is_tensor(x) else (np.minimum, np.maximum)
        below, above = (np.where(gap > 0, 2 * gap, 1).astype(np.float32) for gap in (middle - low, high - middle))
        return (lower(x, middle) - low) / below + upper(x - middle, 0) / above

    @property
    def _ends(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Low end, middle and high end of each of an example's values, float32."""
        ends = [f.ends if isinstance(f, Numeric) else (0.0, 1.0) for f in self.fields for _ in range(f.width)]
        low, high = np.array(ends, np.float32).T
        numeric = np.array([isinstance(f, Numeric) for f in self.fields for _ in range(f.width)])
        return low, np.where(numeric, np.clip(0, low, high), np.float32(0.5)).astype(np.float32), high

    def costs(self, found: np.ndarray, true: np.ndarray) -> np.ndarray:
        """Mean over columns of whether the category differs, or the squared error in standard deviations, at most 1."""
        found, true = np.asarray(found, np.float64), np.asarray(true, np.float64)
        total = np.zeros((len(true), len(found)))
        for f, a, b in zip(self.fields, self._parts(found), self._parts(true)):
            if isinstance(f, Numeric):
                total += np.minimum(np.square(a[None, :, 0] - b[:, None, 0]), 1.0)
            else:
                total += np.argmax(a, axis=1)[None] != np.argmax(b, axis=1)[:, None]
        return total / len(self.fields)

    def score(self, original: np.ndarray, found: np.ndarray) -> dict[str, float | None]:
        """The row's accuracy, numeric error and categorical hits, and each column's."""
        return self._scored(np.asarray(original, np.float64), np.asarray(found, np.float64))

    def missing(self, original: np.ndarray) -> dict[str, float | None]:
        """No category right, every number as wrong as its range allows."""
        return self._scored(np.asarray(original, np.float64), None)

    def _scored(self, original: np.ndarray, found: np.ndarray | None) -> dict[str, float | None]:
        right, errors, hits, own = [], [], [], {}
        parts = [None] * len(self.fields) if found is None else self._parts(found)
        for f, a, b in zip(self.fields, self._parts(original), parts):
            if isinstance(f, Numeric):
                low, high = f.ends
                error = float(max(a[0] - low, high - a[0]) if b is None else abs(a[0] - b[0]))
                right.append(b is not None and error <= TOLERANCE)
                errors.append(error)
                own[_column_name(f)] = error * f.spread
            else:
                hit = b is not None and int(np.argmax(a)) == int(np.argmax(b))
                right.append(hit)
                hits.append(hit)
                own[_column_name(f)] = float(hit)
        made: dict[str, float | None] = {"row_accuracy": float(np.mean(right))}
        if errors:
            made["numeric_error"] = float(np.mean(errors))
        if hits:
            made["categorical_hits"] = float(np.mean(hits))
        return made | own

    def success(self, score: dict[str, float | None], threshold: float) -> bool:
        """Whether every column is right."""
        return score["row_accuracy"] == 1.0

    def right(self, original: np.ndarray, found: np.ndarray) -> np.ndarray:
        """Which cells of `found [n, width]` are right, `[n, columns]`; of a row that is not finite none is.

        A category is right if it is the original's, a number within TOLERANCE standard deviations of its column.
        """
        made = []
        pairs = zip(self._parts(np.asarray(original, np.float64)), self._parts(np.asarray(found, np.float64)))
        for f, (a, b) in zip(self.fields, pairs):
            hit = np.abs(a - b)[:, 0] <= TOLERANCE if isinstance(f, Numeric) else np.argmax(a, 1) == np.argmax(b, 1)
            made.append(hit & np.isfinite(b).all(axis=1))
        return np.stack(made, axis=1)

    def cell_texts(self, x: np.ndarray) -> list[list[str]]:
        """Rows `[n, width]` in words, a text a column; of a row that is not finite, empty ones."""
        x = np.asarray(x)
        finite = np.isfinite(x).all(axis=1)
        rows = self.decode(np.where(finite[:, None], x, 0)).itertuples(index=False, name=None)
        return [
            [f"{v:.4g}" if isinstance(v, float) else str(v) for v in row] if known else [""] * len(self.fields)
            for row, known in zip(rows, finite)
        ]

    def text(self, x: np.ndarray) -> str | None:
        """`name=value` of each column."""
        if not np.isfinite(x).all():
            return None
        (row,) = self.cell_texts(np.asarray(x)[None])
        return ", ".join(f"{f.name}={v}" for f, v in zip(self.fields, row))


def _slug(name: str) -> str:
    return re.sub(r"\W+", "_", name).strip("_").lower() or "column"


def _column_name(field: Numeric | Categorical) -> str:
    return f"{'error' if isinstance(field, Numeric) else 'hit'}_{_slug(field.name)}"


def _onto_simplex(v: Tensor) -> Tensor:
    """The nearest probability vector to each row of `v [n, k]`.

    Duchi, Shalev-Shwartz, Singer, Chandra 2008, "Efficient Projections onto the l1-Ball for Learning in High
    Dimensions", ICML, figure 1.
    """
    k = v.shape[-1]
    ordered = tf.sort(v, axis=-1, direction="DESCENDING")
    excess = (tf.cumsum(ordered, axis=-1) - 1) / tf.cast(tf.range(1, k + 1), v.dtype)
    last = tf.reduce_sum(tf.cast(ordered > excess, tf.int32), axis=-1, keepdims=True) - 1
    # Not-a-number is above nothing; it is to come out as it went in.
    return tf.nn.relu(v - tf.gather(excess, tf.maximum(last, 0), batch_dims=1, axis=-1))
