"""`fedpriv attack`: intercept updates and try to reconstruct what made them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedpriv.base import registry
from fedpriv.base.errors import ParameterError
from fedpriv.cli import options

if TYPE_CHECKING:
    import numpy as np

    from fedpriv.metrics.lpips import LPIPS
    from fedpriv.rounds.exposure import Exposure
    from fedpriv.threat.adversary import Adversary
    from fedpriv.threat.attack import Attack


def attack(
    name: Annotated[
        str, typer.Argument(help="An attack, as name, name(key=value,...) or a YAML file; see `fedpriv list attacks`.")
    ] = "modern",
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
        str,
        typer.Option(
            help="server, observer, eavesdropper, client(3), aggregators(0,1); in full "
            "server(knows=[labels,auxiliary(data=mnist)],blind=[defense],acts=[plant(weights=trap.npy)])."
        ),
    ] = "server",
    knows: Annotated[list[str] | None, typer.Option(help="Short for knows=[...] there: labels, ... Repeat.")] = None,
    blind: Annotated[list[str] | None, typer.Option(help="Short for blind=[...] there: defense, ... Repeat.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Attack this trained model instead of fresh initial weights.")
    ] = None,
    threshold: Annotated[float, typer.Option(help="PSNR in dB from which an image counts as reconstructed.")] = 30.0,
    lpips: Annotated[
        Path | None, typer.Option(help="LPIPS weights (.npz, see fedpriv.metrics.lpips): adds that column.")
    ] = None,
    repeats: Annotated[
        int, typer.Option(min=1, help="Attack the same images under this many seeds, from --seed on.")
    ] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder for the figures, the rows and the summary.")] = None,
    engine: options.Engine = "graph",
    workers: options.Workers = None,
    worker_timeout: options.WorkerTimeout = 600.0,
    seed: options.Seed = 0,
    json_lines: options.Json = False,
) -> None:
    """Attack the updates of clients that hold images of the data, and score what comes out.

    Each image is one client's whole batch, unless --batch says otherwise. Without --checkpoint every trial attacks
    a freshly initialized model. With --out, attacks that can are asked to keep the examples along the way, for the
    film strip and the curve.
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
        weighting, defense, _adversary(adversary, knows, blind), checkpoint, engine,
        options.engine_options(engine, workers, worker_timeout), seed,
    )  # fmt: skip

    metrics = {} if lpips is None else {"lpips": _lpips(lpips, exposure.data.input_shape)}
    if out is not None:
        made = _keeping_path(made)

    from fedpriv.base.seeds import Purpose, integer_seed
    from fedpriv.cli.attack_output import Gathered, show_row, show_summary
    from fedpriv.metrics.score import summarize
    from fedpriv.rounds.trial import run_trial

    threat = exposure.adversary.describe(made.brings())
    gathered = Gathered(made.name or type(made).__name__)
    interrupted = False
    try:
        for run in range(seed, seed + repeats):
            columns = {"seed": run} if repeats > 1 else {}
            for trial, observation in enumerate(exposure if run == seed else replace(exposure, seed=run)):
                attack_seed = integer_seed(run, Purpose.ATTACK, trial)
                result = run_trial(made, observation, attack_seed, threshold, metrics)
                for row in gathered.add(result, observation.truth, run, {"trial": trial, **columns}):
                    number = len(gathered.rows) - len(result.score.images) + row["image"] + 1
                    show_row(row, number, (*_own_columns(observation.truth.kind), *metrics), json_lines)
    except KeyboardInterrupt:
        interrupted = True
    if not gathered.scores:
        raise KeyboardInterrupt
    summary = summarize(gathered.scores, runs=gathered.runs)
    show_summary(summary, json_lines, str(exposure.adversary), threat)
    if out is not None:
        gathered.write(out, summary, {"attack": made.config(), "threat": threat, **exposure.federation.config()}, seed)
        typer.echo(f"Wrote {out}", err=json_lines)
    if interrupted:
        raise typer.Exit(130)


def _own_columns(kind: Any) -> list[str]:
    """The first of a kind's columns, where they are not those of images."""
    names = [c.name for c in kind.columns]
    return [] if "psnr" in names else names[:3]


def _lpips(path: Path, input_shape: tuple[int, ...]) -> LPIPS:
    import numpy as np

    from fedpriv.metrics.lpips import LPIPS

    metric = LPIPS.load(path)
    blank = np.zeros((1, *input_shape), np.float32)
    metric(blank, blank)  # says now, not after the first attack, that these examples are no images
    return metric


def _keeping_path(made: Attack) -> Attack:
    """The same attack, keeping the examples along the way if it has a setting for that."""
    known = type(made).model_fields.get("path")
    return made.with_(path=True) if known is not None and known.annotation is bool else made


def _adversary(text: str, knows: list[str] | None, blind: list[str] | None) -> Adversary:
    from fedpriv.threat.adversary import Adversary

    return Adversary.parse(text, knows=knows or [], blind=blind or [])


def _exposure(
    trials: int, batch: int, cohort: int, data: str, data_dir: str | None, model: str, local_steps: int,
    local_epochs: int | None, batch_size: int | None, client_lr: float, weighting: str, defense: list[str] | None,
    adversary: Any, checkpoint: Path | None, engine: str, engine_options: dict[str, Any], seed: int,
) -> Exposure:  # fmt: skip
    from fedpriv.data import load as load_data
    from fedpriv.procedure.procedure import make_procedure

    options.check_name(registry.models, model)
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

    from fedpriv.models import load as load_model
    from fedpriv.rounds.checkpoint import Checkpoint
    from fedpriv.rounds.exposure import Exposure

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
        engine_options=engine_options,
    )
