"""Drawing: which figures an experiment's results allow, and those figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpriv.experiment.table import Arm
from fedpriv.figures.reconstructions import quality_captions
from fedpriv.metrics.score import PSNR_CAP

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedpriv.experiment.experiment import Experiment

#: Most rows of one grid of reconstructions, and its images across.
ROWS, ACROSS = 10, 8


@dataclass(frozen=True)
class Drawn:
    """A figure with its words.

    Attributes:
      stem: of its files.
      heading: of its section.
      caption: below it.
      alt: for those who cannot see it.
      draw: makes it.
    """

    stem: str
    heading: str
    caption: str
    alt: str
    draw: Callable[[], Figure]


def drawings(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """All figures that there is something to draw for, in the report's order."""
    complete = [a for a in arms if a.results]
    made = []
    if complete:
        for make in (_grids, _heat, _curves, _trained_curves, _noise, _front, _epsilons, _rounds, _costs):
            made += make(experiment, complete)
    return made


def _attacked(arms: Sequence[Arm]) -> list[Arm]:
    return [a for a in arms if a.results[0].attacked is not None and a.row().get("psnr_mean") is not None]


def _axes(arms: Sequence[Arm]) -> dict[str, list[Any]]:
    return {name: list(dict.fromkeys(a.labels[name] for a in arms)) for name in arms[0].labels} if arms else {}


def _without(arm: Arm, *axes: str) -> str:
    return ", ".join(str(v) for k, v in arm.labels.items() if k not in axes)


def _varying(arms: Sequence[Arm]) -> list[str]:
    return [name for name, values in _axes(arms).items() if len(values) > 1]


def _short(arm: Arm, varying: Sequence[str]) -> str:
    """Only what tells it from others; a bare number gets its axis's name."""
    parts = [
        f"{k.replace('_', ' ')} {v}" if isinstance(v, int | float) else str(v)
        for k, v in arm.labels.items()
        if k in varying
    ]
    return ", ".join(parts) or arm.name


def _epsilon(arm: Arm) -> float | None:
    """The guarantee that holds against the adversary who attacked it; None if there is none."""
    observes = arm.results[0].cell.setting.exposure.adversary == "observer"
    found = arm.mean("epsilon_released" if observes else "epsilon_server")
    return found if found is not None and math.isfinite(found) else None


def _against(arms: Sequence[Arm]) -> str:
    """Who the guarantees are against, in words."""
    observes = {a.results[0].cell.setting.exposure.adversary == "observer" for a in arms}
    if len(observes) > 1:
        return "the adversary of each setting"
    return "whoever sees the released models" if observes == {True} else "the server, which sees what clients send"


def _by_strongest(arms: Sequence[Arm]) -> list[Arm]:
    """Of the arms that differ in the attack alone, the one whose attack reconstructed most."""
    strongest: dict[tuple[Any, ...], Arm] = {}
    for arm in arms:
        place = tuple(v for k, v in arm.labels.items() if k != "attack")
        if place not in strongest or _strength(arm) > _strength(strongest[place]):
            strongest[place] = arm
    return list(strongest.values())


def _strength(arm: Arm) -> tuple[float, float]:
    row = arm.row()
    return tuple(-1.0 if row.get(k) is None else row[k] for k in ("success_rate", "psnr_mean"))  # type: ignore[return-value]


def _grids(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """Originals and reconstructions, arms below each other that attack the same images."""
    pictured = [a for a in _attacked(arms) if _originals(a) is not None]
    across = min((len(_originals(a)) for a in pictured), default=0)
    across = min(ACROSS, across)
    groups: dict[bytes, list[Arm]] = {}
    for arm in pictured:
        groups.setdefault(_originals(arm)[:across].tobytes(), []).append(arm)
    parts = [group[i : i + ROWS] for group in groups.values() for i in range(0, len(group), ROWS)]
    varying = _varying(arms)

    def drawn(part: Sequence[Arm]) -> Callable[[], Figure]:
        def draw() -> Figure:
            from fedpriv.figures.reconstructions import reconstruction_grid

            rows, captions = {}, {}
            originals = np.zeros(0)
            for arm in part:
                outcome = arm.results[0].attacked
                assert outcome is not None
                originals = outcome.arrays["originals"][:across]
                name = _short(arm, varying)
                rows[name] = outcome.arrays["found"][:across]
                said = [text for score in arm.results[0].scores for text in quality_captions(score)]
                captions[name] = said[: len(originals)]
            return reconstruction_grid(originals, rows, captions, columns=across)

        return draw

    made = []
    for i, part in enumerate(parts):
        number = f" ({i + 1} of {len(parts)})" if len(parts) > 1 else ""
        made.append(
            Drawn(
                "reconstructions" if len(parts) == 1 else f"reconstructions_{i + 1}",
                f"Reconstructions{number}",
                "Originals, and what each attack made of what its adversary saw; PSNR in dB and SSIM below each image. "
                f"First images of seed {part[0].results[0].cell.seed}.",
                f"Originals and reconstructions of {len(part)} arms, numbers below each image.",
                drawn(part),
            )
        )
    return made


def _originals(arm: Arm) -> Any:
    """The images kept of an arm's first seed, if they can be drawn."""
    outcome = arm.results[0].attacked
    kept = None if outcome is None else outcome.arrays.get("originals")
    return kept if kept is not None and kept.ndim == 4 and kept.shape[-1] in (1, 3) else None


def _heat(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """Median PSNR by attack and defense, or by the first two axes of words."""
    attacked = _attacked(arms)
    varying = _varying(attacked)
    named = [n for n in varying if any(isinstance(v, str) for v in _axes(attacked)[n])]
    if len(named) < 2:
        return []
    rows = "attack" if "attack" in named else named[0]
    columns = next((n for n in ("defense",) if n in named and n != rows), next(n for n in named if n != rows))
    rest = [n for n in varying if n not in (rows, columns)]
    groups: dict[str, list[Arm]] = {}
    for arm in attacked:
        groups.setdefault(_short(arm, rest) if rest else "", []).append(arm)

    def drawn(part: Sequence[Arm], title: str) -> Callable[[], Figure]:
        def draw() -> Figure:
            from fedpriv.figures.heat_table import heat_table

            values: dict[str, dict[str, float | None]] = {}
            notes: dict[str, dict[str, str]] = {}
            for arm in part:
                r, c, row = str(arm.labels[rows]), str(arm.labels[columns]), arm.row()
                values.setdefault(r, {})[c] = row["psnr_median"]
                notes.setdefault(r, {})[c] = f"{row['reconstructed']} of {row['images']}"
            return heat_table(values, notes=notes, low=5, high=50, title=title)

        return draw

    many = len(groups) > 1
    return [
        Drawn(
            "heat_map" if not many else f"heat_map_{i}",
            f"{rows.capitalize()} against {columns}" + (f": {title}" if title else ""),
            "Median PSNR in dB, and images reconstructed. Lighter is more leaked.",
            f"A table of {rows} by {columns}, shaded by median PSNR.",
            drawn(part, title),
        )
        for i, (title, part) in enumerate(groups.items(), 1)
    ]


def _curves(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """Success and PSNR over every axis of numbers."""
    attacked = _attacked(arms)
    threshold = attacked[0].results[0].cell.setting.threshold_db if attacked else 0.0
    made = []
    for axis, values in _axes(attacked).items():
        if len(values) < 2 or not all(isinstance(v, int | float) for v in values):
            continue
        positive = min(values) > 0 and max(values) / min(values) >= 8
        words = axis.replace("_", " ").capitalize()
        for what in ("success", "psnr"):

            def draw(axis: str = axis, what: str = what, log: bool = positive, words: str = words) -> Figure:
                from fedpriv.figures.axis_curve import AxisPoint, axis_curve

                series: dict[str, list[Any]] = {}
                others = [n for n in _varying(attacked) if n != axis]
                for arm in attacked:
                    row = arm.row()
                    key = "success_rate" if what == "success" else "psnr_mean"
                    low, high = row["success_interval" if what == "success" else "psnr_interval"] or (None, None)
                    name = _short(arm, others) if others else str(arm.results[0].cell.setting.attack).partition("(")[0]
                    point = AxisPoint(float(arm.labels[axis]), row[key], low, high, row["images"])
                    series.setdefault(name, []).append(point)
                for points in series.values():
                    points.sort(key=lambda p: p.x)
                reference = None if what == "success" else (f"{threshold:g} dB", threshold)
                label = "Success rate" if what == "success" else "Mean PSNR (dB)"
                return axis_curve(series, x_label=words, y_label=label, log_x=log, reference=reference)

            shown = "Images reconstructed" if what == "success" else "Quality of reconstructions"
            interval = "Wilson" if what == "success" else "bootstrap"
            made.append(
                Drawn(
                    f"{what}_over_{axis}",
                    f"{shown} over {axis.replace('_', ' ')}",
                    f"{shown} (PSNR of {threshold:g} dB or better counts); bars are 95% {interval} intervals over "
                    "images and seeds.",
                    f"Curves of {'success rate' if what == 'success' else 'mean PSNR'} over {axis.replace('_', ' ')}.",
                    draw,
                )
            )
    return made


def _trained_curves(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """Where nothing is attacked: rounds to the target, or accuracy, over every axis of numbers."""
    if _attacked(arms):
        return []
    goal = arms[0].results[0].cell.setting.training.target_accuracy
    fact, words = ("accuracy", "Test accuracy") if goal is None else ("rounds_to_target", f"Rounds to {goal:.0%}")
    made = []
    for axis, values in _axes(arms).items():
        if len(values) < 2 or not all(isinstance(v, int | float) for v in values):
            continue
        others = [n for n in _varying(arms) if n != axis]
        log = min(values) > 0 and max(values) / min(values) >= 4

        def draw(axis: str = axis, others: list[str] = others, log: bool = log) -> Figure:
            from fedpriv.figures.axis_curve import AxisPoint, axis_curve

            series: dict[str, list[Any]] = {}
            for arm in sorted(arms, key=lambda arm: float(arm.labels[axis])):
                low, high = arm.interval(fact) or (None, None)
                point = AxisPoint(float(arm.labels[axis]), arm.mean(fact), low, high, len(arm.results))
                series.setdefault(_short(arm, others) if others else "mean", []).append(point)
            seen = {name: points for name, points in series.items() if any(p.y is not None for p in points)}
            return axis_curve(seen, x_label=axis.replace("_", " ").capitalize(), y_label=words, log_x=log)

        if any(a.mean(fact) is not None for a in arms):
            made.append(
                Drawn(
                    f"{fact}_over_{axis}",
                    f"{words} over {axis.replace('_', ' ')}",
                    "Means over seeds with 95% bootstrap intervals; a point that not every seed reached is left out.",
                    f"Curves of {words.lower()} over {axis.replace('_', ' ')}.",
                    draw,
                )
            )
    return made


def _noise(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """Accuracy and PSNR over the noise multiplier, if several are compared; of several attacks, by the strongest."""
    shown = _by_strongest(arms)
    if len({_multiplier(a) for a in shown} - {None}) < 2:
        return []
    delta, threshold = arms[0].results[0].cell.setting.delta, arms[0].results[0].cell.setting.threshold_db
    varying = [n for n in _varying(arms) if n != "attack"]
    beside = [n for n in varying if _same_noise(shown, n)]

    def draw() -> Figure:
        from fedpriv.figures.tradeoff import Point, privacy_utility

        points = []
        for arm in shown:
            row, noise, setting = arm.row(), _multiplier(arm), arm.results[0].cell.setting
            values = [min(i.psnr, PSNR_CAP) for s in arm.scores()[0] for i in s.images if i.psnr is not None]
            bare = not setting.defense
            series = "No defense" if bare else " + ".join(d.name for d in setting.made_defenses())
            points.append(
                Point(
                    ", ".join(filter(None, (series, _short(arm, beside) if beside else ""))),
                    0.0 if bare else noise,
                    arm.mean("accuracy"),
                    row.get("psnr_mean"),
                    _epsilon(arm),
                    arm.interval("accuracy"),
                    row.get("psnr_interval"),
                    tuple(values),
                    "" if bare or noise is not None else _short(arm, varying),
                )
            )
        return privacy_utility(points, delta=delta, threshold_db=threshold)

    several = " by the strongest attack of this experiment" if len(shown) < len(arms) else ""
    return [
        Drawn(
            "noise",
            "Accuracy and reconstruction against noise",
            f"Test accuracy after training, and PSNR of the reconstructions{several}, over the noise multiplier. "
            f"Epsilon is that of the whole training at delta {delta:g} against {_against(shown)}.",
            "Accuracy and reconstruction quality against the noise multiplier.",
            draw,
        )
    ]


def _multiplier(arm: Arm) -> float | None:
    found = (getattr(d, "noise_multiplier", None) for d in arm.results[0].cell.setting.made_defenses())
    return next((float(z) for z in found if z is not None), None)


def _same_noise(arms: Sequence[Arm], axis: str) -> bool:
    """Whether each value of an axis meets the same noise multipliers."""
    met: dict[Any, set[float | None]] = {}
    for arm in arms:
        met.setdefault(arm.labels[axis], set()).add(_multiplier(arm))
    return len({frozenset(m) for m in met.values()}) == 1


def _front(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """Accuracy against leakage with the Pareto front; of several attacks on one defense, the strongest counts."""
    both = [a for a in _attacked(arms) if a.mean("accuracy") is not None and a.results[0].trained is not None]
    strongest = _by_strongest([a for a in both if all(r.cell.setting.training.defended for r in a.results)])
    if len({arm.mean("accuracy") for arm in strongest}) < 2:
        return []
    varying = [n for n in _varying(strongest) if n != "attack"]

    def draw() -> Figure:
        from fedpriv.figures.pareto import ParetoPoint, pareto_front

        points = []
        for arm in strongest:
            row, name, epsilon = arm.row(), _short(arm, varying), _epsilon(arm)
            low, high = row["success_interval"]
            a_low, a_high = row.get("accuracy_interval") or (None, None)
            points.append(
                ParetoPoint(name, row["accuracy"], row["success_rate"], low, high, a_low, a_high, epsilon=epsilon)
            )
        return pareto_front(points)

    return [
        Drawn(
            "privacy_utility",
            "Privacy against utility",
            "Test accuracy, and images reconstructed by the strongest attack of this experiment; further right and "
            "further down is better. The line joins the settings that no other beats in both. Bars are 95% intervals. "
            f"Epsilon, where there is one, is against {_against(strongest)}.",
            "Points of accuracy against images reconstructed, with the Pareto front.",
            draw,
        )
    ]


def _epsilons(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """Success against the epsilon that holds against its adversary, if any arm has one."""
    attacked = _attacked(arms)
    sure = [a for a in attacked if _epsilon(a) is not None]
    if not sure:
        return []

    def mechanism(arm: Arm) -> str:
        return " + ".join(d.name for d in arm.results[0].cell.setting.made_defenses())

    several = len({mechanism(a) for a in sure}) > 1

    def draw() -> Figure:
        from fedpriv.figures.success_epsilon import EpsilonPoint, success_epsilon

        points = []
        for arm in attacked:
            row, epsilon = arm.row(), _epsilon(arm)
            low, high = row["success_interval"]
            series = str(arm.labels.get("attack") or str(arm.results[0].cell.setting.attack).partition("(")[0])
            if several and epsilon is not None:
                series += f", {mechanism(arm)}"
            points.append(EpsilonPoint(series, epsilon, row["success_rate"], low, high, _without(arm, "attack")))
        return success_epsilon(points, delta=attacked[0].results[0].cell.setting.delta)

    return [
        Drawn(
            "success_epsilon",
            "Attack success against epsilon",
            f"Images reconstructed over the epsilon of the whole training, against {_against(attacked)}; 95% Wilson "
            "intervals. Settings without a formal guarantee against it stand apart.",
            "Points of images reconstructed against epsilon.",
            draw,
        )
    ]


def _rounds(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """Accuracy over rounds of every training that differs."""
    runs: dict[str, list[list[Any]]] = {}
    seen: set[tuple[str, int]] = set()
    varying = _varying(arms)
    for arm in arms:
        for result in arm.results:
            if result.trained is None or len(result.trained.rounds) < 2:
                continue
            identity = (str(sorted(result.cell.setting.training_identity().items(), key=str)), result.cell.seed)
            if identity in seen:
                continue
            seen.add(identity)
            runs.setdefault(_short(arm, varying), []).append(result.trained.rounds)
    usable = {name: r for name, r in runs.items() if any(row.get("accuracy") is not None for run in r for row in run)}
    if not usable:
        return []

    def draw() -> Figure:
        from fedpriv.figures.curves import training_curves

        return training_curves(usable, target=arms[0].results[0].cell.setting.training.target_accuracy)

    return [
        Drawn(
            "training_curves",
            "Training",
            "Test accuracy and loss over communication rounds; bands span the seeds.",
            "Curves of accuracy and loss over rounds.",
            draw,
        )
    ]


def _costs(experiment: Experiment, arms: Sequence[Arm]) -> list[Drawn]:
    """Seconds and gradient evaluations an attack takes."""
    attacked = _attacked(arms)
    if not attacked:
        return []
    by = "attack" if "attack" in _varying(attacked) else None
    groups: dict[str, list[Arm]] = {}
    varying = _varying(attacked)
    for arm in attacked:
        groups.setdefault(str(arm.labels[by]) if by else _short(arm, varying), []).append(arm)

    def draw() -> Figure:
        from fedpriv.figures.cost_bars import CostBar, cost_bars

        bars = []
        for name, group in groups.items():
            rows = [a.row() for a in group]
            seconds = float(np.median([r["seconds_median"] for r in rows]))
            bars.append(CostBar(name, seconds, float(np.median([r["evaluations_median"] for r in rows]))))
        return cost_bars(bars)

    return [
        Drawn(
            "costs",
            "Cost of attacking",
            "Median wall-clock and gradient evaluations of one trial, without compilation where told apart.",
            "Bars of seconds and gradient evaluations.",
            draw,
        )
    ]
