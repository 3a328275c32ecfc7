"""`fedpriv attack --before`: attacks a round that another program trained."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from fedpriv.base.errors import CapabilityError, DataError, ParameterError
from fedpriv.cli.mapped import Written

if TYPE_CHECKING:
    from fedpriv.capture.captured import Capture
    from fedpriv.capture.consistency import Check
    from fedpriv.data.dataset import Dataset
    from fedpriv.data.kind import Kind
    from fedpriv.experiment.setting import Setting
    from fedpriv.models.loading import Facts
    from fedpriv.threat.attack import Attack, Finding
    from fedpriv.threat.goal import Goal

#: Options of `fedpriv attack` that mean something here as well.
SHARED = frozenset(
    (
        "data",
        "data_dir",
        "model",
        "defense",
        "adversary",
        "knows",
        "blind",
        "threshold",
        "lpips",
        "goal",
        "weighting",
        "control",
    )
)
#: Said where a control would be scored, and there is nothing to score by.
UNCONTROLLED = (
    "Nor is there a control, which needs the truth: pictures may be the attack's prior rather than the update's; give "
    "--truth to tell."
)
#: What an adversary may know of a round that nobody here has run.
_KNOWABLE = {"num_examples", "procedure", "defense", "labels", "auxiliary", "generator", "statistics"}

#: Relative error of a finding's replay from which it is said that the finding does not explain the update.
UNEXPLAINED = 0.1
_CONTRADICTED = "Warning: the stated procedure cannot have made this update; the results may be worth nothing."


@dataclass(frozen=True)
class Captured:
    """The options that describe a captured round, as they were written."""

    before: Path | None
    after: Path | None
    update: Path | None
    update_is: str
    procedure: str | None
    examples: str | None
    truth: Path | None
    shape: str | None
    classes: int | None
    layout: str | None
    flatten: str | None
    assign: list[str] | None
    frozen: list[str] | None

    def asked(self) -> bool:
        """Whether a captured round is meant.

        Raises:
          ParameterError: one of these options without the weights that they are about.
        """
        if self.before is not None:
            return True
        given = [f.name for f in fields(self) if f.name != "update_is" and getattr(self, f.name) not in (None, [])]
        if given:
            option = "--" + given[0].replace("_", "-")
            raise ParameterError(f"{option} describes a captured round; give the weights before it by --before")
        return False


def attack_captured(
    written: Written, given: Captured, name: str, out: Path | None, seed: int, repeats: int, json_lines: bool
) -> None:
    """Reads and checks the round, attacks it, and scores what came out if the truth is given.

    Raises:
      FedprivError: a file, or something that does not fit together; says what.
    """
    from fedpriv.base.atomic import check_folder

    _refuse_others(written)
    setting = written.setting({"attack": name, "film": False})
    made, asked = setting.made_attack(), setting.made_goal()
    assert made is not None
    assert asked is not None
    if made.remembers():
        raise ParameterError(f"attack '{made.name}' looks at several rounds, and one was captured; choose another")
    if asked.name not in ("reconstruction", "labels"):
        raise ParameterError(f"goal '{asked.name}' asks questions that a captured round does not pose; leave it out")
    if out is not None:
        check_folder(out)
    data, order = (None, None) if given.truth is None else _truth(given.truth, given.classes)
    facts, kind = _facts(given, data, setting)
    captured = _captured(setting, given, facts, kind, data)
    check = captured.check(*(() if data is None else (data.floats(), data.targets(slice(None)), order)))
    _show(captured, check, given, setting, json_lines)
    try:
        if data is None:
            _unscored(captured, made, asked, setting, out, seed, repeats, json_lines)
        else:
            _scored(captured, made, asked, setting, data, given, out, seed, repeats, json_lines)
    except CapabilityError as e:
        options = (("--procedure", given.procedure), ("--examples", given.examples))
        unsaid = " and ".join(option for option, value in options if value is None)
        if not unsaid:
            raise
        raise CapabilityError(f"{e} Of a captured round say {unsaid}, if known") from e
    if check.contradicted and not json_lines:
        # Said again, since many rows may stand between the first time and the scores.
        typer.echo(_CONTRADICTED)


def _refuse_others(written: Written) -> None:
    for row in written.table:
        if row.name not in SHARED and written.values[row.name] not in (row.default, []):
            raise ParameterError(
                f"{row.option} is of rounds that are run here; of a captured one say --procedure and --examples"
            )


def _truth(path: Path, classes: int | None) -> tuple[Dataset, Any]:
    from fedpriv.data.npz import read_arrays, read_npz

    if not path.is_file() or path.suffix != ".npz":
        raise DataError(f"--truth {path}: no .npz file; give one with x and y")
    data, _ = read_npz(path, path.stem, classes)
    return data, read_arrays(path).get("order")


def _facts(given: Captured, data: Dataset | None, setting: Setting) -> tuple[Facts, Kind | None]:
    """What a model must know of examples, and what these are where that is said."""
    from fedpriv.experiment.assembly import datasets
    from fedpriv.models.loading import Facts

    if data is None and given.shape is None:
        data, _ = datasets(setting.data, setting.data_dir)
    facts = None if data is None else Facts.of(data)
    if given.shape is not None:
        shape = _shape(given.shape)
        if facts is not None and facts.input_shape != shape:
            raise ParameterError(f"--shape {given.shape}, but the data has examples of shape {list(facts.input_shape)}")
        facts = facts or Facts(shape, given.classes if given.classes is not None else -1)
    if facts is None or facts.num_classes < 0:
        raise ParameterError(
            f"--shape {given.shape} does not say how many classes there are; give --classes 10, or 0 for quantities"
        )
    if given.classes is not None and facts.num_classes != given.classes:
        raise ParameterError(f"--classes {given.classes}, but the data has {facts.num_classes}")
    return facts, None if data is None else data.kind


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.lower().replace(",", "x").split("x"))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise ParameterError(f"--shape {text}: write whole numbers with x between, such as 28x28x1 or 30")
    return shape


def _numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ParameterError(f"--examples {text}: write a whole number, or one a client: 32,32,32") from None


def _one_of(option: str, text: str | None, known: tuple[str, ...]) -> Any:
    from fedpriv.base.errors import did_you_mean

    if text is not None and text not in known:
        raise ParameterError(f"{option} {text} is unknown.{did_you_mean(text, known)}")
    return text


def _captured(setting: Setting, given: Captured, facts: Facts, kind: Kind | None, data: Dataset | None) -> Capture:
    from fedpriv.capture import captured
    from fedpriv.capture.layout import UnmatchedError
    from fedpriv.models import load

    layouts = ("torch", "keras")
    adversary = setting.exposure.position()
    unknowable = sorted(adversary.knows - _KNOWABLE)
    if unknowable:
        raise CapabilityError(f"of a captured round an adversary cannot be told '{unknowable[0]}'; leave it out")
    if "labels" in adversary.knows and data is None:
        raise CapabilityError("an adversary that knows 'labels' takes them from --truth; give that")
    if not adversary.at.sees_messages:
        raise CapabilityError(
            f"the adversary is '{adversary.position}', but what was captured is a client's message; let it be "
            "a 'server'"
        )
    if adversary.acts:
        raise CapabilityError(
            f"act '{adversary.acts[0].name}' changes what a server sends, and of a captured round that is --before "
            "as it is; leave acts out"
        )
    assigned = dict[str, str]()
    for text in given.assign or ():
        target, equals, source = text.partition("=")
        if not equals:
            raise ParameterError(
                f"--assign {text}: write a weight of the model and the array: dense1/kernel=fc1.weight"
            )
        assigned[target] = source
    assert given.before is not None
    update_is: Literal["gradient", "difference"] = _one_of("--update-is", given.update_is, ("gradient", "difference"))
    try:
        return captured(
            load(setting.model, facts),
            before=given.before,
            after=given.after,
            update=given.update,
            update_is=update_is,
            procedure=given.procedure,
            examples=_numbers(given.examples),
            labels=data.targets(slice(None)) if data is not None and "labels" in adversary.knows else None,
            layout=_one_of("--layout", given.layout, layouts),
            flatten=_one_of("--flatten", given.flatten, layouts),
            assigned=assigned,
            frozen=tuple(given.frozen or ()),
            defenses=setting.made_defenses(),
            adversary=adversary,
            data_kind=kind,
            weighting=setting.exposure.weighting,
        )
    except UnmatchedError as e:
        raise ParameterError(f"{e}. {_built_for(given, data, facts, setting)}") from e


def _built_for(given: Captured, data: Dataset | None, facts: Facts, setting: Setting) -> str:
    """Whose examples a model was built for that the weights are not of."""
    if given.shape is not None:
        whose = "as --shape and --classes say" if given.truth is None else "as --truth and --shape say"
    elif data is None:
        whose = f"as data '{setting.data}' has them; give --shape and --classes of yours, or --truth"
    elif given.classes is None:
        whose = "as --truth has them; --classes says how many classes there were, where num_classes is not in it"
    else:
        whose = "as --truth and --classes have them"
    shape = "x".join(map(str, facts.input_shape))
    return f"The model was built for examples of {shape} and {facts.num_classes} classes, {whose}"


def _show(captured: Capture, check: Check, given: Captured, setting: Setting, json_lines: bool) -> None:
    """Prints what was matched and whether the procedure can explain the update."""
    from dataclasses import asdict

    from fedpriv.base.atomic import jsonable, to_json

    if json_lines:
        arrangement = captured.arrangement
        row = {
            "kind": "capture",
            "layout": arrangement.layout,
            "matched": [asdict(m) for m in (*arrangement.matches, *arrangement.statistics)],
            "check": [asdict(r) for r in check.remarks],
            "replay_error": check.error,
            "consistent": not check.contradicted,
            "warnings": list(captured.warnings),
        }
        typer.echo(to_json(jsonable(row)))
        return
    typer.echo(f"{captured.table()}\n")
    for warning in captured.warnings:
        typer.echo(f"Note: {warning}.")
    if given.truth is None and given.shape is None:
        typer.echo(
            f"Note: examples are taken to be as those of data '{setting.data}'; else give --shape and --classes."
        )
    typer.echo(check.describe())
    if check.contradicted:
        typer.echo(_CONTRADICTED)
    typer.echo("")


def _scored(
    captured: Capture,
    made: Attack,
    asked: Goal,
    setting: Setting,
    data: Dataset,
    given: Captured,
    out: Path | None,
    seed: int,
    repeats: int,
    json_lines: bool,
) -> None:
    from fedpriv.base.seeds import Purpose, integer_seed
    from fedpriv.cli.attack_output import Gathered, show_row, show_summary
    from fedpriv.rounds.trial import Inapplicable, inapplicable, try_control, try_trial
    from fedpriv.threat.control import is_generative

    x, y = data.floats(), data.targets(slice(None))
    observation = captured.observation(x, y)
    truth = observation.truth
    asked = asked.about(data.kind.measured)
    gathered = Gathered(made.name or type(made).__name__, asked, is_generative(made), setting.controlled)
    for run in range(seed, seed + repeats):
        own = integer_seed(run, Purpose.ATTACK, 0)
        result = try_trial(made, observation, own, asked)
        if isinstance(result, Inapplicable):
            raise CapabilityError(inapplicable(made.name, result.reason))
        at = {"trial": 0, **({"seed": run} if repeats > 1 else {})}
        noise = integer_seed(run, Purpose.CONTROL, 0)
        control = try_control(made, observation, own, asked, noise) if setting.controlled else None
        for row in gathered.add(result, truth, run, at, control):
            show_row(row, row["number"], asked.unit, gathered.row_columns(truth.kind), json_lines)
    threat = captured.view.adversary.describe(made.brings())
    images = {"attacked": f"Attacked: a captured round of {len(x)} examples, those of {given.truth}."}
    show_summary(gathered, json_lines, str(captured.view.adversary), threat, images)
    if out is not None:
        gathered.write(out, _config(captured, made, setting), seed)
        typer.echo(f"Wrote {out}", err=json_lines)


def _unscored(
    captured: Capture,
    made: Attack,
    asked: Goal,
    setting: Setting,
    out: Path | None,
    seed: int,
    repeats: int,
    json_lines: bool,
) -> None:
    """Without the truth there is no score: only what the attack says of its own finding, and a replay of that."""
    from fedpriv.base.atomic import jsonable, to_json
    from fedpriv.base.seeds import Purpose, integer_seed
    from fedpriv.rounds.trial import inapplicable, isolated

    found = list[Any]()
    for run in range(seed, seed + repeats):
        try:
            finding = isolated(made, captured.view, integer_seed(run, Purpose.ATTACK, 0))
        except CapabilityError as e:
            raise CapabilityError(inapplicable(made.name, str(e))) from e
        said = _own_words(captured, made, finding)
        found.append((finding, said))
        if json_lines:
            typer.echo(to_json(jsonable({"kind": "finding", "seed": run, "scored": False, **said})))
            continue
        typer.echo(f"Attack '{made.name}', seed {run}:")
        for key, value in said.items():
            typer.echo(f"  {key.replace('_', ' ')}: {value:.3g}" if isinstance(value, float) else f"  {key}: {value}")
        if said.get("replay_error", 0.0) > UNEXPLAINED:
            typer.echo(
                f"Warning: a replay of this finding misses the update by {said['replay_error']:.0%} of its size, so it "
                "or the stated procedure is wrong."
            )
    if not json_lines:
        typer.echo(
            "No truth was given, so nothing is scored: these are the attack's own words about its finding. A replay "
            "error near the rounding means that what was found explains the update, not that nothing else would.\n"
            + (f"{UNCONTROLLED}\n" if setting.controlled else "")
            + captured.view.adversary.describe(made.brings())
        )
    if out is not None:
        _write(captured, made, setting, found, out, seed)
        typer.echo(f"Wrote {out}", err=json_lines)


def _own_words(captured: Capture, made: Attack, finding: Finding) -> dict[str, Any]:
    import numpy as np

    view = captured.view
    said: dict[str, Any] = {}
    if finding.x is not None:
        whole = view.data_kind.claimed(finding.x)
        said["found"] = f"{int(np.sum(whole))} of {len(finding.x)} {view.data_kind.noun}s"
    if finding.y is not None:
        said["labels"] = [int(v) for v in np.asarray(finding.y).reshape(-1)[:64]]
    if np.isfinite(finding.objective):
        said["objective"] = float(finding.objective)
    for key, value in {**finding.measures, **finding.extra}.items():
        if isinstance(value, bool | int | str) or (isinstance(value, float) and np.isfinite(value)):
            said[key] = value
    error = _replay_error(captured, finding)
    if error is not None:
        said["replay_error"] = error
    return said | {"seconds": finding.seconds}


def _replay_error(captured: Capture, finding: Finding) -> float | None:
    """How far the update of what was found is from the one observed, relative to it."""
    import numpy as np

    view = captured.view
    x, y = finding.x, finding.y
    if x is None or y is None or view.procedure is None or view.num_examples is None:
        return None
    if len(x) != view.total_examples or len(y) != len(x) or not np.isfinite(x).all():
        return None
    return captured.check(x, np.asarray(y)).error


def _write(captured: Capture, made: Attack, setting: Setting, found: list[Any], out: Path, seed: int) -> None:
    import numpy as np

    from fedpriv.base.atomic import jsonable, write_json
    from fedpriv.base.provenance import provenance
    from fedpriv.figures.reconstructions import reconstruction_grid
    from fedpriv.figures.save import save

    finding, _ = found[0]
    origin = provenance(sys.argv, _config(captured, made, setting), seed)
    rows = [said for _, said in found]
    write_json(out / "summary.json", {"findings": jsonable(rows), "scored": False, "provenance": origin})
    arrays = {k: v for k, v in (("x", finding.x), ("y", finding.y)) if v is not None}
    if arrays:
        np.savez(out / "found.npz", **arrays)
    if finding.x is not None and finding.x.ndim == 4 and finding.x.shape[-1] in (1, 3):
        pictures = np.clip(finding.x[:12], 0, 1)
        if np.isfinite(pictures).any():
            kept = pictures[np.isfinite(pictures).all((1, 2, 3))]
            captions = {made.name: ["not scored"] * len(kept)}
            figure = reconstruction_grid(kept, {}, captions, original_label=made.name)
            save(figure, out / "reconstructions", origin)


def _config(captured: Capture, made: Attack, setting: Setting) -> dict[str, Any]:
    view = captured.view
    return {
        "attack": made.config(),
        "model": view.model.name,
        "procedure": None if view.procedure is None else view.procedure.model_dump(mode="json"),
        "num_examples": None if view.num_examples is None else list(view.num_examples),
        "defenses": [d.config() for d in view.defenses],
        "adversary": str(view.adversary),
        "setting": setting.model_dump(mode="json"),
    }
