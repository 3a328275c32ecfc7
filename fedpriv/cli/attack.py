"""`fedpriv attack`: intercept updates and try to learn from them what a goal asks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedpriv.base.errors import CapabilityError, ParameterError, together
from fedpriv.cli import options
from fedpriv.cli.mapped import Mapped, Written, mapped

if TYPE_CHECKING:
    import numpy as np

    from fedpriv.base.types import Row
    from fedpriv.experiment.setting import Setting
    from fedpriv.rounds.trial import Inapplicable

OPTIONS = (
    Mapped(
        "images",
        Annotated[int, typer.Option("--images", "-n", min=1, help="Images to attack.")],
        5,
        ("exposure.images",),
    ),
    Mapped(
        "order",
        Annotated[str, typer.Option(help="mixed: images are drawn by the seed; file: the first ones of the data.")],
        "mixed",
        ("exposure.order",),
    ),
    Mapped(
        "goal",
        Annotated[
            str | None,
            typer.Option(
                "--goal",
                "-g",
                help="What is asked, as name(key=value,...); see `fedpriv list goals`. Default: the attack's.",
            ),
        ],
        None,
        ("goal",),
    ),
    Mapped(
        "control",
        Annotated[
            str,
            typer.Option(
                help="Whether the attack also gets noise in place of each update, to tell what the update gave away: "
                "noise, none, or auto for attacks that use a generator."
            ),
        ],
        "auto",
        ("control",),
    ),
    Mapped(
        "auxiliary",
        Annotated[
            int, typer.Option(min=0, help="Examples of its own that the adversary holds, of those not attacked.")
        ],
        0,
        ("exposure.auxiliary",),
    ),
    Mapped("data", options.Data, "fashion_small", ("data",)),
    Mapped("data_dir", options.DataDir, None, ("data_dir",)),
    Mapped("model", options.Model, "lenet(init=uniform)", ("model",)),
    Mapped(
        "batch",
        Annotated[int, typer.Option("--batch", "-b", min=1, help="Images in one client's batch.")],
        1,
        ("exposure.batch",),
    ),
    Mapped(
        "same_label",
        Annotated[
            int | None,
            typer.Option(min=0, help="How many of a batch have one label together, the others one each; 0: no two."),
        ],
        None,
        ("exposure.same_label",),
    ),
    Mapped(
        "cohort",
        Annotated[int, typer.Option(min=1, help="Clients a round (what a secure sum hides among).")],
        1,
        ("exposure.cohort",),
    ),
    Mapped(
        "rounds",
        Annotated[
            int, typer.Option(min=1, help="Rounds a trial that the adversary listens in, for attacks on several.")
        ],
        1,
        ("exposure.rounds",),
    ),
    Mapped(
        "clients",
        Annotated[
            int | None,
            typer.Option(min=1, help="Clients a trial, from which each round draws its cohort. Default: the cohort."),
        ],
        None,
        ("exposure.clients",),
    ),
    Mapped(
        "selection",
        Annotated[
            str | None,
            typer.Option(help="Strategy that draws cohorts, such as batch_partition(size=4,batch=2)."),
        ],
        None,
        ("exposure.selection",),
    ),
    Mapped(
        "attrition",
        Annotated[str, typer.Option(help="Who drops out of an attacked round: bernoulli(rate=0.1), ...")],
        "none",
        ("exposure.attrition",),
    ),
    Mapped(
        "server_lr",
        Annotated[
            float | None,
            typer.Option(help="Server learning rate between a trial's rounds; without it 0.1, or 1 for FedAvg."),
        ],
        None,
        ("exposure.server",),
        lambda rate: {"learning_rate": rate},
    ),
    Mapped(
        "local_steps",
        Annotated[int | None, typer.Option(min=1, help="Full-batch local steps; 1, the default, is FedSGD.")],
        None,
        ("exposure.local_epochs",),
    ),
    Mapped(
        "local_epochs",
        Annotated[
            int | None, typer.Option("--local-epochs", "-E", min=1, help="FedAvg epochs over --batch-size batches.")
        ],
        None,
        ("exposure.local_epochs",),
    ),
    Mapped(
        "batch_size",
        Annotated[int | None, typer.Option("--batch-size", "-B", min=1, help="Local batch size.")],
        None,
        ("exposure.batch_size",),
    ),
    Mapped(
        "client_lr",
        Annotated[
            float | None,
            typer.Option(help="Client learning rate; without it 0.1, or 1 for a single full-batch step (FedSGD)."),
        ],
        None,
        ("exposure.client",),
        lambda rate: {"learning_rate": rate},
    ),
    Mapped(
        "weighting",
        Annotated[str, typer.Option(help="Weigh clients by their examples, or uniform.")],
        "uniform",
        ("exposure.weighting",),
    ),
    Mapped("defense", options.Defenses, None, ("defense",)),
    Mapped(
        "adversary",
        Annotated[
            str,
            typer.Option(
                help="server, observer, eavesdropper, client(3), aggregators(0,1); in full "
                "server(knows=[labels,auxiliary(data=mnist)],blind=[defense],acts=[plant(weights=trap.npy)])."
            ),
        ],
        "server",
        ("exposure.adversary",),
    ),
    Mapped(
        "knows",
        Annotated[list[str] | None, typer.Option(help="Short for knows=[...] there: labels, ... Repeat.")],
        None,
        ("exposure.knows",),
    ),
    Mapped(
        "blind",
        Annotated[list[str] | None, typer.Option(help="Short for blind=[...] there: defense, ... Repeat.")],
        None,
        ("exposure.blind",),
    ),
    Mapped(
        "threshold",
        Annotated[
            float | None, typer.Option(help="PSNR in dB from which an image counts as reconstructed; 30 without.")
        ],
        None,
        ("threshold_db",),
    ),
    Mapped(
        "lpips",
        Annotated[Path | None, typer.Option(help="LPIPS weights (.npz, see fedpriv.metrics.lpips): adds that column.")],
        None,
        ("metrics",),
        lambda path: [f"lpips={path}"],
    ),
    *options.cohort_carriers(),
)


@mapped(OPTIONS)
def attack(
    written: Written,
    name: Annotated[
        str, typer.Argument(help="An attack, as name, name(key=value,...) or a YAML file; see `fedpriv list attacks`.")
    ] = "modern",
    *,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Attack this trained model instead of fresh initial weights.")
    ] = None,
    repeats: Annotated[
        int, typer.Option(min=1, help="Attack the same images under this many seeds, from --seed on.")
    ] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder for the figures, the rows and the summary.")] = None,
    before: Annotated[
        Path | None,
        typer.Option(
            help="Weights that a client got in a round trained elsewhere: .npz, .npy, .keras, .h5, .pt, .safetensors. "
            "Attacks that round instead; see docs/bring_your_own.md."
        ),
    ] = None,
    after: Annotated[Path | None, typer.Option(help="The weights that it sent back.")] = None,
    update: Annotated[Path | None, typer.Option(help="What it sent instead of weights.")] = None,
    update_is: Annotated[str, typer.Option(help="gradient, or difference (after minus before).")] = "gradient",
    procedure: Annotated[
        str | None,
        typer.Option(help="How it trained: 'epochs=3, batch_size=32, client.learning_rate=0.01, momentum=0.9'."),
    ] = None,
    examples: Annotated[
        str | None, typer.Option(help="How many examples it had; of the mean of several clients: 32,32,32.")
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="Its examples, .npz with x and y: checks the procedure, and scores.")
    ] = None,
    shape: Annotated[str | None, typer.Option(help="An example's shape, such as 28x28x1, if no data says it.")] = None,
    classes: Annotated[int | None, typer.Option(min=0, help="Classes; 0 where targets are quantities.")] = None,
    layout: Annotated[str | None, typer.Option(help="Whose axes the files have: torch or keras.")] = None,
    flatten: Annotated[str | None, typer.Option(help="Who flattens images: torch or keras.")] = None,
    assign: Annotated[
        list[str] | None, typer.Option(help="A weight and the array that it is: dense1/kernel=fc1.weight. Repeat.")
    ] = None,
    frozen: Annotated[list[str] | None, typer.Option(help="A layer that was not trained. Repeat.")] = None,
    seed: options.Seed = 0,
    json_lines: options.Json = False,
) -> None:
    """Attack the updates of clients that hold images of the data, and score what comes out.

    What is asked is --goal: the images (reconstruction), their labels, whether candidates were among them (membership),
    or whether they have a property. Not every attack answers every goal.

    The images are drawn from the test set, or from the training set where the test set has too few; which it was, and
    of which classes, is said at the end. Each image is one client's whole batch, unless --batch says otherwise.
    Without --checkpoint every trial attacks a freshly initialized model. With --before, what is attacked is a round
    that another program trained. With --out, attacks that can are asked to keep
    the examples along the way, for the film strip and the curve.
    """
    from fedpriv.base.atomic import check_folder
    from fedpriv.cli.attack_output import Gathered, show_inapplicable, show_row, show_summary
    from fedpriv.cli.captured_round import Captured, attack_captured
    from fedpriv.data.tokenizer import keep
    from fedpriv.experiment.assembly import describe_images, make_stage, threat_line
    from fedpriv.rounds.attempts import attempts
    from fedpriv.rounds.trial import Inapplicable, inapplicable
    from fedpriv.threat.control import is_generative
    from fedpriv.threat.observe import check_taps
    from fedpriv.threat.tap import Tap

    given = Captured(
        before, after, update, update_is, procedure, examples, truth, shape, classes, layout, flatten, assign, frozen
    )
    if given.asked():
        attack_captured(written, given, name, out, seed, repeats, json_lines)
        return
    written.exclusive("local_steps", "local_epochs")
    setting = written.setting({"attack": name, "film": out is not None})
    made, asked = setting.made_attack(), setting.made_goal()
    assert made is not None
    assert asked is not None
    for option, field in (("--threshold", "threshold_db"), ("--lpips", "metrics")):
        if getattr(setting, field) not in (None, ()) and field not in type(asked).model_fields:
            raise ParameterError(f"{option} is for goal 'reconstruction', not '{asked.name}'; leave it out")
    if out is not None:
        check_folder(out)
    weights = None if checkpoint is None else _trained(checkpoint, setting)
    staged = make_stage(setting, seed, weights)
    asked = asked.about(staged.exposure.data.kind.measured)
    adversary, federation = staged.exposure.adversary, staged.exposure.federation
    check_taps(federation, [Tap(adversary)])

    options.say_notes(federation, json_lines)
    threat = threat_line(setting, staged)
    line = federation.line
    checks = tuple(label for label, link in zip(line.labels, line.links, strict=True) if link.alarms)
    named = made.name or type(made).__name__
    gathered = Gathered(named, asked, is_generative(made), setting.controlled, checks=checks)
    interrupted = False
    waiting: list[tuple[Inapplicable, Row]] = []  # a reason that all trials share is said once, at the end
    try:
        for run in range(seed, seed + repeats):
            columns = {"seed": run} if repeats > 1 else {}
            if run != seed:
                staged.exposure.federation.close()
                staged = make_stage(setting, run, weights, images=seed)
            for attempt in attempts(made, staged, asked, run, setting.control):
                at = {"trial": attempt.number, **columns}
                if attempt.observation is not None:
                    gathered.warned[run, attempt.trial] = attempt.observation.warnings
                if isinstance(attempt.result, Inapplicable) or attempt.observation is None:
                    assert isinstance(attempt.result, Inapplicable)
                    gathered.refuse(attempt.result)
                    waiting.append((attempt.result, at))
                    kinds = {re.sub(r"\d+", "", refused.reason) for refused, _ in waiting}  # but for the round's number
                    if gathered.scores or json_lines or len(kinds) > 1:
                        show_inapplicable(waiting, json_lines)
                    continue
                show_inapplicable(waiting, json_lines)
                behind = attempt.observation.truth
                for row in gathered.add(attempt.result, behind, run, at, attempt.control):
                    show_row(row, row["number"], asked.unit, gathered.row_columns(behind.kind), json_lines)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        staged.exposure.federation.close()
    if not gathered.scores and gathered.refused and not interrupted:
        reasons = [gathered.refused[0].reason, *gathered.warnings()]
        raise CapabilityError(inapplicable(made.name, together(reasons)))
    if not gathered.scores:
        show_inapplicable(waiting, json_lines)
        raise KeyboardInterrupt
    show_summary(gathered, json_lines, str(adversary), threat, describe_images(setting, staged, seed))
    if out is not None:
        config = {"attack": made.config(), "goal": asked.config(), "threat": threat, **federation.config()}
        config |= {"setting": setting.model_dump(mode="json")}
        gathered.write(out, config, seed)
        keep(federation.train.kind, out / "tokenizer.json")
        typer.echo(f"Wrote {out}", err=json_lines)
    if interrupted:
        raise typer.Exit(130)


def _trained(checkpoint: Path, setting: Setting) -> np.ndarray:
    """The weights in a checkpoint of this setting's model."""
    from fedpriv.data.tokenizer import read
    from fedpriv.experiment.assembly import datasets, make_model
    from fedpriv.rounds.checkpoint import Checkpoint

    saved, model = Checkpoint.load(checkpoint), make_model(setting)
    held = saved.config.get("model")
    if held != model.name or saved.weights.shape != (model.spec.size,):
        size = f" of {len(saved.weights)} weights" if held == model.name else ""
        raise ParameterError(
            f"{checkpoint} holds a '{held}'{size}, but --model is '{model.name}' of {model.spec.size}; give the same "
            "model and data"
        )
    training, _ = datasets(setting.data, setting.data_dir)
    beside, own = checkpoint.with_suffix(".tokenizer.json"), getattr(training.kind, "tokenizer", None)
    if own is not None and beside.is_file() and (theirs := read(beside)).digest != own.digest:
        raise ParameterError(
            f"{checkpoint} was trained on the tokens of {beside} ({theirs.size:,} of digest {theirs.digest[:12]}), but "
            f"'{setting.data}' has tokenizer '{own.name}' ({own.size:,} of digest {own.digest[:12]}), whose numbers "
            f"mean other texts; give tokenizer={beside}"
        )
    weights: np.ndarray = saved.weights
    return weights
