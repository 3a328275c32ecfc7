"""Samples: small tables inside the package, one generated and two real."""

from __future__ import annotations

import importlib.resources
from typing import Annotated

from pydantic import Field

from fedpriv.base.errors import DataError
from fedpriv.data.dataset import Dataset
from fedpriv.data.table import from_frame

FOLDER = "tables"
CLINIC, DIABETES, ANES96 = "clinic.csv.xz", "diabetes.csv", "anes96.csv.xz"

Fraction = Annotated[float, Field(ge=0, lt=1)]


def clinic(test_fraction: Fraction = 0.2) -> tuple[Dataset, Dataset | None]:
    """1,200 fictitious patients: four numbers and four categories each, and whether they were readmitted (two classes).

    Generated, not collected: no row is a person. Ages, pressures and so on are drawn from plain distributions with a
    few dependences, and the class from a logistic rule on them, which predicts it for about four rows in five. The
    smallest table that has everything tabular reconstruction has to deal with. Public domain.

    Args:
      test_fraction: share of the rows held out for testing, drawn once and for all.

    Returns:
      Training and test set of kind `columns`.

    Raises:
      DataError: the package's copy is damaged.
    """
    return _sample(CLINIC, "clinic", "readmitted", (), test_fraction, "generated; inside the package")


def diabetes(test_fraction: Fraction = 0.2) -> tuple[Dataset, Dataset | None]:
    """442 diabetes patients: age, sex, body mass index, blood pressure, six serum values; progression a year later.

    The target is a quantity, so models have task `regression`. Numbers and target are standardized.

    Paper: Efron, Hastie, Johnstone, Tibshirani, "Least Angle Regression", Annals of Statistics 32(2), 2004, arXiv
    math/0406456. Taken from scikit-learn (`load_diabetes(scaled=False)`), BSD 3-clause.

    Args:
      test_fraction: share of the rows held out for testing, drawn once and for all.

    Returns:
      Training and test set of kind `columns`.

    Raises:
      DataError: the package's copy is damaged.
    """
    return _sample(DIABETES, "diabetes", "progression", ("sex",), test_fraction, "inside the package")


def anes96(test_fraction: Fraction = 0.2) -> tuple[Dataset, Dataset | None]:
    """944 American voters of 1996: four numbers and five categories each, and whom they expected to vote for.

    Respondents of the American National Election Studies: population of their place (thousands), days a week with
    television news, age, income bracket (1 to 24), education, party, and on a scale from extremely liberal to extremely
    conservative where they see themselves, Clinton and Dole. The five categories have seven values each. Two classes.
    The kind of table that tabular reconstruction is about: real people, and political opinions among the columns.

    Taken from statsmodels 0.14.2 (`statsmodels.datasets.anes96`), with its codes in words. Public domain.

    Args:
      test_fraction: share of the rows held out for testing, drawn once and for all.

    Returns:
      Training and test set of kind `columns`.

    Raises:
      DataError: the package's copy is damaged.
    """
    return _sample(ANES96, "anes96", "vote", (), test_fraction, "inside the package")


def _sample(
    file: str, name: str, target: str, categorical: tuple[str, ...], test_fraction: float, source: str
) -> tuple[Dataset, Dataset | None]:
    import pandas

    resource = importlib.resources.files("fedpriv.data") / FOLDER / file
    try:
        with importlib.resources.as_file(resource) as path:
            rows = pandas.read_csv(path)
    except Exception as e:
        raise DataError(f"fedpriv/data/{FOLDER}/{file} is missing or damaged ({e}); reinstall fedpriv") from e
    return from_frame(rows, name, target, categorical, test_fraction, source=source)
