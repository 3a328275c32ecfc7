import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.base.errors import DataError, FedprivError, ParameterError, UnknownNameError
from fedpriv.data import Dataset, Partition, make_partition
from fedpriv.data.partitioners import (
    PARTITIONERS,
    _draw,
    _mixture,
    check_partition,
    dirichlet,
    iid,
    natural,
    quantity_skew,
    shards,
)

BALANCED = np.tile(np.arange(10), 600)
RANDOM_LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=150).map(np.array)
SEEDS = st.integers(0, 2**32)


def counts(partition, labels):
    return np.stack([np.bincount(labels[i], minlength=labels.max() + 1) for i in partition.indices])


def assert_deals_everything(partition, labels, clients):
    assert len(partition) == clients
    assert partition.sizes.min() >= 1
    assert sorted(itertools.chain(*partition.indices)) == list(range(len(labels)))


def same(a, b):
    return a.name == b.name and all(np.array_equal(i, j) for i, j in zip(a.indices, b.indices, strict=True))


@settings(deadline=None)
@given(labels=RANDOM_LABELS, seed=SEEDS, data=st.data())
def test_iid(labels, seed, data):
    clients = data.draw(st.integers(1, len(labels)))
    partition = iid(labels, clients, seed)
    assert_deals_everything(partition, labels, clients)
    assert np.ptp(partition.sizes) <= 1
    assert same(partition, iid(labels, clients, seed))


@settings(deadline=None)
@given(labels=RANDOM_LABELS, seed=SEEDS, per_client=st.integers(1, 4), data=st.data())
def test_shards(labels, seed, per_client, data):
    if len(labels) < per_client:
        return
    clients = data.draw(st.integers(1, len(labels) // per_client))
    partition = shards(labels, clients, per_client, seed)
    assert_deals_everything(partition, labels, clients)
    assert np.ptp(partition.sizes) <= per_client
    assert same(partition, shards(labels, clients, per_client, seed))
    # Sorted by label, the pieces cross each of the boundaries between classes at most once.
    held = (counts(partition, labels) > 0).sum()
    assert held <= clients * per_client + len(np.unique(labels)) - 1


@settings(deadline=None)
@given(labels=RANDOM_LABELS, seed=SEEDS, alpha=st.floats(1e-12, 1e6), data=st.data())
def test_balanced_dirichlet(labels, seed, alpha, data):
    clients = data.draw(st.integers(1, len(labels)))
    partition = dirichlet(labels, clients, alpha, seed)
    assert_deals_everything(partition, labels, clients)
    assert np.ptp(partition.sizes) <= 1
    assert same(partition, dirichlet(labels, clients, alpha, seed))


@settings(deadline=None)
@given(seed=SEEDS, clients=st.integers(1, 20), alpha=st.floats(0.3, 1e6), least=st.integers(1, 20))
def test_unbalanced_dirichlet(seed, clients, alpha, least):
    labels = np.tile(np.arange(10), 200)
    partition = dirichlet(labels, clients, alpha, seed, min_examples=least, balanced=False)
    assert_deals_everything(partition, labels, clients)
    assert partition.sizes.min() >= least


@settings(deadline=None)
@given(labels=RANDOM_LABELS, seed=SEEDS, alpha=st.floats(1e-12, 1e6), least=st.integers(1, 3), data=st.data())
def test_quantity_skew(labels, seed, alpha, least, data):
    if len(labels) < least:
        return
    clients = data.draw(st.integers(1, len(labels) // least))
    partition = quantity_skew(labels, clients, alpha, seed, least)
    assert_deals_everything(partition, labels, clients)
    assert partition.sizes.min() >= least
    assert same(partition, quantity_skew(labels, clients, alpha, seed, least))


@settings(deadline=None)
@given(keys=st.lists(st.sampled_from("abcde"), min_size=1, max_size=60).map(np.array), seed=SEEDS, data=st.data())
def test_natural(keys, seed, data):
    partition = natural(keys, seed=seed)
    distinct = np.unique(keys)
    assert_deals_everything(partition, keys, len(distinct))
    assert [set(keys[i]) for i in partition.indices] == [{k} for k in distinct]
    some = natural(keys, data.draw(st.integers(1, len(distinct))), seed)
    for indices in some.indices:
        assert len(indices) == (keys == keys[indices[0]]).sum()
    check_partition(some, len(keys))


@pytest.mark.parametrize("make", [iid, shards, dirichlet, quantity_skew])
def test_another_seed_deals_otherwise(make):
    assert not same(make(BALANCED, 10, seed=1), make(BALANCED, 10, seed=2))


def test_mcmahans_setting_gives_two_classes_a_client():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 6000))
    partition = shards(labels, 100, 2, seed=3)
    assert set(partition.sizes) == {600}
    classes = (counts(partition, labels) > 0).sum(axis=1)
    assert set(classes) <= {1, 2}
    assert (classes == 2).mean() > 0.8


def test_shards_order_within_a_client_is_mixed():
    partition = shards(BALANCED, 20, 2, seed=0)
    mixed = [len(np.flatnonzero(np.diff(BALANCED[i]))) > 2 for i in partition.indices if len(set(BALANCED[i])) == 2]
    assert all(mixed)


@pytest.mark.parametrize("balanced", [True, False])
def test_a_large_alpha_tends_to_uniform(balanced):
    partition = dirichlet(BALANCED, 10, 1e7, seed=0, balanced=balanced)
    share = counts(partition, BALANCED) / partition.sizes[:, None]
    # Without replacement from 600 a class: a standard deviation below sqrt(0.1 * 0.9 / 600) = 0.012.
    assert abs(share - 0.1).max() < 0.06


def test_a_small_alpha_tends_to_one_class_a_client():
    few = dirichlet(BALANCED, 10, 1e-6, seed=0)
    assert (counts(few, BALANCED).max(axis=1) == few.sizes).all()
    smaller = dirichlet(BALANCED, 40, 1e-9, seed=0)
    assert ((counts(smaller, BALANCED) > 0).sum(axis=1) <= 2).all()


@pytest.mark.parametrize("alpha", [0.05, 0.5, 5.0])
def test_mixtures_have_the_moments_of_the_dirichlet_distribution(alpha):
    concentration = alpha * np.array([1.0, 2.0, 3.0])
    rng = np.random.default_rng(0)
    draws = np.stack([_mixture(rng, concentration) for _ in range(20_000)])
    mean = concentration / concentration.sum()
    variance = mean * (1 - mean) / (concentration.sum() + 1)
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=0.015)
    np.testing.assert_allclose(draws.var(axis=0), variance, rtol=0.05)


def test_draws_by_weight_never_pick_an_impossible_class():
    rng = np.random.default_rng(0)
    for weights in ([0.0, 1.0, 0.0], [1.0, 1e-300, 0.0], [0.3, 0.3, 0.4], [0.0, 0.0, 5e-324]):
        drawn = _draw(rng, np.array(weights), 1000)
        assert drawn.sum() == 1000
        assert not drawn[np.array(weights) == 0].any()
    share = _draw(rng, np.array([1.0, 2.0, 5.0]), 80_000) / 80_000
    np.testing.assert_allclose(share, [1 / 8, 2 / 8, 5 / 8], atol=0.01)


def test_dirichlet_follows_the_prior_of_unbalanced_classes():
    labels = np.repeat([0, 1], [9000, 1000])
    share = counts(dirichlet(labels, 10, 1e7, seed=0), labels) / 1000
    np.testing.assert_allclose(share[:, 1], 0.1, atol=0.05)


def test_quantity_skew_leaves_labels_alone_and_skews_sizes():
    partition = quantity_skew(BALANCED, 10, 0.5, seed=1)
    assert partition.sizes.max() > 3 * np.median(partition.sizes)
    largest = partition.indices[int(partition.sizes.argmax())]
    assert abs(np.bincount(BALANCED[largest]) / len(largest) - 0.1).max() < 0.05
    even = quantity_skew(BALANCED, 10, 1e8, seed=1)
    assert np.ptp(even.sizes) < 20


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: iid(BALANCED[:5], 6), "clients=6, but there are only 5 examples; use at most 5"),
        (lambda: iid(BALANCED, 0), "clients=0: expected at least 1"),
        (lambda: iid(BALANCED, 2, seed=-1), "seed=-1"),
        (lambda: shards(BALANCED[:10], 6), "6 clients need 12 examples.*use at most 5 clients"),
        (lambda: shards(BALANCED, 6, per_client=0), "per_client=0; expected at least 1"),
        (lambda: dirichlet(BALANCED, 6, alpha=0.0), "alpha=0.0; expected a positive number"),
        (lambda: dirichlet(BALANCED, 6, alpha=float("nan")), "alpha=nan"),
        (lambda: dirichlet(BALANCED[:50], 10, min_examples=6), "10 clients need 60 examples"),
        (lambda: dirichlet(BALANCED, 50, 1e-3, balanced=False), "raise alpha, lower clients or use balanced=true"),
        (lambda: quantity_skew(BALANCED, 6, alpha=-1), "alpha=-1"),
        (lambda: quantity_skew(BALANCED, 6, min_examples=0), "min_examples=0"),
        (lambda: natural(np.array(["a", "b"]), 3), "clients=3, but the data have 2 keys"),
    ],
)
def test_impossible_values(call, message):
    with pytest.raises(ParameterError, match=message):
        call()


@pytest.fixture
def dataset():
    keys = np.array([f"writer{i // 10}" for i in range(100)])
    return Dataset("toy", np.zeros((100, 2, 2, 1), np.uint8), np.tile(np.arange(10, dtype=np.int32), 10), 10, (), keys)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("iid", "iid(clients=5)"),
        ("shards", "shards(clients=5, per_client=2)"),
        ("shards(per_client=3)", "shards(clients=5, per_client=3)"),
        ("dirichlet(alpha=0.3)", "dirichlet(clients=5, alpha=0.3)"),
        ("dirichlet(alpha=3, balanced=false)", "dirichlet(clients=5, alpha=3, balanced=False)"),
        ("quantity(alpha=2)", "quantity(clients=5, alpha=2)"),
        ("natural", "natural(clients=5)"),
        ("natural(clients=none)", "natural(clients=10)"),
        ("iid(clients=7)", "iid(clients=7)"),
    ],
)
def test_make_partition(dataset, text, name):
    partition = make_partition(text, dataset, 5, seed=1)
    assert partition.name == name
    check_partition(partition, len(dataset))
    assert same(partition, make_partition(partition.name, dataset, None, seed=1))


def test_every_partitioner_is_reached_with_its_own_defaults(dataset):
    for name in PARTITIONERS:
        make_partition(name, dataset, 5, 0)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("dirichelt(alpha=1)", UnknownNameError, "Did you mean 'dirichlet'"),
        ("dirichlet(alhpa=1)", ParameterError, "no parameter 'alhpa'. Did you mean 'alpha'"),
        ("dirichlet(alpha=big)", ParameterError, "alpha='big'.*valid number"),
        ("dirichlet(alpha=-1)", ParameterError, "alpha=-1.0; expected a positive number"),
        ("shards(2)", ParameterError, "'2' is no key=value"),
        ("shards(per_client=2", ParameterError, "closing parenthesis"),
        ("shards(per_client=1.5)", ParameterError, "per_client='1.5'"),
        ("iid(labels=1)", ParameterError, "no parameter 'labels'"),
        ("iid(clients=101)", ParameterError, "only 100 examples"),
        ("nowhere.at.all:f", UnknownNameError, "nowhere"),
        ("math:sqrt", ParameterError, "no parameter"),
    ],
)
def test_make_partition_explains_mistakes(dataset, text, kind, message):
    with pytest.raises(kind, match=message):
        make_partition(text, dataset, 5)


def test_clients_must_be_given(dataset):
    with pytest.raises(ParameterError, match="needs a value for clients"):
        make_partition("iid", dataset, None)


def test_natural_needs_keys(dataset):
    bare = Dataset("bare", dataset.x, dataset.y, 10)
    with pytest.raises(DataError, match="dataset 'bare' has no client keys"):
        make_partition("natural", bare, None)


def broken(labels, clients: int, seed: int = 0, how: str = "twice") -> Partition:
    first = {"twice": [0, 1], "empty": [], "outside": [0, 100], "negative": [-1]}[how]
    return Partition("broken", (np.array([1], np.int64), np.array(first, np.int64)))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("twice", "example 1 is held 2 times"),
        ("empty", "client 1 has no examples"),
        ("outside", "client 1 holds index 100; expected 0 to 99"),
        ("negative", "client 1 holds index -1"),
    ],
)
def test_a_partitioner_of_ones_own_is_checked(dataset, how, message, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "own_partitioners", sys.modules[__name__])
    with pytest.raises(DataError, match=message):
        make_partition(f"own_partitioners:broken(how={how})", dataset, 2)


def test_errors_are_fedprivs_own():
    assert all(issubclass(e, FedprivError) for e in (ParameterError, DataError, UnknownNameError))
