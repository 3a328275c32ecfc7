"""What a secure sum still gives away: the same attack on sums of 1, 2, 4 and 8 clients, one image each.

The protocol really runs (additive secret sharing among three aggregators); the server's view is the decoded sum.

    uv run python -m fedpriv_experiments.secure_sum --out results/secure_sum
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fedpriv.base import registry
from fedpriv.base.atomic import write_csv, write_json
from fedpriv.base.provenance import provenance
from fedpriv.data import load as load_data
from fedpriv.figures.reconstructions import quality_captions, reconstruction_grid
from fedpriv.figures.save import save
from fedpriv.metrics.score import Score, summarize
from fedpriv.models import load as load_model
from fedpriv.procedure.procedure import Procedure
from fedpriv.report.manifest import renew_manifest
from fedpriv.rounds.exposure import Exposure
from fedpriv_experiments.attacking import attack_all

DEFENSE = "secret_sharing(aggregators=3)"


def attack_sums(
    model: Any, data: Any, attack: Any, cohort: int, images: int, seed: int
) -> tuple[np.ndarray, np.ndarray, list[Score]]:
    """Originals and reconstructions `[images, h, w, c]`, and one score a sum, for sums of `cohort` clients."""
    exposure = Exposure(
        model,
        data,
        trials=images // cohort,
        cohort=cohort,
        procedure=Procedure.fedsgd(weighting="uniform"),
        defenses=(registry.defenses.create(DEFENSE),),
        seed=seed,
    )
    return attack_all(attack, exposure, seed)


def main(arguments: list[str] | None = None) -> None:
    """Runs all cohort sizes and writes the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path("results/secure_sum"))
    parser.add_argument("--data", default="fashion_small")
    parser.add_argument("--model", default="lenet(init=uniform)")
    parser.add_argument("--attack", default="dlg(restarts=2,optimizer.max_evaluations=2000)")
    parser.add_argument("--cohorts", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--images", type=int, default=16, help="a multiple of every cohort")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    uneven = [c for c in options.cohorts if options.images % c]
    if uneven:
        parser.error(f"--images {options.images} is no multiple of the cohort {uneven[0]}")

    train, test = load_data(options.data)
    data = test if test is not None else train
    model = load_model(options.model, input_shape=data.input_shape, num_classes=data.num_classes)
    attack = registry.attacks.create(options.attack)
    config = {k: v for k, v in vars(options).items() if k != "out"} | {"defense": DEFENSE}
    origin = provenance(["python", "-m", "fedpriv_experiments.secure_sum", *sys.argv[1:]], config, options.seed)
    rows, pictures, captions, originals = [], {}, {}, np.zeros(0)
    shown = min(8, options.images)
    for cohort in options.cohorts:
        originals, found, scores = attack_sums(model, data, attack, cohort, options.images, options.seed)
        summary = summarize(scores)
        print(f"sum of {cohort}: {summary.describe()}", flush=True)
        rows.append({"cohort": cohort, **summary.as_dict()})
        name = f"Sum of {cohort}"
        pictures[name] = found[:shown]
        captions[name] = [text for s in scores for text in quality_captions(s)][:shown]
        write_csv(options.out / "cohorts.csv", rows)
        write_json(options.out / "cohorts.json", {"rows": rows, "provenance": origin})
    figure = reconstruction_grid(originals[:shown], pictures, captions, columns=shown)
    caption = "Reconstructions from secure sums of several clients' single-image updates: PSNR in dB, SSIM."
    save(figure, options.out / "cohorts", {"title": "Secure sums", "caption": caption, **origin})
    renew_manifest(options.out)


if __name__ == "__main__":
    main()
