"""Span: which vectors can have been multiplied with a kernel, by the gradient that they left in it.

A kernel W that rows X `[tokens, width]` are multiplied with has the gradient X^T D, so its columns lie in the span of
those rows. While there are fewer independent rows than the width, a vector from elsewhere is outside of that span but
for a known probability, so membership can be tested vector by vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedpriv.base.errors import DivergenceError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Examples, Tensor, Tensors
from fedpriv.models.sequences import Attention
from fedpriv.threat.view import View
from fedpriv_attacks.exact.dense_input import declared_noise

#: How many times its expected error a vector of the span may be away from it.
ROOM = 3.0
#: How far errors may exceed the edge of their spectrum: they are not quite independent.
EDGE = 1.2
#: How many times the expected errors of arithmetic may be exceeded, as cancellation does; what is larger is no error of
#: one local step, but inputs that are too many, or noise.
SLACK = 1000.0
#: Error of a kernel's gradient, in units of the precision, relative to its norm, as its arithmetic leaves it.
ARITHMETIC = 16.0


#: Relative distance below which vectors are not told apart, as differences of squares do not show it.
LEAST = 1e-7


@dataclass(frozen=True, eq=False)
class Span:
    """The span of the inputs of one attention, as an update shows it.

    Attributes:
      directions: `[width, width]`, left singular vectors of the kernels' gradients.
      values: `[width]`, falling singular values, in units of the expected errors.
      rank: how many of them stand for inputs.
      floor: the largest singular value that is an error.
      room: dimensions of the space that the inputs can lie in at all, such as `width - 1` behind a normalization
        without an offset.
    """

    directions: np.ndarray
    values: np.ndarray
    rank: int
    floor: float
    room: int

    @property
    def gap(self) -> float:
        """The weakest value that stands for an input over the strongest error."""
        return float(self.values[self.rank - 1] / self.floor) if self.rank and self.floor else float("inf")

    @property
    def spare(self) -> int:
        """Dimensions that a vector of elsewhere can stick out into; 0 or less where nothing can be told."""
        return self.room - self.rank

    def distances(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How far vectors `[n, width]` are from the span.

        Returns:
          `[n]` distances over lengths, in [0, 1], in which a direction counts the less the more surely it is in the
          span; and `[n]` the distances over what errors of the gradient explain, at most `ROOM` for its inputs.
        """
        x = np.asarray(x, np.float64)
        lengths = np.maximum(np.einsum("ij,ij->i", x, x), 1e-300)
        kept = np.square(x @ self.directions[:, : self.rank])
        strength = np.square(self.values[: self.rank])
        floor = max(self.floor**2, 1e-300)
        outside = np.maximum(lengths - kept.sum(1), 0.0)
        soft = outside + kept @ (floor / (strength + floor))
        # x = G c for inputs, so an error N of the gradient moves x by N c.
        errors = self.floor * np.sqrt(kept @ (1 / strength))
        least = LEAST * np.sqrt(lengths)
        return np.sqrt(soft / lengths), np.sqrt(outside) / np.maximum(errors, least)

    def chance(self, distance: float) -> float:
        """The probability that a vector of a random direction is as near to the span, `P(Beta(s/2, r/2) <= distance^2)`
        for rank r and s spare dimensions."""
        from scipy.stats import beta

        if self.spare <= 0:
            return 1.0
        return float(beta.cdf(min(distance, 1.0) ** 2, self.spare / 2, max(self.rank, 1) / 2))

    def threshold(self, probability: float) -> float:
        """The distance that random directions fall below with this probability."""
        from scipy.stats import beta

        if self.spare <= 0:
            return 0.0
        return float(np.sqrt(beta.ppf(min(probability, 0.5), self.spare / 2, max(self.rank, 1) / 2)))


@dataclass(frozen=True)
class Reader:
    """Kernels that the same inputs are multiplied with, whose gradients are read together.

    Attributes:
      kernels: indices in the spec.
      inputs: `(weights, x) -> [n, length, units]`, what they are multiplied with.
      causal: whether inputs at a place depend on no later one.
    """

    kernels: tuple[int, ...]
    inputs: Callable[[Tensors, Examples], Tensor]
    causal: bool

    @classmethod
    def of_attention(cls, attention: Attention, queries_only: bool = False) -> Reader:
        """The kernels of its queries, keys and values; the latter two hold mixtures where few places are read."""
        others = () if queries_only else attention.others
        return cls((attention.query, *others), attention.inputs, attention.causal)

    @classmethod
    def of_dense(cls, attention: Attention) -> Reader | None:
        """The last kernel of the block's dense part, if the block has one."""
        narrow = attention.narrow
        return None if narrow is None else cls((narrow.kernel,), narrow.inputs, attention.causal)


def read_span(view: View, reader: Reader, tokens: int | None, room: int) -> Span | None:
    """The span of a reader's inputs; None where none of its kernels moved.

    Args:
      view: whose update is read.
      reader: which kernels.
      tokens: the most vectors that can be behind it, if that is known: larger ranks are errors.
      room: see `Span`.

    Raises:
      DivergenceError: the update is not finite.
    """
    spec = view.model.spec
    update, weights = np.asarray(view.observed, np.float64), np.asarray(view.weights, np.float64)
    epsilon = float(np.finfo(spec.dtype).eps)
    declared = declared_noise(view)
    single = view.procedure is not None and view.num_examples is not None and view.clients == 1
    single = single and max(view.procedure.local_steps(n) for n in view.num_examples) == 1 and not view.defenses  # type: ignore[union-attr]
    parts = []
    for index in reader.kernels:
        where, units = spec.slice_of(spec.names[index]), spec.shapes[index][0]
        gradient = update[where].reshape(units, -1)
        if not np.isfinite(gradient).all():
            raise DivergenceError(
                f"the update of '{spec.names[index]}' of round {view.round} is not finite, so no tokens can be tested "
                "against it; lower the client's learning rate"
            )
        size = float(np.sqrt(np.mean(np.square(gradient))))
        if not size:
            continue
        # A step taken apart from the weights is not rounded to their precision.
        rounding = 0.0 if single else epsilon * float(np.sqrt(np.mean(np.square(weights[where]))))
        parts.append(gradient / np.hypot(np.hypot(ARITHMETIC * epsilon * size, rounding), declared))
    if not parts:
        return None
    directions, values, _ = np.linalg.svd(np.concatenate(parts, axis=1), full_matrices=True)
    most = min(room if tokens is None else tokens, room)
    columns = sum(p.shape[1] for p in parts)
    rank, floor = numeric_rank(values, most, columns)
    if floor > SLACK * (np.sqrt(columns) + np.sqrt(len(directions))):
        rank = min(most, len(values) - 1)
        floor = float(values[rank])
    return Span(directions, values, rank, floor, room)


def numeric_rank(values: np.ndarray, most: int, columns: int) -> tuple[int, float]:
    """Where falling singular values turn from signal to error: `(rank, the largest error)`.

    The rank is the smallest at which the values left look like those of independent errors: the largest of them is no
    larger than the edge of their spectrum, whose scale is that of all of them together (Marchenko, Pastur 1967; the
    order of tests as in Kritchman, Nadler 2008, "Determining the number of components in a factor model"). So it needs
    no tolerance that knows the model, its size or its precision.

    Args:
      values: `[k]`, falling, of a matrix with `columns` columns, at least k.
      most: the largest possible rank; where errors are none of independence, as of several local steps, it decides.
      columns: see `values`.
    """
    count = len(values)
    tails = np.cumsum(np.square(values[::-1]))[::-1]
    for rank in range(min(most, count - 1)):
        left = count - rank
        edge = np.sqrt(tails[rank] / (left * columns)) * (np.sqrt(columns) + np.sqrt(left))
        if values[rank] <= EDGE * edge:
            break
    else:
        rank = min(most, count - 1)
    return rank, float(max(values[rank], values[0] * 1e-15))


def input_room(reader: Reader, weights: Tensors, vocabulary: int, length: int, seed: int = 0) -> int:
    """Dimensions that a reader's inputs can span, by the rank of those of random sequences."""
    rng = np.random.default_rng(seed)
    width = int(weights[reader.kernels[0]].shape[0])
    rows = -(-4 * width // length)
    x = rng.integers(0, vocabulary, (rows, length)).astype(np.int32)
    found = reader.inputs(weights, tf.constant(x)).numpy().reshape(-1, width).astype(np.float64)
    values = np.linalg.svd(found, compute_uv=False)
    return int(np.sum(values > values[0] * 1e-5))
