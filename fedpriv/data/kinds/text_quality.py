"""Text quality of a reconstruction: ROUGE, edit distance, and tokens right in place or anywhere. On token numbers.

A text is a sequence of token numbers. Padding is taken out of both texts before they are compared, except where
tokens are compared place by place: there, places that are padding in the original do not count. ROUGE is of the
tokens themselves, whatever the tokenizer made of words, without stemming.

ROUGE: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries". Edit distance: Levenshtein 1966.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise

import numpy as np

from fedpriv.base.types import ArrayLike

#: Weight of a token's place in the cost of matching, beside 1 each for ROUGE-L and ROUGE-1: it decides between equals.
PLACE = 0.01


def held(text: ArrayLike, padding: int | None) -> list[int]:
    """The tokens of a text `[length]` in order, without padding and places that are not finite."""
    tokens = np.asarray(text)
    if tokens.dtype.kind == "f":
        tokens = np.rint(tokens[np.isfinite(tokens)])
    return [int(t) for t in tokens if padding is None or t != padding]


def rouge(original: Sequence[int], found: Sequence[int]) -> dict[str, float]:
    """F-measures of ROUGE-1, ROUGE-2 and ROUGE-L, by name. Equal texts get 1, even without two tokens to make a pair.

    The F-measure of a longest common subsequence is rapidfuzz's normalized similarity under insertions and deletions;
    that of tokens or pairs in any order is the same of sorted ones.

    Args:
      original: its token numbers, without padding.
      found: likewise.
    """
    from rapidfuzz.distance import Indel

    def measure(a: Sequence[Hashable], b: Sequence[Hashable]) -> float:
        return float(Indel.normalized_similarity(a, b)) if len(a) and len(b) else float(list(original) == list(found))

    pairs = [sorted(pairwise(text)) for text in (original, found)]
    return {
        "rouge_1": measure(sorted(original), sorted(found)),
        "rouge_2": measure(*pairs),
        "rouge_l": measure(original, found),
    }


def edit_distance(original: Sequence[int], found: Sequence[int]) -> float:
    """Tokens to insert, delete or replace, over those of the longer text: 0 for equal texts, 1 at worst."""
    from rapidfuzz.distance import Levenshtein

    return float(Levenshtein.normalized_distance(original, found))


def in_place(original: ArrayLike, found: ArrayLike, padding: int | None) -> float:
    """Fraction of the original's places with the right token, padding left out; of none, whether the found has none.

    Args:
      original: `[length]`.
      found: `[length]`, finite.
    """
    a, b = np.asarray(original), np.asarray(found)
    there = np.ones(a.shape, bool) if padding is None else a != padding
    return float((a == b)[there].mean()) if there.any() else float((a == b).all())


def in_bag(originals: Sequence[Sequence[int]], found: Iterable[Sequence[int]]) -> list[float]:
    """Fraction of each text's tokens that are anywhere in what was found for the batch; a find counts once.

    Texts without tokens count as found.
    """
    left = Counter(t for text in found for t in text)
    shares = []
    for text in originals:
        hits = Counter(text) & left
        left -= hits
        shares.append(hits.total() / len(text) if text else 1.0)
    return shares


def in_set(originals: Sequence[Sequence[int]], found: Iterable[Sequence[int]]) -> list[float]:
    """Fraction of each text's different tokens that are anywhere in what was found for the batch, however often."""
    known = {t for text in found for t in text}
    return [len(known & set(text)) / len(set(text)) if text else 1.0 for text in originals]


def matching_costs(found: np.ndarray, true: np.ndarray, padding: int | None) -> np.ndarray:
    """Costs `[n, m]` of taking each of `found [m, length]` for each of `true [n, length]`, from 0 for equals to 1.

    By how much ROUGE-L and ROUGE-1 lack of 1, in equal parts; tokens in their places decide between equals.
    """
    from rapidfuzz.distance import Indel
    from rapidfuzz.process import cdist

    ours, theirs = ([held(text, padding) for text in texts] for texts in (true, found))
    if not ours or not theirs:
        return np.zeros((len(ours), len(theirs)))
    order = cdist(ours, theirs, scorer=Indel.normalized_distance, dtype=np.float64)
    bag = cdist([*map(sorted, ours)], [*map(sorted, theirs)], scorer=Indel.normalized_distance, dtype=np.float64)
    misplaced = (np.asarray(found)[None] != np.asarray(true)[:, None]).mean(axis=2)
    costs: np.ndarray = (order + bag + PLACE * misplaced) / (2 + PLACE)
    return costs
