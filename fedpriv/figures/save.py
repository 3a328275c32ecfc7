"""Saving figures: PNG for the screen, PDF for print, and a JSON beside them that says what made them."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpriv.base.atomic import write_bytes, write_json
from fedpriv.figures.style import styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Colours of a picture's palette, and how far, of 255 levels, its pixels may be off with one in the mean.
COLOURS = 128
MISSED = 0.5


def save(figure: Figure, stem: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None) -> list[Path]:
    """Writes `<stem>.png` and `<stem>.pdf`, and `<stem>.json` if there is metadata, each atomically.

    The same figure gives the same bytes: no time or program name is written into the files.

    Args:
      figure: the figure.
      stem: path without a suffix; dots in the name stay.
      metadata: what made the figure, such as `{"title": ..., "caption": ..., **provenance(...)}`. `title` and
        `caption` also go into the image files, where viewers and search tools find them.

    Returns:
      The paths written.

    Raises:
      FedprivError: a file cannot be written.
    """
    metadata = dict(metadata or {})
    title, caption = (str(metadata[k]) if metadata.get(k) else None for k in ("title", "caption"))
    base = os.fspath(stem)
    paths = [
        write_bytes(f"{base}.png", png(figure, title, caption)),
        write_bytes(f"{base}.pdf", pdf(figure, title, caption)),
    ]
    if metadata:
        paths.append(write_json(f"{base}.json", metadata))
    return paths


def png(figure: Figure, title: str | None = None, caption: str | None = None, dpi: int = 200) -> bytes:
    """The figure as a PNG file's bytes, at `dpi` pixels an inch, with a palette where it looks the same with one."""
    return _smaller(_render(figure, "png", {"Software": None, "Title": title, "Description": caption}, dpi))


def pdf(figure: Figure, title: str | None = None, caption: str | None = None) -> bytes:
    """The figure as a PDF file's bytes, with embedded fonts."""
    # Pictures inside the PDF are resampled to this, fine enough for print.
    fixed = {"Creator": None, "Producer": None, "CreationDate": None}
    return _render(figure, "pdf", {**fixed, "Title": title, "Subject": caption}, 300)


def _smaller(data: bytes) -> bytes:
    """The PNG without its transparency channel, and with a palette if that changes next to nothing.

    Charts and grey images need a third to a half of the bytes then; colour photographs keep all their colours.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    with Image.open(io.BytesIO(data)) as image:
        dpi, full = image.info.get("dpi", (72, 72)), image.convert("RGB")
        for key in ("Title", "Description"):
            if key in image.info:
                texts.add_itxt(key, image.info[key])
    palette = full.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    missed = np.abs(np.asarray(palette.convert("RGB"), np.int16) - np.asarray(full, np.int16)).mean()
    buffer = io.BytesIO()
    smaller = palette if missed <= MISSED else full
    smaller.save(buffer, "PNG", optimize=True, pnginfo=texts, dpi=dpi)
    return buffer.getvalue()


def _render(figure: Figure, kind: str, metadata: dict[str, str | None], dpi: int) -> bytes:
    buffer = io.BytesIO()
    with styled():
        kept = {k: v for k, v in metadata.items() if v is not None or k not in ("Title", "Description", "Subject")}
        figure.savefig(buffer, format=kind, metadata=kept, dpi=dpi)
    return buffer.getvalue()
