"""Page: a table's rows as CSV and JSON, its figures, and a README with the numbers in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedpriv.base.atomic import write_csv, write_json, write_text
from fedpriv.base.provenance import provenance
from fedpriv.figures.film_strip import film_strip
from fedpriv.figures.psnr_curve import psnr_curve
from fedpriv.figures.reconstructions import reconstruction_grid
from fedpriv.figures.save import save
from fedpriv.figures.scatter import psnr_ssim
from fedpriv.metrics.progress import Progress
from fedpriv.threat.attack import Finding
from fedpriv_experiments.gradient_inversion.arm import Outcome
from fedpriv_experiments.gradient_inversion.tables import TABLES, Table

#: Largest number of arms that a scatter can tell apart.
ARMS = 8
#: The summary's fields that a table shows.
COLUMNS = (
    "images",
    "batches",
    "success_rate",
    "success_interval",
    "psnr_median",
    "psnr_mean",
    "psnr_interval",
    "psnr_best",
    "psnr_worst",
    "ssim_mean",
    "label_accuracy",
    "seconds_median",
    "evaluations_median",
)


def rows_of(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """One row an arm, refused ones with the reason."""
    return [
        {
            "arm": o.arm.name,
            "attack": o.arm.attack,
            "model": o.arm.model,
            "rounds_trained": o.arm.rounds,
            "model_accuracy": o.accuracy,
            **{c: (o.summary or {}).get(c) for c in COLUMNS},
            "refused": o.refused,
        }
        for o in outcomes
    ]


def write_page(name: str, table: Table, outcomes: Sequence[Outcome], out: Path, command: list[str]) -> None:
    """Writes `<name>.csv`, `<name>.json`, figures, and the folder's README."""
    rows = rows_of(outcomes)
    origin = provenance(
        command, [vars(o.arm) | {"data": Path(o.arm.data).name} for o in outcomes], outcomes[0].arm.seed
    )
    write_csv(out / f"{name}.csv", rows)
    write_json(
        out / f"{name}.json", {"title": table.title, "question": table.question, "rows": rows, "provenance": origin}
    )
    for suffix, figure in figures(table, outcomes).items():
        save(figure, out / f"{name}{suffix}", {"title": table.title, "caption": table.question, **origin})
    _readme(out)


def figures(table: Table, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The table's figures by the suffix of their file's name."""
    drawn: dict[str, Any] = {}
    shown = [o for o in outcomes if len(o.found)]
    groups: dict[tuple[Any, ...], list[Outcome]] = {}
    for o in shown:
        groups.setdefault((o.originals.shape[1:], len(o.originals)), []).append(o)
    for i, group in enumerate(groups.values()):
        n = min(8, len(group[0].originals))
        first = group[0].originals[:n]
        same = [o for o in group if np.array_equal(o.originals[:n], first)]
        captions = {o.arm.name: [f"{row['psnr']:.1f} dB" for row in _by_image(o)[:n]] for o in same}
        rows = {o.arm.name: o.found[:n] for o in same}
        drawn[f"_images{i or ''}"] = reconstruction_grid(first, rows, captions, columns=n, title=table.title)
    ways = {o.arm.name: [_way(w) for w in o.ways] for o in outcomes if o.ways}
    if ways:
        drawn["_progress"] = psnr_curve(ways, title=f"{table.title}: PSNR along the way")
    for o in outcomes:
        if o.strip:
            slug = "".join(c if c.isalnum() else "_" for c in o.arm.name.lower()).strip("_")
            history = np.stack([o.strip["evaluations"], np.zeros(len(o.strip["evaluations"]))], 1)
            path = o.strip["x"]
            finding = Finding(x=path[-1], y=None, history=history, path=path)
            title = f"{o.arm.name}: the first image, by gradient evaluations"
            drawn[f"_strip_{slug}"] = film_strip(finding, o.originals[: path.shape[1]], frames=9, title=title)
    if len(shown) <= ARMS:
        drawn["_scatter"] = psnr_ssim({o.arm.name: o.scores() for o in shown}, title=f"{table.title}: every image")
    if table is TABLES["stages"]:
        drawn["_curve"] = _stages(outcomes)
    return drawn


def _by_image(outcome: Outcome) -> list[dict[str, Any]]:
    return [{**row, "psnr": float(row["psnr"])} for row in outcome.rows]


def _way(saved: dict[str, Any]) -> Progress:
    psnr = np.array([[float(p) for p in point] for point in saved["psnr"]])
    evaluations = np.array(saved["evaluations"], float)
    return Progress(evaluations, np.zeros((len(evaluations), 0)), psnr, np.zeros(len(evaluations)))


def _stages(outcomes: Sequence[Outcome]) -> Any:
    """Median PSNR, with its quartiles, by rounds of training; one line an attack and model."""
    from fedpriv.figures.style import SMALL, add_axes, arm, label_ends, new_figure, styled

    series: dict[str, list[tuple[int, float, float, float]]] = {}
    for o in outcomes:
        if o.rows:
            low, middle, high = np.percentile([r["psnr"] for r in _by_image(o)], [25, 50, 75])
            series.setdefault(o.arm.name.rpartition(",")[0], []).append((o.arm.rounds, low, middle, high))
    with styled():
        figure = new_figure(6.4, 3.2)
        axes = add_axes(figure, 0.62, 0.2, 3.7, 2.4)
        ends = []
        for i, (name, points) in enumerate(series.items()):
            rounds, low, middle, high = (np.array(v) for v in zip(*sorted(points), strict=True))
            look, places = arm(i), np.arange(len(rounds))
            axes.fill_between(places, low, high, color=look.color, alpha=0.15, linewidth=0)
            axes.plot(places, middle, color=look.color, marker=look.marker, linestyle=look.dashes)
            axes.set_xticks(places, [str(r) for r in rounds])
            ends.append((name, float(middle[-1]), look.color))
        axes.set_xlabel("Rounds of FedAvg before the attack")
        axes.set_yscale("log")
        ticks = [t for t in (5, 10, 15, 20, 30, 40, 60, 100, 150) if axes.get_ylim()[0] <= t <= axes.get_ylim()[1]]
        axes.set_yticks(ticks, [str(t) for t in ticks])
        axes.minorticks_off()
        axes.set_ylabel("PSNR (dB, log), quartiles")
        label_ends(axes, ends, SMALL + 0.5)
    return figure


def _readme(out: Path) -> None:
    """The folder's README, from the tables that are there."""
    parts = [
        "# Gradient inversion\n",
        "Every row is an attack on updates of the real federation, scored one-to-one against the withheld images. "
        "Success is a PSNR of at least 30 dB; intervals are 95%. Seconds are wall-clock of one attack without its "
        "one-off compilation; evaluations count gradients of the objective, over all restarts.\n",
    ]
    for name, table in TABLES.items():
        path = out / f"{name}.json"
        if not path.exists():
            continue
        saved = json.loads(path.read_text(encoding="utf-8"))
        origin = saved["provenance"]
        parts.append(f"## {table.title}\n\n{table.question}\n")
        parts.append(
            "| arm | images | at 30 dB | PSNR dB median (worst to best) | SSIM | labels | seconds | evaluations "
            "| model's accuracy |\n|---|---|---|---|---|---|---|---|---|"
        )
        parts.extend(_line(row) for row in saved["rows"])
        versions = origin["versions"]
        parts.append(
            f"\n`{origin['command']}`, seed {origin['seed']}, Python {versions['python']}, "
            f"TensorFlow {versions['tensorflow']}, {origin['platform']['cores']} cores.\n"
        )
        parts.extend(f"![{table.title}]({f.name})\n" for f in sorted(out.glob(f"{name}_*.png")))
    write_text(out / "README.md", "\n".join(parts))


def _line(row: dict[str, Any]) -> str:
    if row["images"] is None:
        return f"| {row['arm']} | | refused: {row['refused']} | | | | | | |"

    def number(key: str, form: str) -> str:
        return "" if row.get(key) is None else format(float(row[key]), form)

    low, high = (float(v) for v in row["success_interval"])
    return (
        f"| {row['arm']} | {row['images']} | {number('success_rate', '.0%')} ({low:.0%} to {high:.0%}) "
        f"| {number('psnr_median', '.1f')} ({number('psnr_worst', '.1f')} to {number('psnr_best', '.1f')}) "
        f"| {number('ssim_mean', '.3f')} | {number('label_accuracy', '.0%')} "
        f"| {number('seconds_median', '.2f')} | {number('evaluations_median', '.0f')} "
        f"| {number('model_accuracy', '.0%') or 'untrained'} |"
    )
