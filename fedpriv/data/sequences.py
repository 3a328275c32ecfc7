"""Sequences: datasets of tokens from texts, cut or filled to one length, with everything that was lost counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedpriv.base.errors import DataError, ParameterError
from fedpriv.data.dataset import Dataset
from fedpriv.data.kinds.tokens import Tokens
from fedpriv.data.tokenizer import NAMES, Tokenizer, fit, read

#: Length of a sequence where none is given.
LENGTH = 32

#: A running text leaves a last window of this many tokens or more; what is shorter is dropped.
SHORTEST_WINDOW = 2


@dataclass(frozen=True)
class Cut:
    """How texts become sequences.

    Attributes:
      tokenizer: `words`, `characters`, `bpe`, the path of a `tokenizer.json`, or a tokenizer.
      vocabulary: most tokens; see `fedpriv.data.tokenizer.fit`.
      length: places of a sequence.
      lowercase: whether capital letters are made small; None: with `words` alone.
      truncate: whether a text that is too long loses its end; otherwise it is refused.
    """

    tokenizer: str | Tokenizer = "words"
    vocabulary: int | None = None
    length: int = LENGTH
    lowercase: bool | None = None
    truncate: bool = True

    def kind(self, texts: Sequence[str]) -> Tokens:
        """The kind of sequences, with a tokenizer made from `texts` unless there is one already.

        Raises:
          UnknownNameError: neither a tokenizer's name nor a file.
          ParameterError: an option that a ready tokenizer does not have, or a vocabulary that is too small.
          DataError: a file that is no `tokenizer.json`, or texts without tokens.
        """
        made = self._tokenizer(texts)
        return Tokens(length=self.length, vocabulary=made.size, padding=made.padding, tokenizer=made)

    def _tokenizer(self, texts: Sequence[str]) -> Tokenizer:
        if isinstance(self.tokenizer, str) and (self.tokenizer in NAMES or not self.tokenizer.endswith(".json")):
            return fit(texts, self.tokenizer, self.vocabulary, self.lowercase)
        made = self.tokenizer if isinstance(self.tokenizer, Tokenizer) else read(self.tokenizer)
        if self.vocabulary is not None and self.vocabulary != made.size:
            raise ParameterError(
                f"vocabulary={self.vocabulary}: tokenizer '{made.name}' has {made.size} tokens; leave it out"
            )
        if self.lowercase is not None and self.lowercase != made.lowercase:
            raise ParameterError(
                f"lowercase={str(self.lowercase).lower()}: tokenizer '{made.name}' settles that itself; leave it out"
            )
        if made.padding is None:
            raise ParameterError(
                f"tokenizer '{made.name}' has no token for padding; add one called <pad> or [PAD] to its vocabulary"
            )
        return made


@dataclass
class Counts:
    """What became of texts on their way to sequences.

    Attributes:
      sequences: how many came of them.
      tokens: how many were kept.
      unknown: how many of those are in no vocabulary.
      filled: places that padding fills.
      truncated: texts whose end was cut off.
      lost: tokens that were cut off with it.
    """

    sequences: int = 0
    tokens: int = 0
    unknown: int = 0
    filled: int = 0
    truncated: int = 0
    lost: int = 0


def whole_texts(
    texts: Sequence[str],
    kind: Tokens,
    truncate: bool,
    rows: np.ndarray,
    where: str,
    shifted: bool = False,
) -> tuple[np.ndarray, np.ndarray, Counts]:
    """`[n, length]` token numbers, one text a sequence, and for `shifted` the token that follows each place.

    Args:
      texts: none of them empty.
      kind: of the sequences; has a tokenizer.
      truncate: whether the end of a text that is too long is cut off; otherwise it is refused.
      rows: `[n]` numbers of the texts from 0, to name in errors.
      where: the file, to name in errors.
      shifted: whether the second array is the next tokens `[n, length]` (the first is then the text without its last
        token); otherwise it is empty.

    Raises:
      DataError: a text without tokens, or one that is too long.
    """
    tokenizer = _of(kind)
    encoded = tokenizer.encode(texts, special=not shifted)
    if shifted and tokenizer.end is not None:
        encoded = [[*ids, tokenizer.end] for ids in encoded]
    most = kind.length + int(shifted)
    for i, ids in enumerate(encoded):
        if len(ids) < 1 + int(shifted):
            raise DataError(f"{where}: text {rows[i] + 1} ('{texts[i][:40]}') has no tokens; leave it out")
        if len(ids) > most and not truncate:
            raise DataError(
                f"{where}: text {rows[i] + 1} ('{texts[i][:40]}...') has {len(ids)} tokens, more than "
                f"length={kind.length}; raise length, or give truncate=true to cut off its end"
            )
    x = _filled([ids[: most - int(shifted)] if not shifted else ids[:most][:-1] for ids in encoded], kind)
    y = _filled([ids[:most][1:] for ids in encoded], kind) if shifted else np.zeros((0, kind.length), np.int32)
    counts = _counted(encoded, x, kind)
    counts.truncated = sum(len(ids) > most for ids in encoded)
    counts.lost = sum(max(len(ids) - most, 0) for ids in encoded)
    return x, y, counts


def windows(pieces: Sequence[str], kind: Tokens) -> tuple[np.ndarray, np.ndarray, Counts]:
    """`[n, length]` windows that follow each other in one running text, and the token after each place.

    The pieces stand one after the other with the tokenizer's end between them. The last window is filled up.
    """
    tokenizer, length = _of(kind), kind.length
    stream: list[int] = []
    for ids in tokenizer.encode(pieces):
        stream += [*ids, *([tokenizer.end] if tokenizer.end is not None else [])]
    cut = [stream[i : i + length + 1] for i in range(0, max(len(stream) - 1, 0), length)]
    cut = [w for w in cut if len(w) >= SHORTEST_WINDOW]
    x, y = _filled([w[:-1] for w in cut], kind), _filled([w[1:] for w in cut], kind)
    return x, y, _counted(cut, x, kind)


def _of(kind: Tokens) -> Tokenizer:
    if kind.tokenizer is None:
        raise DataError("sequences cannot be made of texts: their kind has no tokenizer; give Tokens(tokenizer=...)")
    return kind.tokenizer


def _filled(rows: Sequence[Sequence[int]], kind: Tokens) -> np.ndarray:
    made = np.full((len(rows), kind.length), kind.padding or 0, np.int32)
    for i, row in enumerate(rows):
        made[i, : len(row)] = row
    return kind.checked(made, f"tokenizer '{_of(kind).name}'")  # which may be somebody's own


def _counted(encoded: Sequence[Sequence[int]], x: np.ndarray, kind: Tokens) -> Counts:
    unknown = _of(kind).unknown
    tokens = sum(min(len(ids), kind.length) for ids in encoded)
    return Counts(
        sequences=len(x),
        tokens=tokens,
        unknown=0 if unknown is None else int((x == unknown).sum()),
        filled=x.size - tokens if len(x) else 0,
    )


def summed(parts: Sequence[Counts]) -> Counts:
    """All of them together."""
    return Counts(*(sum(getattr(p, name) for p in parts) for name in Counts.__dataclass_fields__))


def said(kind: Tokens, counts: Counts, what: str) -> tuple[str, ...]:
    """What a reader must know of how texts became sequences, one sentence each, without full stops."""
    tokenizer = _of(kind)
    lower = " in lower case" if tokenizer.lowercase else ""
    notes = []
    if what.startswith("training"):
        notes.append(
            f"the {what} have {kind.length} of {tokenizer.size:,} tokens ({tokenizer.name}{lower}) each; "
            f"{_share(counts.filled, counts.filled + counts.tokens)} of the places are padding"
        )
    if counts.unknown and tokenizer.unknown is not None:
        notes.append(
            f"{_share(counts.unknown, counts.tokens)} of the {what}' tokens ({counts.unknown:,} of {counts.tokens:,}) "
            f"are not in the vocabulary and stand as {tokenizer.entries[tokenizer.unknown]}"
        )
    if counts.truncated:
        notes.append(
            f"{counts.truncated:,} of {counts.sequences:,} {what} are longer than {kind.length} tokens; their ends are "
            f"cut off ({counts.lost:,} tokens)"
        )
    return tuple(notes)


def _share(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.1f}%"


def without_repeats(train: Dataset, test: Dataset | None) -> tuple[Dataset, Dataset | None]:
    """Both, the test set without sequences that are in the training set too, and a note of how many they were."""
    if test is None:
        return train, None
    seen = {row.tobytes() for row in train.x}
    new = np.flatnonzero([row.tobytes() not in seen for row in test.x])
    if not len(new):
        none = f"all {len(test):,} test sequences are in the training set too, so that there is no test set"
        return replace(train, notes=(*train.notes, none)), None
    if len(new) == len(test):
        return train, test
    some = f"{len(test) - len(new):,} of {len(test):,} test sequences are in the training set too and are left out"
    return train, replace(test.take(new), notes=(*test.notes, some))


def classified(
    name: str,
    texts: Sequence[str],
    labels: np.ndarray,
    class_names: tuple[str, ...],
    keys: np.ndarray | None,
    held_out: np.ndarray,
    how: Cut,
    source: str = "",
    where: str | None = None,
) -> tuple[Dataset, Dataset | None]:
    """Training and test set of texts with classes, each text a sequence.

    Args:
      name: what to call it.
      texts: `[n]`, none of them empty.
      labels: `[n]` class numbers.
      class_names: one a class.
      keys: `[n]` whose each text is, or None.
      held_out: `[n]` whether a text is for testing.
      how: texts become sequences.
      source: where they came from.
      where: what to name in errors; None for the dataset.

    Raises:
      DataError: a text without tokens, or one that is too long for `how`.
    """
    where = where or f"dataset '{name}'"
    kind = how.kind([texts[i] for i in np.flatnonzero(~held_out)])

    def part(rows: np.ndarray, what: str) -> Dataset:
        x, _, counts = whole_texts([texts[i] for i in rows], kind, how.truncate, rows, where)
        own = None if keys is None else keys[rows]
        return Dataset(
            name, x, labels[rows], len(class_names), class_names, own, source, kind, said(kind, counts, what)
        )

    return _both(part, held_out, ("training texts", "test texts"))


def lines(
    name: str,
    texts: Sequence[str],
    keys: np.ndarray | None,
    held_out: np.ndarray,
    how: Cut,
    source: str = "",
    where: str | None = None,
) -> tuple[Dataset, Dataset | None]:
    """Training and test set of texts, each a sequence by itself, whose targets are the next tokens; see `classified`.

    The tokenizer's end stands behind each text, so that it is predicted too.
    """
    where = where or f"dataset '{name}'"
    kind = how.kind([texts[i] for i in np.flatnonzero(~held_out)])

    def part(rows: np.ndarray, what: str) -> Dataset:
        x, y, counts = whole_texts([texts[i] for i in rows], kind, how.truncate, rows, where, shifted=True)
        own = None if keys is None else keys[rows]
        return Dataset(name, x, y, kind.vocabulary, (), own, source, kind, said(kind, counts, what))

    return _both(part, held_out, ("training texts", "test texts"))


def _both(
    part: Callable[[np.ndarray, str], Dataset], held_out: np.ndarray, whats: tuple[str, str]
) -> tuple[Dataset, Dataset | None]:
    train = part(np.flatnonzero(~held_out), whats[0])
    tested = np.flatnonzero(held_out)
    return without_repeats(train, part(tested, whats[1]) if len(tested) else None)


def running_text(
    name: str,
    pieces: Mapping[str, Sequence[str]],
    how: Cut,
    test_fraction: float = 0.2,
    source: str = "",
    owned: bool = True,
) -> tuple[Dataset, Dataset | None]:
    """Training and test set of windows of running text, whose targets are the next tokens.

    Args:
      name: what to call it.
      pieces: the pieces of each owner's running text, in their order; none is empty. The last ones, about
        `test_fraction` of the letters, are for testing; of a single piece, its end.
      how: texts become sequences.
      test_fraction: share held out, in [0, 1).
      source: where they came from.
      owned: whether owners become the natural keys.

    Raises:
      DataError: too little text for a window.
    """
    parts = {owner: _parted(own, test_fraction) for owner, own in pieces.items()}
    kind = how.kind([t for first, _ in parts.values() for t in first])

    def made(side: int, what: str) -> Dataset | None:
        found = {owner: windows(p[side], kind) for owner, p in parts.items() if p[side]}
        found = {owner: f for owner, f in found.items() if len(f[0])}
        if not found:
            return None
        x, y = (np.concatenate([f[i] for f in found.values()]) for i in (0, 1))
        keys = np.repeat(np.array(list(found)), [len(f[0]) for f in found.values()]) if owned else None
        notes = said(kind, summed([f[2] for f in found.values()]), what)
        return Dataset(name, x, y, kind.vocabulary, (), keys, source, kind, notes)

    train = made(0, "training windows")
    if train is None:
        raise DataError(f"dataset '{name}': the text has fewer than two tokens; give more")
    return without_repeats(train, made(1, "test windows"))


def _parted(pieces: Sequence[str], test_fraction: float) -> tuple[list[str], list[str]]:
    """The first pieces, and the last ones with about `test_fraction` of the letters; one piece is cut in two."""
    if not test_fraction:
        return list(pieces), []
    if len(pieces) == 1:
        at = round(len(pieces[0]) * (1 - test_fraction))
        space = next((i for i in range(at, len(pieces[0])) if pieces[0][i].isspace()), None)
        cut_off = "" if space is None else pieces[0][space + 1 :]
        return ([pieces[0][:space]], [cut_off]) if cut_off.strip() else ([pieces[0]], [])
    ends = np.cumsum([len(p) for p in pieces])
    cut = int(np.searchsorted(ends, (1 - test_fraction) * ends[-1]))
    cut = min(max(cut, 1), len(pieces) - 1)
    return list(pieces[:cut]), list(pieces[cut:])
