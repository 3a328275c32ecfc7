"""Text grid: texts with what attacks made of them, the right tokens marked so that no colour is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from fedpriv.base.errors import ParameterError
from fedpriv.figures.style import FAINT, NORMAL, QUIET, SMALL, WIDTH, new_figure, styled, text_size, wrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedpriv.metrics.score import Score

#: A text's tokens in order; None where there is no reconstruction.
Tokens = Sequence[str] | None
Mark = Literal["right", "elsewhere", "wrong"]

_MARGIN, _BETWEEN, _GAP, _PAD = 0.12, 0.055, 0.14, 0.025
#: A line's height and, below its top, its baseline and where a word is underlined, inches.
_LINE, _BASE, _UNDER = 0.205, 0.14, 0.175
#: Stands for a place without a token.
NOTHING = "–"


def text_grid(
    originals: Sequence[Sequence[str]],
    rows: Mapping[str, Sequence[Tokens] | str],
    captions: Mapping[str, Sequence[str]] | None = None,
    *,
    original_label: str = "Original",
    width: float = WIDTH,
    title: str = "",
) -> Figure:
    """Draws texts and their reconstructions: beside each other if there is one arm, else the arms below each original.

    A token that is right in its place is bold in a box, one that the original has elsewhere is underlined (as often as
    it is there), and one that it has not is plain. Long texts go on in further lines.

    Args:
      originals: n texts, each as its tokens; "" is a place without one, such as padding.
      rows: by arm, from top to bottom: reconstructions in the originals' order, place by place; or a text that says why
        there are none.
      captions: by arm, n texts to put beside the reconstructions, such as `text_captions(score)`.
      original_label: label of the originals.
      width: of the figure in inches.
      title: printed above, if given.

    Raises:
      ParameterError: no texts or arms, or other numbers of reconstructions or captions than of originals.
    """
    captions = dict(captions or {})
    n = len(originals)
    if not n or not rows:
        raise ParameterError("a text grid needs at least one original and one arm")
    for label, found in {**rows, **captions}.items():
        if label not in rows:
            raise ParameterError(f"captions for '{label}', but the arms are {', '.join(rows)}")
        if not isinstance(found, str) and len(found) != n:
            raise ParameterError(f"'{label}' has {len(found)} texts for {n} originals")
    with styled():
        figure = new_figure(width, 1)
        measure = _measurer(figure)
        page = _Page()
        if title:
            head = wrap(title, int(width * 11))
            page.foot = page.put(_MARGIN, 0, head, size=NORMAL + 1, fontweight="bold") + 0.04
        if len(rows) == 1:
            _beside(figure, page, originals, rows, captions, original_label, width, measure)
        else:
            _below(figure, page, originals, rows, captions, original_label, width, measure)
        key = "Boxed and bold: right in its place. Underlined: in the original, elsewhere. Plain: not in it."
        if _has_open_places(originals, rows):
            key += f" {NOTHING}: nothing there."
        page.put(_MARGIN, page.foot + 0.02, key, size=SMALL, color=QUIET)
        page.draw(figure, width, page.foot + 0.22)
    return figure


class _Page:
    """What stands where, in inches from the upper left corner, until the height is known."""

    def __init__(self) -> None:
        self.foot = 0.0
        self._texts: list[tuple[float, float, str, dict[str, Any]]] = []
        self._lines: list[tuple[float, float, float]] = []
        self._rules: list[tuple[float, float, float]] = []

    def put(self, left: float, top: float, text: str, *, size: float = NORMAL, **options: Any) -> float:
        """Lines of text, each on a baseline as high glyphs or low ones leave it; returns where they end."""
        step = _LINE * size / NORMAL * (1 if "bbox" in options else 0.76)
        for k, line in enumerate(text.split("\n")):
            self._texts.append((left, top + _BASE + k * step, line, {"fontsize": size, "va": "baseline", **options}))
        return top + _LINE + (len(text.split("\n")) - 1) * step

    def underline(self, left: float, top: float, wide: float) -> None:
        self._lines.append((left, top, wide))

    def rule(self, left: float, top: float, wide: float) -> None:
        self._rules.append((left, top, wide))

    def draw(self, figure: Figure, width: float, tall: float) -> None:
        from matplotlib.lines import Line2D

        height = _MARGIN + tall + 0.04
        figure.set_size_inches(width, height)

        def line(left: float, top: float, wide: float, color: str, thick: float) -> None:
            y = 1 - (_MARGIN + top) / height
            figure.add_artist(Line2D([left / width, (left + wide) / width], [y, y], color=color, linewidth=thick))

        for left, top, text, options in self._texts:
            figure.text(left / width, 1 - (_MARGIN + top) / height, text, **options)
        for left, top, wide in self._lines:
            line(left, top, wide, "black", 0.7)
        for left, top, wide in self._rules:
            line(left, top, wide, FAINT, 0.6)


def _beside(
    figure: Figure,
    page: _Page,
    originals: Sequence[Sequence[str]],
    rows: Mapping[str, Sequence[Tokens] | str],
    captions: Mapping[str, Sequence[str]],
    original_label: str,
    width: float,
    measure: Callable[[str, bool], float],
) -> None:
    ((label, found),) = rows.items()
    said = captions.get(label, ())
    right = max((text_size(figure, t, SMALL)[0] for t in said), default=0.0)
    across = width - 2 * _MARGIN - _GAP - (right + _GAP if right else 0)
    column = across / 2
    lefts = (_MARGIN, _MARGIN + column + _GAP)
    heads = [wrap(name, int(column * 13)) for name in (original_label, label)]
    page.foot = 0.02 + max(
        page.put(left, page.foot, head, fontweight="bold") for left, head in zip(lefts, heads, strict=True)
    )
    for i, original in enumerate(originals):
        page.rule(_MARGIN, page.foot, width - 2 * _MARGIN)
        page.foot += 0.05
        ends = [_tokens(page, [(t, None) for t in original if t], lefts[0], page.foot, column, measure)]
        ends.append(_made(page, original, found, i, lefts[1], page.foot, column, measure))
        if said:
            ends.append(page.put(width - _MARGIN, page.foot, said[i], size=SMALL, color=QUIET, ha="right"))
        page.foot = max(ends) + 0.03


def _below(
    figure: Figure,
    page: _Page,
    originals: Sequence[Sequence[str]],
    rows: Mapping[str, Sequence[Tokens] | str],
    captions: Mapping[str, Sequence[str]],
    original_label: str,
    width: float,
    measure: Callable[[str, bool], float],
) -> None:
    names = {label: wrap(label, 20) for label in (original_label, *rows)}
    left = _MARGIN + max(text_size(figure, name, NORMAL, fontweight="bold")[0] for name in names.values()) + _GAP
    said = {label: [t.replace("\n", ", ") for t in texts] for label, texts in captions.items()}
    right = max((text_size(figure, t, SMALL)[0] for texts in said.values() for t in texts), default=0.0)
    across = width - left - _MARGIN - (right + _GAP if right else 0)
    for i, original in enumerate(originals):
        if i:
            page.foot += 0.05
            page.rule(_MARGIN, page.foot, width - 2 * _MARGIN)
            page.foot += 0.05
        for label in (original_label, *rows):
            first = label == original_label
            weight = "bold" if first else "normal"
            ends = [page.put(left - _GAP, page.foot, names[label], fontweight=weight, ha="right")]
            if first:
                end = _tokens(
                    page, [(t, None) for t in original if t], left, page.foot, width - left - _MARGIN, measure
                )
            else:
                end = _made(page, original, rows[label], i, left, page.foot, across, measure)
                if label in said:
                    page.put(width - _MARGIN, page.foot, said[label][i], size=SMALL, color=QUIET, ha="right")
            page.foot = max(*ends, end) + 0.03


def _made(
    page: _Page,
    original: Sequence[str],
    found: Sequence[Tokens] | str,
    i: int,
    left: float,
    top: float,
    across: float,
    measure: Callable[[str, bool], float],
) -> float:
    text = found if isinstance(found, str) else found[i]
    if text is None or isinstance(text, str):
        said = wrap(text or "nothing was found", int(across * 13))
        return page.put(left, top, said, color=QUIET, fontstyle="italic")
    return _tokens(page, marked(original, text), left, top, across, measure)


def marked(original: Sequence[str], found: Sequence[str]) -> list[tuple[str, Mark]]:
    """The tokens of a reconstruction: each is right in its place, elsewhere in the original, or wrong.

    A token counts elsewhere as often as the original has it beyond those that are right in place. Places that are empty
    in both are left out; those that are empty in the reconstruction alone are NOTHING.
    """
    right = [k < len(original) and t == original[k] for k, t in enumerate(found)]
    left = Counter(t for k, t in enumerate(original) if t and not (k < len(found) and right[k]))
    made: list[tuple[str, Mark]] = []
    for k, t in enumerate(found):
        if not t:
            if k < len(original) and original[k]:
                made.append((NOTHING, "wrong"))
        elif right[k]:
            made.append((t, "right"))
        else:
            made.append((t, "elsewhere" if left[t] > 0 else "wrong"))
            left[t] -= 1
    return made


def _has_open_places(originals: Sequence[Sequence[str]], rows: Mapping[str, Sequence[Tokens] | str]) -> bool:
    texts = [(o, t) for found in rows.values() if not isinstance(found, str) for o, t in zip(originals, found)]
    return any((NOTHING, "wrong") in marked(o, t) for o, t in texts if t is not None and not isinstance(t, str))


def _tokens(
    page: _Page,
    tokens: Sequence[tuple[str, Mark | None]],
    left: float,
    top: float,
    across: float,
    measure: Callable[[str, bool], float],
) -> float:
    """Puts tokens in lines; returns where they end."""
    x = left
    for text, mark in tokens:
        shown = _visible(text)
        bold = mark == "right"
        wide = measure(shown, bold) + (2 * _PAD if bold else 0)
        if x > left and x + wide > left + across:
            x, top = left, top + _LINE
        if bold:
            box = {"boxstyle": "square,pad=0.15", "facecolor": "#E4E4E4", "edgecolor": QUIET, "linewidth": 0.4}
            page.put(x + _PAD, top, shown, fontweight="bold", bbox=box)
        else:
            page.put(x, top, shown)
        if mark == "elsewhere":
            page.underline(x, top + _UNDER, wide)
        x += wide + _BETWEEN
    return top + _LINE


def _visible(token: str) -> str:
    """A token as it can be seen: blanks as signs, and no mark-up."""
    shown = token.replace(" ", "\N{OPEN BOX}").replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}")
    return shown.replace("\t", "\N{RIGHTWARDS ARROW TO BAR}").replace("$", r"\$")


def _measurer(figure: Figure) -> Callable[[str, bool], float]:
    """The width of a token in inches, by its text and whether it is bold."""
    known: dict[tuple[str, bool], float] = {}

    def measure(text: str, bold: bool) -> float:
        if (text, bold) not in known:
            large = text_size(figure, text, 8 * NORMAL, fontweight="bold" if bold else "normal")  # without hinting
            known[text, bold] = large[0] / 8
        return known[text, bold]

    return measure


def text_captions(score: Score) -> list[str]:
    """Texts for beside reconstructions: ROUGE-L and the share of tokens in place of each original's match."""
    said = []
    for one in score.images:
        values = one.extra
        if one.success is None:
            said.append("")
        elif one.success:
            said.append("exact")
        else:
            parts = [("ROUGE-L", values.get("rouge_l")), ("in place", values.get("token_accuracy"))]
            said.append("\n".join(f"{name} {v:.2f}" for name, v in parts if v is not None))
    return said
