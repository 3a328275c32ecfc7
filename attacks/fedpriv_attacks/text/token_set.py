"""Token set: which tokens a batch holds, and how often, read off the rows of the embedding."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.errors import CapabilityError
from fedpriv.models.tasks.next_token import NextToken
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.view import View
from fedpriv_attacks.exact.dense_input import declared_noise
from fedpriv_attacks.inversion.matching import checked_update
from fedpriv_attacks.text.rows import sparsified
from fedpriv_attacks.text.span import numeric_rank


@dataclass(frozen=True, eq=False)
class _Rows:
    """What rows show: a size for each token `[vocabulary]`, the tokens `[m]`, and how they were told from others."""

    sizes: np.ndarray
    tokens: np.ndarray
    source: str
    gap: float


class TokenSet(Attack):
    """The set of tokens behind an update, from the rows of the embedding that moved.

    Melis, Song, De Cristofaro, Shmatikov 2019, "Exploiting Unintended Feature Leakage in Collaborative Learning",
    arXiv 1805.04049: the gradient of a table's row is zero unless its token occurs, whatever the model does with the
    vectors, in any number of local steps, and in a sum of clients' updates. The set is exact but for tokens whose
    gradient cancels to zero.

    A head that is tied to the table gives every row a gradient: the head's part of row v is the sum over places of
    (p_v - [v is the target]) f, with f the features and p the predictions. Two things set inputs apart from that. Rows
    of absent tokens are combinations of the features alone, so while the places of a batch are fewer than the width,
    and fewer than half of the vocabulary occurs, what lies outside of their span is the gradient of inputs; this shows
    tokens that are inputs, of trained models too. And while predictions differ little between places, as at the start
    of training, absent rows are nearly multiples of one vector, and the rows of inputs and targets are not. Whichever
    leaves the wider gap is taken (Gupta, Huang, Zhong, Gao, Li, Chen 2022, arXiv 2205.08514, go by sizes).
    `extra["gap"]` says how wide: the smallest size taken over the largest left out.

    How often a token occurs is estimated by the size of its row, whose parts add up; `extra["tokens"]` has the
    most likely whole counts with the known total. They are a guess where gradients of one token point in
    different directions, and exact where every token occurs once. For a next-token model, rows of the head or a bias of
    the logits would count targets.

    The finding's `x` holds every token once, then their repetitions, both in falling order of counts, filled into
    sequences one after the other: their order, and which tokens stood in one sequence, stay unknown, so it is scored as
    a bag of tokens.
    """

    name: ClassVar[str] = "token_set"
    paper: ClassVar[str] = "Melis et al. 2019, arXiv 1805.04049; after Gupta et al. 2022, arXiv 2205.08514"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.REAL_UPDATE})

    gap: Annotated[float, Field(gt=1, allow_inf_nan=False)] = Field(
        default=3.0,
        description="how many times the rows of absent tokens a row must exceed, where absent ones move too.",
    )

    def attack(self, view: View, seed: int) -> Finding:
        """Reads the rows.

        Returns:
          A Finding with `x` `[n, length]` float32, tokens in no order (only as many rows as the tokens found fill, if n
          is unknown), not-a-number where none is left. `extra` has `tokens`: counts by token; `set`, the tokens;
          `source`, which rows were compared; `gap`; and `exact`, whether absent rows are exactly zero and none is
          left out by a known defense, so that no token of the set is a guess (`reason` where it is not). A token that
          the model makes nothing of, as one that wins no maximum of a pooling, leaves no trace and is missed.

        Raises:
          CapabilityError: the model has no embedding, its rows did not move, or all moved and none stands out.
          DivergenceError: the update is not finite.
        """
        began = time.perf_counter()
        checked_update(view)
        rows = self._rows(view)
        padding = getattr(view.data_kind, "padding", None)
        tokens = rows.tokens[rows.tokens != padding] if padding is not None else rows.tokens
        (length,) = view.model.input_shape
        n = None if view.num_examples is None else view.total_examples
        counts = _counts(rows.sizes[tokens], None if n is None else n * length, padding is not None)
        order = np.lexsort((tokens, -counts))
        # Every token once before any repetition, so that no estimate of counts can crowd one out.
        ranked = tokens[order]
        bag = np.concatenate([ranked, np.repeat(ranked, counts[order] - 1)])
        many = n if n is not None else max(1, -(-len(bag) // length))
        x = np.full(many * length, np.nan, np.float32)
        used = bag[: many * length]
        x[: len(used)] = used
        if padding is not None:
            x[len(used) :] = padding
        less = sparsified(view)
        exact = rows.gap == float("inf") and not less
        why = "a defense leaves coordinates out, so a row that is zero may be of a token too" if less else ""
        return Finding(
            x=x.reshape(many, length),
            seconds=time.perf_counter() - began,
            measures={"tokens": float(len(tokens))},
            extra={
                "tokens": {int(t): int(c) for t, c in zip(tokens[order], counts[order], strict=True)},
                "set": [int(t) for t in tokens],
                "source": rows.source,
                "gap": rows.gap,
                "exact": exact,
                "reason": "" if exact else why or "absent rows moved too, and the set is what stands out",
            },
        )

    def _rows(self, view: View) -> _Rows:
        model = view.model
        embedding = model.embedding
        if embedding is None:
            told = "; ".join(note for note in model.notes if "embedding" in note.lower())
            raise CapabilityError(
                f"attack 'token_set' reads the rows of one trained embedding of the tokens, but model '{model.name}' "
                f"has none that is known{f' ({told})' if told else ''}; use a model of tokens, such as 'gpt'"
            )
        spec, name = model.spec, model.spec.names[embedding.table]
        shape = spec.shapes[embedding.table]
        update = np.asarray(view.observed, np.float64)[spec.slice_of(name)].reshape(shape)
        sizes = np.linalg.norm(update, axis=1)
        if not np.any(sizes):
            raise CapabilityError(
                f"the embedding '{name}' of model '{model.name}' did not move in round {view.round}: it is frozen, so "
                "its rows show no tokens; use 'dager' for a model with attention"
            )
        if np.any(sizes == 0):
            return _Rows(sizes, np.flatnonzero(sizes > 0), "rows", float("inf"))
        floor = declared_noise(view) * np.sqrt(shape[1])
        ways = {"rows": sizes}
        if embedding.tied and isinstance(model.task, NextToken):
            ways = {
                "rows outside of the head's part": _outside(update),
                "rows beside the mean prediction": _beside_mean(update),
            }
        found = {source: (_widest(values, floor), values) for source, values in ways.items()}
        source = max(found, key=lambda w: found[w][0][1])
        (many, gap), values = found[source]
        if gap < self.gap:
            raise CapabilityError(
                f"all {len(sizes)} rows of the embedding moved in round {view.round} and no set of them stands out "
                f"(the widest gap between two of them is a factor of {gap:.2f}, below gap={self.gap:g}): noise, the "
                "predictions of a tied head or too many tokens cover which occurred; use 'dager' for a model with "
                "attention"
            )
        return _Rows(values, np.sort(np.argsort(-values, kind="stable")[:many]), source, gap)


def _outside(rows: np.ndarray) -> np.ndarray:
    """How long rows `[vocabulary, width]` are outside of what the smaller half of them spans, `[vocabulary]`.

    Rows of absent tokens are sums of features, each weighed by a prediction. They span as many dimensions as there are
    places; where that leaves some of the width, what is outside is the gradient of inputs alone.
    """
    sizes = np.linalg.norm(rows, axis=1)
    base = np.argsort(sizes, kind="stable")[: len(rows) // 2]
    base = base[sizes[base] > 0]
    if len(base) < 2:
        return sizes
    unit = rows[base] / sizes[base, None]
    _, values, right = np.linalg.svd(unit, full_matrices=False)
    rank, _ = numeric_rank(values, len(values) - 1, max(unit.shape))
    left = rows - (rows @ right[:rank].T) @ right[:rank]
    return np.asarray(np.linalg.norm(left, axis=1))


def _beside_mean(rows: np.ndarray) -> np.ndarray:
    """How long rows are beside the one direction that the smaller half of them shares, `[vocabulary]`."""
    sizes = np.linalg.norm(rows, axis=1)
    base = np.argsort(sizes, kind="stable")[: max(2, len(rows) // 2)]
    shared = np.linalg.svd(rows[base], full_matrices=False)[2][0]
    return np.asarray(np.linalg.norm(rows - np.outer(rows @ shared, shared), axis=1))


def _widest(sizes: np.ndarray, least: float) -> tuple[int, float]:
    """After how many of the falling sizes the widest gap comes, and its factor."""
    order = np.sort(sizes)[::-1]
    half = max(1, len(order) // 2)  # more than half of a vocabulary is no set that stands out
    ratios = order[:half] / np.maximum(order[1 : half + 1], max(least, float(order[0]) * 1e-15))
    cut = int(np.argmax(ratios))
    return cut + 1, float(ratios[cut])


def _counts(sizes: np.ndarray, total: int | None, padded: bool) -> np.ndarray:
    """Whole counts of tokens, at least 1 each, in proportion to their rows' sizes.

    Args:
      sizes: `[m]`.
      total: places of all sequences, None if unknown.
      padded: whether padding may hold some of the places.
    """
    if not len(sizes):
        return np.zeros(0, np.int64)
    unit = float(np.min(sizes))
    multiples = sizes / unit
    whole = np.abs(multiples - np.rint(multiples)).max() < 0.02 and multiples.max() < 50
    if whole and (total is None or padded or np.rint(multiples).sum() == total):
        counts = np.rint(multiples).astype(np.int64)
        return counts if total is None or counts.sum() <= total else np.ones(len(sizes), np.int64)
    if total is None or padded:
        return np.maximum(np.rint(sizes / float(np.median(sizes))), 1).astype(np.int64)
    counts = np.ones(len(sizes), np.int64)
    extra = total - len(sizes)
    if extra <= 0:
        return counts
    # What is left goes one by one to the token whose size is the most above its count.
    share = sizes * total / sizes.sum()
    for _ in range(extra):
        counts[np.argmax(share - counts)] += 1
    return counts
