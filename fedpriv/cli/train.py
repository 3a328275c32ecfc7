"""`fedpriv train`: run a federation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedpriv.base import registry
from fedpriv.base.errors import LedgerError, ParameterError
from fedpriv.cli import options
from fedpriv.cli.progress import RoundProgress

if TYPE_CHECKING:
    from fedpriv.account.ledger import Against
    from fedpriv.federation.federation import Federation
    from fedpriv.rounds.record import History

DEFAULT_CLIENTS = 100


def train(
    data: options.Data = "fashion_small",
    data_dir: options.DataDir = None,
    model: options.Model = "2nn",
    clients: Annotated[
        int | None,
        typer.Option("--clients", "-K", min=1, help="K, the number of clients; 100, or as many as natural keys."),
    ] = None,
    partition: Annotated[
        str, typer.Option(help="iid, shards(per_client=2), dirichlet(alpha=0.3), quantity(...) or natural.")
    ] = "iid",
    rounds: Annotated[int, typer.Option("--rounds", "-r", min=1, help="Rounds.")] = 20,
    algorithm: Annotated[str, typer.Option(help="fedavg or fedsgd.")] = "fedavg",
    local_epochs: Annotated[int, typer.Option("--local-epochs", "-E", min=1, help="E, local epochs.")] = 1,
    batch_size: Annotated[int, typer.Option("--batch-size", "-B", min=0, help="B, local batch; 0 is all.")] = 10,
    max_local_steps: Annotated[int | None, typer.Option(min=1, help="Stop a client after this many steps.")] = None,
    cohort: Annotated[int | None, typer.Option(min=1, help="Clients a round, a fixed number.")] = None,
    fraction: Annotated[
        float | None, typer.Option("--fraction", "-C", help="C, the fraction of clients a round.")
    ] = None,
    poisson: Annotated[float | None, typer.Option(help="Take each client independently with this probability.")] = None,
    weighting: Annotated[str, typer.Option(help="Weigh clients by their examples, or uniform.")] = "examples",
    client_optimizer: Annotated[str, typer.Option(help="sgd, momentum, adam, yogi or adagrad.")] = "sgd",
    client_lr: Annotated[float, typer.Option(help="Client learning rate.")] = 0.1,
    client_momentum: Annotated[float, typer.Option(help="For momentum.")] = 0.9,
    client_schedule: Annotated[
        str, typer.Option(help="Rate by round: constant, step(decay=,every=), exponential(decay=), cosine(over=), ...")
    ] = "constant",
    server_optimizer: Annotated[str, typer.Option(help="sgd, momentum, adam, yogi or adagrad.")] = "sgd",
    server_lr: Annotated[float, typer.Option(help="Server learning rate (FedSGD's own rate).")] = 1.0,
    server_momentum: Annotated[float, typer.Option(help="For momentum.")] = 0.9,
    server_schedule: Annotated[str, typer.Option(help="As --client-schedule.")] = "constant",
    beta_1: Annotated[float, typer.Option(help="Adam's and Yogi's beta 1.")] = 0.9,
    beta_2: Annotated[float, typer.Option(help="Adam's and Yogi's beta 2.")] = 0.99,
    tau: Annotated[float, typer.Option(help="Adaptivity of Adam, Yogi, Adagrad (their epsilon).")] = 1e-3,
    proximal: Annotated[float, typer.Option(min=0, help="FedProx's mu.")] = 0.0,
    defense: options.Defenses = None,
    engine: options.Engine = "graph",
    workers: options.Workers = None,
    worker_timeout: options.WorkerTimeout = 600.0,
    eval_every: Annotated[int, typer.Option(min=0, help="Test every n rounds; 0 only after the last.")] = 1,
    delta: Annotated[float, typer.Option(help="The delta at which epsilon is stated.")] = 1e-5,
    accountant: Annotated[str, typer.Option(help="rdp or pld.")] = "rdp",
    on_nonfinite: Annotated[str, typer.Option(help="stop, or drop the diverged client.")] = "stop",
    checkpoint: Annotated[Path | None, typer.Option(help="Save to, and resume from, this file.")] = None,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Rounds between saves.")] = 1,
    resume: Annotated[bool, typer.Option(help="Go on from an existing checkpoint.")] = True,
    partition_figure: Annotated[
        Path | None, typer.Option(help="Draw who holds what: this file as PNG and PDF.")
    ] = None,
    seed: options.Seed = 0,
    json_lines: options.Json = False,
) -> None:
    """Train a model by FedSGD or FedAvg, with any defenses, and show each round."""
    from fedpriv.base.atomic import to_json

    adaptive = {"beta_1": beta_1, "beta_2": beta_2, "epsilon": tau}
    federation = build(
        data=data,
        data_dir=data_dir,
        model=model,
        clients=clients,
        partition=partition,
        defenses=defense,
        engine=engine,
        engine_options=options.engine_options(engine, workers, worker_timeout),
        seed=seed,
        rounds=rounds,
        partition_figure=partition_figure,
        accountant=options.choice(accountant, ("rdp", "pld"), "--accountant"),
        on_nonfinite=options.choice(on_nonfinite, ("stop", "drop"), "--on-nonfinite"),
        procedure={
            "algorithm": algorithm,
            "sampling": {"cohort": cohort, "fraction": fraction, "poisson": poisson},
            "local_epochs": local_epochs,
            "batch_size": batch_size or None,
            "max_local_steps": max_local_steps,
            "proximal": proximal,
            "weighting": weighting,
            "client": {
                "kind": client_optimizer, "learning_rate": client_lr, "momentum": client_momentum,
                "schedule": options.make_schedule(client_schedule), **adaptive,
            },
            "server": {
                "kind": server_optimizer, "learning_rate": server_lr, "momentum": server_momentum,
                "schedule": options.make_schedule(server_schedule), **adaptive,
            },
        },
    )  # fmt: skip
    with RoundProgress(rounds, quiet=json_lines) as progress:

        def on_round(record: Any) -> None:
            progress.update(record)
            if json_lines:
                typer.echo(to_json(record.row()))

        history = federation.run(
            rounds,
            evaluate_every=eval_every,
            delta=delta,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            resume=resume,
            on_round=on_round,
        )
    if not json_lines:
        _conclude(federation, history, delta, checkpoint)
    if history.interrupted:
        raise typer.Exit(130)


def build(
    *, data: str, data_dir: str | None, model: str, clients: int | None, partition: str, defenses: list[str] | None,
    engine: str, seed: int, procedure: dict[str, Any], partition_figure: Path | None = None, **rest: Any,
) -> Federation:  # fmt: skip
    """A Federation from option values. Names and numbers are checked before TensorFlow is imported."""
    from fedpriv.data import load as load_data
    from fedpriv.data import make_partition

    options.check_name(registry.models, model)
    made_defenses = options.make_defenses(defenses)
    drawn = procedure.pop("sampling")
    options.make_procedure(sampling=options.make_sampling(**drawn, population=DEFAULT_CLIENTS), **procedure)
    if clients is None and not partition.startswith("natural"):
        clients = DEFAULT_CLIENTS
    train_data, test = load_data(data, data_dir=data_dir)
    parts = make_partition(partition, train_data, clients, seed)
    made_procedure = options.make_procedure(sampling=options.make_sampling(**drawn, population=len(parts)), **procedure)
    if partition_figure is not None:
        if not train_data.num_classes:
            raise ParameterError(
                f"--partition-figure shows who holds which class, but the targets of '{data}' are quantities; "
                "leave it out"
            )
        from fedpriv.figures.partition import partition_figure as draw
        from fedpriv.figures.save import save

        save(draw(parts, train_data.y, train_data.class_names), partition_figure.with_suffix(""))

    from fedpriv.federation.federation import Federation
    from fedpriv.models import load as load_model

    built = load_model(model, input_shape=train_data.input_shape, num_classes=train_data.num_classes)
    return Federation(built, train_data, parts, made_procedure, made_defenses, test, seed=seed, engine=engine, **rest)


def _conclude(federation: Federation, history: History, delta: float, checkpoint: Path | None) -> None:
    last = history.records[-1] if history.records else None
    if last is None:
        typer.echo("No round was finished.")
        return
    sent = sum(r.bytes_up for r in history.records)
    received = sum(r.bytes_down for r in history.records)
    quality = federation.model.task.quality
    measured = history.accuracy if quality.name == "accuracy" else last.metrics.get(f"test_{quality.name}")
    said = "not measured (no test set)" if measured is None else quality.text(measured)
    loss = "none (nobody trained)" if last.loss is None else f"{last.loss:.4f}"
    typer.echo(f"{len(history.records)} rounds: test {quality.label.lower()} {said}, training loss {loss}")
    typer.echo(f"Sent {sent / 1e6:.1f} MB up and {received / 1e6:.1f} MB down.")
    ledger = federation.ledger()
    if ledger is not None:
        ledger.spend(len(history.records))
        adversaries: tuple[Against, ...] = ("released", "server")
        for against in adversaries:
            try:
                typer.echo(f"Against '{against}': {ledger.epsilon(delta, against=against)}")
            except LedgerError as e:
                typer.echo(f"Against '{against}': no guarantee ({e})")
        typer.echo(ledger.describe())
    else:
        typer.echo("No formal privacy guarantee: no defense here makes one.")
    if history.interrupted:
        resume = f"; run the same command again to go on from {checkpoint}" if checkpoint else ""
        typer.echo(f"Stopped early{resume}.")
