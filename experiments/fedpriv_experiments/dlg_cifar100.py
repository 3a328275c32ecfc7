"""DLG and iDLG on the DLG paper's LeNet and the first CIFAR-100 images, through the real federation and its tap.

Each image is one FedSGD client's whole batch, at freshly drawn U(-0.5, 0.5) weights; the labels are unknown to the
adversary. Prints one line an image and a summary. `python -m fedpriv_experiments.dlg_cifar100 --data FILE.npz`
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def main(
    data: Annotated[str, typer.Option(help="A dataset's name, or a path such as an .npz with x and y.")] = "cifar100",
    images: Annotated[int, typer.Option(min=1, help="How many images, from the first.")] = 20,
    attack: Annotated[str, typer.Option(help="dlg or idlg, with parameters in brackets.")] = "dlg",
    steps: Annotated[int, typer.Option(min=1, help="Local steps; 1 is FedSGD, more is FedAvg.")] = 1,
    rate: Annotated[float, typer.Option(help="Client learning rate, for more than one step.")] = 0.1,
    batch: Annotated[int, typer.Option(min=1, help="Images a client.")] = 1,
    seed: Annotated[int, typer.Option(help="Fixes weights and starts.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Write rows, summary and versions here.")] = None,
) -> None:
    """Attacks the images one client at a time and prints how well it went."""
    from fedpriv.base import registry
    from fedpriv.base.atomic import jsonable, write_json
    from fedpriv.data import load as load_data
    from fedpriv.metrics.score import summarize
    from fedpriv.models import load as load_model
    from fedpriv.procedure.procedure import Procedure, make_procedure
    from fedpriv.rounds.attempts import attempts
    from fedpriv.rounds.exposure import Exposure

    made = registry.attacks.create(attack)
    training, test = load_data(data)
    dataset = test if test is not None else training
    model = load_model("lenet(init=uniform)", input_shape=dataset.input_shape, num_classes=dataset.num_classes)
    procedure = Procedure.fedsgd()
    if steps > 1:
        procedure = make_procedure(local_epochs=steps, batch_size=None, client={"learning_rate": rate})
    exposure = Exposure(model, dataset, images // batch, batch, procedure=procedure, seed=seed)
    rows: list[dict[str, Any]] = []
    scores = []
    print("image  PSNR dB  label  seconds  evaluations  starts  objective  ended")
    for attempt in attempts(made, exposure, seed=seed):
        result = attempt.applied()
        scores.append(result.score)
        f = result.finding
        for row in result.score.rows(trial=attempt.number, objective=f.objective, statuses=f.extra["statuses"]):
            rows.append(row)
            print(
                f"{len(rows) - 1:5}  {row['psnr']:7.2f}  {'right' if row['label_right'] else 'wrong'}  "
                f"{f.seconds:7.2f}  {f.evaluations:11}  {f.restarts:6}  {f.objective:9.1e}  "
                f"{','.join(f.extra['statuses'])}",
                flush=True,
            )
    summary = summarize(scores)
    print(summary.describe())
    if json is not None:
        write_json(json, jsonable({"rows": rows, "summary": summary.as_dict(), "attack": made.config(), "seed": seed}))


if __name__ == "__main__":
    from fedpriv_experiments import script

    script.run(main)
