"""Embedding coordinates: points of a model's embedding space in place of token numbers, which have no gradients."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from fedpriv.base.errors import CapabilityError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Examples, Flat, Labels, Seed, Tensor
from fedpriv.data.kind import Kind
from fedpriv.data.kinds.tokens import Tokens
from fedpriv.models.model import Model
from fedpriv.models.sequences import Embedding as Where
from fedpriv.models.task import Task
from fedpriv.models.tasks.next_token import NextToken
from fedpriv.threat.view import View
from fedpriv_attacks.parts.coordinates import Coordinates, Shape

#: Squared width of the soft choice of a token, as a share of a row's mean squared length: a point that is a row of a
#: table of random directions has that token with a probability of all but 1e-8 or so.
SOFT = 0.05


class Embedding(Coordinates):
    """One point of the embedding space a place, as a multiple of the table's root mean square entry.

    What is found is the token whose row is nearest to each point. Places beyond a sequence's length hold padding, and
    no place within it does. The table's own gradient is a function of tokens and not of points, so it is left out of
    the objective, as Deng et al. 2021 (arXiv 2103.06819) and Balunovic et al. 2022 (arXiv 2202.08827) do. Within
    several local steps the points stay where they are, while the client's rows move; what that leaves is of the size of
    the steps.
    """

    kind: ClassVar[str] = "embedding"
    space: ClassVar[str] = "points"

    distance: Literal["inputs", "cosine", "euclidean"] = Field(
        default="inputs",
        description="what the row nearest to a point is: the one of the smallest angle or distance; or (`inputs`) the "
        "one that at this place makes an input of the first attention nearest to the point's, which is all that most "
        "models see of it: a layer normalization forgets length and mean of a point with its position added. Without "
        "attentions it is the angle.",
    )
    table: Literal["left_out", "tokens"] = Field(
        default="left_out",
        description="what the table's own update is used for: nothing, or (`tokens`) its rows that are not zero, as "
        "the only tokens there can be. That takes a table that is not the head as well, and no noise.",
    )
    lengths: Literal["auto", "full"] = Field(
        default="auto",
        description="`auto` takes the lengths that the adversary knows (`sequence_lengths`), else for all of them the "
        "number of learned positions that moved, which is the longest one's; `full` takes every place for a token.",
    )
    targets: Literal["shifted", "free"] = Field(
        default="shifted",
        description="where next-token targets are looked for: in the points, each place's being the token at the next, "
        "and the last one's free; or all of them apart from the points (`free`).",
    )

    def check(self, view: View) -> None:
        """Raises a CapabilityError where there are no tokens, or the model does not say where its table is."""
        if not isinstance(view.data_kind, Tokens):
            raise CapabilityError(
                f"coordinates '{self.kind}' are points for tokens, but examples are {view.data_kind.noun}s; use "
                "'pixels' or 'smooth'"
            )
        _where(view.model)
        if self.table == "tokens" and _where(view.model).tied:
            raise CapabilityError(
                f"coordinates '{self.kind}': table=tokens reads which rows moved, but model '{view.model.name}' has "
                "its head in the same table, so all rows do; use table=left_out"
            )

    def shape(self, model: Model) -> tuple[int, ...]:
        """`(length, width)`."""
        return (model.input_shape[0], width(model))

    def start(self, x: Examples, seed: Seed) -> Flat:
        """The points, flat."""
        return tf.reshape(x, [-1])

    def decode(self, v: Flat, shape: Shape) -> Examples:
        """The variables as points."""
        return tf.reshape(v, shape)

    def tensors(self, view: View) -> tuple[np.ndarray, ...]:
        """The points' unit, which places hold tokens `[n, length]`, and which tokens there can be `[vocabulary]`."""
        kind = view.data_kind
        assert isinstance(kind, Tokens)
        rows = table_of(view)
        possible = np.ones(len(rows))
        if kind.padding is not None:
            possible[kind.padding] = 0
        if self.table == "tokens":
            moved = np.abs(view.model.spec.unflatten_numpy(np.asarray(view.observed))[_where(view.model).table])
            possible *= moved.max(axis=1) > 0
            if not possible.any():
                raise CapabilityError(
                    f"coordinates '{self.kind}': no row of the table of model '{view.model.name}' moved, so "
                    "table=tokens leaves no token; use table=left_out"
                )
        lengths = self.lengths_of(view)
        present = np.arange(kind.length)[None] < lengths[:, None]
        unit = float(np.sqrt(np.mean(np.square(np.delete(rows, [] if kind.padding is None else kind.padding, 0)))))
        return np.asarray(unit), present.astype(np.float64), possible

    def lengths_of(self, view: View) -> np.ndarray:
        """How many tokens each sequence has, int `[n]`, as far as the adversary can tell."""
        kind, n = view.data_kind, view.total_examples
        assert isinstance(kind, Tokens)
        full = np.full(n, kind.length)
        if self.lengths == "full" or kind.padding is None:
            return full
        if "lengths" in view.told:
            return np.asarray(view.told["lengths"])
        positions = _where(view.model).positions
        if positions is None or view.observed is None:
            return full
        moved = view.model.spec.unflatten_numpy(np.asarray(view.observed))[positions]
        rows = np.flatnonzero(np.abs(moved).max(axis=1) > 0)
        return full if not len(rows) else np.minimum(full, rows[-1] + 1)

    def entering(self, x: Examples, tensors: tuple[Tensor, ...], kind: Kind) -> Examples:
        """Points in the table's own unit, followed by whether there is a token, where there may be padding."""
        unit, present, _ = tensors
        points = x * unit
        if getattr(kind, "padding", None) is None:
            return points
        copies = x.shape[0] // present.shape[0]
        there = tf.tile(present, [copies, 1]) if copies > 1 else present
        return tf.concat([points, there[:, :, None]], 2)

    def compared(self, model: Model) -> list[int]:
        """All tensors but the table."""
        return [i for i in range(len(model.spec.shapes)) if i != _where(model).table]

    def free_targets(self, task: Task) -> tuple[int, ...]:
        """Of next tokens that follow from the points, only the last place's."""
        return (1, task.classes) if self._shifts(task) else task.relaxed_shape

    def relaxed_targets(
        self, free: Labels, x: Examples, weights: Flat, tensors: tuple[Tensor, ...], model: Model
    ) -> Labels:
        """Targets `[n, *relaxed_shape]`: the next points' tokens, softly chosen, and the free one at the last place.

        A place beyond the last has a row of zeros, and the others weigh as much as if the mean were over them alone,
        as it is for the client. So much of the last one's row as lies on the padding counts as no target at all.
        """
        task = model.task
        if not self._shifts(task):
            return free
        unit, present, possible = tensors
        assert isinstance(task, NextToken)
        rows = model.spec.unflatten(weights)[_where(model).table]
        n, length = present.shape
        points = x[:n, :, : rows.shape[1]]
        apart = -2 * tf.einsum("nlw,vw->nlv", points, rows) + tf.reduce_sum(tf.square(rows), 1)
        spread = 2 * SOFT * rows.shape[1] * tf.square(unit)
        never = tf.where(possible > 0, tf.zeros([], x.dtype), tf.constant(-1e9, x.dtype))
        soft = tf.nn.softmax(-apart / spread + never)
        following = tf.concat([soft[:, 1:], tf.zeros_like(soft[:, :1])], 1)
        goes_on = tf.concat([present[:, 1:], tf.zeros_like(present[:, :1])], 1)
        last = (present - goes_on)[:, :, None]
        own = tf.broadcast_to(free, tf.shape(soft))
        if task.padding is not None:
            own *= 1 - tf.one_hot(task.padding, task.classes, dtype=x.dtype)
        targets = following * goes_on[:, :, None] + own * last
        count = tf.reduce_sum(targets, [1, 2], keepdims=True)
        return targets * (length / tf.maximum(count, 1e-6))

    def found(self, view: View, x: np.ndarray) -> np.ndarray:
        """Token numbers `[n, length]` of what entered the model; not finite where that is not."""
        kind, model = view.data_kind, view.model
        assert isinstance(kind, Tokens)
        dtype = model.spec.dtype
        tensors = tuple(tf.constant(t, dtype) for t in self.tensors(view))
        points = np.asarray(x, dtype)[..., : width(model)]
        finite = np.isfinite(points).all(-1)
        weights = tf.constant(view.weights, dtype)
        tokens = self.nearest(tf.constant(np.where(finite[..., None], points, 0)), weights, tensors, model).numpy()
        tokens = np.where(finite, tokens.astype(np.float64), np.nan)
        present = tensors[1].numpy()
        return tokens if kind.padding is None else np.where(present > 0, tokens, kind.padding)

    def nearest(self, points: Examples, weights: Flat, tensors: tuple[Tensor, ...], model: Model) -> Tensor:
        """The token nearest to each point `[m, length, width]`, int32 `[m, length]`, whether there is one or not."""
        _, _, possible = tensors
        parts = model.spec.unflatten(weights)
        rows = parts[_where(model).table]
        if self.distance == "inputs" and model.attention:
            length, count = points.shape[1], rows.shape[0]
            inputs = model.attention[0].inputs
            rows = inputs(parts, tf.repeat(rows[:, None], length, 1))
            scores = tf.einsum("nlw,vlw->nlv", inputs(parts, points), rows)
            scores -= 0.5 * tf.transpose(tf.reshape(tf.reduce_sum(tf.square(rows), 2), [count, length]))
        else:
            scores = tf.einsum("nlw,vw->nlv", points, rows)
            if self.distance == "euclidean":
                scores -= 0.5 * tf.reduce_sum(tf.square(rows), 1)
            else:
                scores *= tf.math.rsqrt(tf.maximum(tf.reduce_sum(tf.square(rows), 1), 1e-30))
        never = tf.constant(-np.inf, points.dtype)
        return tf.argmax(tf.where(possible > 0, scores, never), -1, tf.int32)

    def _shifts(self, task: Task) -> bool:
        return self.targets == "shifted" and isinstance(task, NextToken)


def _where(model: Model) -> Where:
    if model.embedding is None:
        raise CapabilityError(
            f"model '{model.name}' does not say where it keeps its tokens' vectors, so there are no points to look "
            "for; use a model of tokens, such as gpt or bert"
        )
    return model.embedding


def width(model: Model) -> int:
    """Of the embedding."""
    return int(model.spec.shapes[_where(model).table][1])


def table_of(view: View) -> np.ndarray:
    """The table `[vocabulary, width]` that the client received, float64."""
    found: np.ndarray = view.model.spec.unflatten_numpy(np.asarray(view.weights))[_where(view.model).table]
    return found.astype(np.float64)
