"""`fedpriv attack`: intercept updates and try to learn from them what a goal asks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedpriv.base import registry
from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.cli import options

if TYPE_CHECKING:
    import numpy as np

    from fedpriv.data.dataset import Dataset
    from fedpriv.rounds.exposure import Exposure
    from fedpriv.threat.adversary import Adversary
    from fedpriv.threat.attack import Attack
    from fedpriv.threat.goal import Goal


def attack(
    name: Annotated[
        str, typer.Argument(help="An attack, as name, name(key=value,...) or a YAML file; see `fedpriv list attacks`.")
    ] = "modern",
    images: Annotated[int, typer.Option("--images", "-n", min=1, help="Images to attack.")] = 5,
    goal: Annotated[
        str | None,
        typer.Option(
            "--goal",
            "-g",
            help="What is asked, as name(key=value,...); see `fedpriv list goals`. Default: the attack's.",
        ),
    ] = None,
    auxiliary: Annotated[
        int, typer.Option(min=0, help="Examples of its own that the adversary holds, of those not attacked.")
    ] = 0,
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
    threshold: Annotated[
        float | None, typer.Option(help="PSNR in dB from which an image counts as reconstructed; 30 without.")
    ] = None,
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

    What is asked is --goal: the images (reconstruction), their labels, whether candidates were among them (membership),
    or whether they have a property. Not every attack answers every goal.

    Each image is one client's whole batch, unless --batch says otherwise. Without --checkpoint every trial attacks
    a freshly initialized model. With --out, attacks that can are asked to keep the examples along the way, for the
    film strip and the curve.
    """
    made = registry.attacks.create(name)
    asked = _goal(made, goal, threshold, lpips)
    per_trial = batch * cohort
    if images % per_trial:
        raise ParameterError(
            f"--images {images} is not a multiple of --batch {batch} x --cohort {cohort}; "
            f"ask for {max(1, round(images / per_trial)) * per_trial}"
        )
    exposure, members = _exposure(
        images // per_trial, batch, cohort, data, data_dir, model, local_steps, local_epochs, batch_size, client_lr,
        weighting, defense, _adversary(adversary, knows, blind), checkpoint, engine,
        options.engine_options(engine, workers, worker_timeout), seed,
    )  # fmt: skip

    asked.check(exposure.data.input_shape)
    if out is not None:
        made = _keeping_path(made)

    from fedpriv.base.seeds import Purpose, integer_seed
    from fedpriv.cli.attack_output import Gathered, show_inapplicable, show_row, show_summary
    from fedpriv.rounds.stage import stage
    from fedpriv.rounds.trial import Inapplicable, try_trial

    threat = exposure.adversary.describe(made.brings())
    gathered = Gathered(made.name or type(made).__name__, asked)
    interrupted = False
    try:
        for run in range(seed, seed + repeats):
            columns = {"seed": run} if repeats > 1 else {}
            rounds = exposure if run == seed else replace(exposure, seed=run)
            staged = stage(rounds, asked, seed=run, auxiliary=auxiliary, members=members)
            for trial, observation in enumerate(staged):
                result = try_trial(made, observation, integer_seed(run, Purpose.ATTACK, trial), asked)
                if isinstance(result, Inapplicable):
                    gathered.refuse(result)
                    show_inapplicable(result, {"trial": trial, **columns}, json_lines)
                    continue
                for row in gathered.add(result, observation.truth, run, {"trial": trial, **columns}):
                    show_row(row, row["number"], asked.unit, asked.row_columns(observation.truth.kind), json_lines)
    except KeyboardInterrupt:
        interrupted = True
    if not gathered.scores and gathered.refused and not interrupted:
        raise CapabilityError(f"attack '{made.name}' does not apply: {gathered.refused[0].reason}")
    if not gathered.scores:
        raise KeyboardInterrupt
    show_summary(gathered, json_lines, str(exposure.adversary), threat)
    if out is not None:
        config = {"attack": made.config(), "goal": asked.config(), "threat": threat, **exposure.federation.config()}
        gathered.write(out, config, seed)
        typer.echo(f"Wrote {out}", err=json_lines)
    if interrupted:
        raise typer.Exit(130)


def _goal(made: Attack, goal: str | None, threshold: float | None, lpips: Path | None) -> Goal:
    """The goal, with what --threshold and --lpips say of reconstructions."""
    from fedpriv.threat.goal import goal_of

    parameters: dict[str, Any] = {}
    if threshold is not None:
        parameters["threshold_db"] = threshold
    if lpips is not None:
        parameters["metrics"] = [f"lpips={lpips}"]
    plain = goal_of(made, goal)
    for option, given in (("--threshold", threshold), ("--lpips", lpips)):
        if given is not None and "threshold_db" not in type(plain).model_fields:
            raise ParameterError(f"{option} is for goal 'reconstruction', not '{plain.name}'; leave it out")
    return goal_of(made, goal, **parameters) if parameters else plain


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
) -> tuple[Exposure, Dataset | None]:  # fmt: skip
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
    exposure = Exposure(
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
    return exposure, training if weights is not None and held_out is not training else None
