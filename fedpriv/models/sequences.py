"""Sequences: what a model of tokens tells about itself, for attacks that go by its table or its attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedpriv.base.types import Examples, Tensor, Tensors


@dataclass(frozen=True)
class Embedding:
    """Where a model of tokens keeps their vectors.

    `Model.apply` of such a model takes token numbers `[n, length]`, of any type, or points of the embedding space
    `[n, length, width]`, which stand for the looked-up rows, before positions are added: an attack that follows
    gradients looks for these. Which of the two is meant, the rank says.

    Attributes:
      table: index in the spec of the table `[vocabulary, width]`.
      tied: whether the logits are products with the same table, so that every token's row has a gradient.
      head: index in the spec of the kernel `[width, vocabulary]` of an untied next-token head, or None.
      positions: index in the spec of learned positions `[length, width]`, or None.
    """

    table: int
    tied: bool = False
    head: int | None = None
    positions: int | None = None


@dataclass(frozen=True)
class Attention:
    """One self-attention.

    Attributes:
      query: index in the spec of the queries' kernel `[width, width]`, which the inputs are multiplied with from the
        left: its gradient's columns lie in the span of the inputs.
      inputs: `(weights, x) -> [n, length, width]`, what that kernel is multiplied with, for token numbers
        `[n, length]` or points `[n, length, width]`; traceable. `x` may be shorter than the model's length.
      causal: whether a place sees only itself and those before it, so that `inputs` at a place depends on no later one.
      others: indices in the spec of further kernels that the same inputs are multiplied with from the left, as those of
        keys and values. The first place of a causal attention has no other choice than itself, so it leaves nothing in
        the queries' gradient, but in the values'.
    """

    query: int
    inputs: Callable[[Tensors, Examples], Tensor]
    causal: bool
    others: tuple[int, ...] = ()
