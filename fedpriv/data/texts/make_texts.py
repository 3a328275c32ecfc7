"""Makes `sentences.csv.xz` and `plays.csv.xz`: `python make_texts.py SOURCES`, a folder with the files of README.md."""

import re
import sys
from pathlib import Path

import pandas

#: Books by author: file, and what stands on the lines between which the book lies.
BOOKS = {
    "Austen": ("Pride and Prejudice", "austen.txt", "PRIDE AND PREJUDICE", None),
    "Carroll": ("Alice's Adventures in Wonderland", "carroll.txt", "CHAPTER I", None),
    "Doyle": ("The Adventures of Sherlock Holmes", "doyle.txt", "ADVENTURE  I.", "*** END OF"),
    "Newton": ("Opticks", "newton.txt", "THE FIRST BOOK OF OPTICKS", None),
    "Twain": ("The Adventures of Tom Sawyer", "twain.txt", "CHAPTER I", "End of the Project"),
}
PLAYS = {
    "a-midsummer-night-s-dream": "A Midsummer Night's Dream",
    "hamlet": "Hamlet",
    "julius-caesar": "Julius Caesar",
    "macbeth": "Macbeth",
    "othello": "Othello",
    "romeo-and-juliet": "Romeo and Juliet",
    "the-tempest": "The Tempest",
}
SENTENCES, PASSAGE = 960, 20
SHORTEST, LONGEST = 5, 30
ABBREVIATIONS = re.compile(
    r"\b(?:Mr|Mrs|Ms|Dr|St|Messrs|Esq|Hon|Rev|Col|Capt|Sir|No|Vol|Prop|Exper|Defin|Obs|Fig|Figs|Ax|Par|Lib|viz|pag|[A-Z])\.$"
)


def book(folder: Path, file: str, start: str, end: str | None) -> str:
    """The text of a book between two lines, without what surrounds it in its file."""
    lines = (folder / file).read_text(encoding="utf-8", errors="replace").splitlines()
    first = next(i for i, line in enumerate(lines) if line.strip().startswith(start))
    last = len(lines) if end is None else next(i for i, line in enumerate(lines[first:], first) if line.startswith(end))
    return "\n".join(lines[first + 1 : last])


def tidy(text: str) -> str:
    """One line of plain marks: no emphasis, one kind of quotation mark, single spaces."""
    text = text.replace("_", "").replace("\\", "").replace("\u2019", "'").replace("``", '"').replace("''", '"')
    text = re.sub(r"(?<!\w)`|`(?=\W)", "'", text).replace("`", "'").replace("--", " -- ")
    return " ".join(text.split())


def split_sentences(paragraph: str) -> list[str]:
    """Sentences of a paragraph, cut behind full stops, question and exclamation marks that end one."""
    found, start = [], 0
    for mark in re.finditer(r"[.!?]+[\"')]*\s+(?=[\"'(]*[A-Z])", paragraph):
        if not ABBREVIATIONS.search(paragraph[start : mark.start() + 1]):
            found.append(paragraph[start : mark.end()].strip())
            start = mark.end()
    return [*found, paragraph[start:].strip()]


def plain(text: str) -> str:
    """A text's letters, by which two are the same."""
    return re.sub(r"[^a-z]", "", text.lower())


def sentences(folder: Path) -> pandas.DataFrame:
    """The first sentences of each book that are neither long nor short nor heard before."""
    rows, heard = [], set()
    for author, (title, file, start, end) in BOOKS.items():
        own = []
        for paragraph in re.split(r"\n\s*\n", book(folder, file, start, end)):
            marked = tidy(paragraph)
            if author == "Carroll":  # the one who speaks in single quotation marks
                marked = re.sub(r"(?<!\w)'(?=\w)|(?<=[,.!?-])'(?!\w)", '"', marked)
            for text in split_sentences(marked):
                words = text.split()
                whole = re.fullmatch(r"[\"'(]*[A-Z][A-Za-z ,;:.!?'\"()-]*[.!?][\"')]*", text)
                balanced = text.count('"') % 2 == 0 and text.count("(") == text.count(")")
                quoted = text if balanced else text.replace('"', "").replace("(", "").replace(")", "")
                if whole and SHORTEST <= len(words) <= LONGEST and not text.isupper() and plain(text) not in heard:
                    heard.add(plain(text))
                    own.append(quoted)
        print(f"{author}: {len(own)} sentences")
        rows += [(author, title, i // PASSAGE + 1, text) for i, text in enumerate(own[:SENTENCES])]
    return pandas.DataFrame(rows, columns=["author", "book", "passage", "text"])


def speaker(heading: str) -> str:
    """A speaker's name, with the source's slip of the pen corrected."""
    return " ".join(heading.replace(":", "").split()).title().replace("Hernia", "Hermia")


def plays(folder: Path) -> pandas.DataFrame:
    """Speeches in their order, without stage directions."""
    rows = []
    for file, title in PLAYS.items():
        text = (folder / f"{file}.md").read_text(encoding="utf-8")
        text = re.sub(r"(?ms)^_.*?_\s*$", "", text).replace("**This way will I**  ", "This way will I")
        for block in re.split(r"(?m)^(?=\*\*|#)", text):
            head = re.match(r"\*\*(.+?)\*\*", block)
            if head:
                spoken = re.sub(r"\\?\[.*?\\?\]|_[^_]*_", " ", block[head.end() :])
                lines = [tidy(line) for line in spoken.splitlines()]
                said = "\n".join(line for line in lines if line)
                if said:
                    rows.append((title, speaker(head[1]), said))
    return pandas.DataFrame(rows, columns=["play", "speaker", "text"])


if __name__ == "__main__":
    here, source = Path(__file__).parent, Path(sys.argv[1])
    for name, rows in (("sentences", sentences(source)), ("plays", plays(source))):
        compression = {"method": "xz", "preset": 9}
        rows.to_csv(here / f"{name}.csv.xz", index=False, lineterminator="\n", compression=compression)
        print(f"{name}: {len(rows)} rows, {(here / f'{name}.csv.xz').stat().st_size:,} bytes")
