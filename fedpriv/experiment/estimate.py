"""Estimate: how long jobs will take, from what jobs like them took before."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from importlib.resources import files
from itertools import chain
from typing import Any

import numpy as np

from fedpriv.base.registry import parse_call
from fedpriv.defense.stations import Defense, Station
from fedpriv.experiment.runner import Todo
from fedpriv.experiment.store import Job, Store

#: What a feature says of a trial's size.
_SIZE = re.compile(r" (\d+) images (\d+) steps")
#: Seconds of a run besides its jobs: TensorFlow's start, the first graphs, tables and figures.
AROUND = 12.0


@lru_cache(maxsize=1)
def known() -> dict[str, list[Any]]:
    """Seconds measured on two cores, by features of a job: `costs.json` beside this module."""
    return json.loads((files("fedpriv.experiment") / "costs.json").read_text())


def features(job: Job) -> list[str]:
    """From the most telling to the least."""
    setting = job.cell.setting
    model = parse_call(setting.model, "model")[0]
    if job.kind == "train":
        return [f"train {setting.model}", f"train {model}", "train"]
    attack = parse_call(setting.attack or "", "attack")[0]
    how = setting.exposure
    steps = how.procedure().local_steps(how.batch)
    # Where noise keeps an optimizer from its target, it goes on to its last step.
    parts = [part for d in setting.made_defenses() for part in d.parts()]
    noise = " noise" if any(map(_noises_messages, parts)) else ""
    size = f"{how.batch * how.population} images {steps} steps"
    return [
        f"{setting.attack} {setting.model} {size}{noise}",
        f"{attack} {model} {size}{noise}",
        f"{attack} {model} {size}",
        f"{attack} {model}{noise}",
        f"{attack} {model}",
        attack,
        "attack",
    ]


def _work(feature: str) -> float:
    """Images times local steps of a feature that says them; 1 of others."""
    size = _SIZE.search(feature)
    return float(size[1]) * float(size[2]) if size else 1.0


def amount(job: Job) -> float:
    """What its time grows with: trials, or rounds times clients."""
    setting = job.cell.setting
    if job.kind == "attack":
        return float(setting.exposure.trials * (2 if setting.controlled else 1))
    clients = setting.training.clients or 100
    return setting.training.rounds * setting.training.procedure(clients).sampling.expected(clients)


class Estimator:
    """Seconds of jobs, learned from done ones.

    Args:
      done: (job, seconds) of what has run in this folder.
    """

    def __init__(self, done: Iterable[tuple[Job, float]] = ()) -> None:
        self.rates: dict[str, list[float]] = {}
        self.here = 0
        for job, seconds in done:
            self.learn(job, seconds)

    def learn(self, job: Job, seconds: float) -> None:
        """Notes what a job took."""
        self.here += 1
        for feature in features(job):
            self.rates.setdefault(feature, []).append(seconds / max(amount(job), 1.0))

    def seconds(self, job: Job) -> float:
        """About how long a job will take."""
        exact, *rougher = features(job)
        for feature in chain([exact], self._other_sizes(exact), rougher):
            if rates := self.rates.get(feature) or known().get(feature):
                larger = _work(exact) / _work(feature) if _SIZE.search(feature) else 1.0
                return float(np.median(rates)) * larger * max(amount(job), 1.0)
        return 10.0

    def _other_sizes(self, exact: str) -> Iterator[str]:
        """Features of the same attack on the same model with other images and steps, the nearest first."""
        size = _SIZE.search(exact)
        if size is None:
            return
        alike = [f for f in {**known(), **self.rates} if f.startswith(exact[: size.start()]) and _SIZE.search(f)]
        yield from sorted(alike, key=lambda f: abs(np.log(_work(f) / _work(exact))))

    def total(self, todo: Todo, jobs: int = 1) -> float:
        """Of all that is to be done, on so many processes, with what a run takes besides; 0 where nothing is to be."""
        every: Sequence[Job] = [*todo.trainings, *(job for job, _ in todo.attacks)]
        return AROUND + sum(map(self.seconds, every)) / min(jobs, len(every)) if every else 0.0


def learned(store: Store, done: Sequence[Job]) -> Estimator:
    """From the outcomes in a folder."""
    pairs = ((job, store.read(job)) for job in done)
    return Estimator((job, s.outcome.seconds) for job, s in pairs if s is not None and s.outcome is not None)


def words(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _noises_messages(defense: Defense) -> bool:
    return type(defense).noise is not Defense.noise and not defense.acts_at(Station.AGGREGATE)
