"""Users: whose examples are whose, and how many of one user's are kept."""

from __future__ import annotations

import numpy as np

from fedpriv.base.errors import DataError
from fedpriv.base.seeds import Purpose, generator
from fedpriv.data.dataset import Dataset
from fedpriv.data.partition import Partition


def records_per_user(data: Dataset, partition: Partition) -> int | None:
    """The largest number of examples that one user has in a partition.

    None where the dataset has no keys, or a user's examples lie with several clients.

    Args:
      data: its `keys` say whose an example is.
      partition: which examples are used, and with whom they lie.
    """
    if data.keys is None:
        return None
    counts = [np.unique(data.keys[part], return_counts=True) for part in partition.indices]
    users = np.concatenate([names for names, _ in counts])
    if len(np.unique(users)) < len(users):
        return None
    return max(int(n.max()) for _, n in counts)


def bounded(data: Dataset, partition: Partition, most: int, seed: int) -> Partition:
    """The partition with at most `most` examples of each user, which the seed draws; the order is kept.

    Raises:
      DataError: the dataset does not say whose its examples are, or a user's lie with several clients.
    """
    if data.keys is None:
        raise DataError(
            f"dataset '{data.name}' does not say whose its examples are, so a user's cannot be counted; give it keys, "
            "one an example"
        )
    if records_per_user(data, partition) is None:
        raise DataError(
            f"partition {partition.name} of '{data.name}' has examples of one user at several clients, each of which "
            "would spend that user's privacy; partition by user (natural), or put all into one client"
        )
    kept = []
    for client, part in enumerate(partition.indices):
        rng = generator(seed, Purpose.PARTITION, client)
        order = rng.permutation(len(part))
        _, users = np.unique(data.keys[part], return_inverse=True)
        ranks = np.empty(len(part), np.int64)
        # The place of each example among its user's, in the drawn order.
        by_user = order[np.argsort(users[order], kind="stable")]
        sizes = np.bincount(users)
        ranks[by_user] = np.arange(len(part)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        kept.append(part[ranks < most])
    before, after = int(partition.sizes.sum()), sum(map(len, kept))
    said = f"{partition.name}, at most {most} a user ({before - after} of {before} examples left out)"
    return Partition(said, tuple(kept)) if after < before else partition
