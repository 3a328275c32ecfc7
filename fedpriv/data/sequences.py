"""Sequences: datasets of tokens from texts, cut or filled to one length, with everything that was lost counted."""

from __future__ import annotations

from collections.abc import Sequence
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


def chosen_tokenizer(
    how: str | Tokenizer, texts: Sequence[str], vocabulary: int | None = None, lowercase: bool | None = None
) -> Tokenizer:
    """The tokenizer that `how` names, made from `texts`, or read from its file.

    Raises:
      UnknownNameError: neither a tokenizer's name nor a file.
      ParameterError: an option that a ready tokenizer does not have.
      DataError: a file that is no `tokenizer.json`, or texts without tokens.
    """
    if isinstance(how, str) and (how in NAMES or not how.endswith(".json")):
        return fit(texts, how, vocabulary, lowercase)
    made = how if isinstance(how, Tokenizer) else read(how)
    if vocabulary is not None and vocabulary != made.size:
        raise ParameterError(f"vocabulary={vocabulary}: tokenizer '{made.name}' has {made.size} tokens; leave it out")
    if lowercase is not None and lowercase != made.lowercase:
        raise ParameterError(f"lowercase={str(lowercase).lower()}: tokenizer '{made.name}' says itself; leave it out")
    if made.padding is None:
        raise ParameterError(
            f"tokenizer '{made.name}' has no token for padding; add one called <pad> or [PAD] to its vocabulary"
        )
    return made


def kind_for(tokenizer: Tokenizer, length: int) -> Tokens:
    """The kind of sequences of a tokenizer's tokens."""
    return Tokens(length=length, vocabulary=tokenizer.size, padding=tokenizer.padding, tokenizer=tokenizer)


def whole_texts(
    texts: Sequence[str], kind: Tokens, truncate: bool, where: str, shifted: bool = False
) -> tuple[np.ndarray, np.ndarray, Counts]:
    """`[n, length]` token numbers, one text a sequence, and for `shifted` the token that follows each place.

    Args:
      texts: none of them empty.
      kind: of the sequences; has a tokenizer.
      truncate: whether the end of a text that is too long is cut off; otherwise it is refused.
      where: what to name in errors.
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
            raise DataError(f"{where}: text {i + 1} ('{texts[i][:40]}') has no tokens; leave it out")
        if len(ids) > most and not truncate:
            raise DataError(
                f"{where}: text {i + 1} ('{texts[i][:40]}...') has {len(ids)} tokens, more than length={kind.length}; "
                "raise length, or give truncate=true to cut off its end"
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
    return made


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
    lower = ", lower case" if tokenizer.lowercase else ""
    notes = [
        f"tokens by '{tokenizer.name}' ({tokenizer.size} of them{lower}), {kind.length} a sequence; "
        f"{_share(counts.filled, counts.filled + counts.tokens)} of the {what}' places are padding"
    ]
    if tokenizer.unknown is not None:
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


def without_repeats(train: Dataset, test: Dataset | None) -> Dataset | None:
    """The test set without sequences that are in the training set too, with a note of how many they were."""
    if test is None:
        return None
    seen = {row.tobytes() for row in train.x}
    new = np.flatnonzero([row.tobytes() not in seen for row in test.x])
    if len(new) == len(test) or not len(new):
        return test if len(new) else None
    said = f"{len(test) - len(new):,} of {len(test):,} test sequences are in the training set too and are left out"
    return replace(test.take(new), notes=(*test.notes, said))
