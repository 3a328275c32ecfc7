"""References: whether examples lie anywhere that an object's references lead to."""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

from fedpriv.base.lazy import tf


def reachable(start: Any) -> Iterator[Any]:
    """Everything that references lead to: attributes, closures, containers, frames; no modules' globals."""
    modules = {id(m.__dict__) for m in list(sys.modules.values()) if isinstance(m, types.ModuleType)}
    seen, queue = {id(start)}, [start]
    while queue:
        thing = queue.pop()
        yield thing
        inside = [thing.base] if isinstance(thing, np.ndarray) else []  # arrays hide whose memory they show
        for other in gc.get_referents(thing) + inside:
            if id(other) not in seen and not isinstance(other, types.ModuleType) and id(other) not in modules:
                seen.add(id(other))
                queue.append(other)


def holds(start: Any, examples: np.ndarray) -> bool:
    """Whether any one of `examples` `[n, ...]` lies, to within 1e-6, in an array or tensor reachable from `start`."""
    rows = examples.reshape(len(examples), -1)
    for thing in reachable(start):
        found = _numbers(thing)
        if found is None or found.size < rows.shape[1] or found.size % rows.shape[1]:
            continue
        candidates = found.reshape(-1, rows.shape[1])
        if any(np.isclose(candidates, row, atol=1e-6).all(1).any() for row in rows):
            return True
    return False


def _numbers(thing: Any) -> np.ndarray | None:
    if isinstance(thing, np.ndarray) and thing.dtype.kind in "fiu":
        return thing
    # `tf.is_tensor` asks a protocol, which costs microseconds for each of tens of thousands of objects.
    if isinstance(thing, (tf.Tensor, tf.Variable)) and hasattr(thing, "numpy") and thing.dtype.is_floating:
        return thing.numpy()
    return None
