"""Disclosed: what updates gave away, beyond what the same attack makes of noise in their place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from fedpriv.base.column import Column
from fedpriv.base.types import Row
from fedpriv.metrics.paired import Paired, paired
from fedpriv.threat.goal import Goal

#: What the sentences mean.
RULE = (
    "The same attack with the same seeds was also given Gaussian noise of each update's norm. The update is said to "
    "have given something away where the 95% interval of the paired difference lies above zero, as printed; otherwise "
    "what the attack claims is said to be its prior's, as far as so many trials can show."
)


@dataclass(frozen=True, kw_only=True)
class Controlled:
    """One trial's score, and that of its control.

    Attributes:
      score: of the attack on the update.
      control: of the attack on noise; None where there is none.
      reason: why there is none, or "".
      batch: which trial it is.
      run: which run (seed).
    """

    score: Any
    control: Any
    reason: str
    batch: Hashable
    run: Hashable


@dataclass(frozen=True, kw_only=True)
class Disclosed:
    """What the updates of some trials gave away.

    Attributes:
      column: of the quantity that is compared.
      pair: the difference, of which noise is first and the update second; None where no trial has a control.
      trials: how many the attack applied to.
      missing: how many of these have no control, by reason.
      alike: whether all pairs differ by the same.
      unit: what a pair is, such as "image"; "" where only whole summaries could be compared.
      generative: whether the attack uses a generator.
      drawn: whether it claims images.
      seconds, evaluations: of all the controls; the attack's own cost does not count them.
    """

    column: Column
    pair: Paired | None
    trials: int
    missing: Counter[str]
    alike: bool
    unit: str
    generative: bool
    drawn: bool
    seconds: float
    evaluations: int

    @property
    def gain(self) -> float | None:
        """What the update gave beyond noise, in the column's unit; higher is more."""
        if self.pair is None:
            return None
        return -self.pair.difference if self.column.better == "lower" else self.pair.difference

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the gain, 95%."""
        if self.pair is None or self.pair.interval is None:
            return None
        low, high = self.pair.interval
        return (-high, -low) if self.column.better == "lower" else (low, high)

    @property
    def shown(self) -> bool | None:
        """Whether the update gave something away for sure; None where nothing can be said of it."""
        if self.gain is None:
            return None
        if self.gain == 0 and self.alike:
            return False
        if self.interval is None:
            return None
        return self.interval[0] > 0 and self.printed(self.interval[0]) != self.printed(0.0)

    def row(self) -> Row:
        """The numbers themselves, for tables."""
        pair = self.pair
        return {
            "control": None if pair is None else pair.first,
            "beyond_control": self.gain,
            "beyond_control_interval": self.interval,
        }

    def reading(self) -> str:
        """In a few words, whose the claim is."""
        if self.pair is None:
            return "no control"
        if self.shown is None:
            return "alike in all" if self.alike and self.pair.batches > 1 else "no interval"
        return "the update's" if self.shown else f"the {self._whose()}'s"

    def sentence(self) -> str:
        """What noise gives, what the update gave away beyond that, and whether that may be nothing."""
        if self.pair is None:
            return f"There is no control: {self.reasons()}."
        pair, gain = self.pair, self.gain or 0.0
        label = self.column.label if self.column.label[:2].isupper() else _lower(self.column.label)
        said = f"Of {self._text(pair.second)} {label}, noise in place of the update gives {self._text(pair.first)}"
        if gain == 0 and self.alike:
            said += f", {self.unit} by {self.unit} the same; {self._prior()}"
        elif self.shown:
            said += f"; the update gave away {self._text(gain)} ({self._interval()})"
        elif self.interval is not None:
            what = f"the update gave away {self._text(gain)}" if gain >= 0 else "the update gave away nothing"
            holds = "which holds 0" if self.interval[1] >= 0 else "none of it above 0"
            holds = holds if self.interval[0] <= 0 else "which is 0 as printed"
            said += f"; {what} ({self._interval()}, {holds}): {self._prior()}"
        elif not self.unit:
            said += f"; the difference is {self._text(gain)}, without an interval, since no single answer is scored"
        elif self.alike and pair.batches > 1:
            said += f"; the difference is {self._text(gain)}, alike in all {self._pairs()}"
        else:
            said += f"; the difference is {self._text(gain)} in a single trial ({self._pairs()}), which has no interval"
        if self.missing:
            said += f". In {self.missing.total()} of {self.trials} trials there is no control: {self.reasons()}"
        return f"{said}."

    def _text(self, value: float) -> str:
        return f"{self.printed(value)} {self.column.unit}".strip()

    def printed(self, value: float | None) -> str:
        """A value of the column, without the sign of a zero."""
        zero = self.column.text(0.0)
        text = self.column.text(value)
        return zero if text == f"-{zero}" else text

    def _pairs(self) -> str:
        assert self.pair is not None
        return f"{self.pair.pairs} {self.unit}{'' if self.pair.pairs == 1 else 's'}"

    def _interval(self) -> str:
        assert self.interval is not None
        low, high = map(self.printed, self.interval)
        return f"95% interval {low} to {high}, {self._pairs()}"

    def _prior(self) -> str:
        return f"what is {'drawn' if self.drawn else 'claimed'} is the {self._whose()}'s, not the update's"

    def _whose(self) -> str:
        return "generator" if self.generative else "attack"

    def reasons(self) -> str:
        """Why trials have no control, the most frequent first."""
        return "; ".join(why.rstrip(".").removeprefix("there is no control: ") for why, _ in self.missing.most_common())


def disclosed(goal: Goal, trials: Sequence[Controlled], generative: bool) -> Disclosed | None:
    """What the updates of these trials gave away, by the first of `Goal.pairs` that can be compared unit by unit.

    Where single units have no value, as answers that are only ranked, whole summaries are compared, without interval.

    Args:
      goal: what was asked, in the words of what was attacked.
      trials: those that the attack applied to.
      generative: whether it uses a generator.

    Returns:
      None where no trial was meant to have a control.
    """
    missing = Counter(t.reason for t in trials if t.control is None and t.reason)
    both = [t for t in trials if t.control is not None]
    if not both and not missing:
        return None
    column, pair, alike, unit = goal.mean_of(goal.pairs[0]), None, False, ""
    for quantity in goal.pairs if both else ():
        pair, alike = _by_unit(goal, both, quantity)
        if pair is not None:
            column, unit = goal.mean_of(quantity), goal.unit
            break
    if both and pair is None:
        column, pair = _as_whole(goal, both)
    return Disclosed(
        column=column,
        pair=pair,
        trials=len(trials),
        missing=missing,
        alike=alike,
        unit=unit,
        generative=generative,
        drawn="reconstructions" in goal.draws and goal.unit == "image",
        seconds=float(sum(t.control.seconds for t in both)),
        evaluations=int(sum(t.control.evaluations for t in both)),
    )


def control_rows(goal: Goal | None, score: Any, control: Any) -> list[Row]:
    """What stands beside a score's rows of its control: `control_` and each of `Goal.pairs`, and what it cost.

    Args:
      goal: what was asked.
      score: of the attack.
      control: likewise; None gives empty rows.
    """
    if control is None or goal is None:
        return [{} for _ in score.rows()]
    units = goal.units(control)
    return [
        {f"control_{name}": value for name, value in ({} if unit is None else unit.values).items()}
        | {"control_evaluations": control.evaluations, "control_seconds": control.seconds}
        for unit in units
    ]


def _by_unit(goal: Goal, trials: Sequence[Controlled], quantity: str) -> tuple[Paired | None, bool]:
    """The difference, if any unit has that quantity, and whether all pairs differ alike."""
    first: list[float] = []
    second: list[float] = []
    batches: list[Hashable] = []
    runs: list[Hashable] = []
    for trial in trials:
        for noise, update in zip(goal.units(trial.control), goal.units(trial.score), strict=True):
            if noise is None or update is None or quantity not in noise.values or quantity not in update.values:
                continue
            first.append(noise.values[quantity])
            second.append(update.values[quantity])
            batches.append(trial.batch)
            runs.append(trial.run)
    if not first:
        return None, False
    alike = len({b - a for a, b in zip(first, second, strict=True)}) == 1
    return paired(quantity, first, second, batches, runs, flipped=batches), alike


def _as_whole(goal: Goal, trials: Sequence[Controlled]) -> tuple[Column, Paired | None]:
    runs, batches = [t.run for t in trials], [t.batch for t in trials]
    rows = [goal.summarize(scores, runs, batches) for scores in zip(*((t.control, t.score) for t in trials))]
    names = [goal.headline, *goal.curves, "label_accuracy"]
    for column in sorted(goal.columns(), key=lambda c: names.index(c.name) if c.name in names else len(names)):
        values = [row.get(column.name) for row in rows]
        if column.name in names and None not in values:
            first, second = (float(v) for v in values if v is not None)
            return column, Paired(column.name, len(trials), first, second, second - first, None, None, 0)
    return goal.mean_of(goal.pairs[0]), None


def _lower(label: str) -> str:
    return label[:1].lower() + label[1:]
