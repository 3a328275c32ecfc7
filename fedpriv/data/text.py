"""Text: datasets of tokens from users' own texts, lines, running text or rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from fedpriv.base.errors import DataError
from fedpriv.data.dataset import Dataset
from fedpriv.data.sequences import chosen_tokenizer, kind_for, said, summed, whole_texts, windows, without_repeats
from fedpriv.data.tokenizer import Tokenizer


def classified(
    name: str,
    texts: Sequence[str],
    labels: np.ndarray,
    class_names: tuple[str, ...],
    keys: np.ndarray | None,
    held_out: np.ndarray,
    tokenizer: str | Tokenizer = "words",
    vocabulary: int | None = None,
    length: int = 32,
    lowercase: bool | None = None,
    truncate: bool = True,
    source: str = "",
) -> tuple[Dataset, Dataset | None]:
    """Training and test set of texts with classes, each text a sequence.

    Args:
      name: what to call it.
      texts: `[n]`.
      labels: `[n]` class numbers.
      class_names: one a class.
      keys: `[n]` whose each text is, or None.
      held_out: `[n]` whether a text is for testing.
      tokenizer: how texts are cut; see `fedpriv.data.sequences.chosen_tokenizer`.
      vocabulary: most tokens.
      length: places of a sequence.
      lowercase: whether capital letters are made small.
      truncate: whether texts that are too long lose their end; otherwise they are refused.
      source: where it came from.

    Raises:
      DataError: see `fedpriv.data.sequences.whole_texts`.
    """
    where = f"dataset '{name}'"
    training = [t for t, test in zip(texts, held_out) if not test]
    kind = kind_for(chosen_tokenizer(tokenizer, training, vocabulary, lowercase), length)

    def part(rows: np.ndarray, what: str) -> Dataset | None:
        if not len(rows):
            return None
        x, _, counts = whole_texts([texts[i] for i in rows], kind, truncate, f"{where}, {what}")
        own = None if keys is None else keys[rows]
        made = Dataset(name, kind.checked(x, where), labels[rows], len(class_names), class_names, own, source, kind)
        return replace(made, notes=said(kind, counts, what))

    train = part(np.flatnonzero(~held_out), "training texts")
    if train is None:
        raise DataError(f"{where} has no texts; give at least one")
    return train, without_repeats(train, part(np.flatnonzero(held_out), "test texts"))


def by_owner(
    name: str,
    pieces: Mapping[str, Sequence[str]],
    test_fraction: float = 0.2,
    tokenizer: str | Tokenizer = "bpe",
    vocabulary: int | None = None,
    length: int = 32,
    lowercase: bool | None = None,
    source: str = "",
    owned: bool = True,
) -> tuple[Dataset, Dataset | None]:
    """Training and test set of windows of running text, whose targets are the next tokens.

    Args:
      name: what to call it.
      pieces: the pieces of each owner's running text, in their order; none is empty. The last ones, about
        `test_fraction` of the letters, are for testing; of a single piece, its end.
      test_fraction: share held out, in [0, 1).
      tokenizer: how texts are cut; see `fedpriv.data.sequences.chosen_tokenizer`.
      vocabulary: most tokens.
      length: places of a window.
      lowercase: whether capital letters are made small.
      source: where it came from.
      owned: whether owners become the natural keys.

    Raises:
      DataError: too little text for a window.
    """
    parts = {owner: _parted(own, test_fraction) for owner, own in pieces.items()}
    training = [t for first, _ in parts.values() for t in first]
    kind = kind_for(chosen_tokenizer(tokenizer, training, vocabulary, lowercase), length)

    def made(side: int, what: str) -> Dataset | None:
        found = {owner: windows(p[side], kind) for owner, p in parts.items() if p[side]}
        found = {owner: f for owner, f in found.items() if len(f[0])}
        if not found:
            return None
        x, y = (np.concatenate([f[i] for f in found.values()]) for i in (0, 1))
        keys = np.repeat(np.array(list(found)), [len(f[0]) for f in found.values()]) if owned else None
        notes = said(kind, summed([f[2] for f in found.values()]), what)
        return Dataset(name, kind.checked(x, f"dataset '{name}'"), y, kind.vocabulary, (), keys, source, kind, notes)

    train = made(0, "training windows")
    if train is None:
        raise DataError(f"dataset '{name}': the text has fewer than two tokens; give more")
    return train, without_repeats(train, made(1, "test windows"))


def _parted(pieces: Sequence[str], test_fraction: float) -> tuple[list[str], list[str]]:
    """The first pieces, and the last ones with about `test_fraction` of the letters; one piece is cut in two."""
    if not test_fraction:
        return list(pieces), []
    if len(pieces) == 1:
        at = round(len(pieces[0]) * (1 - test_fraction))
        space = next((i for i in range(at, len(pieces[0])) if pieces[0][i].isspace()), None)
        return ([pieces[0]], []) if space is None else ([pieces[0][:space]], [pieces[0][space + 1 :]])
    ends = np.cumsum([len(p) for p in pieces])
    cut = int(np.searchsorted(ends, (1 - test_fraction) * ends[-1]))
    cut = min(max(cut, 1), len(pieces) - 1)
    return list(pieces[:cut]), list(pieces[cut:])
