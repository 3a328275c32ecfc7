"""Whole batches through a first dense layer: SPEAR's exact ones and the Cocktail Party Attack's approximate ones.

Each trial is one FedSGD client with images of its own at freshly drawn weights, through the real federation and its
tap; labels are unknown to the adversary. `python -m fedpriv_experiments.exact_batches`
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedpriv.metrics.decibels import capped, decibels

if TYPE_CHECKING:
    from fedpriv.metrics.score import Score
    from fedpriv.threat.attack import Finding

#: PSNR in dB from which a batch's worst image makes the batch exact.
EXACT_DB = 60.0
#: The batch size shown in the figure, where measured.
SHOWN = 8


def measure(
    attack: str, batch: int, trials: int, model: Any, data: Any, seed: int
) -> tuple[dict[str, Any], list[tuple[Any, Finding, Score]]]:
    """One row of the table, and the outcome of every trial: originals, finding, score.

    A batch counts as exact when its worst image has at least `EXACT_DB` dB, whatever the attack says of itself; `said`
    counts the batches that the attack calls exact, `wrongly` those of them that are not.
    """
    import numpy as np

    from fedpriv.base import registry
    from fedpriv.metrics.interval import wilson
    from fedpriv.metrics.score import summarize
    from fedpriv.procedure.procedure import Procedure
    from fedpriv.rounds.attempts import attempts
    from fedpriv.rounds.exposure import Exposure
    from fedpriv.threat.goal import goal_of

    made = registry.attacks.create(attack)
    exposure = Exposure(model, data, trials, batch, procedure=Procedure.fedsgd(), seed=seed)
    outcomes = []
    for attempt in attempts(made, exposure, goal_of(made, threshold_db=EXACT_DB), seed):
        done = attempt.applied()
        outcomes.append((attempt.truth.x, done.finding, done.score))
    worst = [min(image.psnr or 0.0 for image in score.images) for _, _, score in outcomes]
    said = [bool(finding.extra.get("exact")) for _, finding, _ in outcomes]
    exact = int(np.sum(np.array(worst) >= EXACT_DB))
    low, high = wilson(exact, trials)
    summary = summarize([score for _, _, score in outcomes])
    seconds = [finding.seconds for _, finding, _ in outcomes]
    row = {
        "attack": attack,
        "batch": batch,
        "trials": trials,
        "exact": exact,
        "exact_low": low,
        "exact_high": high,
        "said": sum(said),
        "wrongly": sum(s and w < EXACT_DB for s, w in zip(said, worst, strict=True)),
        "psnr_mean": summary.psnr_mean,
        "psnr_interval": summary.psnr_interval,
        "psnr_median": summary.psnr_median,
        "psnr_worst": float(np.min(capped(worst))),
        "psnr_worst_median": float(np.median(capped(worst))),
        "labels": summary.label_accuracy,
        "seconds_median": float(np.median(seconds)),
        "seconds_largest": float(np.max(seconds)),
        "samples_median": _median(outcomes, "samples"),
        "expected_samples": _median(outcomes, "expected_samples"),
        "evaluations_median": summary.evaluations_median,
    }
    return row, outcomes


def _median(outcomes: list[tuple[Any, Finding, Score]], name: str) -> float | None:
    import numpy as np

    values = [finding.extra[name] for _, finding, _ in outcomes if name in finding.extra]
    return float(np.median(values)) if values else None


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| attack | batch | exact batches | 95% interval | mean PSNR | median PSNR | worst PSNR | labels | "
        "median s | largest s | samples | expected by plain sampling |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in rows:
        samples = "" if r["samples_median"] is None else f"{r['samples_median']:,.0f}"
        expected = "" if r["expected_samples"] is None else f"{r['expected_samples']:,.0f}"
        mean, median, worst = (decibels(r[f"psnr_{what}"]) for what in ("mean", "median", "worst"))
        lines.append(
            f"| `{r['attack']}` | {r['batch']} | {r['exact']} of {r['trials']} | "
            f"{r['exact_low']:.2f} to {r['exact_high']:.2f} | {mean} | {median} | "
            f"{worst} | {r['labels']:.3f} | {r['seconds_median']:.2f} | {r['seconds_largest']:.2f} | "
            f"{samples} | {expected} |"
        )
    return "\n".join(lines)


def main(
    data: Annotated[str, typer.Option(help="A dataset, by name or path; its test part.")] = "fashion_small",
    model: Annotated[str, typer.Option(help="A fully connected model, with parameters in brackets.")] = "2nn",
    spear: Annotated[str, typer.Option(help="SPEAR, with parameters in brackets.")] = "spear",
    spear_batches: Annotated[list[int], typer.Option(help="SPEAR's batch sizes.")] = [2, 4, 8, 12, 16],  # noqa: B006
    spear_trials: Annotated[int, typer.Option(min=0, help="Batches of each size; 0 leaves SPEAR out.")] = 20,
    party: Annotated[list[str], typer.Option(help="Cocktail Party Attacks.")] = [  # noqa: B006
        "cocktail_party",
        "cocktail_party_box",
    ],
    party_batches: Annotated[list[int], typer.Option(help="Their batch sizes.")] = [2, 4, 8, 16, 32],  # noqa: B006
    party_trials: Annotated[int, typer.Option(min=0, help="Batches of each size; 0 leaves them out.")] = 5,
    seed: Annotated[int, typer.Option(help="Fixes weights, batches and searches.")] = 0,
    out: Annotated[Path, typer.Option(help="Where table, data and figure go.")] = Path("results/exact_batches"),
    name: Annotated[str, typer.Option(help="What they are called there.")] = "batches",
    json: Annotated[Path | None, typer.Option(help="Write rows, settings and versions here instead.")] = None,
) -> None:
    """Measures both, prints a line a setting, and writes table, data and a figure."""
    from fedpriv.base.atomic import jsonable, write_json, write_text
    from fedpriv.base.provenance import provenance
    from fedpriv.data import load as load_data
    from fedpriv.models import load as load_model

    training, test = load_data(data)
    dataset = training if test is None else test
    made = load_model(model, input_shape=dataset.input_shape, num_classes=dataset.num_classes)
    plan = [(spear, b, spear_trials) for b in spear_batches if spear_trials]
    plan += [(p, b, party_trials) for p in party for b in party_batches if party_trials]
    if not plan:
        raise typer.BadParameter("nothing to measure; give SPEAR or the Cocktail Party Attack some trials")
    config = {"data": data, "model": model, "plan": plan, "exact_db": EXACT_DB}
    origin = provenance(["python", "-m", "fedpriv_experiments.exact_batches", *sys.argv[1:]], config, seed)
    rows: list[dict[str, Any]] = []
    shown: dict[str, Any] = {}
    for attack, batch, trials in plan:
        row, outcomes = measure(attack, batch, trials, made, dataset, seed)
        rows.append(row)
        if batch == SHOWN or attack not in shown:
            shown[attack] = (batch, *outcomes[0])
        mean, worst = (decibels(row[f"psnr_{what}"], " dB") for what in ("mean", "worst"))
        print(
            f"{attack}, batch {batch}: {row['exact']} of {trials} exact, mean {mean}, worst {worst}, "
            f"{row['seconds_median']:.2f} s median, {row['seconds_largest']:.2f} s largest",
            flush=True,
        )
        # After every setting, so that an interrupted run leaves what it measured.
        write_json(json or out / f"{name}.json", jsonable({"rows": rows, "provenance": origin}))
        write_text(out / f"{name}.md", table(rows) + "\n")
    print(table(rows))
    if len(dataset.input_shape) == 3 and dataset.input_shape[-1] in (1, 3):
        _figure(shown, out / f"{name}_reconstructions", origin)


def _figure(shown: dict[str, Any], path: Path, origin: dict[str, Any]) -> None:
    from fedpriv.figures.reconstructions import quality_captions, reconstruction_grid
    from fedpriv.figures.save import save
    from fedpriv.metrics.score import aligned

    size = max(batch for batch, *_ in shown.values())
    drawn = {attack: rest for attack, (batch, *rest) in shown.items() if batch == size}
    originals = next(iter(drawn.values()))[0]
    pictures = {attack: aligned(finding, score) for attack, (_, finding, score) in drawn.items()}
    captions = {attack: quality_captions(score) for attack, (_, _, score) in drawn.items()}
    figure = reconstruction_grid(originals, pictures, captions, columns=min(8, size))
    caption = f"One batch of {size} images from one gradient, labels unknown: PSNR in dB, SSIM."
    save(figure, path, {"title": "Whole batches through a first dense layer", "caption": caption, **origin})


if __name__ == "__main__":
    from fedpriv_experiments import script

    script.run(main)
