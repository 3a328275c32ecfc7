"""Runner: does an experiment's jobs that are not done yet, here, in several processes, or on a Dask cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedpriv.base import registry
from fedpriv.base.errors import DataError, ExperimentError, FedprivError, UnknownNameError
from fedpriv.base.types import Array
from fedpriv.data.tokenizer import keep
from fedpriv.experiment.assembly import datasets, make_federation, make_model, make_stage
from fedpriv.experiment.code import code_version
from fedpriv.experiment.experiment import Experiment
from fedpriv.experiment.store import Job, Store, attack_job, training_job
from fedpriv.experiment.work import Outcome, attack, train

#: How many seconds to look for jobs that cannot run, before any does.
PATIENCE = 20.0


@dataclass(frozen=True)
class Step:
    """One finished job.

    Attributes:
      job: which.
      outcome: its result, or None.
      error: why not, in one line.
      details: a traceback, where it helps.
      code: the version of the code that ran it, or "" if it did not run.
    """

    job: Job
    outcome: Outcome | None
    error: str = ""
    details: str = ""
    code: str = ""


@dataclass
class Todo:
    """What an experiment's run has to do.

    Attributes:
      attacks: attacks to run, with the training each needs.
      trainings: trainings to run, each once.
      done: jobs that are there already.
      failed: jobs that failed before and are not tried again.
    """

    attacks: list[tuple[Job, Job | None]] = field(default_factory=list)
    trainings: list[Job] = field(default_factory=list)
    done: list[Job] = field(default_factory=list)
    failed: list[Job] = field(default_factory=list)

    @property
    def jobs(self) -> int:
        """How many there are to do."""
        return len(self.attacks) + len(self.trainings)


def survey(experiment: Experiment, store: Store, retry_failed: bool = False, any_code: bool = False) -> Todo:
    """Which jobs of the experiment are to be done.

    Args:
      experiment: the experiment.
      store: where results lie.
      retry_failed: whether to try again what failed.
      any_code: whether to keep what other code made.
    """
    made, seen, wanted = Todo(), dict[str, bool](), dict[str, Job]()
    attacked = attacked_trainings(experiment)

    def is_done(job: Job) -> bool:
        """Notes a job that needs nothing; True if its outcome is there."""
        saved = store.read(job)
        if saved is None or (saved.code != job_code(job) and not any_code):
            return False
        if job.key in attacked and saved.outcome is not None and "weights" not in saved.outcome.arrays:
            return False  # from when nothing attacked them
        if saved.error:
            if retry_failed:
                return False
            made.failed.append(job)
            return True
        made.done.append(job)
        return True

    for cell in experiment.cells:
        training, attacking = training_job(cell), attack_job(cell)
        if training is not None and training.key not in seen:
            seen[training.key] = is_done(training)
            wanted[training.key] = training
        if attacking is not None and attacking.key not in seen:
            seen[attacking.key] = is_done(attacking)
            if not seen[attacking.key]:
                needs = training is not None and not cell.setting.exposure.fresh
                made.attacks.append((attacking, wanted[training.key] if training is not None and needs else None))
    made.trainings = [job for key, job in wanted.items() if not seen[key]]
    return made


def attacked_trainings(experiment: Experiment) -> set[str]:
    """Keys of the trainings whose weights some cell attacks."""
    cells = [c for c in experiment.cells if c.setting.attack is not None and not c.setting.exposure.fresh]
    return {job.key for job in map(training_job, cells) if job is not None}


def job_code(job: Job) -> str:
    """The version of the code that a job runs with here."""
    return code_version(job.cell.setting, attacked=job.kind == "attack")


def run_job(job: Job, weights: Array | None, keep_images: int) -> Step:
    """Does a job; a failure is a result too. What the user can mend is one line, the rest has its traceback."""
    code = ""
    try:
        code = job_code(job)
        if job.kind == "train":
            outcome = train(job.cell.setting, job.cell.seed)
        else:
            outcome = attack(job.cell.setting, job.cell.seed, weights, keep_images)
        return Step(job, outcome, code=code)
    except FedprivError as e:
        return Step(job, None, str(e), code=code)
    except (Exception, SystemExit) as e:  # a user's code that exits ends its own cell
        error = f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"
        return Step(job, None, error, traceback.format_exc(), code)


def run(
    experiment: Experiment,
    store: Store,
    todo: Todo,
    *,
    jobs: int = 1,
    scheduler: str | None = None,
    on_step: Callable[[Step], None] = lambda _: None,
) -> None:
    """Does what is to be done; each result is on the disk before the next step is told of.

    Args:
      experiment: the experiment.
      store: where results go.
      todo: from `survey`.
      jobs: processes on this machine.
      scheduler: address of a Dask scheduler, instead.
      on_step: called with each finished job.
    """
    if not todo.jobs:
        return
    keep, attacked = experiment.contents.keep_images, attacked_trainings(experiment)
    steps = _steps(todo, store, keep, jobs, scheduler)
    with contextlib.closing(steps):
        for step in map(_checked, steps):
            kept = step.outcome
            if kept is not None and step.job.kind == "train" and step.job.key not in attacked:
                kept = replace(kept, arrays={})  # weights that nothing attacks are only large
            store.write(step.job, kept, step.code, step.error, step.details)
            on_step(step)


def refusals(todo: Todo) -> dict[str, str]:
    """Why jobs cannot run, by key: of those whose data, model, defenses and rounds do not fit together.

    They are put together and nothing is run, so that this is known before the work. What goes together for one
    attack and seed is taken to go together for all that ask the same; what does not is looked at for each. Where
    that takes long, as accounts of many budgets do, the rest is left to its turn.
    """
    found, fine, began = dict[str, str](), set[str](), time.monotonic()

    def look(job: Job, trained: bool) -> str:
        setting = job.cell.setting
        asked = f"{job.kind} {trained} {setting.made_goal()}"
        part = f"{asked} {setting.model_dump_json(exclude={'attack', 'control', 'film'})}"
        if part in fine or time.monotonic() - began > PATIENCE:
            return ""
        said = _refusal(job, trained)
        if not said:
            fine.add(part)
        return said

    for job in todo.trainings:
        if said := look(job, trained=False):
            found[job.key] = said
    for job, training in todo.attacks:
        if training is not None and training.key in found:
            found[job.key] = f"its training failed: {found[training.key]}"
        elif said := look(job, training is not None):
            found[job.key] = said
    return found


def _refusal(job: Job, trained: bool) -> str:
    setting, seed = job.cell.setting, job.cell.seed
    try:
        if job.kind == "train":
            made = make_federation(setting, seed)
        else:
            spec = make_model(setting).spec
            weights = np.zeros(spec.size, spec.dtype) if trained else None
            made = make_stage(setting, seed, weights).exposure.federation
        made.notes()  # a topology looks at its defenses when it is first asked
        made.close()
    except FedprivError as e:
        return str(e)
    except (Exception, SystemExit):  # told with its traceback where the job runs
        return ""
    return ""


def _steps(todo: Todo, store: Store, keep: int, jobs: int, scheduler: str | None) -> Generator[Step, None, None]:
    """What cannot run comes first."""
    refused = refusals(todo)
    for job in [*todo.trainings, *(job for job, _ in todo.attacks)]:
        if job.key in refused:
            yield Step(job, None, refused[job.key])
    left = replace(
        todo,
        trainings=[job for job in todo.trainings if job.key not in refused],
        attacks=[pair for pair in todo.attacks if pair[0].key not in refused],
    )
    if jobs == 1 and scheduler is None:
        yield from _here(left, store, keep)
    elif left.jobs:
        yield from _on_dask(left, store, keep, jobs, scheduler)


def _checked(step: Step) -> Step:
    """The step, or its failure if a worker ran other code than is here."""
    here = job_code(step.job)
    if step.code in ("", here):
        return replace(step, code=here)
    other = f"its worker runs other code (version {step.code}, here {here}); install the same there"
    return Step(step.job, None, other, code=here)


def _here(todo: Todo, store: Store, keep: int) -> Generator[Step, None, None]:
    """Each training, then the attacks on it, so that one set of weights is held at a time."""
    groups: dict[str, list[Job]] = {"": []}
    trainings = {job.key: job for job in todo.trainings}
    of_key = dict(trainings)
    for job in todo.trainings:
        groups[job.key] = []
    for job, training in todo.attacks:
        if training is not None:
            of_key[training.key] = training
        groups.setdefault(training.key if training is not None else "", []).append(job)
    for key, waiting in groups.items():
        weights, error = None, ""
        if key in trainings:
            step = run_job(trainings[key], None, keep)
            yield step
            weights, error = _weights(step)
        elif key:
            weights, error = _saved_weights(store, of_key[key])
        for job in waiting:
            yield Step(job, None, error) if error else run_job(job, weights, keep)


def _weights(step: Step) -> tuple[Array | None, str]:
    if step.outcome is None:
        return None, f"its training failed: {step.error}"
    return step.outcome.arrays["weights"], ""


def _saved_weights(store: Store, training: Job) -> tuple[Array | None, str]:
    saved = store.read(training)
    if saved is None:
        return None, "its training is damaged; run again"
    return (
        (None, f"its training failed: {saved.error}")
        if saved.outcome is None
        else (saved.outcome.arrays["weights"], "")
    )


def _remote_attack(job: Job, trained: Any, keep: int) -> Step:
    """On a worker: `trained` is the training's step, its weights, or None."""
    weights = trained
    if isinstance(trained, Step):
        weights, error = _weights(trained)
        if error:
            return Step(job, None, error)
    return run_job(job, weights, keep)


def _on_dask(todo: Todo, store: Store, keep: int, jobs: int, scheduler: str | None) -> Generator[Step, None, None]:
    with _client(jobs, scheduler) as client:
        try:
            yield from _submitted(client, todo, store, keep)
        except (OSError, TimeoutError, CancelledError) as e:
            where = f"at '{scheduler}'" if scheduler else "started here"
            raise ExperimentError(
                f"the Dask scheduler {where} went away with jobs still to do; what is done is kept, and the same "
                "command goes on with the rest"
            ) from e


def _submitted(client: Any, todo: Todo, store: Store, keep: int) -> Generator[Step, None, None]:
    """Steps as they finish.

    Raises:
      CancelledError: the scheduler is gone.
    """
    from distributed import KilledWorker, as_completed

    futures: dict[Any, Job] = {}
    trained: dict[str, Any] = {}
    for job in todo.trainings:
        future = client.submit(run_job, job, None, keep, key=f"train-{job.key}-{time.time_ns()}")
        futures[future], trained[job.key] = job, future
    for job, training in todo.attacks:
        given = None
        if training is not None and training.key in trained:
            given = trained[training.key]
        elif training is not None:
            weights, error = _saved_weights(store, training)
            if error:
                yield Step(job, None, error)
                continue
            given = trained[training.key] = client.scatter(weights, hash=False)
        futures[client.submit(_remote_attack, job, given, keep, key=f"attack-{job.key}-{time.time_ns()}")] = job
    for future in as_completed(list(futures)):
        job = futures.pop(future)
        if future.status == "finished":
            yield future.result()
            continue
        if future.status != "error":  # cancelled, or lost with the scheduler: nothing about the job
            raise CancelledError(future.status)
        problem = future.exception()
        said = f"its worker cannot run it: {type(problem).__name__}: {problem}"
        if isinstance(problem, KilledWorker):
            said = f"its worker was lost, and again when tried again: {problem}"
        yield Step(job, None, said)


@contextlib.contextmanager
def _client(jobs: int, scheduler: str | None) -> Iterator[Any]:
    """A Dask client: of that scheduler, or of as many processes here, with their share of cores and memory."""
    try:
        from distributed import Client, LocalCluster
    except ImportError as e:
        raise ExperimentError(f"--jobs above 1 and --scheduler need Dask: {e}; install 'distributed'") from e
    for name in ("", ".client", ".core", ".utils", ".comm"):  # what went wrong is said in our words
        logging.getLogger(f"distributed{name}").setLevel(logging.CRITICAL)
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout="15s")
        except (OSError, ValueError) as e:
            raise ExperimentError(
                f"no Dask scheduler answers at '{scheduler}' ({e}); start one with `dask scheduler`, or use --jobs"
            ) from e
        with client:
            yield client
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = {"FEDPRIV_INTER_OP_THREADS": str(max(1, cores // jobs)), "FEDPRIV_INTRA_OP_THREADS": "1"}
    with (
        LocalCluster(
            n_workers=jobs,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",  # any free port, and no warning where the usual one is taken
            env=threads,
            silence_logs=50,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def load_data_once(experiment: Experiment) -> None:
    """Reads every dataset of the experiment, so that a missing one is said before anything runs."""
    for setting in {(c.setting.data, c.setting.data_dir) for c in experiment.cells}:
        try:
            datasets(*setting)
        except (DataError, UnknownNameError) as e:
            raise type(e)(f"{str(e).removesuffix('.')}{_also_looked_for(experiment.folder, *setting)}") from e


def keep_tokenizers(experiment: Experiment, folder: Path) -> None:
    """Writes the tokenizers of the experiment's data to `folder/tokenizers`, each under its digest."""
    for setting in {(c.setting.data, c.setting.data_dir) for c in experiment.cells}:
        kind = datasets(*setting)[0].kind
        if (made := getattr(kind, "tokenizer", None)) is not None:
            keep(kind, folder / "tokenizers" / f"{made.digest}.json")


def _also_looked_for(folder: Path, data: str, data_dir: str | None) -> str:
    """Of data that are missing by a relative path: that they do not lie beside the experiment's file either."""
    path = Path(data_dir or data)
    named = registry.parse_call(data, "dataset")[0] in registry.datasets.names() and data_dir is None
    if named or path.is_absolute() or path.exists() or folder / path == path:
        return ""
    return f"; looked for '{path}' here and, beside the experiment's file, '{folder / path}'"
