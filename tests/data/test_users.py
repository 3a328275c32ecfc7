"""Users: which of their examples are kept."""

from __future__ import annotations

import numpy as np
import pytest

from fedpriv.data.dataset import Dataset
from fedpriv.data.partition import Partition
from fedpriv.data.users import bounded

COUNTS = (4, 1, 7, 4, 2, 5)


def data_of(users, start=0):
    keys = np.repeat(users, [COUNTS[u] for u in users]) + start
    return Dataset("toy", np.zeros((len(keys), 2), np.float32), np.zeros(len(keys), np.int32), 2, keys=keys)


def kept_of(users, most=2, seed=0, order=None):
    """For each user, which of its own examples are kept."""
    data = data_of(users)
    part = np.arange(len(data)) if order is None else order(len(data))
    kept = bounded(data, Partition("all", (part,)), most, seed).indices[0]
    assert [i for i in part if i in set(kept)] == kept.tolist()
    return {u: np.flatnonzero(np.isin(np.flatnonzero(data.keys == u), kept)).tolist() for u in users}


@pytest.mark.parametrize("order", [None, lambda n: np.random.default_rng(3).permutation(n)])
def test_a_user_more_or_less_changes_nothing_about_the_others(order):
    everybody = kept_of(range(6), order=order)
    assert {u: len(own) for u, own in everybody.items()} == {u: min(n, 2) for u, n in enumerate(COUNTS)}
    for gone in range(6):
        rest = [u for u in range(6) if u != gone]
        assert kept_of(rest, order=order) == {u: everybody[u] for u in rest}


def test_clients_do_not_matter_and_seeds_and_users_do():
    data = data_of(range(6))
    whole = bounded(data, Partition("all", (np.arange(len(data)),)), 2, 0).indices[0]
    parts = tuple(np.flatnonzero(data.keys == u) for u in (3, 0, 5, 1, 2, 4))
    assert np.sort(np.concatenate(bounded(data, Partition("users", parts), 2, 0).indices)).tolist() == whole.tolist()
    assert len({str(kept_of(range(6), seed=seed)) for seed in range(5)}) > 1
    assert len({str(kept_of([u], seed=seed)[u]) for seed in range(5) for u in (0, 3)}) > 1
    alike = [kept_of(range(6), seed=seed) for seed in range(20)]
    assert any(found[0] != found[3] for found in alike)
