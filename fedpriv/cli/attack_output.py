"""What `fedpriv attack` shows and writes: rows, the summary, and the figures that a goal and a finding allow."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fedpriv.base.types import Array, Config, Row

if TYPE_CHECKING:
    from fedpriv.base.column import Column
    from fedpriv.data.kind import Kind
    from fedpriv.metrics.cells import Cells
    from fedpriv.metrics.disclosed import Disclosed
    from fedpriv.metrics.progress import Progress
    from fedpriv.metrics.score import Score
    from fedpriv.rounds.trial import Inapplicable, Trial
    from fedpriv.threat.attack import Finding
    from fedpriv.threat.goal import Goal
    from fedpriv.threat.truth import Truth

#: What is drawn from the control.
NOISE = "noise in place of the update"
#: Images in the grid of reconstructions, and in the film strip.
GRID, STRIP = 12, 6


@dataclass
class Gathered:
    """What the trials of one command gave, without what no figure needs.

    Attributes:
      attack: the attack's name, for figures.
      goal: what was asked.
      generative: whether the attack uses a generator.
      controlled: whether it has a control.
      scores: one a trial that the attack applied to.
      runs: the seed of each.
      refused: trials that it did not apply to.
      rows: one an image, or whatever the goal's scores are about.
      pictures: originals, reconstructions `[n, h, w, c]` and captions of the first trials, as many as the grid shows.
      texts: likewise, of texts: each as its tokens, or None.
      ways: progress of each trial, without its images.
      first: the first finding with a path, and its originals.
      warned: what defenses had to say, by run and trial.
      told: likewise what the attack said of its own condition, in a finding's `extra["warnings"]`.
      cells: of each trial on rows of a table, which cells are right.
      cell_runs: the seed of each of these.
      doubts: why findings are not sure or not whole, as the attack itself says, and in how many trials.
      controls: of each score, that of the same attack on noise in place of the update, or why there is none, or None.
      from_noise: what was drawn from noise, beside `pictures`.
      checks: labels of the defenses with which clients check what they were sent.
    """

    attack: str
    goal: Goal
    generative: bool = False
    controlled: bool = False
    scores: list[Any] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    refused: list[Inapplicable] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    pictures: list[tuple[Array, Array, list[str]]] = field(default_factory=list)
    texts: list[tuple[list[list[str]], list[list[str] | None], list[str]]] = field(default_factory=list)
    ways: list[Progress] = field(default_factory=list)
    first: tuple[Finding, Array] | None = None
    warned: dict[tuple[int, int], tuple[str, ...]] = field(default_factory=dict)
    told: dict[tuple[int, int], tuple[str, ...]] = field(default_factory=dict)
    cells: list[Cells] = field(default_factory=list)
    cell_runs: list[int] = field(default_factory=list)
    doubts: Counter[str] = field(default_factory=Counter)
    controls: list[Any] = field(default_factory=list)
    from_noise: list[tuple[Array, list[str]]] = field(default_factory=list)
    checks: tuple[str, ...] = ()

    def add(
        self, result: Trial, truth: Truth, run: int, columns: Row, control: Trial | Inapplicable | None = None
    ) -> list[Row]:
        """Takes one trial's result in; returns its rows, with these columns first and the `number` of each."""
        from fedpriv.metrics.disclosed import control_rows

        score, before = result.score, len(self.rows)
        beside = getattr(control, "score", None)
        self.controls.append(beside if beside is not None else getattr(control, "reason", None))
        if said := result.finding.extra.get("warnings"):
            self.told[run, len(self.scores)] = tuple(said)
        self.scores.append(score)
        self.runs.append(run)
        noise = control_rows(self.goal, score, beside)
        rows = [{**a, **result.finding.measures, **b} for a, b in zip(score.rows(**columns), noise, strict=True)]
        self.rows += rows
        if doubt := result.finding.extra.get("reason"):
            self.doubts[str(doubt)] += 1
        if "reconstructions" in self.goal.draws:
            self._keep_pictures(result.finding, score, truth, run, rows, control)
            self._keep_cells(result.finding, score, truth, run)
        return [{**row, "number": before + i} for i, row in enumerate(rows, 1)]

    def refuse(self, result: Inapplicable) -> None:
        """Notes a trial that the attack does not apply to."""
        self.refused.append(result)

    def _keep_pictures(
        self,
        finding: Finding,
        score: Score,
        truth: Truth,
        run: int,
        rows: list[Row],
        control: Trial | Inapplicable | None,
    ) -> None:
        import numpy as np

        from fedpriv.figures.reconstructions import quality_captions
        from fedpriv.metrics.progress import progress
        from fedpriv.metrics.score import aligned

        shown = sum(len(x) for x, _, _ in self.pictures)
        found = aligned(finding, score, truth.kind)
        for i, row in enumerate(rows):  # examples that are no pictures are read as text
            if i < len(truth.x) and (original := truth.kind.text(truth.x[i])) is not None:
                made = found[i] if found is not None and truth.kind.claimed(found[i][None])[0] else None
                row |= {"original": original, "found": None if made is None else truth.kind.text(made)}
        self._keep_texts(found, score, truth, run)
        drawable = truth.x.ndim == 4 and truth.x.shape[-1] in (1, 3)
        if drawable and found is not None and shown < GRID and run == self.runs[0]:
            self.pictures.append((truth.x, found, quality_captions(score)))
            self._keep_noise(truth, control)
        curved = "psnr" in {c.name for c in truth.kind.columns}
        if curved and finding.path is not None and finding.history is not None and len(finding.path):
            way = progress(finding, truth.x, truth.kind)
            self.ways.append(replace(way, x=np.zeros(0, np.float32)))
            if drawable and self.first is None:
                self.first = finding, truth.x

    def _keep_noise(self, truth: Truth, control: Trial | Inapplicable | None) -> None:
        import numpy as np

        from fedpriv.figures.reconstructions import quality_captions
        from fedpriv.metrics.score import aligned
        from fedpriv.rounds.trial import Trial

        if isinstance(control, Trial) and (made := aligned(control.finding, control.score, truth.kind)) is not None:
            self.from_noise.append((made, quality_captions(control.score)))
        else:
            self.from_noise.append((np.full_like(truth.x, np.nan), [""] * len(truth.x)))

    def row_columns(self, kind: Kind) -> tuple[Column, ...]:
        """What is shown of a row while it runs: of the control the first quantity that units are compared by."""
        own = self.goal.row_columns(kind)
        if not self.controlled:
            return own
        lead = self.goal.pairs[0]
        like = next((c for c in own if c.name == lead), None)
        shown = self.goal.mean_of(lead) if like is None else like
        beside = replace(shown, name=f"control_{lead}", label=f"{shown.label} of noise")
        place = len(own) if like is None else own.index(like) + 1
        return (*own[:place], beside, *own[place:])

    def disclosed(self) -> Disclosed | None:
        """What the updates gave away beyond noise in their place; None where there is no control."""
        from fedpriv.metrics.disclosed import Controlled, disclosed

        trials = [
            Controlled(
                score=score,
                control=None if isinstance(control, str) else control,
                reason=control if isinstance(control, str) else "",
                batch=self.runs[:k].count(run),
                run=run,
            )
            for k, (score, control, run) in enumerate(zip(self.scores, self.controls, self.runs, strict=True))
        ]
        return disclosed(self.goal, trials, self.generative)

    def _keep_cells(self, finding: Finding, score: Score, truth: Truth, run: int) -> None:
        from fedpriv.metrics.cells import cells

        made = cells(finding, score, truth, max(0, GRID - sum(len(c.original) for c in self.cells)))
        if made is not None:
            self.cells.append(made)
            self.cell_runs.append(run)

    def by_column(self) -> list[Row]:
        """Where examples are rows of a table: how many cells of each column are right, and of all."""
        from fedpriv.metrics.cells import by_column

        return by_column(self.cells, self.cell_runs) if self.cells else []

    def _keep_texts(self, found: Array | None, score: Score, truth: Truth, run: int) -> None:
        from fedpriv.figures.text_grid import text_captions

        originals = [words for x in truth.x if (words := truth.kind.words(x)) is not None]
        shown = sum(len(x) for x, _, _ in self.texts)
        if not originals or found is None or shown >= GRID or run != self.runs[0]:
            return
        self.texts.append((originals, [truth.kind.words(x) for x in found], text_captions(score)))

    def summary(self) -> Row:
        """Of all trials that the attack applied to, and how many it did not; of rows of a table, by column too."""
        told: Row = {"inapplicable": len(self.refused), "warnings": self.warnings()}
        if self.checks:
            told["alarms"] = self.alarms()
        if self.doubts:
            told["doubts"] = self.doubted()
        columns, found = self.by_column(), self.disclosed()
        if found is not None:
            cost = {"control_evaluations": found.evaluations, "control_seconds": found.seconds}
            told |= {"compared": found.column.name, **found.row(), **cost, "given_away": found.sentence()}
        return self.goal.details(self.scores, self.runs) | told | ({"by_column": columns} if columns else {})

    def doubted(self) -> list[str]:
        """Why findings are not sure or not whole, the most frequent reason first."""
        many = len(self.scores)
        return [f"in {n} of {many} trials: {why}" if many > 1 else why for why, n in self.doubts.most_common()]

    def alarms(self) -> dict[str, int]:
        """In how many trials some client alarmed, by check."""
        heard = self.warned.values()
        return {check: sum(any(w.startswith(f"{check}: ") for w in said) for said in heard) for check in self.checks}

    def warnings(self) -> list[str]:
        """What defenses and the attack had to say, and in how many trials."""
        from fedpriv.rounds.record import in_words

        return [
            *in_words(self.warned.values(), f"{len(self.warned)} trials"),
            *in_words(self.told.values(), f"{len(self.scores)} trials"),
        ]

    def write(self, out: Path, config: Config, seed: int) -> None:
        """A table of the rows, `summary.json`, and the figures there is something to draw for."""
        from fedpriv.base.atomic import write_csv, write_json
        from fedpriv.base.provenance import provenance
        from fedpriv.figures.save import save

        origin, many = provenance(sys.argv, config, seed), f"{self.goal.unit}s"
        write_csv(out / f"{many}.csv", self.rows)
        summary = {"summary": self.summary(), many: self.rows, "provenance": origin}
        if self.refused:
            summary["inapplicable"] = [r.reason for r in self.refused]
        write_json(out / "summary.json", summary)
        if self.cells:
            write_csv(out / "columns.csv", self.by_column())
        for name, figure in self._figures():
            save(figure, out / name, origin)

    def _figures(self) -> Iterator[tuple[str, Any]]:
        if "roc" in self.goal.draws:
            from fedpriv.figures.roc import roc_curves
            from fedpriv.metrics.goals.answers import ranking

            ranked = ranking(self.scores, self.runs)
            if ranked.both:
                yield "roc", roc_curves({self.attack: ranked})
        if self.pictures:
            yield "reconstructions", self._grid()
        if self.texts:
            yield "reconstructions", self._text_grid()
        if "reconstructions" not in self.goal.draws:
            return
        if self.cells:
            yield "rows", self._rows()
        from fedpriv.figures.film_strip import film_strip
        from fedpriv.figures.psnr_curve import psnr_curve
        from fedpriv.figures.scatter import psnr_ssim

        if any(image.ssim is not None for score in self.scores for image in score.images):
            yield "psnr_ssim", psnr_ssim({self.attack: self.scores})
        if self.ways:
            reference = self.goal.reference("psnr_mean")
            threshold = None if reference is None else reference[1]
            yield "psnr_curve", psnr_curve({self.attack: self.ways}, threshold_db=threshold)
        if self.first is not None:
            finding, x = self.first
            yield "film_strip", film_strip(finding, x, images=range(min(len(x), STRIP)))

    def _rows(self) -> Any:
        from fedpriv.figures.row_table import row_table
        from fedpriv.metrics.cells import joined

        whole = joined(self.cells)
        n = min(GRID, len(whole.original))
        unsure = None if whole.uncertainty is None else whole.uncertainty[:n]
        right = [f"{row['accuracy']:.0%}" for row in self.by_column()[:-1]]
        return row_table(
            whole.columns,
            whole.original[:n],
            whole.found[:n],
            whole.right[:n],
            unsure,
            right,
            note=f"The last line is of all {len(whole.right)} rows.",
        )

    def _grid(self) -> Any:
        import numpy as np

        from fedpriv.figures.reconstructions import reconstruction_grid

        originals, found = (np.concatenate([p[k] for p in self.pictures])[:GRID] for k in (0, 1))
        captions = [text for _, _, texts in self.pictures for text in texts][:GRID]
        rows, texts = {"reconstruction": found}, {"reconstruction": captions}
        if self.controlled:
            rows[NOISE] = np.concatenate([x for x, _ in self.from_noise])[:GRID]
            texts[NOISE] = [text for _, said in self.from_noise for text in said][:GRID]
        return reconstruction_grid(originals, rows, texts)

    def _text_grid(self) -> Any:
        from fedpriv.figures.text_grid import text_grid

        originals = [words for texts, _, _ in self.texts for words in texts][:GRID]
        found = [words for _, texts, _ in self.texts for words in texts][:GRID]
        captions = [text for _, _, texts in self.texts for text in texts][:GRID]
        label = f"Reconstruction by {self.attack}"
        return text_grid(originals, {label: found}, {label: captions})


def show_row(row: Row, number: int, unit: str, columns: Sequence[Column], json_lines: bool) -> None:
    """Prints one row; before the first, the headings.

    Args:
      row: a score's.
      number: from 1.
      unit: what it is about.
      columns: what is shown of it.
      json_lines: print all of it as JSON instead.
    """
    from fedpriv.base.atomic import jsonable, to_json

    if json_lines:
        typer.echo(to_json(jsonable({"kind": unit, **{k: v for k, v in row.items() if k != "number"}})))
        return
    heads = [f"{c.label} {c.unit}".strip() if c.unit != "s" else c.label for c in columns]
    first = max(5, len(unit))
    if number == 1:
        typer.echo(f"{unit:>{first}}" + "".join(f"  {head:>7}" for head in heads))
    cells = [f"{_cell(row.get(c.name), c):>{max(7, len(head))}}" for c, head in zip(columns, heads, strict=True)]
    typer.echo("  ".join([f"{number:>{first}}", *cells]))


def _cell(value: Any, column: Column) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return ("yes" if value else "no") if column.better is None else "right" if value else "wrong"
    return format(value, column.format)


def show_inapplicable(waiting: list[tuple[Inapplicable, Row]], json_lines: bool) -> None:
    """Prints that the attack does not apply to the trials in `waiting`, and why, and empties it."""
    from fedpriv.base.atomic import to_json

    for result, columns in waiting:
        if json_lines:
            typer.echo(to_json({"kind": "inapplicable", **columns, "reason": result.reason}))
        else:
            typer.echo(f"trial {columns['trial']}: does not apply: {result.reason}", err=True)
    waiting.clear()


def show_summary(gathered: Gathered, json_lines: bool, adversary: str, threat: str, images: Row) -> None:
    """Prints the summary, who attacked, knowing what, and which images (see `describe_images`)."""
    from fedpriv.base.atomic import jsonable, to_json

    if json_lines:
        who = {"adversary": adversary, "threat": threat}
        typer.echo(to_json(jsonable({"kind": "summary", **gathered.summary(), **who, **images})))
        return
    found = gathered.disclosed()
    given = "" if found is None else f"{found.sentence()}\n"
    typer.echo(f"{gathered.goal.describe(gathered.scores, gathered.runs)}\n{given}{threat}\n{images['attacked']}")
    _show_columns(gathered.by_column())
    if gathered.refused:
        every = len(gathered.refused) + len(gathered.scores)
        typer.echo(f"It does not apply to {len(gathered.refused)} of {every} trials, which count neither way.")
    for doubt in gathered.doubted():
        typer.echo(f"Attack '{gathered.attack}' found not all, or is not sure: {doubt}.")
    for warning in gathered.warnings():
        typer.echo(f"Warning: {warning}.")
    for check, trials in gathered.alarms().items():
        typer.echo(f"{check}: clients alarmed in {trials or 'none'} of {len(gathered.warned)} trials.")


def _show_columns(rows: Sequence[Row]) -> None:
    """Prints how many cells of each column are right."""
    if not rows:
        return
    wide = max(len(row["column"]) for row in rows)
    sure = "uncertainty" in rows[0]
    heads = f"{'column':<{wide}}  {'right':>9}  accuracy"
    typer.echo(heads + ("  uncertainty  right of the surest quarter" if sure else ""))
    for row in rows:
        share = f"{row['right']}/{row['cells']}"
        said = f"{row['column']:<{wide}}  {share:>9}  {row['accuracy']:>8.0%}"
        if sure:
            trusted = f"{row['surest_right']}/{row['surest']}"
            said += f"  {row['uncertainty']:>11.2f}  {trusted:>9} {row['surest_accuracy']:.0%}"
        typer.echo(said)
