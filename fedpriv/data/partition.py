"""Partition: which examples each client holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Partition:
    """Example indices by client.

    Attributes:
      name: the partitioner with its parameters, such as `shards(clients=100, per_client=2)`.
      indices: one int64 array a client, each non-empty, disjoint.
    """

    name: str
    indices: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def sizes(self) -> np.ndarray:
        """`[K]` examples a client."""
        return np.array([len(i) for i in self.indices], np.int64)
