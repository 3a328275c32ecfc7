"""Where a generative prior pays: plain matching against GGL and GIAS as local noise grows, one image a client.

Every image is one FedSGD client's whole batch at freshly drawn weights, through the real federation and its tap; the
client adds noise to its update (`local_dp`), and labels are inferred. The plain attacks match pixels: Inverting
Gradients, and the generative attacks' own objective without their generator. In every row the best of them over
several weights of total variation is picked by the truth, a favour that the generative attacks do not get. Attacked
are images of `fashion_small`, none of which the generator was trained on.
`python -m fedpriv_experiments.generative_prior --json results/generative_prior/lenet.json`
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer


def main(
    model: Annotated[str, typer.Option(help="A 28x28 model, with parameters in brackets.")] = "lenet",
    noise: Annotated[list[float], typer.Option(help="Noise multipliers, one a row.")] = [0.0, 1e-4, 5e-4, 1e-3],  # noqa: B006
    clip: Annotated[float, typer.Option(help="L2 bound of an update before noise.")] = 1.0,
    images: Annotated[int, typer.Option(min=1, help="How many images, from the first test image.")] = 8,
    variation: Annotated[list[float], typer.Option(help="Weights of the plain attack.")] = [1e-6, 1e-4, 1e-2],  # noqa: B006
    nats: Annotated[list[float], typer.Option(help="The same, with the likelihood for objective.")] = [1e2, 1e3, 1e4],  # noqa: B006
    steps: Annotated[int, typer.Option(min=1, help="Steps of the plain attacks.")] = 1000,
    seed: Annotated[int, typer.Option(help="Fixes weights, noise and starts.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Write rows and provenance here.")] = None,
) -> None:
    """Prints median PSNR and SSIM by noise and attack."""
    import sys

    from fedpriv_attacks.inversion.generative import GGL, GIAS
    from fedpriv_attacks.inversion.inversion import Inversion
    from fedpriv_attacks.inversion.inverting_gradients import InvertingGradients
    from fedpriv_attacks.labels.auto import Auto
    from fedpriv_attacks.parts.coordinates import Pixels
    from fedpriv_attacks.parts.likelihood import NoiseLikelihood
    from fedpriv_attacks.parts.optimizers.first_order import Adam, SignedAdam
    from fedpriv_attacks.parts.priors import TotalVariation

    from fedpriv.base import registry
    from fedpriv.base.atomic import write_json
    from fedpriv.base.provenance import provenance
    from fedpriv.data import load as load_data
    from fedpriv.models import load as load_model
    from fedpriv.rounds.exposure import Exposure
    from fedpriv_experiments.attacking import attack_all

    _, data = load_data("fashion_small")
    assert data is not None
    made = load_model(model, input_shape=data.input_shape, num_classes=data.num_classes)
    smooth = {
        f"inverting_gradients, variation {w:g}": InvertingGradients(
            priors=(TotalVariation(weight=w),), optimizer=SignedAdam(steps=steps)
        )
        for w in variation
    }
    # The generative attacks' own objective without a generator, to tell what is owed to which.
    likely = {
        f"pixels by likelihood, variation {w:g}": Inversion(
            objective=NoiseLikelihood(free_scale=True),
            priors=(TotalVariation(weight=w),),
            coordinates=Pixels(),
            labels=Auto(),
            optimizer=Adam(steps=steps, learning_rate=0.05, decay="cosine"),
            constraint="box",
            target=0.0,
            tolerance=0.0,
        )
        for w in nats
    }
    plain: dict[str, Any] = {**smooth, **likely}
    arms: dict[str, Any] = {**plain, "ggl": GGL(), "gias": GIAS(), "gias, residual": GIAS(refine="residual")}
    settings = {"model": model, "noise": noise, "clip": clip, "images": images, "variation": variation}
    settings |= {"nats": nats, "steps": steps, "attacks": {k: a.config() for k, a in arms.items()}}
    rows = []
    for multiplier in noise:
        defense = registry.defenses.create("local_dp", clip=clip, noise_multiplier=multiplier)
        exposure = Exposure(made, data, images, defenses=(defense,) if multiplier else (), seed=seed)
        print(f"{made.name}, noise multiplier {multiplier:g}")
        cell = []
        for arm, attack in arms.items():
            _, _, scores = attack_all(attack, exposure, seed)
            psnr, ssim = ([float(getattr(s.images[0], k)) for s in scores] for k in ("psnr", "ssim"))
            right = float(np.mean([s.label_accuracy or 0.0 for s in scores]))
            row: dict[str, Any] = {
                "model": made.name,
                "noise_multiplier": multiplier,
                "attack": arm,
                "psnr": psnr,
                "ssim": ssim,
            }
            row |= {"median_psnr": float(np.median(psnr)), "median_ssim": float(np.median(ssim)), "labels": right}
            cell.append(row)
            print(
                f"  {arm:38} PSNR {row['median_psnr']:6.2f} dB ({min(psnr):.1f} to {max(psnr):.1f}), "
                f"SSIM {row['median_ssim']:.3f}, labels {right:.2f}",
                flush=True,
            )
        best = max((r for r in cell if r["attack"] in plain), key=lambda r: r["median_psnr"])
        gain = next(r for r in cell if r["attack"] == "ggl")["median_psnr"] - best["median_psnr"]
        print(f"  ggl over the best plain attack: {gain:+.2f} dB")
        rows += cell
        if json is not None:  # after every row, which takes minutes
            write_json(json, {"rows": rows, "provenance": provenance(sys.argv, settings, seed)})


if __name__ == "__main__":
    from fedpriv_experiments import script

    script.run(main)
