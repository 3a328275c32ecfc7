"""What `fedpriv attack` shows and writes: a row an image, the summary, and the figures that a finding allows."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from fedpriv.metrics.progress import Progress
    from fedpriv.metrics.score import Score, Summary
    from fedpriv.rounds.trial import Trial
    from fedpriv.threat.attack import Finding
    from fedpriv.threat.truth import Truth

#: Images in the grid of reconstructions, and in the film strip.
GRID, STRIP = 12, 6


@dataclass
class Gathered:
    """What the trials of one command gave, without what no figure needs.

    Attributes:
      attack: the attack's name, for figures.
      scores: one a trial.
      runs: the seed of each.
      rows: one an image.
      pictures: originals, reconstructions `[n, h, w, c]` and captions of the first trials, as many as the grid shows.
      ways: progress of each trial, without its images.
      first: the first finding with a path, and its originals.
    """

    attack: str
    scores: list[Score] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[tuple[Any, Any, list[str]]] = field(default_factory=list)
    ways: list[Progress] = field(default_factory=list)
    first: tuple[Finding, Any] | None = None

    def add(self, result: Trial, truth: Truth, run: int, columns: dict[str, Any]) -> list[dict[str, Any]]:
        """Takes one trial's result in; returns its rows, with these columns first."""
        import numpy as np

        from fedpriv.figures.reconstructions import quality_captions
        from fedpriv.metrics.progress import progress
        from fedpriv.metrics.score import aligned

        finding, score = result.finding, result.score
        self.scores.append(score)
        self.runs.append(run)
        rows = score.rows(**columns)
        shown = sum(len(x) for x, _, _ in self.pictures)
        self.rows += rows
        found = aligned(finding, score, truth.kind)
        for i, row in enumerate(rows):  # examples that are no pictures are read as text
            if (original := truth.kind.text(truth.x[i])) is not None:
                row |= {"original": original, "found": None if found is None else truth.kind.text(found[i])}
        drawable = truth.x.ndim == 4 and truth.x.shape[-1] in (1, 3)
        if drawable and found is not None and shown < GRID and run == self.runs[0]:
            self.pictures.append((truth.x, found, quality_captions(score)))
        curved = "psnr" in {c.name for c in truth.kind.columns}
        if curved and finding.path is not None and finding.history is not None and len(finding.path):
            way = progress(finding, truth.x, truth.kind)
            self.ways.append(replace(way, x=np.zeros(0, np.float32)))
            if drawable and self.first is None:
                self.first = finding, truth.x
        return rows

    def write(self, out: Path, summary: Summary, config: dict[str, Any], seed: int) -> None:
        """`images.csv`, `summary.json`, and the figures there is something to draw for."""
        from fedpriv.base.atomic import write_csv, write_json
        from fedpriv.base.provenance import provenance
        from fedpriv.figures.film_strip import film_strip
        from fedpriv.figures.psnr_curve import psnr_curve
        from fedpriv.figures.save import save
        from fedpriv.figures.scatter import psnr_ssim

        origin = provenance(sys.argv, config, seed)
        write_csv(out / "images.csv", self.rows)
        write_json(out / "summary.json", {"summary": summary.as_dict(), "images": self.rows, "provenance": origin})
        if self.pictures:
            save(self._grid(), out / "reconstructions", origin)
        if any(image.ssim is not None for score in self.scores for image in score.images):
            save(psnr_ssim({self.attack: self.scores}), out / "psnr_ssim", origin)
        if self.ways:
            save(psnr_curve({self.attack: self.ways}, threshold_db=summary.threshold_db), out / "psnr_curve", origin)
        if self.first is not None:
            finding, x = self.first
            save(film_strip(finding, x, images=range(min(len(x), STRIP))), out / "film_strip", origin)

    def _grid(self) -> Any:
        import numpy as np

        from fedpriv.figures.reconstructions import reconstruction_grid

        originals, found = (np.concatenate([p[k] for p in self.pictures])[:GRID] for k in (0, 1))
        captions = [text for _, _, texts in self.pictures for text in texts][:GRID]
        return reconstruction_grid(originals, {"reconstruction": found}, {"reconstruction": captions})


def show_row(row: dict[str, Any], number: int, extra: tuple[str, ...], json_lines: bool) -> None:
    """Prints one image's row; before the first, the headings. `extra` are names of extra metrics."""
    from fedpriv.base.atomic import jsonable, to_json

    if json_lines:
        typer.echo(to_json(jsonable({"kind": "image", **row})))
        return
    if number == 1:
        more = "".join(f"  {name:>7}" for name in extra)
        typer.echo(f"image  PSNR dB   SSIM      MSE{more}  label  seconds  evaluations")
    label = {None: "-", True: "right", False: "wrong"}[row["label_right"]]

    def cell(value: Any, form: str, width: int) -> str:
        return f"{'-' if value is None else format(value, form):>{width}}"

    more = "".join(f"  {cell(row[name], '.4g', max(7, len(name)))}" for name in extra)
    typer.echo(
        f"{number:>5}  {cell(row['psnr'], '.2f', 7)}  {cell(row['ssim'], '.3f', 5)}  {cell(row['mse'], '.1e', 7)}"
        f"{more}  {label:>5}  {cell(row['seconds'], '.2f', 7)}  {row['evaluations']:>11}"
    )


def show_summary(summary: Summary, json_lines: bool, adversary: str, threat: str) -> None:
    """Prints the summary, and who attacked, knowing what."""
    from fedpriv.base.atomic import jsonable, to_json

    if json_lines:
        typer.echo(
            to_json(jsonable({"kind": "summary", **summary.as_dict(), "adversary": adversary, "threat": threat}))
        )
    else:
        typer.echo(f"{summary.describe()}\n{threat}")
