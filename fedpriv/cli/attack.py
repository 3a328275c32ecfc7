"""`fedpriv attack`: intercept updates and try to reconstruct what made them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedpriv import registry
from fedpriv.cli import options
from fedpriv.errors import ParameterError

if TYPE_CHECKING:
    import numpy as np

    from fedpriv.exposure import Exposure
    from fedpriv.metrics.score import Score, Summary


def attack(
    name: Annotated[str, typer.Argument(help="An attack, as name or name(key=value,...).")],
    images: Annotated[int, typer.Option("--images", "-n", min=1, help="Images to attack.")] = 5,
    data: options.Data = "fashion_small",
    data_dir: options.DataDir = None,
    model: options.Model = "lenet(init=uniform)",
    batch: Annotated[int, typer.Option("--batch", "-b", min=1, help="Images in one client's batch.")] = 1,
    cohort: Annotated[int, typer.Option(min=1, help="Clients a round (what a secure sum hides among).")] = 1,
    local_steps: Annotated[int, typer.Option(min=1, help="Full-batch local steps; 1 is FedSGD.")] = 1,
    local_epochs: Annotated[
        int | None, typer.Option("--local-epochs", "-E", min=1, help="FedAvg epochs over --batch-size batches.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", "-B", min=1, help="Local batch size.")] = None,
    client_lr: Annotated[float, typer.Option(help="Client learning rate, for more than one local step.")] = 0.01,
    weighting: Annotated[str, typer.Option(help="Weigh clients by their examples, or uniform.")] = "uniform",
    defense: options.Defenses = None,
    adversary: Annotated[
        str, typer.Option(help="server, observer, eavesdropper, or aggregators(0,1,...) for a coalition.")
    ] = "server",
    knows: Annotated[list[str] | None, typer.Option(help="What the adversary knows besides: labels. Repeat.")] = None,
    blind: Annotated[list[str] | None, typer.Option(help="What it does not know: defense, num_examples, ...")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Attack this trained model instead of fresh initial weights.")
    ] = None,
    threshold: Annotated[float, typer.Option(help="PSNR in dB from which an image counts as reconstructed.")] = 30.0,
    out: Annotated[Path | None, typer.Option(help="Folder for the figure, the rows and the summary.")] = None,
    engine: options.Engine = "graph",
    seed: options.Seed = 0,
    json_lines: options.Json = False,
) -> None:
    """Attack the updates of clients that hold images of the data, and score what comes out.

    Each image is one client's whole batch, unless --batch says otherwise. Without --checkpoint every trial attacks
    a freshly initialized model.
    """
    made = registry.attacks.create(name)
    per_trial = batch * cohort
    if images % per_trial:
        raise ParameterError(
            f"--images {images} is not a multiple of --batch {batch} x --cohort {cohort}; "
            f"ask for {max(1, round(images / per_trial)) * per_trial}"
        )
    exposure = _exposure(
        images // per_trial, batch, cohort, data, data_dir, model, local_steps, local_epochs, batch_size, client_lr,
        weighting, defense, _adversary(adversary, knows, blind), checkpoint, engine, seed,
    )  # fmt: skip

    from fedpriv.metrics.score import aligned, summarize
    from fedpriv.seeds import Purpose, integer_seed
    from fedpriv.trial import run_trial

    scores: list[Score] = []
    rows: list[dict[str, Any]] = []
    pictures: list[tuple[Any, Any]] = []
    interrupted = False
    try:
        for trial, observation in enumerate(exposure):
            attack_seed = integer_seed(seed, Purpose.ATTACK, trial)
            result = run_trial(made, observation, attack_seed, threshold)
            scores.append(result.score)
            pictures.append((observation.truth.x, aligned(result.finding, result.score)))
            for row in result.score.rows(trial=trial):
                rows.append(row)
                _show_row(row, len(rows), json_lines)
    except KeyboardInterrupt:
        interrupted = True
    if not scores:
        raise KeyboardInterrupt
    summary = summarize(scores)
    _show_summary(summary, json_lines)
    if out is not None:
        _write(out, rows, summary, pictures, {"attack": made.config(), **exposure.federation.config()}, seed)
        typer.echo(f"Wrote {out}", err=json_lines)
    if interrupted:
        raise typer.Exit(130)


def _adversary(text: str, knows: list[str] | None, blind: list[str] | None) -> Any:
    from fedpriv.adversary import KNOWLEDGE, Adversary

    position, _, members = text.partition("(")
    try:
        corrupted = tuple(int(m) for m in members.rstrip(")").split(",") if m.strip())
    except ValueError:
        raise ParameterError(
            f"--adversary '{text}': the coalition's members are numbers; write aggregators(0,1)"
        ) from None
    for item in [*(knows or []), *(blind or [])]:
        options.choice(item, tuple(KNOWLEDGE), "--knows/--blind")
    chosen = Adversary(position, corrupted=corrupted).knowing(*(knows or []))  # type: ignore[arg-type]
    return Adversary(chosen.position, chosen.knows - set(blind or []), corrupted)


def _exposure(
    trials: int, batch: int, cohort: int, data: str, data_dir: str | None, model: str, local_steps: int,
    local_epochs: int | None, batch_size: int | None, client_lr: float, weighting: str, defense: list[str] | None,
    adversary: Any, checkpoint: Path | None, engine: str, seed: int,
) -> Exposure:  # fmt: skip
    from fedpriv.data import load as load_data
    from fedpriv.procedure import make_procedure

    options.check_name(registry.models, model)
    options.check_name(registry.engines, engine)
    defenses = options.make_defenses(defense)
    if local_epochs is not None and local_steps != 1:
        raise ParameterError(
            f"--local-steps {local_steps} and --local-epochs {local_epochs} exclude each other; give one"
        )
    fedavg = local_steps > 1 or local_epochs is not None or batch_size is not None
    procedure = make_procedure(
        local_epochs=local_epochs or local_steps,
        batch_size=batch_size,
        client={"learning_rate": client_lr if fedavg else 1.0},
        weighting=weighting,
    )
    training, test = load_data(data, data_dir=data_dir)
    held_out = test if test is not None and len(test) >= trials * batch * cohort else training

    from fedpriv.checkpoint import Checkpoint
    from fedpriv.exposure import Exposure
    from fedpriv.models import load as load_model

    weights: np.ndarray | None = None
    if checkpoint is not None:
        saved = Checkpoint.load(checkpoint)
        weights, trained = saved.weights, saved.config["model"]
    built = load_model(model, input_shape=held_out.input_shape, num_classes=held_out.num_classes)
    if weights is not None and trained != built.name:
        raise ParameterError(f"{checkpoint} holds a '{trained}', but --model is '{built.name}'; give the same model")
    return Exposure(
        built,
        held_out,
        trials,
        batch,
        cohort,
        procedure,
        defenses,
        adversary,
        seed=seed,
        weights=weights,
        engine=engine,
    )


def _show_row(row: dict[str, Any], number: int, json_lines: bool) -> None:
    from fedpriv.atomic import jsonable, to_json

    if json_lines:
        typer.echo(to_json(jsonable({"kind": "image", **row})))
        return
    if number == 1:
        typer.echo("image  PSNR dB   SSIM      MSE  label  seconds  evaluations")
    label = {None: "-", True: "right", False: "wrong"}[row["label_right"]]

    def cell(value: Any, form: str, width: int) -> str:
        return f"{'-' if value is None else format(value, form):>{width}}"

    typer.echo(
        f"{number:>5}  {cell(row['psnr'], '.2f', 7)}  {cell(row['ssim'], '.3f', 5)}  {cell(row['mse'], '.1e', 7)}  "
        f"{label:>5}  {cell(row['seconds'], '.2f', 7)}  {row['evaluations']:>11}"
    )


def _show_summary(summary: Summary, json_lines: bool) -> None:
    from fedpriv.atomic import jsonable, to_json

    if json_lines:
        typer.echo(to_json(jsonable({"kind": "summary", **summary.as_dict()})))
    else:
        typer.echo(summary.describe())


def _write(
    out: Path, rows: list[dict[str, Any]], summary: Summary, pictures: list[tuple[Any, Any]], config: dict[str, Any],
    seed: int,
) -> None:  # fmt: skip
    import numpy as np

    from fedpriv.atomic import write_csv, write_json
    from fedpriv.figures.reconstructions import reconstruction_grid
    from fedpriv.figures.save import save
    from fedpriv.provenance import provenance

    origin = provenance(sys.argv, config, seed)
    write_csv(out / "images.csv", rows)
    write_json(out / "summary.json", {"summary": summary.as_dict(), "images": rows, "provenance": origin})
    shown = [(x, r) for x, r in pictures if r is not None and x.ndim == 4]
    if shown:
        originals = np.concatenate([x for x, _ in shown])[:12]
        found = np.concatenate([r for _, r in shown])[:12]
        captions = [f"{row['psnr']:.1f} dB\n{row['ssim']:.2f}" for row in rows[: len(found)]]
        figure = reconstruction_grid(originals, {"reconstruction": found}, {"reconstruction": captions})
        save(figure, out / "reconstructions", origin)
