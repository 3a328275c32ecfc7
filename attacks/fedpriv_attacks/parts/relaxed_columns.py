"""Relaxed columns: a table's columns as free variables, categories by a softmax and numbers by a sigmoid."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.errors import CapabilityError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Examples, Flat, Seed
from fedpriv.data.kinds.columns import Categorical, Columns, Numeric
from fedpriv.threat.view import View
from fedpriv_attacks.parts.coordinates import Coordinates, Shape

#: Nearest to 0 and 1 that a start may be: beyond it, sigmoid and softmax hardly have a slope.
MARGIN = 1e-3


class RelaxedColumns(Coordinates):
    """Free variables in place of a table's columns, such that every point is a mixture of valid rows.

    A categorical column is the softmax of as many variables as it has values, so that a search over which one it is
    becomes a continuous one (Vero, Balunovic, Dimitrov, Vechev 2023, "TabLeak: Tabular Data Leakage in Federated
    Learning", ICML, arXiv 2210.01785). A numeric column is a sigmoid between the ends of its range, as in the authors'
    code; here it is moved and stretched so that 0 is the column's mean and one unit there is a standard deviation.
    The columns are public, since all clients must agree on them.
    """

    kind: ClassVar[str] = "relaxed_columns"
    paper: ClassVar[str] = "Vero et al. 2023, arXiv 2210.01785"

    columns: Columns | None = Field(
        default=None, description="the columns; None takes those of the data that is attacked, as is always right."
    )

    def equipped(self, view: View) -> RelaxedColumns:
        """With the columns of the view's rows.

        Raises:
          CapabilityError: its examples are no rows of a table.
        """
        return self if self.columns is not None else self.with_(columns=self._of(view))

    def check(self, view: View) -> None:
        """Raises a CapabilityError unless the view's examples are rows of these columns."""
        if self.columns != self._of(view):
            raise CapabilityError(
                f"coordinates '{self.kind}' are for other columns than the data's; leave out `columns`, and run the "
                "attack by its method `run`"
            )

    def _of(self, view: View) -> Columns:
        kind = view.data_kind
        if not isinstance(kind, Columns):
            raise CapabilityError(
                f"coordinates '{self.kind}' relax a table's columns, but the data's examples are of kind "
                f"'{kind.name}', shape {view.model.input_shape}; take a table (such as data=anes96), or other "
                "coordinates, such as coordinates=pixels"
            )
        return kind

    def start(self, x: Examples, seed: Seed) -> Flat:
        """The variables of given rows; categories, in proportion to their entries."""
        made = []
        for f, part in self._columns(x):
            if isinstance(f, Numeric):
                low, width, middle, scale = _sigmoid(f)
                share = tf.clip_by_value((part - low) / (width or 1.0), MARGIN, 1 - MARGIN)
                made.append((tf.math.log(share) - tf.math.log1p(-share) - middle) / scale)
            else:
                made.append(tf.math.log(tf.maximum(part, MARGIN)))
        return tf.reshape(tf.concat(made, -1), [-1])

    def decode(self, v: Flat, shape: Shape) -> Examples:
        """Numbers within their ranges, categories as probabilities."""
        made = []
        for f, part in self._columns(tf.reshape(v, shape)):
            if isinstance(f, Numeric):
                low, width, middle, scale = _sigmoid(f)
                made.append(low + width * tf.sigmoid(scale * part + middle))
            else:
                made.append(tf.nn.softmax(part))
        return tf.concat(made, -1)

    def _columns(self, x: Examples) -> list[tuple[Numeric | Categorical, Examples]]:
        if self.columns is None:
            raise CapabilityError(
                f"coordinates '{self.kind}' get a table's columns from the view; run the attack by its method `run`"
            )
        fields = self.columns.fields
        return list(zip(fields, tf.split(x, [f.width for f in fields], axis=-1)))


def _sigmoid(column: Numeric) -> tuple[float, float, float, float]:
    """Low end and width of the range, where the sigmoid is at the column's mean, and what makes its slope there 1."""
    low, high = column.ends
    width = high - low
    if width <= 0:
        return low, 0.0, 0.0, 1.0
    share = float(np.clip(-low / width, 0.01, 0.99))
    return low, width, float(np.log(share / (1 - share))), 1 / (width * share * (1 - share))
