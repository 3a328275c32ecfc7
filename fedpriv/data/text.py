"""Text: datasets of tokens from users' own texts: a file of running text or of lines, or rows of a table."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from fedpriv.base.errors import DataError, ParameterError, did_you_mean, printable, reason
from fedpriv.data.arrays import split
from fedpriv.data.dataset import Dataset
from fedpriv.data.sequences import LENGTH, Cut, classified, lines, running_text
from fedpriv.data.table import TARGETS, check_heading

if TYPE_CHECKING:
    import pandas

#: Names by which a column of texts is known without being told.
COLUMNS = ("text", "texts", "sentence", "sentences", "snippet", "snippets", "tokens", "content", "body", "comment")

#: Endings of files of texts, of which one may be packed as well (`.txt.gz`).
PLAIN, TABLES, RECORDS = (".txt", ".text"), (".csv",), (".jsonl", ".ndjson")
PACKED: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.decompress, ".xz": lzma.decompress, ".bz2": bz2.decompress}

#: Most different labels that are taken for classes.
MAX_CLASSES = 65536
#: Rows from which on labels that are all different are no classes.
ROWS_ALONE = 10

Fraction = Annotated[float, Field(ge=0, lt=1)]
Length = Annotated[int, Field(ge=1, le=65536)]


def text(
    path: str,
    column: str | None = None,
    label: str | None = None,
    keys: str | None = None,
    task: Literal["classes", "next_token"] | None = None,
    tokenizer: str = "words",
    vocabulary: int | None = None,
    length: Length = LENGTH,
    lowercase: bool | None = None,
    running: bool | None = None,
    truncate: bool = True,
    test_fraction: Fraction = 0.2,
) -> tuple[Dataset, Dataset | None]:
    """Texts of your own, as sequences of tokens: a `.txt` file, or a column of a `.csv` or `.jsonl` file.

    With labels a text is an example and its label the class. Without, the task is the next token: of each text by
    itself, or of running text, which is cut into windows. The vocabulary is counted in the training texts and is
    public. What is cut off, filled up or unknown is counted in the dataset's notes. Equal texts are on one side of the
    split; test sequences that are in the training set too are left out.

    Args:
      path: `.txt` (UTF-8), `.csv` with a heading, or `.jsonl`, one object a line; also packed, such as `.txt.gz`.
      column: the texts' column; None for one called text, sentence, snippets, tokens, content or the like, else the
        only one there is.
      label: the column of classes; None for one called target, label, class or y, if there is one.
      keys: the column that says whose each text is, for the partition `natural`.
      task: `classes` or `next_token`; None: classes where there are labels.
      tokenizer: `words`, `characters`, `bpe`, or the path of a `tokenizer.json`.
      vocabulary: most tokens, special ones with them; None: 2000, or all characters.
      length: places of a sequence. Shorter texts are filled up with padding.
      lowercase: whether capital letters are made small; None: with `words` alone.
      running: next token only: whether texts are pieces of one running text (each owner's, where there are keys),
        whose last part is for testing. None: for `.txt`, whose pieces are its paragraphs; otherwise its lines are
        texts.
      truncate: whether a text that is too long loses its end; otherwise it is refused.
      test_fraction: share held out for testing; 0 for none.

    Returns:
      Training and test set of kind `tokens`; targets are classes `[n]`, or the next tokens `[n, length]`.

    Raises:
      DataError: a file that cannot be read or is no UTF-8, empty texts, texts without tokens or too long.
      ParameterError: a column that is not there, or a vocabulary too small.
      UnknownNameError: no such tokenizer.
    """
    place = Path(path).expanduser()
    name, (ending, _) = place.name.split(".")[0], _ending(place)
    how = Cut(tokenizer, vocabulary, length, lowercase, truncate)
    if ending in PLAIN:
        named = {"column": column, "label": label, "keys": keys}
        given = next((k for k, v in named.items() if v is not None), None)
        if given is not None:
            raise ParameterError(f"{given}={named[given]}: {place} is plain text without columns; use .csv or .jsonl")
        if task == "classes":
            raise ParameterError(f"task=classes: {place} is plain text without labels; use .csv or .jsonl")
        content = _read(place)
        if running is None or running:
            pieces = [p for p in _paragraphs(content) if p]
            _check_some(pieces, place)
            return running_text(name, {"": pieces}, how, test_fraction, f"text of {place.name}", owned=False)
        texts = [line.strip() for line in content.split("\n") if line.strip()]
        _check_some(texts, place)
        return lines(name, texts, None, _held_out(texts, test_fraction), how, f"lines of {place.name}", str(place))
    rows = _records(place) if ending in RECORDS else _table(place)
    return from_texts(
        rows,
        name,
        column,
        label,
        keys,
        task,
        how,
        running=bool(running),
        test_fraction=test_fraction,
        where=str(place),
        source=f"rows of {place.name}",
    )


def from_texts(
    rows: pandas.DataFrame,
    name: str,
    column: str | None = None,
    label: str | None = None,
    keys: str | None = None,
    task: Literal["classes", "next_token"] | None = None,
    how: Cut | None = None,
    running: bool = False,
    test_fraction: float = 0.2,
    where: str | None = None,
    source: str = "",
) -> tuple[Dataset, Dataset | None]:
    """As `text`, from rows in memory.

    Raises:
      DataError: see `text`.
      ParameterError: a column that is not there, or a task that the columns do not give.
    """
    where = where or f"dataset '{name}'"
    how = how or Cut()
    named = [str(c) for c in rows.columns]
    rows = rows.set_axis(named, axis=1)
    for option, given in (("column", column), ("label", label), ("keys", keys)):
        if given is not None and given not in named:
            raise ParameterError(
                f"{option}='{given}': {where} has no such column.{printable(did_you_mean(given, named))}"
            )
    if label is None and task != "next_token":
        label = next((c for c in named if c.lower() in TARGETS and c not in (column, keys)), None)
    if task == "classes" and label is None:
        raise ParameterError(f"task=classes: {where} has no column of labels; name one of {_listed(named)} as label")
    if label is not None and (task == "next_token" or running):
        given_as = "task=next_token" if task == "next_token" else "running=true"
        raise ParameterError(f"label={label}: {given_as} takes the next tokens for targets; leave one of them out")
    if column is not None and column in (label, keys):
        raise ParameterError(f"{where}: column '{column}' cannot be the texts and their labels or keys; name another")
    column = column or _text_column([c for c in named if c not in (label, keys)], where)
    texts = _texts(rows[column].tolist(), f"{where}: column '{column}'")
    owners = None if keys is None else np.array(_plain(rows[keys].tolist(), f"{where}: column '{keys}'"))
    if label is not None:
        labels = _plain(rows[label].tolist(), f"{where}: column '{label}'")
        classes = sorted(set(labels), key=_by_number)
        if len(classes) < 2:
            raise DataError(f"{where}: column '{label}' is always '{classes[0]}'; nothing to predict")
        if len(classes) > MAX_CLASSES:
            raise DataError(f"{where}: column '{label}' has {len(classes)} different labels; expected classes")
        if len(classes) == len(labels) > ROWS_ALONE:
            raise DataError(
                f"{where}: column '{label}' has another value in each of {len(labels)} rows; expected classes of "
                "several rows (for the next tokens of texts give task=next_token)"
            )
        number = {c: i for i, c in enumerate(classes)}
        numbers = np.array([number[c] for c in labels], np.int32)
        held_out = _held_out(texts, test_fraction)
        return classified(name, texts, numbers, tuple(classes), owners, held_out, how, source, where)
    if running:
        pieces: dict[str, list[str]] = {}
        for owner, one in zip([""] * len(texts) if owners is None else owners.tolist(), texts, strict=True):
            pieces.setdefault(owner, []).append(one)
        return running_text(name, pieces, how, test_fraction, source, owned=owners is not None)
    return lines(name, texts, owners, _held_out(texts, test_fraction), how, source, where)


def _by_number(label: str) -> tuple[bool, float, str]:
    """Whole numbers in their order, then names in theirs."""
    number = label.isascii() and label.removeprefix("-").isdigit() and len(label) < 16
    return (not number, int(label) if number else 0, label)


def _listed(names: Sequence[str]) -> str:
    """Names of columns for a message, the first few where there are many."""
    said = [printable(n)[:60] for n in names[:8]]
    return ", ".join(said) + (", ..." if len(names) > 8 else "") if said else "none (no other is left)"


def _text_column(left: Sequence[str], where: str) -> str:
    found = [c for name in COLUMNS for c in left if c.lower() == name]
    if not found and len(left) != 1:
        raise ParameterError(f"{where}: which column holds the texts? Name one of {_listed(left)} as column")
    return found[0] if found else left[0]


def _texts(values: Sequence[object], where: str) -> list[str]:
    """Texts that can be written in UTF-8 and are not empty."""
    made = []
    for row, value in enumerate(values, 1):
        if isinstance(value, list | tuple) and value and all(isinstance(v, str) for v in value):
            value = " ".join(value)  # words that somebody has separated already
        if not isinstance(value, str):
            raise DataError(f"{where} holds {printable(repr(value))[:60]} in row {row}; expected a text")
        try:
            value.encode()
        except UnicodeEncodeError as e:
            raise DataError(f"{where} has half of a character in row {row}; correct it") from e
        made.append(value)
    empty = [row for row, value in enumerate(made, 1) if not value.strip()]
    if empty:
        raise DataError(f"{where} has {len(empty)} empty texts (the first in row {empty[0]}); leave those rows out")
    _check_some(made, where)
    return made


def _plain(values: Sequence[object], where: str) -> list[str]:
    """Names of classes or owners."""
    for row, value in enumerate(values, 1):
        if value is None or value != value or value == "":
            raise DataError(f"{where} is empty in row {row}; fill it, or leave that row out")
        if not isinstance(value, str | int | float | bool):
            raise DataError(f"{where} holds {printable(repr(value))[:60]} in row {row}; expected a name or a number")
    return [printable(str(v)) for v in values]


def _check_some(texts: Sequence[str], where: object) -> None:
    if not texts:
        raise DataError(f"{where} has no texts; expected at least one")


def _held_out(texts: Sequence[str], test_fraction: float) -> np.ndarray:
    """`[n]` which texts are for testing, drawn once and for all; equal texts go together."""
    distinct = {one: i for i, one in enumerate(dict.fromkeys(texts))}
    chosen = np.zeros(len(distinct), bool)
    if len(distinct) > 1:
        chosen[split(len(distinct), test_fraction)[1]] = True
    return chosen[[distinct[one] for one in texts]]


def _paragraphs(content: str) -> list[str]:
    """What stands between empty lines."""
    found: list[list[str]] = [[]]
    for line in content.split("\n"):
        if line.strip():
            found[-1].append(line.rstrip())
        elif found[-1]:
            found.append([])
    return ["\n".join(lines).strip() for lines in found]


def _ending(place: Path) -> tuple[str, str]:
    """The ending that says what a file holds, and how it is packed."""
    suffixes = [s.lower() for s in place.suffixes[-2:]]
    packed = suffixes[-1] if suffixes and suffixes[-1] in PACKED else ""
    rest = suffixes[:-1] if packed else suffixes
    return (rest[-1] if rest else ""), packed


def _read(place: Path) -> str:
    """A file's text, with line feeds as its only line ends.

    Raises:
      DataError: it cannot be read, or is no UTF-8; names the line.
    """
    if not place.is_file():
        raise DataError(f"{place} is missing; expected a file of texts (.txt, .csv or .jsonl)")
    ending, packed = _ending(place)
    if ending not in (*PLAIN, *TABLES, *RECORDS):
        raise DataError(f"{place}: expected a file of texts that ends in .txt, .csv or .jsonl (or .txt.gz and so on)")
    try:
        data = place.read_bytes()
        data = PACKED[packed](data) if packed else data
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as e:
        raise DataError(f"{place}: cannot be read ({reason(e)})") from e
    try:
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data[: e.start].count(b"\n") + 1
        wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        hint = "it looks like UTF-16; " if wide else ""
        raise DataError(
            f"{place}, line {line}: the byte 0x{data[e.start]:02x} is no UTF-8; {hint}save the file in UTF-8"
        ) from e
    return content.replace("\r\n", "\n").replace("\r", "\n")


def _table(place: Path) -> pandas.DataFrame:
    import pandas

    content = _read(place)
    options = {"dtype": str, "keep_default_na": False}
    try:
        heading = pandas.read_csv(io.StringIO(content), header=None, nrows=1, **options).iloc[0]
        rows = pandas.read_csv(io.StringIO(content), low_memory=False, **options)
    except Exception as e:  # the parser raises almost anything on damaged files
        raise DataError(
            f"{place}: no CSV file that can be read ({reason(e)}); expected a heading, and as many fields in each row"
        ) from e
    check_heading(heading.replace("", np.nan), rows, place)
    return rows


def _records(place: Path) -> pandas.DataFrame:
    import pandas

    found: list[dict[str, object]] = []
    for number, line in enumerate(_read(place).split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise DataError(f"{place}, line {number}: no JSON ({reason(e)}); expected one object a line") from e
        if not isinstance(record, dict):
            raise DataError(f"{place}, line {number}: a {type(record).__name__}; expected an object, such as {{...}}")
        if found and set(record) != set(found[0]):
            other = sorted(set(record) ^ set(found[0]))[0]
            raise DataError(
                f"{place}, line {number}: field '{other}' is in this line or the first, not in both; expected the "
                "same fields in each"
            )
        found.append(record)
    if not found or not found[0]:
        raise DataError(f"{place} has no texts; expected one object a line, with a field of texts")
    return pandas.DataFrame({k: pandas.Series([r[k] for r in found], dtype=object) for k in found[0]})


def is_text(path: Path) -> bool:
    """Whether a file holds texts: plain text, JSON lines, or a CSV file with a column called `text`."""
    ending, packed = _ending(path)
    if ending in (*PLAIN, *RECORDS):
        return True
    if ending not in TABLES:
        return False
    try:
        with path.open("rb") as file:
            first = PACKED[packed](file.read()).split(b"\n", 1)[0] if packed else file.readline()
        heading = first.decode("utf-8-sig")
    except Exception:  # whoever reads it says how it is damaged
        return False
    return "text" in [field.strip().strip('"').lower() for field in heading.split(",")]
