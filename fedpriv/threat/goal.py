"""Goal: what an adversary is after: the question, its truth, how an answer is scored, and how scores are shown."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from fedpriv.base import registry
from fedpriv.base.column import Column
from fedpriv.base.errors import ParameterError
from fedpriv.base.plugin import Plugin
from fedpriv.base.types import Config, Row
from fedpriv.data.dataset import Dataset
from fedpriv.data.kind import Kind, Measured

if TYPE_CHECKING:
    from fedpriv.threat.attack import Attack, Finding
    from fedpriv.threat.observation import Observation
    from fedpriv.threat.truth import Truth


class Scored(Protocol):
    """What every score has: the cost of one attack, and a flat row for each of its units."""

    @property
    def seconds(self) -> float:
        """Wall-clock, without compilation where told apart."""

    @property
    def evaluations(self) -> int:
        """Gradient evaluations."""

    def rows(self, **columns: Any) -> list[Row]:
        """One flat dict a unit, `columns` first."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What a score says of one image, candidate or client, for paired comparisons.

    Attributes:
      key: what two attacks on the same unit agree in, besides its number.
      values: by name of a column in `Goal.pairs`.
    """

    key: Hashable
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """Data that a goal may draw from for its questions; the adversary holds none of it.

    Attributes:
      outsiders: examples that nothing was trained on and no attacked client holds; None if there are none.
      members: what the attacked model was trained on; None for a model that was never trained.
    """

    outsiders: Dataset | None = None
    members: Dataset | None = None


class Goal(Plugin):
    """Base of all goals. A plug-in of the entry-point group `fedpriv.goals`.

    The question is public and goes into the view; the answer goes into the truth, which only `score` sees. Tables,
    comparisons, conclusions and figures know a goal by its columns alone.
    """

    #: Special figures its scores allow: `reconstructions`, `roc`.
    draws: ClassVar[frozenset[str]] = frozenset()
    #: The column, a share in [0, 1] with an interval, that says how far an attack got.
    headline: ClassVar[str]

    # Class variables in most goals; computed where they go by what the examples are.
    if TYPE_CHECKING:

        @property
        def unit(self) -> str:
            """What one row of a score is about."""

        @property
        def shade(self) -> str:
            """The column that shades a heat table."""

        @property
        def shaded_too(self) -> tuple[str, ...]:
            """Columns that get a heat table of their own besides."""

        @property
        def noted(self) -> str:
            """What `note` says, in words."""

        @property
        def curves(self) -> tuple[str, ...]:
            """Columns drawn along axes of numbers, the headline first; the last one stands in trade-offs."""

        @property
        def pairs(self) -> tuple[str, ...]:
            """Columns that are compared unit by unit; the first decides whether one setting leaks more than another."""

        @property
        def rules(self) -> tuple[str, ...]:
            """What the words of `verdict` mean."""

        @property
        def table_note(self) -> str:
            """What a reader of its tables must know."""

    else:
        unit: ClassVar[str] = "image"
        shaded_too: ClassVar[tuple[str, ...]] = ()
        noted: ClassVar[str] = ""
        rules: ClassVar[tuple[str, ...]] = ()
        table_note: ClassVar[str] = ""

    #: Whether the first of `pairs` is a quality that single units may be drawn with, rather than right or wrong.
    graded: ClassVar[bool] = False

    def about(self, examples: Measured) -> Goal:
        """This goal in the words and columns of what is attacked; itself where they are the same for all kinds."""
        return self

    @abstractmethod
    def columns(self) -> tuple[Column, ...]:
        """What `summarize` gives, in the order of a table. A column may have an interval, named by `interval_name`."""

    @abstractmethod
    def row_columns(self, kind: Kind | None = None) -> tuple[Column, ...]:
        """Of a score's rows, what is shown while an attack runs on examples of a kind."""

    def column(self, name: str) -> Column:
        """The column of that name.

        Raises:
          ParameterError: there is none.
        """
        found = {c.name: c for c in self.columns()}
        if name not in found:
            raise ParameterError(f"goal '{self.name}' has no column '{name}'; it has {', '.join(found)}")
        return found[name]

    def mean_of(self, quantity: str) -> Column:
        """The column that is the mean of one of `pairs` over units; the headline where none is named after it."""
        found = {c.name: c for c in self.columns()}
        for name in (f"{quantity}_mean", f"{quantity}_rate", self.headline):
            if name in found:
                return found[name]
        return self.column(self.headline)

    def count(self, row: Mapping[str, Any]) -> str:
        """How many units a summary is about, in words; the first column holds the number."""
        first = self.columns()[0]
        return f"{first.text(row.get(first.name))} {first.label.lower()}"

    def check(self, input_shape: tuple[int, ...]) -> None:
        """Refuses examples of a shape that it cannot score, before anything is attacked.

        Raises:
          ParameterError: it cannot.
        """

    def arrange(self, data: Dataset, trials: int, cohort: int, batch: int, seed: int) -> np.ndarray:
        """Which examples of `data` the attacked clients hold, trial by trial and client by client: int `[n]`.

        By default the first ones, in order.
        """
        return np.arange(min(trials * cohort * batch, len(data)))

    def pose(self, observation: Observation, pool: Pool, seed: int) -> Observation:
        """The observation with this goal's question in its view and the answer in its truth.

        Args:
          observation: of an attacked round.
          pool: what may be drawn from.
          seed: of those draws.

        Raises:
          DataError: the pool has too little for it.
        """
        return observation

    @abstractmethod
    def score(self, finding: Finding, truth: Truth) -> Scored:
        """Compares a claim with the truth: a `Scored`.

        Raises:
          ParameterError: the finding does not answer the question.
        """

    @abstractmethod
    def summarize(
        self, scores: Sequence[Any], runs: Sequence[Hashable] | None = None, batches: Sequence[Hashable] | None = None
    ) -> Row:
        """Scores taken together: the value of each column, and intervals (low, high).

        Args:
          scores: at least one.
          runs: which run (seed) each comes from; None if all come from one.
          batches: which trial each is about; None takes the k-th of every run to be about the same.
        """

    def details(self, scores: Sequence[Any], runs: Sequence[Hashable] | None = None) -> Row:
        """All that is known of scores taken together, for a file; at least what `summarize` gives."""
        return {"trials": len(scores), "runs": len(set(runs)) if runs else 1, **self.summarize(scores, runs)}

    @abstractmethod
    def units(self, score: Any) -> list[Unit | None]:
        """The score's units, in the truth's order; None for one that cannot be compared."""

    @abstractmethod
    def verdict(self, row: Mapping[str, Any]) -> str:
        """How far the attack with this summary got, as the rest of a sentence."""

    @abstractmethod
    def note(self, row: Mapping[str, Any]) -> str:
        """Small words below a summary's number in a heat table."""

    def identity(self) -> Config:
        """What a score depends on, for the key that results are kept under."""
        return {"goal": self.config()}

    @abstractmethod
    def load(self, saved: Mapping[str, Any]) -> Scored:
        """The score that `dump` made."""

    def dump(self, score: Any) -> Row:
        """A score as JSON can hold it."""
        from fedpriv.base.atomic import jsonable

        made: Row = jsonable(score)
        return made

    def shades(self) -> tuple[float, float]:
        """Numbers of the darkest and the lightest shade of a heat table."""
        return 0.0, 1.0

    def reference(self, column: str) -> tuple[str, float] | None:
        """A value of a column to mark in figures, with its name."""
        return None

    def describe(self, scores: Sequence[Any], runs: Sequence[Hashable] | None = None) -> str:
        """Plain sentences on scores taken together."""
        row = self.summarize(scores, runs)
        said = []
        for column in self.columns():
            if row.get(column.name) is None:
                continue
            interval = row.get(interval_name(column.name))
            within = (
                "" if interval is None else f" (95% interval {column.text(interval[0])} to {column.text(interval[1])})"
            )
            unit = f" {column.unit}" if column.unit else ""
            said.append(f"{column.label} {column.text(row[column.name])}{unit}{within}")
        return ". ".join(said) + "."


def interval_name(column: str) -> str:
    """Where a summary keeps a column's interval: `success_interval` for `success_rate`."""
    return f"{column.removesuffix('_rate').removesuffix('_mean')}_interval"


def goal_of(attack: Attack, written: str | None = None, **parameters: Any) -> Goal:
    """The goal that is asked for, or the first that the attack answers.

    Args:
      attack: the attack.
      written: as on a command line, such as `membership(fpr=0.01)`; None for the attack's own.
      parameters: of the goal, laid over.

    Raises:
      ParameterError: the attack answers another question.
    """
    made: Goal = registry.goals.create(written or attack.goals[0], **parameters)
    if made.name not in attack.goals:
        can = "', '".join(attack.goals)
        raise ParameterError(
            f"attack '{attack.name}' answers '{can}', not '{made.name}'; choose that goal, or an attack for "
            f"'{made.name}'"
        )
    return made
