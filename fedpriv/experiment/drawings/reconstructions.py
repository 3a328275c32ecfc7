"""Reconstructions: originals, and what each attack made of what its adversary saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpriv.experiment.arm import (
    Arm,
    ViewResult,
    attacked_arms,
    short_name,
    varying_axes,
)
from fedpriv.experiment.drawings.drawn import Drawn, part_of, part_stem
from fedpriv.figures.reconstructions import quality_captions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedpriv.experiment.experiment import Experiment

#: Most rows of one grid, and its images across.
ROWS, ACROSS = 10, 8
#: From how many images on they are drawn all in one panel as well.
MANY = 16
#: Most texts of one grid.
TEXTS = 3

#: A figure's title, its arms, and the axes that tell them apart.
Part = tuple[str, Sequence[Arm], Sequence[str]]


def reconstruction_grids(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """Originals and reconstructions, arms below each other that attack the same images."""
    pictured = [a for a in attacked_arms(arms) if _originals(a) is not None]
    across = min((len(_originals(a)) for a in pictured), default=0)
    across = min(ACROSS, across, experiment.contents.keep_images)
    groups: dict[bytes, list[Arm]] = {}
    for arm in pictured:
        groups.setdefault(_originals(arm)[:across].tobytes(), []).append(arm)
    varying = varying_axes(arms)
    parts = [part for group in groups.values() for part in _parts(group, varying)]

    def drawn(part: Sequence[Arm], axes: Sequence[str]) -> Callable[[], Figure]:
        def draw() -> Figure:
            from fedpriv.figures.reconstructions import reconstruction_grid

            rows, captions = {}, {}
            originals = np.zeros(0)
            for arm in part:
                outcome = arm.results[0].attacked
                assert outcome is not None
                originals = outcome.arrays["originals"][:across]
                name = short_name(arm, axes)
                rows[name] = outcome.arrays["found"][:across]
                said = [text for view in arm.results[0].views for text in _captions(view)]
                captions[name] = said[: len(originals)]
                if "from_noise" in outcome.arrays:
                    beside = f"{name}: from noise" if name else "From noise"
                    rows[beside] = outcome.arrays["from_noise"][:across]
                    said = [text for view in arm.results[0].views for text in _control_captions(view)]
                    captions[beside] = said[: len(originals)]
            return reconstruction_grid(originals, rows, captions, columns=across)

        return draw

    noise = (
        " 'From noise' is what the same attack made of noise in place of the update."
        if any("from_noise" in arm.results[0].attacked.arrays for arm in pictured if arm.results[0].attacked)
        else ""
    )
    return _drawn(
        parts,
        f"Originals, and what each attack made of what its adversary saw; PSNR in dB and SSIM below each image.{noise} "
        "First images",
        "Originals and reconstructions of {} arms, numbers below each image.",
        drawn,
    )


def mosaics(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """All images behind an update and all that came of it, a panel an arm, where many are kept."""
    pictured = [a for a in arms if _originals(a) is not None]
    most = min(max((len(_originals(a)) for a in pictured), default=0), experiment.contents.keep_images)
    shown = [a for a in pictured if len(_originals(a)) >= most]
    shown = [a for a in shown if np.array_equal(_originals(a)[:most], _originals(shown[0])[:most])]
    if most < MANY or not shown:
        return []
    varying = varying_axes(shown)

    def draw() -> Figure:
        from fedpriv.figures.mosaic import mosaic

        panels: dict[str, Any] = {"Original": _originals(shown[0])[:most]}
        notes = {"Original": f"{most} images"}
        for arm in shown:
            name, row = short_name(arm, varying) or "Reconstruction", arm.row()
            known = arm.goal is not None and row.get(arm.goal.headline) is not None
            panels[name] = _kept(arm, "found")[:most] if known else None
            notes[name] = arm.goal.note(row) if known and arm.goal is not None else "does not apply"
        return mosaic(panels, notes)

    return [
        Drawn(
            "mosaic",
            "All images and what came of them",
            f"The first {most} images behind an update or a sum, and what each arm found of them in their places. What "
            f"is blank was not found. Seed {shown[0].results[0].cell.seed}.",
            f"A panel of {most} originals, and one of what was found for each of {len(shown)} arms.",
            draw,
        )
    ]


def text_grids(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """Texts and what attacks made of them, arms below each other that attack the same texts."""
    pictured = [a for a in attacked_arms(arms) if _kept(a, "words") is not None]
    least = min((len(_kept(a, "words")) for a in pictured), default=0)
    shown = min(TEXTS, least, experiment.contents.keep_images)
    groups: dict[bytes, list[Arm]] = {}
    for arm in pictured:
        groups.setdefault("\n".join(_kept(arm, "words")[:shown].ravel()).encode(), []).append(arm)
    varying = varying_axes(arms)
    parts = [part for group in groups.values() for part in _parts(group, varying)]

    def drawn(part: Sequence[Arm], axes: Sequence[str]) -> Callable[[], Figure]:
        def draw() -> Figure:
            from fedpriv.figures.text_grid import text_captions, text_grid

            rows: dict[str, Any] = {}
            captions: dict[str, list[str]] = {}
            for arm in part:
                name = short_name(arm, axes) or "Reconstruction"
                words, known = (_kept(arm, f"found_{what}")[:shown].tolist() for what in ("words", "known"))
                rows[name] = [text if there else None for text, there in zip(words, known, strict=True)]
                said = [
                    text
                    for view in arm.results[0].views
                    for text in (text_captions(view.score) if view.score is not None else [""] * view.units)
                ]
                captions[name] = said[:shown]
            return text_grid(_kept(part[0], "words")[:shown].tolist(), rows, captions)

        return draw

    return _drawn(
        parts,
        "Originals, and what each attack made of what its adversary saw, with ROUGE-L and the share of tokens right in "
        "place. First texts",
        "Texts and their reconstructions by {} arms, right tokens in boxes.",
        drawn,
    )


def _drawn(
    parts: Sequence[Part],
    about: str,
    alternative: str,
    drawn: Callable[[Sequence[Arm], Sequence[str]], Callable[[], Figure]],
) -> list[Drawn]:
    """A figure for each part, numbered where several have one title."""
    titles = [title for title, _, _ in parts]
    made = []
    for i, (title, part, axes) in enumerate(parts):
        alike = [k for k, t in enumerate(titles) if t == title]
        number = part_of(alike.index(i) + 1, len(alike))
        made.append(
            Drawn(
                part_stem("reconstructions", i + 1, len(parts)),
                f"Reconstructions{': ' + title if title else ''}{number}",
                f"{about} of seed {part[0].results[0].cell.seed}.",
                alternative.format(len(part)),
                drawn(part, axes),
            )
        )
    return made


def _kept(arm: Arm, name: str) -> Any:
    """An array kept of an arm's first seed, or None."""
    outcome = arm.results[0].attacked
    return None if outcome is None else outcome.arrays.get(name)


def _captions(view: ViewResult) -> list[str]:
    return ["does not apply"] * view.units if view.score is None else quality_captions(view.score)


def _control_captions(view: ViewResult) -> list[str]:
    return ["no control"] * view.units if view.control is None else quality_captions(view.control)


def _parts(group: Sequence[Arm], varying: Sequence[str]) -> list[Part]:
    """Of each figure; what is too much for one goes by the first axis."""
    if len(group) <= ROWS or len(varying) < 2:
        return [("", group[i : i + ROWS], varying) for i in range(0, len(group), ROWS)]
    by_label: dict[Any, list[Arm]] = {}
    for arm in group:
        by_label.setdefault(arm.labels[varying[0]], []).append(arm)
    return [
        (short_name(mine[0], varying[:1]), mine[i : i + ROWS], varying[1:])
        for mine in by_label.values()
        for i in range(0, len(mine), ROWS)
    ]


def _originals(arm: Arm) -> Any:
    """The images kept of an arm's first seed, if they can be drawn."""
    kept = _kept(arm, "originals")
    return kept if kept is not None and kept.ndim == 4 and kept.shape[-1] in (1, 3) else None
