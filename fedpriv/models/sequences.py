"""Sequences: what a model of tokens tells about itself, for attacks that go by its table or its attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedpriv.base.lazy import tf
from fedpriv.base.types import Examples, Tensor, Tensors


@dataclass(frozen=True)
class Embedding:
    """Where a model of tokens keeps their vectors.

    `Model.apply` of such a model takes token numbers `[n, length]`, of any type, or points of the embedding space
    `[n, length, width]`, which stand for the looked-up rows, before positions are added: an attack that follows
    gradients looks for these. Which of the two is meant, the rank says. Points `[n, length, width + 1]` end in 1 at
    places that hold tokens and 0 at padding, which is then hidden from the others as in training (`with_presence`
    makes them); without that, every place counts as a token.

    Points are not looked up, so that the gradient at them has nothing in the table's rows but what a tied head puts
    there: whoever compares gradients leaves the table out, or adds the slopes by the points to the rows himself.

    Attributes:
      table: index in the spec of the table `[vocabulary, width]`.
      tied: whether the logits are products with the same table, so that every token's row has a gradient.
      head: index in the spec of the kernel `[units, vocabulary]` of an untied next-token head, or None.
      positions: index in the spec of learned positions `[length, width]`, or None.
    """

    table: int
    tied: bool = False
    head: int | None = None
    positions: int | None = None


def with_presence(points: Tensor, present: Tensor) -> Tensor:
    """Points `[n, length, width]` and which of their places hold tokens, `[n, length]` of bool or of 0 and 1, as one
    tensor `[n, length, width + 1]` that `Model.apply` of a model with an `Embedding` takes; traceable."""
    return tf.concat([points, tf.cast(present, points.dtype)[:, :, None]], axis=2)


@dataclass(frozen=True)
class Product:
    """A kernel and what it is multiplied with, so that its gradient's columns lie in the span of these inputs.

    Attributes:
      kernel: index in the spec of the kernel `[units, outputs]`.
      inputs: `(weights, x) -> [n, length, units]`, for token numbers or points as those of an `Attention`; traceable.
    """

    kernel: int
    inputs: Callable[[Tensors, Examples], Tensor]


@dataclass(frozen=True)
class Attention:
    """One self-attention.

    Attributes:
      query: index in the spec of the queries' kernel `[width, width]`, which the inputs are multiplied with from the
        left: its gradient's columns lie in the span of the inputs. In Keras models it is `[width, heads, each]`, whose
        later axes count as one.
      inputs: `(weights, x) -> [n, length, width]`, what that kernel is multiplied with, for token numbers
        `[n, length]` or points `[n, length, width]`; traceable. `x` may be shorter than the model's length.
      causal: whether a place sees only itself and those before it, so that `inputs` at a place depends on no later one.
      others: indices in the spec of further kernels that the same inputs are multiplied with from the left, as those of
        keys and values. The first place of a causal attention has no other choice than itself, so it leaves nothing in
        the queries' gradient, but in the values'.
      narrow: the second kernel of the block's dense part, whose inputs have more dimensions than the block's width, so
        that the span of the same number of places leaves more of them free; None where there is no such part.
      heads: how many heads share the kernels' columns, the first with the first ones; None where it is unknown.
    """

    query: int
    inputs: Callable[[Tensors, Examples], Tensor]
    causal: bool
    others: tuple[int, ...] = ()
    narrow: Product | None = None
    heads: int | None = None
