"""Tables: datasets from CSV files and from archives of named columns."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pydantic
from pydantic import Field

from fedpriv.base import registry
from fedpriv.base.errors import DataError, ParameterError, did_you_mean, reason
from fedpriv.data.arrays import check_missing, split
from fedpriv.data.dataset import Dataset
from fedpriv.data.kinds.columns import Categorical, Columns, Numeric

if TYPE_CHECKING:
    import pandas

#: Names by which a target column is known without being told.
TARGETS = ("target", "label", "class", "y")

#: Most different values of a target of whole numbers that are taken for classes.
MAX_CLASSES = 20

#: Beyond it, squares do not fit float64, so that there is no standard deviation.
LARGEST = 1e150

#: Most values that the names of one column may take as zeros and ones.
MOST_ONE_HOT = 2**28

#: Share of numbers from which on a column of texts looks like one of numbers.
MOSTLY = 0.9

Fraction = Annotated[float, Field(ge=0, lt=1)]


def table(
    path: str,
    target: str | None = None,
    categorical: list[str] = [],  # noqa: B006  never changed
    test_fraction: Fraction = 0.2,
    keys: str | None = None,
) -> tuple[Dataset, Dataset | None]:
    """Rows of a table from a CSV file, or from an `.npz` with one array a column.

    Columns of numbers are standardized with the training rows' mean and standard deviation; columns of anything else
    become one-hot. A target of names, or of at most 20 different whole numbers, is a class; other numbers are
    quantities, standardized too, for a model with task `regression`.

    Args:
      path: a CSV file with a heading (`.csv`, also compressed, such as `.csv.gz`), or an `.npz`.
      target: the column to predict; None for one called target, label, class or y, else the last.
      categorical: columns of numbers to take for names, such as postal codes.
      test_fraction: share of the rows held out for testing, drawn once and for all; 0 for none.
      keys: column that says whose each row is, for the partition `natural`; it is not among the features.

    Returns:
      Training and test set of kind `columns`, in an order drawn once and for all.

    Raises:
      DataError: a file that cannot be read, missing values, a single row or column, numbers too large to standardize,
        more names in a column than fit as one-hot.
      ParameterError: a column that is not there.
    """
    rows = _read(Path(path).expanduser())
    return from_frame(
        rows,
        Path(path).name.split(".")[0],
        target,
        tuple(categorical),
        test_fraction,
        keys,
        f"rows of {Path(path).name}",
    )


def from_frame(
    rows: pandas.DataFrame,
    name: str,
    target: str | None = None,
    categorical: tuple[str, ...] = (),
    test_fraction: float = 0.2,
    keys: str | None = None,
    source: str = "",
) -> tuple[Dataset, Dataset | None]:
    """As `table`, from rows in memory. What a categorical column, such as R's factor, can hold keeps its order."""
    named = [str(c) for c in rows.columns]
    if len(set(named)) < len(named):
        raise DataError(f"table '{name}': two columns have the same name; rename one")
    rows = rows.set_axis(named, axis=1)
    if len(rows) < 2 or len(named) < 2:
        hint = "; separate columns by commas" if named and any(c in named[0] for c in ";\t") else ""
        raise DataError(
            f"table '{name}': {len(rows)} rows of {len(named)} columns; expected at least two of each{hint}"
        )
    if target is None:
        target = next((c for c in named if c.lower() in TARGETS), named[-1])
    for column in (target, *categorical, *([keys] if keys else [])):
        if column not in named:
            raise ParameterError(f"table '{name}' has no column '{column}'.{did_you_mean(column, named)}")
    rows = rows.apply(_plain)
    missing = rows.isna()
    if missing.any(axis=None):
        column = missing.columns[int(np.argmax(missing.any(axis=0)))]
        row = int(np.argmax(missing[column]))
        raise DataError(
            f"table '{name}': column '{column}' has {int(missing[column].sum())} missing values (the first in row "
            f"{row + 1}); fill them, or leave those rows out"
        )
    for column in named:
        _check_column(rows[column], column in (*categorical, keys), name)
    chosen, held_out = split(len(rows), test_fraction)
    training = rows.iloc[chosen]
    features = [c for c in named if c not in (target, keys)]
    if not features:
        raise DataError(f"table '{name}': no column is left besides the target; expected at least one")
    fields = tuple(_described(rows[c], training[c], c in categorical, name) for c in features)
    goal = _target(rows[target], training[target], target in categorical, name)
    try:
        kind = Columns(fields=fields, target=goal)
    except pydantic.ValidationError as e:
        raise DataError(registry.explain(e, f"table '{name}'")) from e
    classes = len(goal.values) if isinstance(goal, Categorical) else 0

    def made(part: pandas.DataFrame) -> Dataset:
        encoded = goal.encode(part[target].to_numpy())
        y = np.argmax(encoded, axis=1).astype(np.int32) if classes else encoded[:, 0].astype(np.float32)
        names = goal.values if isinstance(goal, Categorical) else ()
        owners = part[keys].to_numpy() if keys else None
        return Dataset(name, kind.encode(part), y, classes, names, owners, source, kind)

    return made(training), made(rows.iloc[held_out]) if len(held_out) else None


def _plain(column: pandas.Series) -> pandas.Series:
    """pandas's own types of numbers, which know missing values, as NumPy's."""
    own = getattr(column.dtype, "numpy_dtype", None)
    return column if own is None or own.kind not in "iuf" or column.isna().any() else column.astype(own)


def _check_column(rows: pandas.Series, names: bool, table: str) -> None:
    """Refuses values that can be neither numbers nor names; warns where numbers look taken for names."""
    values, where = rows.to_numpy(), f"table '{table}': column '{rows.name}'"
    check_missing(values, where)
    if values.dtype.kind in "cV":
        raise DataError(f"{where} has dtype {values.dtype}; expected numbers or names")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError(f"{where} is infinite in row {int(np.argmin(np.isfinite(values))) + 1}; correct it")
    if values.dtype.kind == "f" and np.abs(values).max() > LARGEST and not names:
        row = int(np.argmax(np.abs(values)))
        raise DataError(f"{where} is {values[row]:g} in row {row + 1}, too large to standardize; rescale it")
    if values.dtype.kind != "O" or names:
        return
    numbers = np.array([_is_number(v) for v in values])
    if MOSTLY * len(numbers) <= numbers.sum() < len(numbers):
        row = int(np.argmin(numbers))
        warnings.warn(
            f"{where} is taken for names, because row {row + 1} holds '{values[row]}', which is no number; correct it "
            "if the others are",
            stacklevel=2,
        )


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True


def _target(rows: pandas.Series, training: pandas.Series, categorical: bool, table: str) -> Numeric | Categorical:
    values = rows.to_numpy()
    whole = values.dtype.kind in "iub" and len(np.unique(values)) <= MAX_CLASSES
    made = _described(rows, training, categorical or whole, table)
    if isinstance(made, Categorical) and len(made.values) < 2:
        raise DataError(f"table '{table}': the target '{made.name}' is always '{made.values[0]}'; nothing to predict")
    return made


def _described(rows: pandas.Series, training: pandas.Series, categorical: bool, table: str) -> Numeric | Categorical:
    name, values = str(rows.name), rows.to_numpy()
    named = categorical or values.dtype.kind not in "iuf"
    if named and (count := rows.nunique()) * len(rows) > MOST_ONE_HOT:
        raise DataError(
            f"table '{table}': column '{name}' holds {count} different names, too many for one-hot columns of "
            f"{len(rows)} rows; leave it out"
        )
    if named:
        levels = getattr(rows.dtype, "categories", None)
        if levels is not None:
            return Categorical(name=name, values=tuple(map(str, levels)))
        different = sorted(np.unique(values).tolist()) if values.dtype.kind in "iufb" else sorted(set(map(str, values)))
        return Categorical(name=name, values=tuple(map(str, different)))
    known = training.to_numpy(np.float64)
    integer = bool(values.dtype.kind in "iu" and max(abs(int(values.min())), abs(int(values.max()))) <= 2**53)
    # Of equal numbers the mean may be another one, by rounding, and the deviation then is no 0.
    spread = float(known.std()) if known.min() < known.max() else 1.0
    farthest = max(float(values.max()) - known.mean(), known.mean() - float(values.min()))
    if not spread >= 1 / LARGEST or not farthest / spread <= np.finfo(np.float32).max:
        raise DataError(
            f"table '{table}': column '{name}' has the standard deviation {spread:g}, by which it cannot be divided; "
            "rescale it"
        )
    return Numeric(
        name=name,
        mean=float(known.mean()),
        spread=spread,
        low=float(values.min()),
        high=float(values.max()),
        integer=integer,
    )


def _read(path: Path) -> pandas.DataFrame:
    import pandas

    if not path.is_file():
        raise DataError(f"{path} is missing; expected a CSV file with a heading, or an .npz with one array a column")
    if path.suffix.lower() == ".npz":
        from fedpriv.data.npz import read_arrays

        arrays = read_arrays(path)
        wrong = [k for k, a in arrays.items() if a.ndim != 1]
        if wrong:
            raise DataError(f"{path}: array '{wrong[0]}' has shape {arrays[wrong[0]].shape}; expected one [n] a column")
        if len({len(a) for a in arrays.values()}) > 1:
            lengths = ", ".join(f"{k} {len(a)}" for k, a in arrays.items())
            raise DataError(f"{path}: the columns differ in length ({lengths}); expected as many rows in each")
        odd = next((k for k, a in arrays.items() if a.dtype.kind not in "biufUmM"), None)
        if odd is not None:
            raise DataError(f"{path}: array '{odd}' has dtype {arrays[odd].dtype}; expected numbers or names")
        return pandas.DataFrame(arrays)
    try:
        heading = pandas.read_csv(path, header=None, nrows=1, dtype=str).iloc[0]
        rows = pandas.read_csv(path, low_memory=False)
    except UnicodeDecodeError as e:
        raise DataError(f"{path}: no CSV file in UTF-8 ({reason(e)}); save it in that encoding") from e
    except Exception as e:  # parsers and decompressors raise almost anything on damaged files
        raise DataError(
            f"{path}: no CSV file that can be read ({reason(e)}); expected a heading, and as many fields in each row"
        ) from e
    check_heading(heading, rows, path)
    return rows


def check_heading(heading: pandas.Series, rows: pandas.DataFrame, path: Path) -> None:
    """Refuses a first row that pandas would make a heading of in its own way."""
    import pandas

    names = heading.tolist()
    if len(names) == 1 and isinstance(names[0], str) and any(c in names[0] for c in ";\t"):
        raise DataError(
            f"{path}: the heading has one field, '{names[0][:60]}'; separate columns by commas, and write "
            "decimals with a point"
        )
    if not isinstance(rows.index, pandas.RangeIndex):
        raise DataError(
            f"{path}: rows have more fields than the heading has names ({len(names)}); give each column a name"
        )
    for number, name in enumerate(names):
        if not isinstance(name, str):
            raise DataError(
                f"{path}: column {number + 1} has no name in the heading; name it, or leave it out (a table that "
                "pandas writes has no column of row numbers with index=False)"
            )
        if name in names[:number]:
            raise DataError(f"{path}: two columns are called '{name}'; rename one")
    numbered = names == [str(k) for k in range(len(names))]
    if all(map(_is_number, names)) and not numbered:
        raise DataError(f"{path}: the first row holds numbers only ({', '.join(names[:3])}, ...); expected a heading")


def is_table(path: Path) -> bool:
    """Whether a file is a table: a CSV file, or an archive of columns in place of `x` and `y`."""
    if ".csv" in [s.lower() for s in path.suffixes[-2:]]:
        return True
    if path.suffix.lower() != ".npz":
        return False
    from fedpriv.data.npz import read_arrays

    try:
        with zipfile.ZipFile(path) as archive:
            if {"x.npy", "x_train.npy"} & set(archive.namelist()):
                return False
        arrays = read_arrays(path)
    except Exception:  # a damaged archive can fail anywhere; whoever reads it says how
        return False
    return len(arrays) > 1 and all(a.ndim == 1 and len(a) > 1 for a in arrays.values())
