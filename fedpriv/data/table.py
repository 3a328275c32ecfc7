"""Tables: datasets from CSV files and from archives of named columns."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from fedpriv.base.errors import DataError, ParameterError, did_you_mean
from fedpriv.data.dataset import Dataset
from fedpriv.data.kinds.columns import Categorical, Columns, Numeric

if TYPE_CHECKING:
    import pandas

#: Names by which a target column is known without being told.
TARGETS = ("target", "label", "class", "y")

#: Most different values of a target of whole numbers that are taken for classes.
MAX_CLASSES = 20

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
      DataError: a file that cannot be read, missing values, a single row or column.
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
    """As `table`, from rows in memory."""
    named = [str(c) for c in rows.columns]
    if len(set(named)) < len(named):
        raise DataError(f"table '{name}': two columns have the same name; rename one")
    rows = rows.set_axis(named, axis=1)
    if target is None:
        target = next((c for c in named if c.lower() in TARGETS), named[-1])
    for column in (target, *categorical, *([keys] if keys else [])):
        if column not in named:
            raise ParameterError(f"table '{name}' has no column '{column}'.{did_you_mean(column, named)}")
    if len(rows) < 2 or len(named) < 2:
        raise DataError(f"table '{name}': {len(rows)} rows of {len(named)} columns; expected at least two of each")
    missing = rows.isna()
    if missing.any(axis=None):
        column = missing.columns[int(np.argmax(missing.any(axis=0)))]
        row = int(np.argmax(missing[column]))
        raise DataError(
            f"table '{name}': column '{column}' has {int(missing[column].sum())} missing values (the first in row "
            f"{row + 1}); fill them, or leave those rows out"
        )
    rows = rows.iloc[np.random.RandomState(0).permutation(len(rows))]
    held_out = round(test_fraction * len(rows)) if test_fraction else 0
    held_out = min(max(held_out, int(test_fraction > 0)), len(rows) - 1)
    training = rows.iloc[: len(rows) - held_out]
    features = [c for c in named if c not in (target, keys)]
    if not features:
        raise DataError(f"table '{name}': no column is left besides the target; expected at least one")
    fields = tuple(_described(rows[c], training[c], c in categorical, name) for c in features)
    goal = _target(rows[target], training[target], target in categorical, name)
    kind = Columns(fields=fields, target=goal)
    classes = len(goal.values) if isinstance(goal, Categorical) else 0

    def made(part: pandas.DataFrame) -> Dataset:
        encoded = goal.encode(part[target].to_numpy())
        y = np.argmax(encoded, axis=1).astype(np.int32) if classes else encoded[:, 0].astype(np.float32)
        names = goal.values if isinstance(goal, Categorical) else ()
        owners = part[keys].to_numpy() if keys else None
        return Dataset(name, kind.encode(part), y, classes, names, owners, source, kind)

    return made(training), made(rows.iloc[len(rows) - held_out :]) if held_out else None


def _target(rows: pandas.Series, training: pandas.Series, categorical: bool, table: str) -> Numeric | Categorical:
    values = rows.to_numpy()
    whole = values.dtype.kind in "iub" and len(np.unique(values)) <= MAX_CLASSES
    made = _described(rows, training, categorical or whole, table)
    if isinstance(made, Categorical) and len(made.values) < 2:
        raise DataError(f"table '{table}': the target '{made.name}' is always '{made.values[0]}'; nothing to predict")
    return made


def _described(rows: pandas.Series, training: pandas.Series, categorical: bool, table: str) -> Numeric | Categorical:
    name, values = str(rows.name), rows.to_numpy()
    if categorical or values.dtype.kind not in "iuf":
        different = sorted(np.unique(values).tolist()) if values.dtype.kind in "iufb" else sorted(set(map(str, values)))
        return Categorical(name=name, values=tuple(map(str, different)))
    if not np.isfinite(values).all():
        raise DataError(
            f"table '{table}': column '{name}' is infinite in row {int(np.argmin(np.isfinite(values))) + 1}; correct it"
        )
    known = training.to_numpy(np.float64)
    integer = bool(values.dtype.kind in "iu")
    return Numeric(
        name=name,
        mean=float(known.mean()),
        spread=float(known.std()) or 1.0,
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
        return pandas.DataFrame(arrays)
    try:
        return pandas.read_csv(path)
    except Exception as e:  # parsers and decompressors raise almost anything on damaged files
        raise DataError(f"{path}: no CSV file that can be read ({str(e).splitlines()[0]}); expected a heading") from e


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
    except (OSError, zipfile.BadZipFile, DataError):
        return False
    return len(arrays) > 1 and all(a.ndim == 1 and len(a) > 1 for a in arrays.values())
