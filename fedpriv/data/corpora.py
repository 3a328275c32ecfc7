"""Corpora: two texts inside the package, sentences by author and plays by speaker."""

from __future__ import annotations

import importlib.resources
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from fedpriv.base.errors import DataError
from fedpriv.data.dataset import Dataset
from fedpriv.data.embedded import interleaved
from fedpriv.data.sequences import Cut, classified, running_text

if TYPE_CHECKING:
    import pandas

FOLDER = "texts"
SENTENCES, PLAYS = "sentences.csv.xz", "plays.csv.xz"

#: Of so many passages of a book, which follow each other, one is for testing.
PASSAGES = 5

#: Words that a speaker must say to be among the users.
WORDS = 150

Length = Annotated[int, Field(ge=1, le=4096)]


def sentences(
    tokenizer: str = "words", vocabulary: int | None = None, length: Length = 24, lowercase: bool | None = None
) -> tuple[Dataset, Dataset | None]:
    """4,526 sentences of 5 to 30 words by five authors, who are the classes: Austen, Carroll, Doyle, Newton, Twain.

    From one book each (Pride and Prejudice, Alice's Adventures in Wonderland, The Adventures of Sherlock Holmes,
    Opticks, The Adventures of Tom Sawyer), all in the public domain; 960 sentences an author, 686 of Newton. Twenty
    sentences that follow each other in a book are a passage. Every fifth passage is for testing, and no sentence
    occurs twice. Passages are the natural keys, so that the partition `natural` gives each client one. Training
    sentences stand in an order that walks through the authors. The vocabulary is counted in the training sentences.

    Args:
      tokenizer: `words`, `characters`, `bpe`, or the path of a `tokenizer.json`.
      vocabulary: most tokens, special ones with them; None: 2000, or all characters.
      length: places of a sequence. Longer sentences lose their end, shorter ones are filled up with token 0.
      lowercase: whether capital letters are made small; None: with `words` alone.

    Returns:
      Training and test set of kind `tokens`.

    Raises:
      UnknownNameError: no such tokenizer.
      ParameterError: a vocabulary too small for the tokenizer.
      DataError: the package's copy is damaged.
    """
    rows = _rows(SENTENCES)
    held_out = (rows["passage"] % PASSAGES == 0).to_numpy()
    authors = tuple(sorted(rows["author"].unique()))
    labels = rows["author"].map(authors.index).to_numpy(np.int32)
    order = interleaved(labels)
    keys = (rows["author"] + " " + rows["passage"].map("{:02d}".format)).to_numpy(str)
    return classified(
        "sentences",
        [rows["text"][i] for i in order],
        labels[order],
        authors,
        keys[order],
        held_out[order],
        Cut(tokenizer, vocabulary, length, lowercase),
        "inside the package",
    )


def plays(
    tokenizer: str = "bpe", vocabulary: int | None = None, length: Length = 32, lowercase: bool | None = None
) -> tuple[Dataset, Dataset | None]:
    """Seven of Shakespeare's plays as running text by speaker, for predicting the next token; speakers are the users.

    A Midsummer Night's Dream, Hamlet, Julius Caesar, Macbeth, Othello, Romeo and Juliet, The Tempest; in the public
    domain. What a speaker says is one running text, speech after speech with an end token behind each, cut into
    windows; targets are the tokens that follow. Speakers of fewer than 150 words are left out. The last fifth of each
    speaker's speeches is for testing; windows that are in the training set too are left out there. Speakers are the
    natural keys. The vocabulary is counted in the training speeches.

    Args:
      tokenizer: `bpe`, `words`, `characters`, or the path of a `tokenizer.json`.
      vocabulary: most tokens, special ones with them; None: 2000, or all characters.
      length: places of a window. A speaker's last window is filled up with token 0, which is no target that counts.
      lowercase: whether capital letters are made small; None: with `words` alone.

    Returns:
      Training and test set of kind `tokens`, targets `[n, length]`.

    Raises:
      UnknownNameError: no such tokenizer.
      ParameterError: a vocabulary too small for the tokenizer.
      DataError: the package's copy is damaged.
    """
    rows = _rows(PLAYS)
    rows["owner"] = rows["speaker"] + " (" + rows["play"] + ")"
    words = rows["text"].str.split().str.len().groupby(rows["owner"]).transform("sum")
    kept = rows[words >= WORDS]
    pieces = {str(owner): list(part["text"]) for owner, part in kept.groupby("owner")}
    return running_text("plays", pieces, Cut(tokenizer, vocabulary, length, lowercase), 0.2, "inside the package")


def _rows(file: str) -> pandas.DataFrame:
    import pandas

    resource = importlib.resources.files("fedpriv.data") / FOLDER / file
    try:
        with importlib.resources.as_file(resource) as path:
            return pandas.read_csv(path)
    except Exception as e:
        raise DataError(f"fedpriv/data/{FOLDER}/{file} is missing or damaged ({e}); reinstall fedpriv") from e
