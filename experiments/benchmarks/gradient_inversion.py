"""Gradient inversion: the suite's figures to reach, each beside what the committed results measured.

Reads the results of the scripts `gradient_inversion`, `analytic`, `exact_batches`, `label_inference` and
`experiments.benchmarks.gradient_matching`; runs nothing itself.
`python -m experiments.benchmarks.gradient_inversion`
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer


class Measured(NamedTuple):
    """What was measured, and whether the figure is reached; None where there is none to reach."""

    text: str
    reached: bool | None = None


@dataclass(frozen=True)
class Check:
    """One figure to reach.

    Attributes:
      name: what is measured.
      reach: the figure, in words.
      measure: reads it from the folder of all results; raises OSError or KeyError where it has not been measured.
    """

    name: str
    reach: str
    measure: Callable[[Path], Measured]


def _read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def _row(folder: Path, table: str, arm: str) -> dict[str, Any]:
    rows = {row["arm"]: row for row in _read(folder, f"gradient_inversion/{table}.json")["rows"]}
    return dict(rows[arm])


def _successes(row: dict[str, Any]) -> int:
    return round(float(row["success_rate"]) * int(row["images"]))


def _dlg(folder: Path) -> Measured:
    row = _row(folder, "published", "DLG")
    n, seconds = _successes(row), float(row["seconds_median"])
    return Measured(f"{n} of {row['images']}, median {seconds:.1f} s", n == row["images"] and seconds <= 4)


def _rgap(folder: Path) -> Measured:
    row = next(r for r in _read(folder, "analytic/analytic.json")["rgap"] if r["arm"] == "float32, closed form")
    slowest = max(row["seconds"])
    text = f"{row['recovered']} of {row['images']}, at most {slowest:.1f} s, median {np.median(row['seconds']):.1f} s"
    return Measured(text, row["recovered"] == row["images"] and slowest <= 2)


def _steps(folder: Path) -> Measured:
    row = _read(folder, "benchmarks/gradient_matching.json")["rows"]["+ signed Adam, box"]
    speed = float(row["steps_per_second"])
    return Measured(f"{speed:.0f} a second (median run {row['median_steps_per_second']:.0f})", speed >= 1000)


def _inverting(folder: Path) -> Measured:
    row = _row(folder, "published", "Inverting Gradients")
    median = float(row["psnr_median"])
    return Measured(f"{median:.1f} dB over {row['images']} images", median >= 18)


def _networks(folder: Path) -> Measured:
    rows = _read(folder, "gradient_inversion/networks.json")["rows"]
    best: dict[str, str] = {}
    for row in rows:
        where, _, attack = row["arm"].rpartition(", ")
        if attack == "modern":
            best[where] = f"{float(row['psnr_median']):.1f} dB, SSIM {float(row['ssim_mean']):.2f}"
    return Measured("modern: " + "; ".join(f"{k}: {v}" for k, v in best.items()))


def _batches(folder: Path) -> Measured:
    said = []
    for b in (2, 4, 8):
        row = _row(folder, "batches", f"DLG, labels inferred, batch {b}")
        said.append(
            f"{b}: {_successes(row)} of {row['images']} at 30 dB, median {float(row['psnr_median']):.1f} dB, "
            f"{float(row['evaluations_median']):.0f} evaluations"
        )
    return Measured("; ".join(said))


def _first_layer(folder: Path) -> Measured:
    rows = [r for r in _read(folder, "analytic/analytic.json")["first_layer"] if r["batch"] == 1]
    worst = min(min(r["psnr"]) for r in rows)
    separated, images = (sum(r[k] for r in rows) for k in ("separated", "images"))
    # Float32 images are known to 24 bits, about 144 dB.
    return Measured(f"{separated} of {images}, worst {worst:.0f} dB", separated == images and worst >= 140)


def _spear(folder: Path) -> Measured:
    rows = [
        r
        for r in _read(folder, "exact_batches/batches.json")["rows"]
        if r["attack"].startswith("spear") and 8 <= r["batch"] <= 16
    ]
    if not rows:
        raise KeyError("spear")
    text = "; ".join(f"{r['batch']}: {r['exact']} of {r['trials']}, {r['seconds_median']:.1f} s" for r in rows)
    return Measured(text, all(r["exact"] >= 0.9 * r["trials"] for r in rows))


def _labels(folder: Path) -> Measured:
    rows = {(r["method"], r["batch"]): r for r in _read(folder, "label_inference/fully_connected.json")["rows"]}
    one, many = rows["idlg", 1], rows["ilrg", 24]
    text = f"{one['instances']:.0%} of {one['batches']}; {many['existence']:.3f} in {many['batches']} batches"
    return Measured(text, one["instances"] == 1 and many["existence"] >= 0.99)


def _fedavg(folder: Path) -> Measured:
    rows = {r["arm"]: r for r in _read(folder, "gradient_inversion/fedavg.json")["rows"]}
    gains = {}
    for arm in rows:
        where, _, replay = arm.rpartition(", ")
        if replay in ("exact replay", "DLF's epochs"):
            gain = float(rows[arm]["psnr_median"]) - float(rows[f"{where}, as one gradient"]["psnr_median"])
            gains[where] = gain
    text = "; ".join(f"{where}: {gain:+.1f} dB" for where, gain in gains.items())
    return Measured(text, all(gain >= 3 for gain in gains.values()))


def _sums(folder: Path) -> Measured:
    rows = _read(folder, "gradient_inversion/sums.json")["rows"]
    return Measured("; ".join(f"{r['arm'].split(', ', 1)[1]}: median {float(r['psnr_median']):.1f} dB" for r in rows))


def _stages(folder: Path) -> Measured:
    by_attack: dict[str, dict[int, float]] = {}
    for row in _read(folder, "gradient_inversion/stages.json")["rows"]:
        name = row["arm"].rpartition(",")[0]
        by_attack.setdefault(name, {})[int(row["rounds_trained"])] = float(row["psnr_median"])
    text = "; ".join(f"{n}: {' '.join(f'{v[r]:.1f}' for r in sorted(v))} dB" for n, v in by_attack.items())
    falls = [v[max(v)] < v[min(v)] for v in by_attack.values()]
    return Measured(text, sum(falls) >= 2)


CHECKS = (
    Check("DLG, LeNet, 20 colour images, batch 1, labels unknown", "20 of 20 at 30 dB, median at most 4 s", _dlg),
    Check("R-GAP on that LeNet", "20 of 20 at 80 dB, at most 2 s each", _rgap),
    Check("Inverting Gradients on that LeNet, steps", "at least 1,000 a second", _steps),
    Check("Inverting Gradients, 24,000 steps", "median at least 18 dB", _inverting),
    Check("ConvNet and ResNet-20, batch 1, untrained and trained", "table", _networks),
    Check("DLG, batches of 2, 4 and 8, labels inferred", "success rate and evaluations", _batches),
    Check("first dense layer, batch 1", "exact to float error", _first_layer),
    Check("SPEAR, 784-200-200-10, batches of 8 to 16", "exact in at least 90% of trials", _spear),
    Check("iDLG label, batch 1; iLRG existence, batch 24", "100%; at least 0.99", _labels),
    Check("FedAvg, 4 images, 5 local steps, against one gradient", "at least 3 dB better", _fedavg),
    Check("secure sum of 5 clients, 5 images", "one-to-one", _sums),
    Check("training stage: 0, 1, 5 and 20 rounds", "leakage falls for at least two attacks", _stages),
)


def measured(folder: Path) -> Iterator[tuple[Check, Measured | None]]:
    """Every check with what the results hold, None where they hold nothing."""
    for check in CHECKS:
        try:
            yield check, check.measure(folder)
        except (OSError, KeyError, StopIteration):
            yield check, None


def main(
    results: Annotated[Path, typer.Option(help="Folder of all results.")] = Path("results"),
) -> None:
    """Prints the figures to reach beside those measured; exit code 1 if one is missed."""
    typer.echo("| check | reach | measured | |\n|---|---|---|---|")
    missed = False
    for check, found in measured(results):
        mark = {None: "", True: "reached", False: "missed"}[found.reached if found else None]
        missed |= mark == "missed"
        typer.echo(f"| {check.name} | {check.reach} | {found.text if found else 'not measured'} | {mark} |")
    if missed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
