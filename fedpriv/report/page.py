"""Report: one HTML page that needs no network: words, sortable tables and figures, and what made them.

Everything is inside the file: styles, a few lines of script, pictures but for those that lie beside it anyway. It opens
from a disk without a network, and its content-security policy forbids it to load anything else. All text is escaped, so
names and messages may hold any characters.
"""

from __future__ import annotations

import base64
import math
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from fedpriv.base.atomic import jsonable, to_json, write_text
from fedpriv.base.errors import DataError, ParameterError
from fedpriv.metrics.decibels import decibels

if TYPE_CHECKING:
    import matplotlib.figure

#: How well-known columns are headed and written where a table does not say otherwise, by the start of their key.
_WORDS = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "mse": "MSE",
    "lpips": "LPIPS",
    "db": "(dB)",
    "dp": "DP",
    "iid": "IID",
    "fedavg": "FedAvg",
}
_FORMATS = {
    "psnr": ".1f",
    "ssim": ".3f",
    "lpips": ".3f",
    "mse": ".2e",
    "seconds": ".2f",
    "compile_seconds": ".2f",
    "success_rate": ".0%",
    "success_interval": ".0%",
    "label_": ".1%",
    "accuracy": ".1%",
    "perplexity": ".1f",
    "loss": ".3f",
    "test_loss": ".3f",
    "epsilon": ".3g",
}

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Table:
    """A table the reader can sort.

    Attributes:
      rows: one mapping a row, as `Score.rows` and `Summary.as_dict` give.
      columns: which keys to show, in order; by default all, in the order they first appear.
      caption: what the table shows.
      names: column headings by key, where the key does not speak for itself.
      formats: format specifications by key, such as ".1f" or ".1%"; other numbers get four significant digits.
      note: smaller words below it, such as the meaning of an interval.
    """

    rows: Sequence[Mapping[str, Any]]
    columns: Sequence[str] | None = None
    caption: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    formats: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    def keys(self) -> list[str]:
        """The columns shown."""
        return list(self.columns) if self.columns is not None else list(dict.fromkeys(k for r in self.rows for k in r))

    def heading(self, key: str) -> str:
        """A column's heading."""
        return self.names.get(key, " ".join(_WORDS.get(word, word) for word in key.split("_")))

    def format(self, key: str) -> str | None:
        """The format specification of a column's numbers, or None for four significant digits."""
        default = next((f for start, f in _FORMATS.items() if key.startswith(start)), None)
        return self.formats.get(key, default)

    def numeric(self, key: str) -> bool:
        """Whether a column holds only numbers, ranges of numbers and blanks, so that it is set flush right."""
        values = [r.get(key) for r in self.rows if r.get(key) is not None]
        return bool(values) and all(_number(v) is not None or _is_range(v) for v in values)

    def cell(self, row: Mapping[str, Any], key: str) -> tuple[str, str]:
        """A cell's text and the value it sorts by.

        Raises:
          ParameterError: the format does not suit the value.
        """
        value = row.get(key)
        if key.startswith("psnr_") and value is not None and self.numeric(key) and key not in self.formats:
            return decibels(value), _sort_value(value)
        try:
            return show(value, self.format(key)), _sort_value(value)
        except (ValueError, TypeError) as e:
            raise ParameterError(f"column '{key}': format '{self.format(key)}' does not suit {value!r}") from e


@dataclass(frozen=True)
class Figure:
    """A picture with its words.

    Attributes:
      image: a matplotlib figure, the bytes of a PNG file, or the path of one.
      alt: what a reader who cannot see it needs to know; required.
      caption: words below it.
      width: width in CSS pixels that it is shown at if the window is wide enough; by default its own at 100 dpi.
      beside: path, relative to the page, of the PNG file to show; by default the picture is embedded in the page.
    """

    image: matplotlib.figure.Figure | bytes | str | os.PathLike[str]
    alt: str
    caption: str = ""
    width: int | None = None
    beside: str | None = None

    def __post_init__(self) -> None:
        if not self.alt.strip():
            raise ParameterError("a figure in a report needs alt text: say in words what the picture shows")

    def png(self) -> bytes:
        """The picture as PNG bytes.

        Raises:
          DataError: there is no PNG file at that path, or the bytes are none.
        """
        if isinstance(self.image, bytes):
            data, what = self.image, "the bytes given"
        elif isinstance(self.image, str | os.PathLike):
            what = f"'{os.fspath(self.image)}'"
            try:
                data = Path(self.image).read_bytes()
            except OSError as e:
                raise DataError(f"figure {what} cannot be read: {e.strerror}; draw it before the report") from e
        else:
            from fedpriv.figures.save import png

            return png(self.image)
        if not data.startswith(_PNG):
            raise DataError(f"a report's figure must be a PNG, and {what} is none")
        return data

    def uri(self) -> str:
        """The picture as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.png()).decode()

    def source(self) -> str:
        """What the page shows: the file beside it, or the picture as a data URI.

        Raises:
          ParameterError: `beside` leads out of the page's folder.
          DataError: the picture is missing or no PNG.
        """
        return self.uri() if self.beside is None else _below(self.beside)

    def display_width(self) -> int:
        """Width in CSS pixels in a wide window."""
        if self.width is not None:
            return self.width
        if isinstance(self.image, bytes | str | os.PathLike):
            pixels = int.from_bytes(self.png()[16:20], "big")  # the width field of a PNG's header
            return max(1, pixels // 2)
        return round(self.image.get_figwidth() * 100)


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it, in this order.

    Attributes:
      heading: its words, also in the table of contents.
      paragraphs: plain text, one string a paragraph.
      figures: pictures.
      tables: tables.
      files: (words, path relative to the page) of files beside it to link to, such as the data of a table.
    """

    heading: str
    paragraphs: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    files: Sequence[tuple[str, str]] = ()

    def links(self) -> list[tuple[str, str]]:
        """(words, href) of the files.

        Raises:
          ParameterError: a path that is not relative, or leads out of the page's folder.
        """
        return [(words, _below(path)) for words, path in self.files]


@dataclass(frozen=True)
class Report:
    """A page.

    Attributes:
      title: its title.
      lead: the conclusion, in a few plain sentences; printed first.
      sections: in order.
      provenance: what made it, as `fedpriv.base.provenance.provenance` gives.
      notice: a warning shown above everything, such as that the run was interrupted.
    """

    title: str
    sections: Sequence[Section]
    lead: Sequence[str] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notice: str = ""

    def html(self) -> str:
        """The page's text; equal reports give equal text.

        Raises:
          ParameterError: no title, or something in a section cannot be shown.
          DataError: a picture is missing or no PNG.
        """
        import jinja2

        if not self.title.strip():
            raise ParameterError("a report needs a title")
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("fedpriv.report"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        anchors = [f"{i}-{slug(s.heading)}" for i, s in enumerate(self.sections, 1)]
        made = {k: v for k, v in self.provenance.items() if v is not None}
        return environment.get_template("page.html.j2").render(
            report=self,
            pictures="'self' file: data:" if any(f.beside for s in self.sections for f in s.figures) else "data:",
            sections=list(zip(anchors, self.sections, strict=True)),
            command=made.pop("command", None),
            facts=[(k.replace("_", " "), _fact(v)) for k, v in made.items() if k != "config"],
            config=to_json(made["config"], indent=2) if "config" in made else None,
        )

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Writes the page atomically; a failure leaves the old page.

        Raises:
          FedprivError: as `html`, or the file cannot be written.
        """
        return write_text(path, self.html())


def show(value: Any, spec: str | None = None) -> str:
    """A value as a reader wants it: numbers to four digits, – for none, ∞, yes and no, ranges for pairs."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if isinstance(value, int | float):
        if spec is None:
            spec = ",d" if isinstance(value, int) else ".4g" if abs(value) < 1e4 or abs(value) >= 1e9 else ",.0f"
        return format(value, spec).replace("-", "−") if value < 0 else format(value, spec)
    if isinstance(value, list | tuple):
        return (" to " if _is_range(value) else ", ").join(show(v, spec) for v in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {show(v)}" for k, v in value.items())
    return str(jsonable(value))


def slug(text: str) -> str:
    """Letters and digits of `text`, lower case, joined by hyphens: usable as an anchor."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "section"


def _below(path: str) -> str:
    """A relative path as a reference; refuses one that leads out of the page's folder."""
    normal = posixpath.normpath(path)
    if posixpath.isabs(path) or normal.startswith("..") or re.match(r"[A-Za-z][\w+.-]*:", path):
        raise ParameterError(f"a report links only to files in or below its own folder, not '{path}'")
    return quote(normal)


def _number(value: Any) -> float | None:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        return None
    return float(value)


def _is_range(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(_number(v) is not None for v in value)


def _sort_value(value: Any) -> str:
    if isinstance(value, list | tuple) and value:
        value = value[0]
    number = _number(value)
    if number is None:
        return "" if value is None else show(value)
    return "" if math.isnan(number) else repr(number).replace("inf", "Infinity")


def _fact(value: Any) -> str:
    # Unlike a measurement, a seed or a version is shown exactly.
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else show(value)
