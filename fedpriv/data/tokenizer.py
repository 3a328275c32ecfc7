"""Tokenizer: how a text becomes token numbers and token numbers become a text, on the library `tokenizers`."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydantic
from pydantic import Field

from fedpriv.base.errors import DataError, ParameterError, UnknownNameError, did_you_mean, reason

if TYPE_CHECKING:
    import tokenizers

#: What stands at the head of every vocabulary that is made here: filling, what is in no vocabulary, the end of a piece.
PADDING, UNKNOWN, END = "<pad>", "<unk>", "<end>"
SPECIAL = (PADDING, UNKNOWN, END)

#: How the vocabularies of others call theirs, the likeliest first.
PADDINGS = (PADDING, "[PAD]", "<|pad|>", "<|padding|>", "<|endoftext|>", "</s>", "<|end_of_text|>")
UNKNOWNS = (UNKNOWN, "[UNK]", "<|unk|>", "<UNK>")
ENDS = (END, "<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>")

#: Those that are made from texts.
NAMES = ("characters", "words", "bpe")

#: Words with what is inside them, such as "don't" and "looking-glass", and single marks.
_WORD = r"\w+(?:['’\-]\w+)*|[^\w\s]"

#: Numbers that `bpe` starts from, one a byte.
BYTES = 256


class Tokenizer(pydantic.BaseModel):
    """A vocabulary and the rule that cuts texts into its entries: frozen, hashable, and public.

    What is printed of it, and enters the hashes of data and experiments, is name, size and digest; `save` writes all.

    Attributes:
      name: `characters`, `words`, `bpe`, or the name of the file it was read from.
      size: how many tokens there are.
      digest: SHA-256, 16 hex digits, over the whole of it.
      lowercase: whether capital letters are made small first.
      padding: number of the token that fills up short texts, or None where there is none.
      unknown: number of the token that stands for what is in no vocabulary; None where all texts can be written.
      end: number of the token that ends a piece of running text, or None.
      model: all of it, as the library's JSON.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str
    size: int
    digest: str
    lowercase: bool = False
    padding: int | None = None
    unknown: int | None = None
    end: int | None = None
    model: str = Field(exclude=True, repr=False)

    @property
    def entries(self) -> tuple[str, ...]:
        """The vocabulary by number, as texts: `bpe`'s may begin with a space; half a character reads as `\ufffd`."""
        return _entries(self.model)

    def encode(self, texts: Sequence[str], special: bool = False) -> list[list[int]]:
        """Token numbers of each text.

        Args:
          texts: any; what looks like a special token is taken letter by letter.
          special: whether to add what the tokenizer itself puts around a text, such as BERT's [CLS] and [SEP].

        Raises:
          DataError: the tokenizer cannot write a text, such as one without an unknown token.
        """
        try:
            found = _library(self.model).encode_batch(list(texts), add_special_tokens=special)
        except BaseException as e:
            _reraise(e)
            raise DataError(f"tokenizer '{self.name}' cannot write the texts ({reason(e)}); use another") from e
        return [e.ids for e in found]

    def decode(self, numbers: Iterable[int] | np.ndarray) -> str:
        """The text of token numbers, without padding; the other special tokens are written out."""
        kept = [int(n) for n in numbers if int(n) != self.padding]
        return str(_library(self.model).decode(kept, skip_special_tokens=False))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a `tokenizer.json`, which `read` and the library `tokenizers` read."""
        from fedpriv.base.atomic import write_text

        write_text(Path(path), self.model)


def keep(kind: object, path: str | os.PathLike[str]) -> Path | None:
    """Writes the tokenizer of a kind that has one, so that a run's tokens can be read later; where it went, or None."""
    made = getattr(kind, "tokenizer", None)
    if not isinstance(made, Tokenizer):
        return None
    made.save(path)
    return Path(path)


@functools.lru_cache(maxsize=16)
def _library(model: str) -> tokenizers.Tokenizer:
    found = _tokenizers().Tokenizer.from_str(model)
    found.encode_special_tokens = True  # a text that spells <pad> is a text
    found.no_padding()
    found.no_truncation()
    return found


def _reraise(e: BaseException) -> None:
    """Of what the library raises, all is about the text or file, its panics too, which are no `Exception`s."""
    if isinstance(e, KeyboardInterrupt | SystemExit | MemoryError):
        raise e


def _tokenizers() -> Any:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else it warns whenever a process forks
    import tokenizers

    return tokenizers


@functools.lru_cache(maxsize=16)
def _entries(model: str) -> tuple[str, ...]:
    library = _library(model)
    size = library.get_vocab_size()
    raw = [library.id_to_token(n) for n in range(size)]
    special = set(library.get_added_tokens_decoder())
    decoder = library.decoder if '"ByteLevel"' in json.dumps(json.loads(model).get("decoder")) else None
    return tuple(
        f"[{n}]" if t is None else t if n in special or decoder is None else decoder.decode([t])
        for n, t in enumerate(raw)
    )


def fit(texts: Sequence[str], name: str, vocabulary: int | None = None, lowercase: bool | None = None) -> Tokenizer:
    """A tokenizer made from texts. Token 0 is padding, 1 unknown, 2 the end of a piece.

    Which texts a vocabulary comes from is public with it: a word that only one client uses and that is in the
    vocabulary tells that somebody uses it.

    Args:
      texts: to count in; the same texts give the same tokenizer.
      name: `characters`: every letter and mark. `words`: words with the apostrophes and hyphens inside them, and single
        marks; spaces are not kept. `bpe`: byte-pair encoding on bytes (Sennrich, Haddow, Birch 2016, arXiv 1508.07909;
        on bytes as Radford et al. 2019), in which every text can be written.
      vocabulary: most tokens there may be, the special ones with them; the most frequent are kept. None: all
        characters; 2000 of words and bpe. Fewer come of it where the texts have no more.
      lowercase: whether capital letters are made small first; None: with `words` alone.

    Raises:
      UnknownNameError: no tokenizer of that name.
      ParameterError: a vocabulary too small for anything but special tokens (and the 256 bytes of `bpe`).
      DataError: nothing to count.
    """
    if name not in NAMES:
        raise UnknownNameError(
            f"no tokenizer is named '{name}'; expected characters, words, bpe, or the path of a tokenizer.json."
            f"{did_you_mean(name, NAMES)}"
        )
    least = len(SPECIAL) + (BYTES if name == "bpe" else 1)
    if vocabulary is not None and vocabulary < least:
        raise ParameterError(
            f"vocabulary={vocabulary} is too small for tokenizer '{name}'; give at least {least} ({len(SPECIAL)} "
            f"special tokens and {'256 bytes' if name == 'bpe' else 'one other'})"
        )
    lower = name == "words" if lowercase is None else lowercase
    size = vocabulary or (2**31 - 1 if name == "characters" else 2000)
    made = _untrained(name, lower)
    library = _tokenizers()
    options = {"vocab_size": size, "special_tokens": list(SPECIAL), "show_progress": False}
    if name == "bpe":
        options["initial_alphabet"] = sorted(library.pre_tokenizers.ByteLevel.alphabet())
        trainer = library.trainers.BpeTrainer(**options)
    else:
        trainer = library.trainers.WordLevelTrainer(**options)
    made.train_from_iterator(iter(texts), trainer)
    if made.get_vocab_size() <= least - (name != "bpe"):
        raise DataError(f"tokenizer '{name}': the texts have nothing that can be a token; give texts with words")
    return _described(made, name, lower)


def _untrained(name: str, lowercase: bool) -> tokenizers.Tokenizer:
    library = _tokenizers()
    split = library.pre_tokenizers.Split
    if name == "bpe":
        made = library.Tokenizer(library.models.BPE())
        made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = library.decoders.ByteLevel()
    else:
        made = library.Tokenizer(library.models.WordLevel(unk_token=UNKNOWN))
        if name == "words":
            made.pre_tokenizer = split(library.Regex(_WORD), "removed", invert=True)
            made.decoder = library.decoders.WordPiece(prefix="\0", cleanup=True)
        else:
            made.pre_tokenizer = split(library.Regex(r"[\s\S]"), "isolated")
            made.decoder = library.decoders.Fuse()
    if lowercase:
        made.normalizer = library.normalizers.Lowercase()
    return made


def _described(library: tokenizers.Tokenizer, name: str, lowercase: bool) -> Tokenizer:
    model = library.to_str()

    def number(candidates: Iterable[str]) -> int | None:
        return next((n for c in candidates if (n := library.token_to_id(c)) is not None), None)

    own = getattr(library.model, "unk_token", None)
    return Tokenizer(
        name=name,
        size=library.get_vocab_size(),
        digest=hashlib.sha256(model.encode()).hexdigest()[:16],
        lowercase=lowercase,
        padding=number([*([library.padding["pad_token"]] if library.padding else []), *PADDINGS]),
        unknown=number([own] if isinstance(own, str) else UNKNOWNS) if name != "bpe" else None,
        end=number(ENDS),
        model=model,
    )


def read(path: str | os.PathLike[str]) -> Tokenizer:
    """A tokenizer from a `tokenizer.json`, as the library `tokenizers` and `Tokenizer.save` write it.

    Raises:
      DataError: no such file, or none that the library reads.
    """
    place = Path(path).expanduser()
    try:
        text = place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"tokenizer {place}: cannot be read ({reason(e)}); expected a tokenizer.json") from e
    try:
        library = _tokenizers().Tokenizer.from_str(text)
        numbers = sorted(library.get_vocab().values())
        model = json.loads(library.to_str())  # the library reads what is not quite JSON, too
    except BaseException as e:
        _reraise(e)
        raise DataError(f"tokenizer {place}: no tokenizer.json that can be read ({reason(e)})") from e
    if len(numbers) < 2 or numbers != list(range(len(numbers))):
        raise DataError(
            f"tokenizer {place}: {len(numbers)} tokens have numbers up to {max(numbers, default=0)}; expected at least "
            "two, numbered from 0 without gaps"
        )
    lower = '"Lowercase"' in json.dumps(model.get("normalizer"))
    return _described(library, place.stem, lower)
