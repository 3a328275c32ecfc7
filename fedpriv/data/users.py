"""Users: whose examples are whose, and how many of one user's are kept."""

from __future__ import annotations

import hashlib

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
    """The partition with at most `most` examples of each user; the order is kept.

    Which of a user's are kept follows from the seed, the user's key and how many it has, and from nobody else: a user
    more or less changes nothing about the others', as user-level guarantees need. It need not be secret.

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
    for part in partition.indices:
        names, users, counts = np.unique(data.keys[part], return_inverse=True, return_counts=True)
        by_user = np.split(np.argsort(users, kind="stable"), np.cumsum(counts)[:-1])
        keeps = np.ones(len(part), bool)
        for name, places in zip(names, by_user, strict=True):
            if len(places) > most:
                # In the dataset's order, since the partition's may come of a shuffle of everybody's.
                own = places[np.argsort(part[places], kind="stable")]
                keeps[own] = False
                keeps[own[_drawn(seed, str(name), len(own), most)]] = True
        kept.append(part[keeps])
    before, after = int(partition.sizes.sum()), sum(map(len, kept))
    said = f"{partition.name}, at most {most} a user ({before - after} of {before} examples left out)"
    return Partition(said, tuple(kept)) if after < before else partition


def _drawn(seed: int, user: str, count: int, most: int) -> np.ndarray:
    """Places of the examples that a user keeps, `[most]` of `count`."""
    key = int.from_bytes(hashlib.blake2b(user.encode(), digest_size=16).digest(), "little")
    return generator(seed, Purpose.PARTITION, key).permutation(count)[:most]
