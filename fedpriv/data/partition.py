"""Partition: which examples each client holds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Partition:
    """Example indices by client.

    Attributes:
      name: the partitioner with its parameters, such as `shards(clients=100, per_client=2)`.
      indices: one int64 array a client, each non-empty, disjoint.
      seed: that dealt the examples out, where `make_partition` did.
    """

    name: str
    indices: tuple[np.ndarray, ...]
    seed: int | None = None

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def sizes(self) -> np.ndarray:
        """`[K]` examples a client."""
        return np.array([len(i) for i in self.indices], np.int64)

    @property
    def layout(self) -> str:
        """A fingerprint of who holds which example, in which order."""
        found = hashlib.sha256()
        for part in self.indices:
            found.update(np.int64(len(part)).tobytes() + np.ascontiguousarray(part, np.int64).tobytes())
        return found.hexdigest()[:16]
