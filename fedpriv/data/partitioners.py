"""Partitioners: how a dataset is dealt out to clients.

Each is a function of the labels, the number of clients and a seed, and returns a `Partition`: disjoint, every client
non-empty, each client's indices in a random order, the same under the same seed. Except for `natural` with fewer
clients than keys, every example goes to some client.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from fedpriv.base.errors import DataError, ParameterError, UnknownNameError, did_you_mean
from fedpriv.base.registry import Registry, build, parse_call
from fedpriv.data.dataset import Dataset
from fedpriv.data.partition import Partition


def iid(labels: np.ndarray, clients: int, seed: int = 0) -> Partition:
    """Independent and identically distributed: a shuffled deck dealt out evenly.

    Sizes differ by at most one; every example is dealt (the remainder goes one each to the first clients).

    Paper: McMahan, Moore, Ramage, Hampson, Arcas, 2017, arXiv 1602.05629 (section 3).

    Args:
      labels: `[n]` integers (only their number matters).
      clients: number of clients.
      seed: of the shuffle.

    Raises:
      ParameterError: more clients than examples.
    """
    rng, n = _start(labels, clients, seed, 1)
    return Partition(f"iid(clients={clients})", tuple(np.array_split(rng.permutation(n), clients)))


def shards(labels: np.ndarray, clients: int, per_client: int = 2, seed: int = 0) -> Partition:
    """Pathological label skew: examples sorted by label, cut into shards, `per_client` shards each.

    With balanced classes and shards that divide them, as on MNIST with 100 clients and two shards each, a client sees
    at most `per_client` classes; a shard that lies across a boundary adds one. Shard sizes differ by at most one and
    every example is dealt. Within a class, examples are shuffled before cutting.

    Paper: McMahan, Moore, Ramage, Hampson, Arcas, 2017, arXiv 1602.05629 (section 3).

    Args:
      labels: `[n]` integers.
      clients: number of clients.
      per_client: shards (about: classes) a client.
      seed: of the shuffles.

    Raises:
      ParameterError: more shards than examples, or fewer than one a client.
    """
    if per_client < 1:
        raise ParameterError(f"shards: per_client={per_client}; expected at least 1")
    rng, n = _start(labels, clients, seed, per_client)
    shuffled = rng.permutation(n)
    by_label = shuffled[np.argsort(np.asarray(labels)[shuffled], kind="stable")]
    pieces = np.array_split(by_label, clients * per_client)
    dealt = rng.permutation(clients * per_client).reshape(clients, per_client)
    indices = tuple(rng.permutation(np.concatenate([pieces[s] for s in row])) for row in dealt)
    return Partition(f"shards(clients={clients}, per_client={per_client})", indices)


def dirichlet(
    labels: np.ndarray,
    clients: int,
    alpha: float = 0.5,
    seed: int = 0,
    min_examples: int = 1,
    balanced: bool = True,
) -> Partition:
    """Label skew from a Dirichlet distribution: a small `alpha` gives clients few classes, a large one all alike.

    `balanced` (Hsu, Qi, Brown, 2019, arXiv 1909.06335): all clients are equally large (to within one). Each draws its
    class mixture q ~ Dir(alpha * N * p), for N classes whose overall shares are p, then takes examples by q without
    replacement; as a class runs out, q is renormalized over those left, so that the last clients' mixtures lean to
    what remains. On balanced classes every class's concentration is `alpha`.

    Not `balanced` (Yurochkin et al., 2019, arXiv 1905.12022): each class is split over the clients by shares drawn
    from Dir(alpha, ..., alpha), so sizes are skewed too. Draws that leave a client below `min_examples` are repeated,
    1,000 times at most.

    Every example is dealt.

    Args:
      labels: `[n]` integers.
      clients: number of clients.
      alpha: concentration, positive; 0.1 is strong skew, 1 mild, 100 nearly IID.
      seed: of all draws.
      min_examples: the least a client may hold.
      balanced: whether clients are equally large.

    Raises:
      ParameterError: alpha not positive, too few examples for `min_examples` each, or a skew under which no draw gives
        every client that many.
    """
    _check_positive("dirichlet", "alpha", alpha)
    rng, n = _start(labels, clients, seed, min_examples)
    labels = np.asarray(labels)
    classes, counts = np.unique(labels, return_counts=True)
    pools = [rng.permutation(np.flatnonzero(labels == c)) for c in classes]
    if balanced:
        sizes = np.full(clients, n // clients) + (np.arange(clients) < n % clients)
        takes = _balanced_counts(rng, counts, sizes, alpha)
    else:
        takes = _class_split_counts(rng, counts, clients, alpha, min_examples)
    ends = np.cumsum(takes, axis=0)
    indices = tuple(
        rng.permutation(np.concatenate([pool[e - t : e] for pool, e, t in zip(pools, ends[k], takes[k])]))
        for k in range(clients)
    )
    extra = "" if balanced else ", balanced=False"
    return Partition(f"dirichlet(clients={clients}, alpha={alpha:g}{extra})", indices)


def _balanced_counts(rng: np.random.Generator, counts: np.ndarray, sizes: np.ndarray, alpha: float) -> np.ndarray:
    """`[K, N]` examples of each class for each client: rows sum to `sizes`, columns to `counts`."""
    left = counts.copy()
    takes = np.zeros((len(sizes), len(counts)), np.int64)
    concentration = alpha * len(counts) * counts / counts.sum()
    for k in rng.permutation(len(sizes)):
        logs = _log_mixture(rng, concentration)
        while (need := int(sizes[k] - takes[k].sum())) > 0:
            weights = np.exp(np.where(left > 0, logs - logs[left > 0].max(), -np.inf))
            drawn = np.minimum(_draw(rng, weights, need), left)
            takes[k] += drawn
            left -= drawn
    return takes


def _log_mixture(rng: np.random.Generator, concentration: np.ndarray) -> np.ndarray:
    """The logarithm, up to a constant, of one draw from Dir(concentration), however small the concentration.

    A Gamma(a) variate is a Gamma(a + 1) variate times U^(1/a) (Marsaglia and Tsang, 2000); in logarithms nothing
    underflows, so a tiny concentration gives its limit, a single class, and another one once that has run out.
    """
    a = np.maximum(concentration, 1e-300)
    return np.log(rng.standard_gamma(a + 1)) + np.log1p(-rng.random(len(a))) / a


def _mixture(rng: np.random.Generator, concentration: np.ndarray) -> np.ndarray:
    logs = _log_mixture(rng, concentration)
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()


def _draw(rng: np.random.Generator, weights: np.ndarray, size: int) -> np.ndarray:
    """`[N]` how often each class came up in `size` draws by `weights`; never one of weight zero.

    By inversion, because NumPy's multinomial can loop for ever once rounding has used up the remaining probability.
    """
    cumulative = np.cumsum(weights)
    classes = np.searchsorted(cumulative, rng.random(size) * cumulative[-1], side="right")
    last = int(np.flatnonzero(weights)[-1])  # the product may round up to the total itself
    return np.bincount(np.minimum(classes, last), minlength=len(weights))


def _class_split_counts(
    rng: np.random.Generator, counts: np.ndarray, clients: int, alpha: float, min_examples: int
) -> np.ndarray:
    """`[K, N]` examples of each class for each client: columns sum to `counts`, rows to at least `min_examples`."""
    best = 0
    for _ in range(1000):
        shares = [_mixture(rng, np.full(clients, alpha)) for _ in counts]
        takes = np.stack([_largest_remainder(s, int(c)) for s, c in zip(shares, counts)], axis=1)
        smallest = int(takes.sum(axis=1).min())
        if smallest >= min_examples:
            return takes
        best = max(best, smallest)
    raise ParameterError(
        f"dirichlet: alpha={alpha:g} with {clients} clients left some client with at most {best} examples in each of "
        f"1000 draws, below min_examples={min_examples}; raise alpha, lower clients or use balanced=true"
    )


def quantity_skew(
    labels: np.ndarray, clients: int, alpha: float = 0.5, seed: int = 0, min_examples: int = 1
) -> Partition:
    """Quantity skew: client sizes drawn from a Dirichlet distribution, labels IID.

    Each client gets `min_examples`; the rest is shared in proportions drawn from Dir(alpha, ..., alpha), rounded by
    largest remainder, so every example is dealt.

    Paper: Li, Diao, Chen, He, 2021, arXiv 2102.02079 (section IV-C).

    Args:
      labels: `[n]` integers (only their number matters).
      clients: number of clients.
      alpha: concentration, positive; the smaller, the more unequal the sizes.
      seed: of all draws.
      min_examples: the least a client may hold.

    Raises:
      ParameterError: alpha not positive, or too few examples for `min_examples` each.
    """
    _check_positive("quantity", "alpha", alpha)
    rng, n = _start(labels, clients, seed, min_examples)
    shares = _mixture(rng, np.full(clients, alpha))
    sizes = min_examples + _largest_remainder(shares, n - clients * min_examples)
    indices = tuple(np.split(rng.permutation(n), np.cumsum(sizes)[:-1]))
    return Partition(f"quantity(clients={clients}, alpha={alpha:g})", indices)


def _largest_remainder(shares: np.ndarray, total: int) -> np.ndarray:
    """Integers near `shares * total` that sum to `total`."""
    ideal = shares / shares.sum() * total
    floors = np.floor(ideal).astype(np.int64)
    short = total - int(floors.sum())
    floors[np.argsort(floors - ideal, kind="stable")[:short]] += 1
    return floors


def natural(keys: np.ndarray, clients: int | None = None, seed: int = 0) -> Partition:
    """One client for each distinct key, such as an example's writer.

    Clients are in the sorted order of their keys. With fewer `clients` than keys, that many keys are drawn at random
    and the other keys' examples are left out.

    Args:
      keys: `[n]` key of each example.
      clients: how many keys to keep, or None for all.
      seed: of that draw, and of each client's order.

    Raises:
      ParameterError: more clients than keys.
    """
    keys = np.asarray(keys)
    distinct, owner = np.unique(keys, return_inverse=True)
    wanted = len(distinct) if clients is None else clients
    if not 1 <= wanted <= len(distinct):
        raise ParameterError(f"natural: clients={clients}, but the data have {len(distinct)} keys; expected 1 to that")
    rng = np.random.default_rng(seed)
    kept = np.sort(rng.choice(len(distinct), wanted, replace=False)) if wanted < len(distinct) else range(wanted)
    order = np.argsort(owner, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(owner, minlength=len(distinct)))[:-1])
    return Partition(f"natural(clients={wanted})", tuple(rng.permutation(groups[k]) for k in kept))


PARTITIONERS: dict[str, Callable[..., Partition]] = {
    "iid": iid,
    "shards": shards,
    "dirichlet": dirichlet,
    "quantity": quantity_skew,
    "natural": natural,
}


def make_partition(text: str, dataset: Dataset, clients: int | None, seed: int = 0) -> Partition:
    """The partition of `dataset` that `text` asks for.

    Args:
      text: `iid`, `shards(per_client=2)`, `dirichlet(alpha=0.3)`, `quantity(alpha=0.5)`, `natural`, or a
        `package.module:function` of labels, clients and seed that returns a `Partition`; parameters in parentheses.
        `clients` and `seed` written there win over the arguments.
      dataset: what to deal out; `natural` needs its `keys`.
      clients: number of clients; None only where the partitioner finds it out (`natural`).
      seed: of all draws.

    Raises:
      UnknownNameError: no such partitioner, with the nearest known one.
      ParameterError: an unknown parameter, an impossible value, or more clients than examples.
      DataError: `natural` on data without keys, or a partitioner that returns an invalid partition.
    """
    name, written = parse_call(text, "partition")
    target = PARTITIONERS.get(name)
    if target is None:
        if ":" not in name:
            raise UnknownNameError(f"no partition is named '{name}'.{did_you_mean(name, PARTITIONERS)}")
        target = Registry("partition", "fedpriv.partitioners").load(name)
    what = f"partition '{name}'"
    if name == "natural" and dataset.keys is None:
        raise DataError(
            f"{what}: dataset '{dataset.name}' has no client keys; use data with keys (an .npz with an array 'keys', "
            "or TFF client data), or another partition"
        )
    given: dict[str, Any] = {"seed": seed} if clients is None else {"clients": clients, "seed": seed}
    if name == "dirichlet" and not dataset.num_classes:
        raise ParameterError(
            f"partition 'dirichlet' divides classes, but the targets of '{dataset.name}' are quantities; use iid, "
            "quantity, or shards, which deals out ranges of them"
        )
    if name in ("dirichlet", "shards") and dataset.num_classes and dataset.y.ndim > 1:
        raise ParameterError(
            f"partition '{name}' divides classes, but the targets of '{dataset.name}' are sequences; use iid, quantity "
            "or natural"
        )
    subject = dataset.keys if name == "natural" else dataset.y
    partition = build(_bound(target, subject), {**given, **written}, what)
    if not isinstance(partition, Partition):
        raise DataError(f"{what} returned {type(partition).__name__}; expected a Partition")
    check_partition(partition, len(dataset))
    return replace(partition, seed={**given, **written}["seed"])


def _bound(target: Callable[..., Partition], subject: np.ndarray | None) -> Callable[..., Partition]:
    """`target` with its first argument given, so that only its options can be written."""

    @functools.wraps(target)
    def bound(**options: Any) -> Partition:
        return target(subject, **options)

    signature = inspect.signature(target, eval_str=True)
    options = [p.replace(kind=p.KEYWORD_ONLY) for p in list(signature.parameters.values())[1:]]
    bound.__signature__ = signature.replace(parameters=options)  # type: ignore[attr-defined]
    bound.__annotations__ = {p.name: p.annotation for p in options if p.annotation is not p.empty}
    del bound.__wrapped__  # type: ignore[attr-defined]
    return bound


def check_partition(partition: Partition, examples: int) -> None:
    """Refuses a partition with an empty client, an index outside the data, or an example held twice.

    Raises:
      DataError: names the client and the index.
    """
    if len(partition) == 0:
        raise DataError(f"partition '{partition.name}' has no clients")
    for client, indices in enumerate(partition.indices):
        if len(indices) == 0:
            raise DataError(f"partition '{partition.name}': client {client} has no examples")
        if indices.min() < 0 or indices.max() >= examples:
            raise DataError(
                f"partition '{partition.name}': client {client} holds index "
                f"{indices.min() if indices.min() < 0 else indices.max()}; expected 0 to {examples - 1}"
            )
    held = np.bincount(np.concatenate(partition.indices), minlength=examples)
    if held.max() > 1:
        raise DataError(
            f"partition '{partition.name}': example {int(held.argmax())} is held {int(held.max())} times; expected once"
        )


def _start(labels: np.ndarray, clients: int, seed: int, each: int) -> tuple[np.random.Generator, int]:
    n = len(labels)
    if clients < 1:
        raise ParameterError(f"clients={clients}: expected at least 1")
    if each < 1:
        raise ParameterError(f"min_examples={each}: expected at least 1; every client holds some data")
    if clients * each > n:
        need = f"{clients} clients need {clients * each} examples ({each} each)" if each > 1 else f"clients={clients}"
        raise ParameterError(f"{need}, but there are only {n} examples; use at most {n // each} clients")
    if seed < 0:
        raise ParameterError(f"seed={seed}: expected 0 or more")
    return np.random.default_rng(seed), n


def _check_positive(what: str, name: str, value: float) -> None:
    if not (np.isfinite(value) and value > 0):
        raise ParameterError(f"{what}: {name}={value}; expected a positive number")
