"""Closed-form attacks: R-GAP on the DLG paper's LeNet, its rank analysis, and first-layer inversion and separation.

    uv run python -m fedpriv_experiments.analytic --images cifar100 --out results/analytic

Every image is one FedSGD client's whole batch at freshly drawn weights, through the real federation and its tap. The
first-layer batches are of `fashion_small` unless told otherwise.
"""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

LENET = "lenet(init=uniform)"
#: PSNR in dB from which R-GAP counts as having recovered an image.
THRESHOLD = 80.0
RGAP_ARMS = {
    "float32, closed form": ("float32", "rgap"),
    "float32, one joint step after it": ("float32", "rgap(refine=1)"),
    "float32, rows unweighted": ("float32", "rgap(weighted=False)"),
    "float64, closed form": ("float64", "rgap"),
}
RANKED = (LENET, "lenet", "2nn", "logistic", "convnet(width=8)")
LAYERS = ("logistic", "2nn", "2nn(hidden=[1000,200])")


def main(
    images: Annotated[str, typer.Option(help="Images for R-GAP: a dataset, or an .npz with x and y.")] = "cifar100",
    data: Annotated[str, typer.Option(help="Images for the first layer.")] = "fashion_small",
    count: Annotated[int, typer.Option(min=1, help="Images for R-GAP, from the first.")] = 20,
    batches: Annotated[str, typer.Option(help="Batch sizes for the first layer.")] = "1,2,4,8,16,32",
    trials: Annotated[int, typer.Option(min=1, help="Batches of each size.")] = 20,
    seed: Annotated[int, typer.Option(help="Fixes weights.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Directory for tables, figure and README.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the numbers here as well.")] = None,
) -> None:
    """Runs all three and prints their tables."""
    from fedpriv.base.atomic import write_json, write_text
    from fedpriv.base.provenance import provenance

    sizes = [int(b) for b in batches.split(",")]
    config = {"images": images, "data": data, "count": count, "batches": sizes, "trials": trials}
    origin = provenance(["python", "-m", "fedpriv_experiments.analytic", *sys.argv[1:]], config, seed)
    ranks = rank_tables(images, seed)
    rgap, pictures = recursive(images, count, seed)
    first = first_layer(data, sizes, trials, seed)
    text = "\n\n".join([*(f"{n}\n{r['text']}" for n, r in ranks.items()), rgap_table(rgap), first_table(first)])
    print("\n" + text)
    numbers = {"rank_analysis": ranks, "rgap": rgap, "first_layer": first, "provenance": origin}
    for path in (json, out / "analytic.json" if out else None):
        if path is not None:
            write_json(path, numbers)
    if out is not None:
        draw(pictures, out / "rgap", origin)
        write_text(out / "README.md", readme(ranks, rgap, first, origin))


def recursive(data: str, count: int, seed: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One row an arm, and the first images of every arm for the figure."""
    from fedpriv.base import registry
    from fedpriv.figures.reconstructions import quality_captions
    from fedpriv.models import load as load_model
    from fedpriv.rounds.exposure import Exposure
    from fedpriv_experiments.attacking import attack_all

    dataset = _test_part(data)
    rows: list[dict[str, Any]] = []
    pictures: dict[str, Any] = {"originals": None, "rows": {}, "captions": {}}
    shown = min(count, 8)
    for name, (dtype, text) in RGAP_ARMS.items():
        model = load_model(
            f"lenet(init=uniform,dtype={dtype})", input_shape=dataset.input_shape, num_classes=dataset.num_classes
        )
        exposure = Exposure(model, dataset, count, seed=seed)
        originals, found, scores = attack_all(registry.attacks.create(text), exposure, seed, THRESHOLD)
        quality = np.array([image.psnr for s in scores for image in s.images])
        seconds = np.array([s.seconds for s in scores])
        rows.append(
            {
                "arm": name,
                "attack": text,
                "images": count,
                "recovered": int(np.sum(quality >= THRESHOLD)),
                "psnr": quality.tolist(),
                "labels_right": int(sum(bool(image.label_right) for s in scores for image in s.images)),
                "seconds": seconds.tolist(),
                "load": os.getloadavg()[0],
            }
        )
        print(rgap_table(rows[-1:]).splitlines()[-1], flush=True)
        pictures["originals"] = originals[:shown]
        pictures["rows"][name] = found[:shown]
        pictures["captions"][name] = [t for s in scores for t in quality_captions(s)][:shown]
    return rows, pictures


def rank_tables(data: str, seed: int) -> dict[str, Any]:
    """By model: the rank analysis, as data and as text, and the seconds it took."""
    from fedpriv_attacks.rgap.ranks import rank_analysis

    from fedpriv.models import load as load_model

    dataset = _test_part(data)
    found = {}
    for name in RANKED:
        model = load_model(name, input_shape=dataset.input_shape, num_classes=dataset.num_classes)
        began = time.perf_counter()
        analysis = rank_analysis(model, seed=seed)
        seconds = time.perf_counter() - began
        found[name] = {**analysis.as_dict(), "text": analysis.describe(), "seconds": seconds}
    return found


def first_layer(data: str, sizes: list[int], trials: int, seed: int) -> list[dict[str, Any]]:
    """One row a model and batch size; logistic regression has no batches to separate."""
    from fedpriv.base import registry
    from fedpriv.models import load as load_model
    from fedpriv.rounds.attempts import attempts
    from fedpriv.rounds.exposure import Exposure

    dataset = _test_part(data)
    attack = registry.attacks.create("first_layer")
    rows = []
    for name in LAYERS:
        model = load_model(name, input_shape=dataset.input_shape, num_classes=dataset.num_classes)
        for size in sizes if name != "logistic" else [s for s in sizes if s == 1]:
            made = min(trials, len(dataset) // size)
            quality, labels, seconds, whole = [], 0, [], 0
            for attempt in attempts(attack, Exposure(model, dataset, made, size, seed=seed), seed=seed):
                trial = attempt.applied()
                claimed = [image for image in trial.score.images if image.finite]
                quality += [image.psnr for image in claimed]
                labels += sum(bool(image.label_right) for image in claimed)
                whole += len(claimed) == size
                seconds.append(trial.finding.seconds)
            rows.append(
                {
                    "model": name,
                    "batch": size,
                    "images": made * size,
                    "separated": len(quality),
                    "whole_batches": whole,
                    "batches": made,
                    "psnr": quality,
                    "labels_right": labels,
                    "seconds": seconds,
                    "load": os.getloadavg()[0],
                }
            )
            print(first_table(rows[-1:]).splitlines()[-1], flush=True)
    return rows


def rgap_table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        f"| R-GAP, {LENET} | at {THRESHOLD:g} dB or more | median PSNR | worst | labels | median seconds | worst |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in rows:
        lines.append(
            f"| {r['arm']} | {r['recovered']} of {r['images']} | {_db(np.median(r['psnr']))} | {_db(min(r['psnr']))} | "
            f"{r['labels_right']} of {r['images']} | {np.median(r['seconds']):.2f} | {max(r['seconds']):.2f} |"
        )
    return "\n".join(lines)


def first_table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| First layer | batch | separated | whole batches | median PSNR | worst claimed | labels | median seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in rows:
        quality = r["psnr"] or [math.nan]
        lines.append(
            f"| {r['model']} | {r['batch']} | {r['separated']} of {r['images']} "
            f"| {r['whole_batches']} of {r['batches']} "
            f"| {_db(np.median(quality))} | {_db(min(quality))} | {r['labels_right']} of {r['separated']} "
            f"| {np.median(r['seconds']):.2f} |"
        )
    return "\n".join(lines)


def draw(pictures: dict[str, Any], stem: Path, origin: dict[str, Any]) -> None:
    """Originals over what R-GAP made of them, a row an arm."""
    from fedpriv.figures.reconstructions import reconstruction_grid
    from fedpriv.figures.save import save

    shown = len(pictures["originals"])
    figure = reconstruction_grid(pictures["originals"], pictures["rows"], pictures["captions"], columns=shown)
    caption = f"R-GAP on {LENET}, one image an update: PSNR in dB, SSIM."
    save(figure, stem, {"title": "R-GAP", "caption": caption, **origin})


def readme(
    ranks: dict[str, Any], rgap: list[dict[str, Any]], first: list[dict[str, Any]], origin: dict[str, Any]
) -> str:
    """The report beside the numbers."""
    versions = ", ".join(f"{k} {v}" for k, v in origin["versions"].items())
    tables = "\n\n".join(f"`{name}` ({r['seconds']:.1f} s)\n\n```\n{r['text']}\n```" for name, r in ranks.items())
    loads = [r["load"] for r in (*rgap, *first)]
    machine = f"{origin['platform']['cpu'] or 'CPU unknown'}, {origin['platform']['cores']} cores"
    parts = [
        "# Closed-form attacks",
        f"```\n{origin['command']}\n```",
        f"{machine}; load average {min(loads):.1f} to {max(loads):.1f} during the runs. {versions}.",
        "## R-GAP",
        "One image an update, FedSGD, fresh U(-0.5, 0.5) weights for every image, label unknown to the attacker. "
        "`rgap` recurs from the last layer to the image in closed form, in float64, every equation weighed by its "
        "error.",
        rgap_table(rgap),
        "![Originals and reconstructions](rgap.png)",
        "The float32 arms have the update as clients send it: the difference of weights before and after, each rounded "
        "to float32. The unweighted arm stacks rows of equal weight, as the paper does: a saturated sigmoid's inverse "
        "magnifies rounding by orders of magnitude, and weights keep such rows from outweighing the good ones. The "
        "joint step is Gauss-Newton on all equations, from where the recursion ends.",
        "## Rank analysis",
        "Said in advance from model and weights, with a random image. The ranks of ReLU networks depend on which units "
        "it fires.",
        tables,
        "## First layer",
        "One image is the ratio of the kernel's gradient to the bias's. Of a batch, images are separated that some "
        "ReLU unit fires for alone; what is claimed is tested first and the rest left out, so `worst claimed` is the "
        "worst of what the attack says it found.",
        first_table(first),
    ]
    return "\n\n".join(parts) + "\n"


def _db(value: float) -> str:
    return "exact" if value == math.inf else "none" if math.isnan(value) else f"{value:.1f} dB"


def _test_part(name: str) -> Any:
    from fedpriv.data import load as load_data

    training, test = load_data(name)
    return test if test is not None else training


if __name__ == "__main__":
    from fedpriv_experiments import script

    script.run(main)
