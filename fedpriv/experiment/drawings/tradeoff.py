"""Trade-off: accuracy against leakage, and leakage against formal guarantees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpriv.base.column import Column
from fedpriv.experiment.arm import (
    Arm,
    attack_name,
    attacked_arms,
    by_strongest,
    fact,
    guarantee,
    guaranteed_against,
    mechanism,
    short_name,
    varying_axes,
    words_without,
)
from fedpriv.experiment.drawings.drawn import Drawn
from fedpriv.threat.goal import interval_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedpriv.experiment.experiment import Experiment
    from fedpriv.figures.success_epsilon import Bound


def noise_panels(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """Accuracy and the goal's last curve over the noise multiplier, several compared; by the strongest attack."""
    shown = by_strongest(arms)
    if len({_multiplier(a) for a in shown} - {None}) < 2:
        return []
    goal = next((a.goal for a in shown if a.goal is not None), None)
    if goal is None:
        return []
    delta = arms[0].results[0].cell.setting.stated_delta
    column, mark = goal.column(goal.curves[-1]), goal.reference(goal.curves[-1])
    varying = [n for n in varying_axes(arms) if n != "attack"]
    beside = [n for n in varying if _same_noise(shown, n)]

    def draw() -> Figure:
        from fedpriv.figures.tradeoff import Point, privacy_utility

        points = []
        for arm in shown:
            row, noise, setting = arm.row(), _multiplier(arm), arm.results[0].cell.setting
            units = [u for s in arm.scores()[0] for u in goal.units(s) if u is not None]
            values = [u.values[goal.pairs[0]] for u in units] if goal.graded else []
            bare = not setting.defense
            series = "No defense" if bare else mechanism(arm)
            points.append(
                Point(
                    ", ".join(filter(None, (series, short_name(arm, beside) if beside else ""))),
                    0.0 if bare else noise,
                    arm.mean("accuracy"),
                    row.get(column.name),
                    guarantee(arm),
                    arm.interval("accuracy"),
                    row.get(interval_name(column.name)),
                    tuple(values),
                    "" if bare or noise is not None else short_name(arm, varying),
                )
            )
        return privacy_utility(points, delta=delta, column=column, mark=mark)

    several = " by the strongest attack of this experiment" if len(shown) < len(arms) else ""
    trained = "Test accuracy after training, and " if any(a.mean("accuracy") is not None for a in shown) else ""
    known = any(guarantee(a) is not None for a in shown)
    of_epsilon = f" Epsilon is that of the whole training at delta {delta:g} against {guaranteed_against(shown)}."
    return [
        Drawn(
            "noise",
            f"{f'Accuracy and {goal.name}' if trained else goal.name.capitalize()} against noise",
            f"{trained}{column.label}{several}, over the noise multiplier.{of_epsilon if known else ''}",
            f"{f'Accuracy and {column.label}' if trained else column.label} against the noise multiplier.",
            draw,
        )
    ]


def _headline(arm: Arm) -> Column:
    assert arm.goal is not None
    return arm.goal.column(arm.goal.headline)


def _multiplier(arm: Arm) -> float | None:
    found = (getattr(d, "noise_multiplier", None) for d in arm.results[0].cell.setting.made_defenses())
    return next((float(z) for z in found if z is not None), None)


def _same_noise(arms: Sequence[Arm], axis: str) -> bool:
    """Whether each value of an axis meets the same noise multipliers."""
    met: dict[Any, set[float | None]] = {}
    for arm in arms:
        met.setdefault(arm.labels[axis], set()).add(_multiplier(arm))
    return len({frozenset(m) for m in met.values()}) == 1


def front(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """Accuracy against leakage with the Pareto front; of several attacks on one defense, the strongest counts."""
    both = [a for a in attacked_arms(arms) if a.mean("accuracy") is not None and a.results[0].trained is not None]
    strongest = by_strongest([a for a in both if all(r.cell.setting.training.defended for r in a.results)])
    defenses = {arm.results[0].cell.setting.defense for arm in strongest}
    if len(defenses) < 2 or len({arm.mean("accuracy") for arm in strongest}) < 2:
        return []
    varying = [n for n in varying_axes(strongest) if n != "attack"]
    column = _headline(strongest[0])

    def draw() -> Figure:
        from fedpriv.figures.pareto import ParetoPoint, pareto_front

        points = []
        for arm in strongest:
            row, name, epsilon = arm.row(), short_name(arm, varying), guarantee(arm)
            low, high = row[interval_name(column.name)]
            a_low, a_high = row.get("accuracy_interval") or (None, None)
            points.append(
                ParetoPoint(name, row["accuracy"], row[column.name], low, high, a_low, a_high, epsilon=epsilon)
            )
        return pareto_front(points, y_label=column.label)

    return [
        Drawn(
            "privacy_utility",
            "Privacy against utility",
            f"Test accuracy, and {column.label} of the strongest attack of this experiment; further right and "
            "further down is better. The line joins the settings that no other beats in both. Bars are 95% intervals. "
            f"Epsilon, where there is one, is against {guaranteed_against(strongest)}.",
            f"Points of accuracy against {column.label}, with the Pareto front.",
            draw,
        )
    ]


def success_against_epsilon(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """Success against the epsilon that holds against its adversary, if any arm has one."""
    attacked = attacked_arms(arms)
    sure = [a for a in attacked if guarantee(a) is not None]
    if not sure:
        return []

    several, column = len({mechanism(a) for a in sure}) > 1, _headline(sure[0])

    def draw() -> Figure:
        from fedpriv.figures.success_epsilon import EpsilonPoint, success_epsilon

        points = []
        for arm in attacked:
            row, epsilon = arm.row(), guarantee(arm)
            low, high = row[interval_name(column.name)]
            series = attack_name(arm)
            if several and epsilon is not None:
                series += f", {mechanism(arm)}"
            points.append(EpsilonPoint(series, epsilon, row[column.name], low, high, words_without(arm, "attack")))
        return success_epsilon(points, delta=attacked[0].results[0].cell.setting.stated_delta, y_label=column.label)

    return [
        Drawn(
            "success_epsilon",
            "Attack success against epsilon",
            f"{column.label} over the epsilon of the whole training, against {guaranteed_against(attacked)}; 95% "
            "intervals. Settings without a formal guarantee against it stand apart.",
            f"Points of {column.label} against epsilon.",
            draw,
        )
    ]


def accuracy_against_epsilon(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """Accuracy over the epsilon against whoever sees released models, several budgets compared; and without any."""
    trained = [a for a in arms if a.mean("accuracy") is not None and a.results[0].trained is not None]
    alike: dict[str, list[Arm]] = {}
    for arm in trained:
        alike.setdefault(words_without(arm, *_BUDGETS, "attack"), []).append(arm)
    several = [name for name, members in alike.items() if len({_released(a) for a in members} - {None}) > 1]
    if not several:
        return []
    delta = alike[several[0]][0].results[0].cell.setting.delta

    def draw() -> Figure:
        from fedpriv.figures.success_epsilon import EpsilonPoint, success_epsilon

        points = []
        for name, members in alike.items():
            for arm in members:
                value = arm.mean("accuracy") or 0.0
                low, high = arm.interval("accuracy") or (value, value)
                label = name if _released(arm) is None else ""
                points.append(EpsilonPoint(name, _released(arm), value, low, high, label))
        least = min(p.low for p in points)
        return success_epsilon(points, delta=delta, y_label="Test accuracy", floor=max(0.0, int(10 * least - 0.5) / 10))

    return [
        Drawn(
            "accuracy_epsilon",
            "Accuracy against epsilon",
            "Test accuracy after training over the epsilon of the whole training, against whoever sees the released "
            "models; bars are 95% intervals over seeds. Trainings without a guarantee stand apart.",
            "Points of accuracy against epsilon, one line a mechanism.",
            draw,
        )
    ]


#: Axes of a grid that say how much may be spent.
_BUDGETS = ("epsilon", "budget", "noise")


def _released(arm: Arm) -> float | None:
    found = arm.mean("epsilon_released")
    return found if found is not None and math.isfinite(found) else None


def against_bounds(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """Success against the epsilon of what was attacked, with what no attack can exceed, column by column."""
    attacked = attacked_arms(arms)
    goal = next((a.goal for a in attacked), None)
    bounded = [a for a in attacked if fact(a, "exposed_epsilon") is not None]
    if goal is None or not bounded:
        return []
    delta = bounded[0].results[0].cell.setting.delta
    several = len({mechanism(a) for a in bounded}) > 1
    notes = list(dict.fromkeys(str(a.results[0].facts["bounds"]) for a in bounded))
    axes = _attack_axes(attacked)

    def words_of(arm: Arm) -> str:
        return ", ".join(str(arm.labels[axis]) for axis in axes)

    rest = " ".join(notes) if len(notes) <= 2 else "The table's column `bounds` says of what each bound is."
    found = []
    for name in _BOUNDED:
        shown = [a for a in attacked if a.row().get(name) is not None]
        if not any(fact(a, f"bound_{name}") is not None for a in shown):
            continue
        column = goal.column(name)

        def draw(shown: Sequence[Arm] = shown, column: Column = column) -> Figure:
            from fedpriv.figures.success_epsilon import EpsilonPoint, success_epsilon

            points = []
            for arm in shown:
                row, epsilon = arm.row(), fact(arm, "exposed_epsilon")
                low, high = (max(v, 0.0) for v in row[interval_name(column.name)])
                series = words_of(arm) or attack_name(arm)
                label = "" if epsilon is not None else words_without(arm, "attack", *axes)
                if several and epsilon is not None:
                    series += f", {mechanism(arm)}"
                points.append(EpsilonPoint(series, epsilon, max(row[column.name], 0.0), low, high, label))
            return success_epsilon(points, delta=delta, y_label=column.label, bounds=_limits(shown, column.name, delta))

        stem = "bounds" if name == "success_rate" else f"bounds_{name}"
        found.append(
            Drawn(
                stem,
                f"{column.label} against epsilon, and its bound",
                f"{column.label} over the epsilon of what was attacked, not of the whole training, with 95% "
                f"intervals; grey lines are what no attack can exceed. {rest}",
                f"Points of {column.label} against epsilon, and bounds as lines.",
                draw,
            )
        )
    return found


def _attack_axes(arms: Sequence[Arm]) -> list[str]:
    """Axes whose every label stands for one attack."""
    found = []
    for axis in varying_axes(arms):
        attacks: dict[Any, set[Any]] = {}
        for arm in arms:
            attacks.setdefault(arm.labels[axis], set()).add(arm.results[0].cell.setting.attack)
        single = all(len(several) == 1 for several in attacks.values())
        if single and len(set.union(*attacks.values())) > 1:
            found.append(axis)
    return found


#: Columns that bounds are known of.
_BOUNDED = ("success_rate", "tpr", "advantage")


def _limits(arms: Sequence[Arm], name: str, delta: float) -> list[Bound]:
    """The bounds of these arms: one curve for Gaussian mechanisms that differ in noise alone, else points joined."""
    from fedpriv.figures.success_epsilon import Bound

    alike: dict[tuple[Any, float | None], list[Arm]] = {}
    for arm in arms:
        if fact(arm, f"bound_{name}") is None:
            continue
        mu, replaced = fact(arm, "exposed_mu"), fact(arm, "bound_mu")
        steps = mechanism(arm) if not mu or replaced is None else round(replaced / mu, 6)
        alike.setdefault((steps, fact(arm, "prior_success")), []).append(arm)
    found = []
    for (steps, _), members in alike.items():
        if isinstance(steps, float):
            label = "largest possible" if steps == 1 else "largest possible, one removed and another added"
            found.append(Bound(label, *_gaussian_limit(members, name, steps, delta)))
        else:
            pairs = {(fact(a, "exposed_epsilon") or 0.0, fact(a, f"bound_{name}") or 0.0) for a in members}
            epsilons, rates = zip(*sorted(pairs), strict=True)
            found.append(Bound(f"largest possible, {steps}", epsilons, rates))
    return found


def _gaussian_limit(arms: Sequence[Arm], name: str, steps: float, delta: float) -> tuple[list[float], list[float]]:
    """Epsilons and bounds of Gaussian mechanisms from a little more noise than these arms have to a little less.

    `steps` is how many times the mu of the claim's own relation is that of what is bounded.
    """
    from fedpriv.account.bounds import GaussianTradeOff

    prior, fpr = fact(arms[0], "prior_success"), getattr(arms[0].goal, "fpr", 0.01)
    mus = [fact(a, "exposed_mu") or 0.0 for a in arms]
    grid = np.geomspace(min(mus) / 1.3, max(mus) * 1.3, 60)
    epsilons = [GaussianTradeOff(float(mu)).epsilon(delta) for mu in grid]
    bounded = [GaussianTradeOff(float(mu) * steps) for mu in grid]
    if name == "advantage":
        return epsilons, [b.advantage for b in bounded]
    at = float(fpr if prior is None else prior)
    return epsilons, [float(b.tpr(at)) for b in bounded]
