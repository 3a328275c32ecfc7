"""Transformation: how a defense transforms each example, as an adversary who knows the defense knows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fedpriv.base.types import Examples, Tensor


@dataclass(frozen=True)
class Transformation:
    """What may have been done to each example; which of it was, the defense draws.

    Attributes:
      ways: how many ways there are.
      apply: `(examples [n, ...], ways int32 [n]) -> examples [n, ...]`; traceable, differentiable in the examples.
      known: `ways (one an example) -> the defense that draws nothing and takes these`, for a replay.
    """

    ways: int
    apply: Callable[[Examples, Tensor], Examples]
    known: Callable[[tuple[int, ...]], Any]
