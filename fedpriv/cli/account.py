"""`fedpriv budget` and `fedpriv epsilon`: from privacy to noise, and from noise to privacy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedpriv.base.errors import LedgerError, ParameterError
from fedpriv.cli import options

if TYPE_CHECKING:
    from fedpriv.account.accounting import AccountantName
    from fedpriv.account.asked import Asked
    from fedpriv.account.budget import Budget
    from fedpriv.account.ledger import Epsilon, Ledger

#: Rows of a table, and points of a figure.
_ROWS, _POINTS = 11, 40

Rounds = Annotated[int | None, typer.Option("--rounds", "-r", help="Rounds, or steps.", min=1)]
Rate = Annotated[float | None, typer.Option("--rate", "-q", help="Probability of a client to be in a round: Poisson.")]
Cohort = Annotated[
    int | None, typer.Option(help="Clients a round: exactly so many, or with --sampling poisson expected.", min=1)
]
Population = Annotated[int | None, typer.Option("--population", "-K", help="Clients in all.", min=1)]
HowSampled = Annotated[
    str | None,
    typer.Option(
        "--sampling",
        help="fixed, poisson, full, or a strategy such as cyclic(size=10). fixed with --cohort, poisson with --rate.",
    ),
]
Examples = Annotated[int | None, typer.Option(help="DP-SGD: examples in all.", min=1)]
BatchSize = Annotated[int | None, typer.Option("--batch-size", "-B", help="DP-SGD: (expected) examples a step.")]
Epochs = Annotated[float | None, typer.Option(help="DP-SGD: passes over the examples.")]
Participations = Annotated[int | None, typer.Option(help="DP-FTRL: rounds that one client is in, at most.", min=1)]
Separation = Annotated[int | None, typer.Option(help="DP-FTRL: rounds from one of these to the next, at least.", min=1)]
RestartEvery = Annotated[int | None, typer.Option(help="DP-FTRL: rounds of a tree; one tree without.", min=1)]
Size = Annotated[int, typer.Option(help="d, values of an update, for --defense.", min=1)]
RelationAsked = Annotated[
    str | None,
    typer.Option(
        "--relation", help="Only what holds for add_or_remove_one, replace_one or replace_special; the least without."
    ),
]
Group = Annotated[int, typer.Option(help="Units that are protected together.", min=1)]
Accountant = Annotated[str | None, typer.Option(help="rdp or pld; both without.")]
Table = Annotated[bool, typer.Option("--table", help="Print epsilon as training goes.")]
Figure = Annotated[Path | None, typer.Option(help="Draw epsilon as training goes: this file as PNG and PDF.")]


def _asked(given: Mapping[str, Any]) -> Asked:
    from fedpriv.account.asked import Asked
    from fedpriv.base import registry

    facts = dict(given)
    facts["defenses"] = tuple(registry.defenses.create(text) for text in facts.pop("defense") or ())
    return Asked(**facts)


def epsilon(
    multipliers: Annotated[
        list[float] | None,
        typer.Argument(help="Noise multipliers: the noise's standard deviation over the clip. None with --defense."),
    ] = None,
    rounds: Rounds = None,
    rate: Rate = None,
    cohort: Cohort = None,
    population: Population = None,
    sampling: HowSampled = None,
    examples: Examples = None,
    batch_size: BatchSize = None,
    epochs: Epochs = None,
    participations: Participations = None,
    separation: Separation = None,
    restart_every: RestartEvery = None,
    defense: options.Defenses = None,
    size: Size = 10_000,
    delta: Annotated[list[float] | None, typer.Option(help="Delta; repeat for several. 1e-5 without.")] = None,
    against: Annotated[str, typer.Option(help="released or server.")] = "released",
    group: Group = 1,
    relation: RelationAsked = None,
    accountant: Accountant = None,
    table: Table = False,
    figure: Figure = None,
    json_lines: options.Json = False,
) -> None:
    """Say what epsilon a noise multiplier gives, by both accountants; zCDP's rho and Gaussian DP's mu beside it."""
    if not multipliers and not defense:
        raise ParameterError("a noise multiplier is missing; give one or more, or --defense with its own")
    for given in multipliers or ():
        if not 0 < given < math.inf:
            raise ParameterError(f"noise_multiplier={given} bounds no epsilon; give a number above 0")
    from fedpriv.account.accounting import checked_delta
    from fedpriv.account.asked import accountants

    asked = _asked(
        {
            "rounds": rounds, "rate": rate, "cohort": cohort, "population": population, "sampling": sampling,
            "examples": examples, "batch_size": batch_size, "epochs": epochs, "participations": participations,
            "separation": separation, "restart_every": restart_every, "defense": defense, "size": size,
        }
    )  # fmt: skip
    deltas = [checked_delta(one) for one in delta or [1e-5]]
    how: dict[str, Any] = {"against": against, "group": group, "relation": relation}
    shown = Shown(asked, accountants(accountant), deltas, how, json_lines)
    asked_for: list[float | None] = list(multipliers) if multipliers else [None]
    for multiplier in asked_for:
        shown.account(multiplier)
        if table:
            shown.table(multiplier)
    if figure is not None:
        shown.draw(asked_for, figure)


def budget(
    target: Annotated[
        str, typer.Argument(help="As 'epsilon=2, delta=1e-6'; with against=server, unit= and relation= if need be.")
    ],
    rounds: Rounds = None,
    rate: Rate = None,
    cohort: Cohort = None,
    population: Population = None,
    sampling: HowSampled = None,
    examples: Examples = None,
    batch_size: BatchSize = None,
    epochs: Epochs = None,
    participations: Participations = None,
    separation: Separation = None,
    restart_every: RestartEvery = None,
    defense: options.Defenses = None,
    size: Size = 10_000,
    accountant: Accountant = None,
    table: Table = False,
    figure: Figure = None,
    json_lines: options.Json = False,
) -> None:
    """Say what noise multiplier a privacy budget takes, by both accountants."""
    from fedpriv.account.asked import accountants
    from fedpriv.account.budget import Budget
    from fedpriv.base.atomic import to_json

    wanted = Budget.of(target)
    assert wanted is not None
    asked = _asked(
        {
            "rounds": rounds, "rate": rate, "cohort": cohort, "population": population, "sampling": sampling,
            "examples": examples, "batch_size": batch_size, "epochs": epochs, "participations": participations,
            "separation": separation, "restart_every": restart_every, "defense": defense, "size": size,
        }
    )  # fmt: skip
    found: dict[AccountantName, float] = {}
    refused: dict[AccountantName, LedgerError] = {}
    names = accountants(accountant)
    for name in names:
        try:
            found[name] = asked.multiplier_for(wanted, name)
        except LedgerError as e:
            refused[name] = e
    if not found:
        raise refused[names[0]]
    if not json_lines:
        typer.echo(f"{asked.steps} rounds: {asked.describe()}.")
    for name in names:
        if name in refused:
            typer.echo(f"{name}: none ({refused[name]})", err=json_lines)
            continue
        given, lines = Shown(asked, [name], [wanted.delta], wanted.asked, json_lines).epsilons(found[name])
        if json_lines:
            facts = {"epsilon": wanted.epsilon, "delta": wanted.delta, "rounds": asked.steps, "accountant": name}
            about = {"unit": given[0].unit, "relation": given[0].relation, "against": given[0].against}
            typer.echo(to_json({"noise_multiplier": found[name], **facts, **about}))
            continue
        typer.echo(f"{name}: noise multiplier {found[name]:.5g} for {wanted}")
        for line, _ in lines:
            typer.echo(line)
    for name, multiplier in found.items():
        shown = Shown(asked, [name], [wanted.delta], wanted.asked, json_lines)
        if table:
            shown.table(multiplier)
    if figure is not None:
        drawn = Shown(asked, list(found), [wanted.delta], wanted.asked, json_lines)
        drawn.draw(list(found.values()), figure, wanted, dict(found))


class Shown:
    """What is printed of an account.

    Args:
      asked: the mechanism and the run.
      names: of the accountants.
      deltas: at which epsilon is stated.
      how: what else `Ledger.epsilon` is asked for: `against`, `group`, `relation`, `unit`.
      json_lines: whether as JSON.
    """

    def __init__(
        self,
        asked: Asked,
        names: Sequence[AccountantName],
        deltas: Sequence[float],
        how: Mapping[str, Any],
        json_lines: bool,
    ) -> None:
        self.asked, self.names, self.deltas, self.json_lines = asked, tuple(names), tuple(deltas), json_lines
        self.how = dict(how)
        self._ledgers: dict[Any, Ledger] = {}

    def _ledger(self, multiplier: float | None, name: AccountantName, interval: float | None = None) -> Ledger:
        key = multiplier, name, interval
        if key not in self._ledgers:
            more = () if interval is None else (interval,)
            self._ledgers[key] = self.asked.ledger(multiplier, name, *more)
        return self._ledgers[key]

    def account(self, multiplier: float | None) -> None:
        """Epsilon at the end, at each delta by each accountant; and rho and mu, where no epsilon said them.

        Raises:
          LedgerError: no accountant gives a number; nothing is printed then.
        """
        found, lines = self.epsilons(multiplier)
        if not self.json_lines:
            noise = "" if multiplier is None else f"noise multiplier {multiplier:g}, "
            typer.echo(f"{noise}{self.asked.steps} rounds: {self.asked.describe()}.")
        for line, aside in lines:
            typer.echo(line, err=aside)
        if not self.json_lines and self.how.get("group", 1) == 1:
            of = self._ledger(multiplier, self.names[0])
            both = of.concentrated(self.how["against"], rounds=self.asked.steps, relation=self.how.get("relation"))
            if both.mu is None or not any(math.isclose(one.mu or 0.0, both.mu) for one in found):
                typer.echo(f"  {both}")

    def epsilons(self, multiplier: float | None) -> tuple[list[Epsilon], list[tuple[str, bool]]]:
        """Epsilons at the end, at each delta by each accountant, and lines that say them, each with whether it is one
        for the error stream.

        Raises:
          LedgerError: no accountant gives a number.
        """
        from fedpriv.base.atomic import to_json

        rounds = self.asked.steps
        given: list[Epsilon] = []
        lines: list[tuple[str, bool]] = []
        refused: list[LedgerError] = []
        for name in self.names:
            ledger = self._ledger(multiplier, name)
            for delta in self.deltas:
                try:
                    found = ledger.epsilon(delta, rounds=rounds, **self.how)
                except LedgerError as e:
                    refused.append(e)
                    lines.append((f"  {name}: none at delta {delta:g} ({e})", self.json_lines))
                    continue
                given.append(found)
                if self.json_lines:
                    facts = {"noise_multiplier": multiplier, "epsilon": found.value, "delta": delta, "rounds": rounds}
                    more = {"accountant": name, "unit": found.unit, "relation": found.relation, "group": found.group}
                    last = {"instead": found.instead} if found.instead else {}
                    rest = {"route": found.route, "rho": found.rho, "mu": found.mu, **last}
                    lines.append((to_json({**facts, **more, **rest}), False))
                else:
                    lines.append((f"  {found}", False))
        if not given:
            raise refused[0]
        return given, lines

    def _curve(self, multiplier: float | None, name: AccountantName, delta: float, most: int) -> Any:
        """(rounds, epsilons); before the last, losses are rounded up more, which is faster and holds."""
        from fedpriv.account.ledger import rounds_shown
        from fedpriv.account.search import COARSE

        rounds = rounds_shown(self.asked.steps, most)
        last = self._ledger(multiplier, name).epsilon(delta, rounds=rounds[-1], **self.how).value
        ledger = self._ledger(multiplier, name, COARSE)
        return rounds, [min(e.value, last) for e in ledger.over_rounds(delta, rounds[:-1], **self.how)] + [last]

    def _curves(self, multiplier: float | None, most: int) -> dict[tuple[AccountantName, float], Any]:
        found = {}
        for name in self.names:
            for delta in self.deltas:
                try:
                    found[name, delta] = self._curve(multiplier, name, delta, most)
                except LedgerError:
                    continue
        return found

    def table(self, multiplier: float | None) -> None:
        """Epsilon as training goes."""
        from fedpriv.base.atomic import to_json

        curves = self._curves(multiplier, _ROWS)
        if not curves:
            return
        rounds = next(iter(curves.values()))[0]
        if self.json_lines:
            for (name, delta), (_, values) in curves.items():
                for n, value in zip(rounds, values, strict=True):
                    typer.echo(to_json({"rounds": n, "epsilon": value, "delta": delta, "accountant": name}))
            return
        heads = [f"{name} {delta:g}" for name, delta in curves]
        typer.echo("  ".join([f"{'rounds':>8}", *(f"{head:>12}" for head in heads)]))
        for i, n in enumerate(rounds):
            typer.echo("  ".join([f"{n:>8}", *(f"{values[i]:>12.4g}" for _, values in curves.values())]))

    def draw(
        self,
        multipliers: Sequence[float | None],
        path: Path,
        budget: Budget | None = None,
        by: Mapping[AccountantName, float] | None = None,
    ) -> None:
        """The figure; with `by` each accountant has its own multiplier."""
        from fedpriv.base.atomic import check_folder
        from fedpriv.figures.epsilon_curve import epsilon_curve
        from fedpriv.figures.save import save

        check_folder(path.parent)
        drawn: dict[str, Any] = {}
        for multiplier in multipliers:
            for (name, delta), curve in self._curves(multiplier, _POINTS).items():
                if by is not None and by[name] != multiplier:
                    continue
                said = "" if multiplier is None else f"z = {multiplier:g}, "
                drawn[f"{said}{name}, delta {delta:g}"] = curve
        unit = "steps" if self.asked.sgd and not self.asked.defenses else "rounds"
        limit = None if budget is None or not math.isfinite(budget.epsilon) else budget.epsilon
        figure = epsilon_curve(drawn, budget=limit, unit=unit)
        written = save(figure, path.with_suffix(""))
        typer.echo(f"Drawn: {', '.join(map(str, written))}", err=self.json_lines)
