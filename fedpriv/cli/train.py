"""`fedpriv train`: run a federation."""

from __future__ import annotations

import contextlib
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedpriv.base.errors import LedgerError, ParameterError, did_you_mean
from fedpriv.cli import options
from fedpriv.cli.mapped import Mapped, Written, mapped
from fedpriv.cli.progress import RoundProgress

if TYPE_CHECKING:
    from fedpriv.account.ledger import Against
    from fedpriv.federation.federation import Federation
    from fedpriv.rounds.checkpoint import Checkpoint
    from fedpriv.rounds.record import History, Record


def _text(said: str, *names: str) -> Any:
    return Annotated[str, typer.Option(*names, help=said)]


def _number(said: str, *names: str, **limits: Any) -> Any:
    return Annotated[float | None, typer.Option(*names, help=said, **limits)]


def _count(said: str, *names: str, least: int = 1) -> Any:
    return Annotated[int | None, typer.Option(*names, help=said, min=least)]


def _optimizer(side: str, rate: float, said: str, schedule: str) -> tuple[Mapped, ...]:
    """The options of the clients' or the server's optimizer."""
    at = f"training.{side}"
    return (
        Mapped(f"{side}_optimizer", _text("sgd, momentum, adam, yogi or adagrad."), "sgd", (f"{at}.kind",)),
        Mapped(f"{side}_lr", _number(said), rate, (f"{at}.learning_rate",)),
        Mapped(f"{side}_momentum", _number("For momentum."), 0.9, (f"{at}.momentum",)),
        Mapped(f"{side}_schedule", _text(schedule), "constant", (f"{at}.schedule",), options.make_schedule),
    )


def _adaptive(name: str, field: str, default: float, said: str) -> Mapped:
    return Mapped(name, _number(said), default, (f"training.client.{field}", f"training.server.{field}"))


OPTIONS = (
    Mapped("data", options.Data, "fashion_small", ("data",)),
    Mapped("data_dir", options.DataDir, None, ("data_dir",)),
    Mapped("model", options.Model, "2nn", ("model",)),
    Mapped(
        "clients",
        _count("K, the number of clients; 100, or as many as natural keys.", "--clients", "-K"),
        None,
        ("training.clients",),
    ),
    Mapped(
        "partition",
        _text("iid, shards(per_client=2), dirichlet(alpha=0.3), quantity(...) or natural."),
        "iid",
        ("training.partition",),
    ),
    Mapped("rounds", _count("Rounds.", "--rounds", "-r"), 20, ("training.rounds",)),
    Mapped("local_epochs", _count("E, local epochs.", "--local-epochs", "-E"), 1, ("training.local_epochs",)),
    Mapped(
        "batch_size",
        _count("B, local batch; 0 is all.", "--batch-size", "-B", least=0),
        10,
        ("training.batch_size",),
        lambda size: size or None,
    ),
    Mapped(
        "batch_selection",
        _text("How batches are drawn: shuffled, poisson, or fixed, of B without replacement."),
        "shuffled",
        ("training.batch_selection",),
    ),
    Mapped("max_local_steps", _count("Stop a client after this many steps."), None, ("training.max_local_steps",)),
    Mapped("cohort", _count("Clients a round, a fixed number."), None, ("training.cohort",)),
    Mapped(
        "fraction",
        _number("C, the fraction of clients a round.", "--fraction", "-C"),
        None,
        ("training.fraction",),
    ),
    Mapped(
        "poisson",
        _number("Take each client independently with this probability."),
        None,
        ("training.sampling",),
        lambda rate: {"kind": "poisson", "rate": rate},
    ),
    Mapped(
        "selection",
        _text("Who takes part when, as cyclic(size=10) or min_separation(size=10,separation=8)."),
        None,
        ("training.sampling",),
        lambda text: {"kind": "strategy", "strategy": text},
    ),
    Mapped(
        "weighting",
        _text("Weigh clients by their examples, or uniform."),
        "examples",
        ("training.weighting",),
    ),
    *_optimizer(
        "client",
        0.1,
        "Client learning rate.",
        "Rate by round: constant, step(decay=,every=), exponential(decay=), cosine(over=), ...",
    ),
    *_optimizer("server", 1.0, "Server learning rate (FedSGD's own rate).", "As --client-schedule."),
    _adaptive("beta_1", "beta_1", 0.9, "Adam's and Yogi's beta 1."),
    _adaptive("beta_2", "beta_2", 0.99, "Adam's and Yogi's beta 2."),
    _adaptive("tau", "epsilon", 1e-3, "Adaptivity of Adam, Yogi, Adagrad (their epsilon)."),
    Mapped("proximal", _number("FedProx's mu.", min=0), 0.0, ("training.proximal",)),
    Mapped(
        "attrition",
        _text("Who drops out of a round: none, bernoulli(rate=0.1), fixed(count=2) or parties(gone=[...])."),
        "none",
        ("training.attrition",),
    ),
    Mapped(
        "topology",
        _text("Who exchanges what with whom: server, or gossip(graph=ring,protocol=d_psgd,...)."),
        "server",
        ("training.topology",),
    ),
    Mapped("defense", options.Defenses, None, ("defense",)),
    *options.cohort_carriers(),
    Mapped(
        "eval_every",
        _count("Test every n rounds; 0 only after the last.", least=0),
        1,
        ("training.evaluate_every",),
    ),
    Mapped(
        "simulate",
        _text("Noise and account of a larger federation, as 'cohort=10000, population=1000000'; for research."),
        None,
        ("training.simulates",),
        options.make_simulated,
    ),
    Mapped(
        "secure_rng",
        Annotated[
            bool,
            typer.Option(
                "--secure-rng",
                help="Draw noise from the operating system's entropy by ChaCha20, as a deployment needs; such runs do "
                "not repeat.",
            ),
        ],
        False,
        ("secure_rng",),
    ),
    Mapped(
        "budget",
        Annotated[
            str | None,
            typer.Option(
                help="Privacy to spend at most, as 'epsilon=2, delta=1e-6': sets a noise_multiplier that a defense "
                "leaves open, and stops before the round that would break it."
            ),
        ],
        None,
        ("training.budget",),
    ),
    Mapped("delta", _number("The delta at which epsilon is stated."), 1e-5, ("delta",)),
    Mapped("accountant", _text("rdp or pld."), "rdp", ("accountant",)),
    Mapped("on_abort", _text("continue after a round that cannot be finished, or stop."), "continue", ("on_abort",)),
    Mapped("on_nonfinite", _text("stop, drop the diverged client, or abort the round."), "stop", ("on_nonfinite",)),
    Mapped(
        "on_overflow", _text("stop where a contribution does not fit, or abort the round."), "stop", ("on_overflow",)
    ),
)

#: What FedSGD fixes of local training.
FEDSGD = {
    "training.local_epochs": 1,
    "training.batch_size": None,
    "training.max_local_steps": None,
    "training.proximal": 0.0,
    "training.client": {"kind": "sgd", "learning_rate": 1.0},
}


@mapped(OPTIONS)
def train(
    written: Written,
    *,
    algorithm: Annotated[str, typer.Option(help="fedavg or fedsgd.")] = "fedavg",
    checkpoint: Annotated[Path | None, typer.Option(help="Save to, and resume from, this file.")] = None,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Rounds between saves.")] = 1,
    resume: Annotated[bool, typer.Option(help="Go on from an existing checkpoint.")] = True,
    after: Annotated[
        Path | None,
        typer.Option(
            help="Begin with the weights of this checkpoint, of a run under other settings on the same clients, and "
            "count the privacy it spent. Examples are dealt to clients as there, whatever --seed says; other data or "
            "clients are refused."
        ),
    ] = None,
    partition_figure: Annotated[
        Path | None, typer.Option(help="Draw who holds what: this file as PNG and PDF.")
    ] = None,
    topology_figure: Annotated[
        Path | None, typer.Option(help="Draw who sends to whom in gossip: this file as PNG and PDF.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Fixes every random draw, so that the run repeats. Without it the operating system draws 128 bits, as "
            "protection needs; examples are then dealt to clients as with seed 0.",
        ),
    ] = None,
    json_lines: options.Json = False,
) -> None:
    """Train a model by FedSGD or FedAvg, with any defenses, and show each round."""
    from fedpriv.base.atomic import check_folder, to_json
    from fedpriv.data.tokenizer import keep
    from fedpriv.experiment.assembly import make_federation

    if algorithm not in (known := ("fedavg", "fedsgd")):
        raise ParameterError(f"--algorithm '{algorithm}' is unknown.{did_you_mean(algorithm, known)}")
    written.exclusive("cohort", "fraction", "poisson", "selection")
    setting = written.setting(FEDSGD if algorithm == "fedsgd" else {})
    before = None
    if after is None:
        federation = make_federation(setting, seed)
    else:
        before = _checkpoint(after)
        federation = make_federation(setting, seed, before.spent, before.partition_seed)
        before.require_clients(federation.clients(), after)
        if before.partition_seed != (seed or 0):
            typer.echo(f"Examples are dealt to clients as in {after}, by seed {before.partition_seed}.", err=json_lines)
    options.say_notes(federation, json_lines)
    for label, multiplier in federation.calibrated.items():
        typer.echo(
            f"Calibrated to {federation.budget} over {setting.training.rounds} rounds: {label} has "
            f"noise_multiplier={multiplier:g}.",
            err=json_lines,
        )
    for path in (checkpoint, partition_figure, topology_figure):
        if path is not None:
            check_folder(path.parent)
    if checkpoint is not None and (kept := keep(federation.train.kind, checkpoint.with_suffix(".tokenizer.json"))):
        typer.echo(f"Wrote {kept}", err=json_lines)
    if partition_figure is not None:
        _draw_partition(federation, setting.data, partition_figure)
    if topology_figure is not None:
        _draw_topology(federation, topology_figure)
    with RoundProgress(setting.training.rounds, json_lines, setting.accountant) as progress:

        def on_round(record: Record) -> None:
            progress.update(record)
            if json_lines:
                typer.echo(to_json(record.row()))

        history = federation.run(
            setting.training.rounds,
            evaluate_every=setting.training.evaluate_every,
            delta=setting.stated_delta,
            weights=None if before is None else before.weights,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            resume=resume,
            on_round=on_round,
        )
    if not json_lines:
        _conclude(federation, history, setting.stated_delta, checkpoint)
        if federation.secure_rng and seed is not None:
            typer.echo(
                "Noise came from the operating system; initial weights, cohorts, the order of batches and drop-outs "
                f"followed --seed {seed}."
            )
        if seed is None:
            typer.echo("Seed drawn by the operating system; --seed N makes a run that repeats.")
    if history.interrupted:
        raise typer.Exit(130)


def _checkpoint(path: Path) -> Checkpoint:
    from fedpriv.rounds.checkpoint import Checkpoint

    return Checkpoint.load(path)


def _draw_partition(federation: Federation, data: str, path: Path) -> None:
    if not federation.train.num_classes or federation.train.y.ndim > 1:
        targets = "sequences" if federation.train.num_classes else "quantities"
        raise ParameterError(
            f"--partition-figure shows who holds which class, but the targets of '{data}' are {targets}; leave it out"
        )
    from fedpriv.figures.partition import partition_figure
    from fedpriv.figures.save import save

    train = federation.train
    save(partition_figure(federation.partition, train.y, train.class_names), path.with_suffix(""))


def _draw_topology(federation: Federation, path: Path) -> None:
    if not federation.serverless:
        raise ParameterError(
            "--topology-figure shows who sends to whom in gossip; give --topology 'gossip(graph=...)', or leave it out"
        )
    from fedpriv.figures.save import save
    from fedpriv.figures.topology import topology_figure

    save(topology_figure(federation.wiring.wiring(len(federation.partition))), path.with_suffix(""))


def _conclude(federation: Federation, history: History, delta: float, checkpoint: Path | None) -> None:
    from fedpriv.rounds.record import alarms_of, recommended_clip, warnings_of

    last = history.records[-1] if history.records else None
    if last is None:
        typer.echo("No round was finished.")
        return
    if history.stopped:
        typer.echo(f"{history.stopped[0].upper()}{history.stopped[1:]}.")
    sent = sum(r.bytes_up for r in history.records)
    received = sum(r.bytes_down for r in history.records)
    quality = federation.model.task.quality
    measured = history.accuracy if quality.name == "accuracy" else last.metrics.get(f"test_{quality.name}")
    said = "not measured (no test set)" if measured is None else quality.text(measured)
    for column in federation.model.task.told:
        if (value := last.metrics.get(f"test_{column.name}")) is not None:
            said += f", {column.label.lower()} {column.text(value)}"
    loss = "none (nobody trained)" if last.loss is None else f"{last.loss:.4f}"
    typer.echo(f"{len(history.records)} rounds: test {quality.label.lower()} {said}, training loss {loss}")
    if federation.serverless:
        apart = last.metrics["consensus_distance"]
        typer.echo(f"The peers' models lie {apart:.4g} apart from their mean (root mean square).")
        if "average_model_accuracy" in last.metrics:
            typer.echo(f"Their mean, which nobody holds, has accuracy {last.metrics['average_model_accuracy']:.4f}.")
        typer.echo(f"Peers sent each other {sent / 1e6:.1f} MB.")
    else:
        typer.echo(f"Sent {sent / 1e6:.1f} MB up and {received / 1e6:.1f} MB down.")
    ratios = [v for r in history.records for name, v in r.metrics.items() if name.endswith("/signal_to_noise")]
    if ratios:
        typer.echo(
            f"Signal to noise: {statistics.median(ratios):.3g}, the median over rounds of the norm of the clipped sum "
            "over its noise's. It and all norms are measured on unprotected updates, for people who may see the data; "
            "no epsilon covers them, so publish none of them."
        )
    elif not federation.defenses and (clip := recommended_clip(history.records)):
        typer.echo(
            f"Update norms: median {clip:.4g}, which as central_dp(clip={clip:.3g}) would leave about half of the "
            "updates as they are. It is measured on unprotected updates, and so is no private choice; "
            "adaptive_central_dp finds the median under its noise."
        )
    aborted = sum(bool(r.aborted) for r in history.records)
    lost = sum(len(r.lost) for r in history.records if not r.aborted)
    if lost or aborted:
        typer.echo(f"Clients dropped out {lost} times; {aborted} rounds were aborted and changed nothing.")
    others = [[w for w in r.warnings if w != history.stopped] for r in history.records]
    for warning, rounds in warnings_of(others).items():
        typer.echo(f"Warning, in {rounds} of {len(history.records)} rounds: {warning}.")
    for label, alarms in alarms_of(history.records).items():
        typer.echo(f"{label}: {alarms}.")
    ledger = history.ledger
    if ledger is not None:
        adversaries: tuple[Against, ...] = ("released", "server")
        for against in adversaries:
            try:
                typer.echo(f"Against '{against}': {ledger.epsilon(delta, against=against)}")
            except LedgerError as e:
                typer.echo(f"Against '{against}': no guarantee ({e})")
        if ledger.accountant == "pld" and ledger.claims:
            with contextlib.suppress(LedgerError):
                typer.echo(f"Of what is released: {ledger.concentrated()}.")
        typer.echo(ledger.describe())
        for said in federation.account_notes(delta, len(history.records)):
            typer.echo(said)
    else:
        typer.echo("No formal privacy guarantee: no defense here makes one.")
    if history.interrupted:
        resume = f"; run the same command again to go on from {checkpoint}" if checkpoint else ""
        typer.echo(f"Stopped early{resume}.")
