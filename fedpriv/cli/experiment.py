"""`fedpriv run`, `report`, `compare` and `schema`: experiments from a YAML file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fedpriv.experiment.estimate import Estimator
    from fedpriv.experiment.experiment import Experiment
    from fedpriv.experiment.runner import Step, Todo
    from fedpriv.experiment.store import Job


def run(
    file: Annotated[str, typer.Argument(help="A YAML file, or a shipped experiment's name; see `list experiments`.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the results; results/NAME.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="path=value over the file, such as training.rounds=5; repeat.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The file's quick size, for a first look.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the cells and an estimated time; run none.")
    ] = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Processes on this machine.")] = 1,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler that runs the cells.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try again what failed before.")] = False,
    any_code: Annotated[
        bool, typer.Option("--any-code", help="Keep results that another version of the code made.")
    ] = False,
    log: Annotated[str | None, typer.Option(help="Also log to tensorboard or mlflow.")] = None,
) -> None:
    """Run an experiment's cells that are not done yet, then write its tables, figures and report."""
    from fedpriv.experiment.estimate import learned, words
    from fedpriv.experiment.experiment import load
    from fedpriv.experiment.report import command_line, write_report
    from fedpriv.experiment.runner import keep_tokenizers, load_data_once, survey
    from fedpriv.experiment.runner import run as run_jobs
    from fedpriv.experiment.store import Store
    from fedpriv.experiment.tracking import check_kind, tracker

    if log is not None:
        check_kind(log)
    experiment = load(_path(file), overrides or (), quick)
    store = Store(out or Path("results") / (experiment.name + ("_quick" if quick else "")))
    load_data_once(experiment)
    logging = None if log is None or dry_run else tracker(log, experiment, store.folder)
    if not dry_run:
        store.claim(experiment)
        keep_tokenizers(experiment, store.folder)
    todo = survey(experiment, store, retry_failed, any_code)
    estimator = learned(store, todo.done)
    for path in store.damaged:
        typer.echo(f"Warning: {path} is damaged, so it is run again", err=True)
    if dry_run:
        if _print_plan(experiment, todo, estimator, jobs):
            raise typer.Exit(1)
        return
    typer.echo(f"{_counts(experiment, todo)} About {words(estimator.total(todo, jobs))}.")
    progress = _Progress(todo, estimator, jobs)

    def on_step(step: Step) -> None:
        nonlocal logging
        progress.note(step)
        if logging is not None:
            try:
                logging.note(step)
            except Exception as e:  # results are kept all the same
                typer.echo(f"Warning: --log {log} failed and is left out from here on: {e}", err=True)
                logging = None

    interrupted = False
    try:
        run_jobs(experiment, store, todo, jobs=jobs, scheduler=scheduler, on_step=on_step)
    except KeyboardInterrupt:
        interrupted = True
        typer.echo("Stopped; the same command goes on with what is left.", err=True)
    page = write_report(experiment, store, command_line())
    failed = progress.failed + len(todo.failed)
    if failed:
        typer.echo(
            f"{_plural(failed, 'job')} failed; the report lists them, --retry-failed tries them again.", err=True
        )
    typer.echo(f"Open {page}")
    if interrupted or failed:
        raise typer.Exit(130 if interrupted else 1)


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of an experiment's results.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="path=value over its file, such as data_dir=FOLDER; repeat.")
    ] = None,
) -> None:
    """Make an experiment's tables, figures and report anew from its cells."""
    from fedpriv.experiment.report import command_line, write_report
    from fedpriv.experiment.store import Store
    from fedpriv.experiment.table import gather

    experiment = _experiment_of(folder, overrides or ())
    store = Store(folder)
    store.require()
    results = gather(experiment, store)
    page = write_report(experiment, store, command_line(), results)
    for path in store.damaged:
        typer.echo(f"Warning: {path} is damaged; run the experiment again", err=True)
    if missing := sum(bool(result.error) for result in results):
        typer.echo(f"Warning: {missing} of {len(experiment.cells)} cells have no result; run the experiment", err=True)
    typer.echo(f"Open {page}")


def compare(
    first: Annotated[Path, typer.Argument(help="Folder of an experiment's results.")],
    second: Annotated[Path, typer.Argument(help="Another.")],
    out: Annotated[Path | None, typer.Option(help="Write the differences to this CSV file.")] = None,
) -> None:
    """Compare two experiments' results: paired differences, second minus first, with 95% intervals."""
    from fedpriv.base.atomic import write_csv
    from fedpriv.experiment.arm import arms
    from fedpriv.experiment.compare import compare as differences
    from fedpriv.experiment.store import Store
    from fedpriv.experiment.table import gather
    from fedpriv.report.page import show

    sides = []
    for folder in (first, second):
        experiment = _experiment_of(folder)
        Store(folder).require()
        sides.append(arms(gather(experiment, Store(folder))))
    rows = differences(*sides)
    if out is not None:
        write_csv(out, rows)
    heads = list(rows[0])
    cells = [[show(row[h]) for h in heads] for row in rows]
    widths = [max(len(h), *(len(c[i]) for c in cells)) for i, h in enumerate(heads)]
    for line in [heads, *cells]:
        typer.echo("  ".join(f"{text:<{w}}" for text, w in zip(line, widths)).rstrip())


def schema(
    name: Annotated[
        str | None,
        typer.Argument(help="An attack, defense or part of an attack: the schema of what `show NAME --yaml` prints."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write it to this file.")] = None,
) -> None:
    """Print the JSON schema of an experiment file, or of a plug-in's, for editors that check as one types."""
    from fedpriv.base.atomic import to_json, write_text
    from fedpriv.cli.listing import plug_in_schema
    from fedpriv.experiment.experiment import schema as made

    text = to_json(made() if name is None else plug_in_schema(name), indent=2)
    if out is None:
        typer.echo(text)
    else:
        write_text(out, text + "\n")


def _path(file: str) -> Path:
    from fedpriv.base import registry
    from fedpriv.base.errors import ExperimentError, did_you_mean

    path = Path(file)
    if path.suffix in (".yaml", ".yml") or path.exists():
        return path
    if file in registry.experiments.names():
        return Path(registry.experiments.load(file))
    raise ExperimentError(
        f"no file and no shipped experiment '{file}'.{did_you_mean(file, registry.experiments.names())}"
    )


def _experiment_of(folder: Path, overrides: Sequence[str] = ()) -> Experiment:
    from fedpriv.experiment.experiment import load
    from fedpriv.experiment.store import FILE, owner_of

    owner_of(folder)
    return load(folder / FILE, overrides)


def _counts(experiment: Experiment, todo: Todo) -> str:
    trainings = f" and {_plural(len(todo.trainings), 'training')}" if todo.trainings else ""
    done = f", {len(todo.done)} done already" if todo.done else ""
    failed = f", {len(todo.failed)} failed before" if todo.failed else ""
    cells, attacks = _plural(len(experiment.cells), "cell"), _plural(len(todo.attacks), "attack")
    return f"{experiment.name}: {cells}; {attacks}{trainings} to run{done}{failed}."


def _plural(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _print_plan(experiment: Experiment, todo: Todo, estimator: Estimator, jobs: int) -> int:
    """Returns how many of the jobs cannot run, or failed before."""
    from fedpriv.experiment.estimate import words
    from fedpriv.experiment.runner import refusals

    waiting = {job.key for job, _ in todo.attacks} | {job.key for job in todo.trainings}
    from fedpriv.experiment.store import attack_job, training_job

    refused, failed = refusals(todo), {job.key for job in todo.failed}
    for cell in experiment.cells:
        own = [job for job in (training_job(cell), attack_job(cell)) if job is not None]
        left = [job for job in own if job.key in waiting]
        state = words(sum(map(estimator.seconds, left))) if left else "done"
        if said := next((refused[job.key] for job in left if job.key in refused), ""):
            state = f"CANNOT RUN: {said}"
        elif any(job.key in failed for job in own):
            state = "failed before; --retry-failed tries it again"
        typer.echo(f"{cell.describe()}  {state}")
    measured = (
        f"from {_plural(estimator.here, 'job')} measured here"
        if estimator.here
        else "from jobs measured on another machine"
    )
    typer.echo(f"{_counts(experiment, todo)}")
    processes = "1 process" if jobs == 1 else f"{jobs} processes"
    typer.echo(f"About {words(estimator.total(todo, jobs))} with {processes} ({measured}).")
    if refused:
        typer.echo(f"{_plural(len(refused), 'job')} cannot run; see above.", err=True)
    return len(refused) + len(failed)


class _Progress:
    """A line a job, with the time that is left."""

    def __init__(self, todo: Todo, estimator: Estimator, jobs: int) -> None:
        self.estimator, self.jobs, self.total = estimator, jobs, todo.jobs
        self.left: dict[str, Job] = {job.key: job for job in [*todo.trainings, *(job for job, _ in todo.attacks)]}
        self.failed, self.began = 0, time.monotonic()

    def note(self, step: Step) -> None:
        """Prints it."""
        from fedpriv.experiment.estimate import words

        self.left.pop(step.job.key, None)
        what = "trained " if step.job.kind == "train" else "attacked"
        if step.outcome is None:
            self.failed += 1
            said = f"FAILED: {step.error}"
        else:
            self.estimator.learn(step.job, step.outcome.seconds)
            said = f"{_brief(step)}  {step.outcome.seconds:.1f} s"
        done = self.total - len(self.left)
        ahead = sum(map(self.estimator.seconds, self.left.values())) / max(1, min(self.jobs, len(self.left) or 1))
        eta = f"  about {words(ahead)} left" if self.left else ""
        typer.echo(f"[{done}/{self.total}] {what} {step.job.cell.describe()}  {said}{eta}")


def _brief(step: Step) -> str:
    assert step.outcome is not None
    if step.job.kind == "train":
        accuracy = step.outcome.facts.get("accuracy")
        return "" if accuracy is None else f"accuracy {accuracy:.3f}"
    from fedpriv.experiment.arm import worded

    goal = worded(step.job.cell.setting.made_goal(), step.outcome)
    assert goal is not None
    scores = [goal.load(s) for s in step.outcome.scores if not s.get("inapplicable")]
    refused = len(step.outcome.scores) - len(scores)
    column = goal.column(goal.headline)
    said = []
    if scores:
        row = goal.summarize(scores)
        said.append(f"{column.label} {column.text(row[column.name])} of {goal.count(row)}")
    if refused:
        said.append(f"does not apply to {refused} of {len(step.outcome.scores)} views")
    return ", ".join(said)
