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


def save(
    figure: Figure, stem: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None, dpi: int = 200
) -> list[Path]:
    """Writes `<stem>.png` and `<stem>.pdf`, and `<stem>.json` if there is metadata, each atomically.

    The same figure gives the same bytes: no time or program name is written into the files.

    Args:
      figure: the figure.
      stem: path without a suffix; dots in the name stay.
      metadata: what made the figure, such as `{"title": ..., "caption": ..., **provenance(...)}`. `title` and
        `caption` also go into the image files, where viewers and search tools find them.
      dpi: pixels an inch of the PNG.

    Returns:
      The paths written.

    Raises:
      FedprivError: a file cannot be written.
    """
    metadata = dict(metadata or {})
    title, caption = (str(metadata[k]) if metadata.get(k) else None for k in ("title", "caption"))
    base = os.fspath(stem)
    paths = [
        write_bytes(f"{base}.png", png(figure, title, caption, dpi)),
        write_bytes(f"{base}.pdf", pdf(figure, title, caption)),
    ]
    if metadata:
        paths.append(write_json(f"{base}.json", metadata))
    return paths


def png(figure: Figure, title: str | None = None, caption: str | None = None, dpi: int = 200) -> bytes:
    """The figure as a PNG file's bytes, at `dpi` pixels an inch, with a palette where it looks the same with one.

    A palette saves charts and grey images a third to a half of the bytes; colour photographs keep all their colours.
    """
    from PIL import Image, ImageChops
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    for key, text in (("Title", title), ("Description", caption)):
        if text is not None:
            texts.add_itxt(key, text)
    with Image.open(
        io.BytesIO(_render(figure, "png", {"Software": None}, dpi, pil_kwargs={"compress_level": 0}))
    ) as im:
        full = im.convert("RGB")  # without its transparency channel
    palette = full.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    levels = np.reshape(ImageChops.difference(palette.convert("RGB"), full).histogram(), (3, 256)).sum(0)
    smaller = palette if levels @ np.arange(256) <= MISSED * levels.sum() else full
    buffer = io.BytesIO()
    smaller.save(buffer, "PNG", optimize=True, pnginfo=texts, dpi=(dpi, dpi))
    return buffer.getvalue()


def pdf(figure: Figure, title: str | None = None, caption: str | None = None) -> bytes:
    """The figure as a PDF file's bytes, with embedded fonts."""
    # Pictures inside the PDF are resampled to this, fine enough for print.
    fixed = {"Creator": None, "Producer": None, "CreationDate": None}
    return _render(figure, "pdf", {**fixed, "Title": title, "Subject": caption}, 300)


def _render(figure: Figure, kind: str, metadata: dict[str, str | None], dpi: int, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with styled():
        kept = {k: v for k, v in metadata.items() if v is not None or k not in ("Title", "Description", "Subject")}
        figure.savefig(buffer, format=kind, metadata=kept, dpi=dpi, **options)
    return buffer.getvalue()
