"""Conclusion: sentences that follow from the numbers by rules which the report states."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedpriv.base.column import Column
from fedpriv.experiment.arm import Arm, attacked_arms, by_goal, strength, words
from fedpriv.experiment.compare import compare_arms
from fedpriv.experiment.experiment import Experiment
from fedpriv.metrics.disclosed import RULE

#: Of how many names a sentence has each.
LISTED = 8

#: What the sentences mean, whatever is asked; each goal adds its own.
RULES = (
    "Which attack is the strongest is judged by these same numbers, so of several alike the luckier one is named.",
    "One setting is said to leak more than another only where the 95% interval of the paired difference excludes zero.",
    "A defense protects only against what was tried: where no attack took the defense into account, that is said.",
)


def sentences(experiment: Experiment, arms: Sequence[Arm]) -> list[str]:
    """The conclusion."""
    said = []
    for asked in by_goal([a for a in arms if a.results]):
        attacked = attacked_arms(asked)
        said += _strongest(attacked) if attacked else []
        said += _disclosed(attacked)
        for axis in dict.fromkeys(n for a in attacked for n in a.labels):
            said += _trend(axis, attacked)
    said += _detected([a for a in arms if a.results])
    said += _cost([a for a in arms if a.results])
    return said


def rules(arms: Sequence[Arm]) -> list[str]:
    """What the sentences on these arms mean."""
    goals = {a.goal.name: a.goal.rules for a in arms if a.goal is not None}
    control = [RULE] if any(a.disclosed is not None for a in arms) else []
    return [*dict.fromkeys(rule for rules in goals.values() for rule in rules), *control, *RULES]


def warnings(arms: Sequence[Arm]) -> list[str]:
    """Arms with a defense that no attack here took into account, and arms that are not complete."""
    said = []
    defended: dict[str, list[bool]] = {}
    for arm in arms:
        for result in arm.results:
            known = result.facts.get("adaptive")
            if known is not None:
                name = ", ".join(_words(arm, "attack")) or arm.name
                defended.setdefault(name, []).append(bool(known))
    ignored = [name for name, known in defended.items() if not any(known)]
    if ignored:
        said.append(
            "attacked only by attacks that ignore the defense, so that what got through is a lower bound of what it "
            f"lets through: {_listed(ignored)}."
        )
    refused = [a for a in arms if a.refused and not any(r.scores for r in a.results)]
    if refused:
        said.append(
            f"in {len(refused)} of {len(arms)} settings the attack does not apply, so that nothing is known of them; "
            "the reasons are below."
        )
    said += _noted(arms)
    missing = sum(a.seeds - len(a.results) for a in arms)
    if missing:
        said.append(f"{missing} of {sum(a.seeds for a in arms)} cells are missing or failed; they are listed below.")
    return said


#: A cell's warning ends by how many of its rounds or trials had it.
_COUNTED = re.compile(r"(?P<said>.*) \(in (?P<count>\d+) of (?P<of>\d+) (?P<what>rounds|trials)\)", re.S)


def _noted(arms: Sequence[Arm]) -> list[str]:
    """What cells warn of, each once, with the arms that it is about, and counted over these and their seeds."""
    names: dict[tuple[str, str], list[str]] = {}
    counts: dict[tuple[str, str], tuple[int, int]] = {}
    for arm in arms:
        for result in arm.results:
            for warning in (w for key in ("warnings", "attack_warnings") for w in result.facts.get(key) or ()):
                found = _COUNTED.fullmatch(warning)
                about = (found["said"], found["what"]) if found else (warning, "")
                names.setdefault(about, []).append(arm.name)
                if found:
                    count, of = counts.get(about, (0, 0))
                    counts[about] = count + int(found["count"]), of + int(found["of"])
    said = []
    for about, where in names.items():
        counted = " (in {} of {} {})".format(*counts[about], about[1]) if about in counts else ""
        said.append(f"in {_listed(list(dict.fromkeys(where)))}: {about[0]}{counted}.")
    return said


def _listed(names: Sequence[str]) -> str:
    """Names one after the other, of many the first few."""
    more = f"; and {len(names) - LISTED} more" if len(names) > LISTED + 1 else ""
    return "; ".join(names[: LISTED if more else None]) + more


def _strongest(attacked: Sequence[Arm]) -> list[str]:
    """For everything but the attack: the attack that got furthest."""
    groups: dict[str, list[Arm]] = {}
    for arm in attacked:
        groups.setdefault(", ".join(_words(arm, "attack")), []).append(arm)
    if len(groups) > 12:  # a table says it better
        most, least = max(attacked, key=strength), min(attacked, key=strength)
        return [
            f"Of {len(groups)} settings {most.name} leaks most: {_verdict(most)}; {least.name} leaks least: "
            f"{_verdict(least)}. The table has all."
        ]
    said = []
    for name, group in groups.items():
        best = max(group, key=strength)
        who = str(best.labels.get("attack", "the attack"))
        among = f", the strongest of {len(group)} attacks," if len(group) > 1 else ""
        head = f"{name}: " if name else ""
        said.append(f"{head}{who}{among} {_verdict(best)}.")
    return said


def _verdict(arm: Arm) -> str:
    assert arm.goal is not None
    return arm.goal.verdict(arm.row())


def _detected(arms: Sequence[Arm]) -> list[str]:
    """Where clients check what they are sent: in how many settings they noticed something."""
    shares = [(arm, share) for arm in arms if (share := arm.mean("alarmed")) is not None]
    if not shares:
        return []
    some = [f"{arm.name} ({share:.0%})" for arm, share in shares if 0 < share < 1]
    every, none = (sum(share == s for _, share in shares) for s in (1.0, 0.0))
    parts = f"; some did in {_listed(some)}" if some else ""
    return [
        f"Of the settings in which clients check what they are sent ({len(shares)}), all of them alarmed or refused in "
        f"{every}, and none did in {none}{parts}."
    ]


def _disclosed(attacked: Sequence[Arm]) -> list[str]:
    """For each arm with a control, what its updates gave away."""
    told = [(arm, arm.disclosed) for arm in attacked if arm.disclosed is not None]
    if len(told) > 12:  # a table says it better
        less = sum(not found.shown for _, found in told)
        return [
            f"In {len(told) - less} of {len(told)} settings with a control the update gave something away; in the "
            "others what was found is the attack's prior, or too few trials tell. A table below says which."
        ]
    said = []
    for arm, found in told:
        sentence, name = found.sentence(), ", ".join(_words(arm))
        said.append(f"{name}: {sentence[:1].lower()}{sentence[1:]}" if name else sentence)
    return said


def _words(arm: Arm, *without: str) -> list[str]:
    return words(arm, arm.labels.keys() - set(without))


def _trend(axis: str, attacked: Sequence[Arm]) -> list[str]:
    """Along an axis of numbers: whether the last value leaks less or more than the first."""
    values = [a.labels[axis] for a in attacked]
    numbers = [v for v in values if isinstance(v, int | float)]
    if len(numbers) < len(values) or len(set(numbers)) < 2:
        return []
    groups: dict[tuple[str, ...], list[Arm]] = {}
    for arm in attacked:
        groups.setdefault(tuple(_words(arm, axis)), []).append(arm)
    said = []
    for name, group in groups.items():
        if len(group) < 2:
            continue
        ordered = sorted(group, key=lambda a: float(a.labels[axis]))
        first, last = ordered[0], ordered[-1]
        a, b = first.row(), last.row()
        assert first.goal is not None
        leads = first.goal.pairs[0]
        pair = next((p for p in compare_arms(first, last) if p.quantity == leads), None)
        change = "no clear change"
        if pair is not None and pair.interval is not None:
            change = "more leaks" if pair.interval[0] > 0 else "less leaks" if pair.interval[1] < 0 else change
        elif pair is None:
            change = "on other images, so not paired"
        elif pair.batches == 1:
            change = "one batch only, no interval"
        of = f"{', '.join(name)}: f" if name else "F"
        columns = map(first.goal.column, first.goal.curves)
        moved = [f"{_within(c)} from {c.text(a[c.name])} to {_with_unit(c, b[c.name])}" for c in columns]
        moved[0] = moved[0].replace(" from ", " goes from ", 1)
        said.append(
            f"{of}rom {axis.replace('_', ' ')} {first.labels[axis]} to {last.labels[axis]}, {' and '.join(moved)} "
            f"({change})."
        )
    return said if len(said) <= 12 else []


def _within(column: Column) -> str:
    """Its label within a sentence."""
    label = column.label
    return label if label[:2].isupper() else label[0].lower() + label[1:]


def _with_unit(column: Column, value: float | None) -> str:
    return f"{column.text(value)} {column.unit}".strip()


def _cost(arms: Sequence[Arm]) -> list[str]:
    """What the best and the worst accuracy are, where something is trained; or how many rounds the target took."""
    aimed = [a for a in arms if a.mean("rounds_to_target") is not None]
    if aimed:
        return _rounds(aimed)
    trained = [a for a in arms if a.mean("accuracy") is not None]
    by: dict[str, Any] = {}
    for arm in trained:
        by.setdefault(", ".join(_words(arm, "attack")) or arm.name, arm)
    if len(by) < 2:
        return []
    best, worst = (f(by, key=lambda n: by[n].mean("accuracy")) for f in (max, min))
    high, low = by[best].mean("accuracy"), by[worst].mean("accuracy")
    if high == low:
        return []
    return [f"Test accuracy lies between {low:.1%} ({worst}) and {high:.1%} ({best})."]


def _rounds(aimed: Sequence[Arm]) -> list[str]:
    """For everything but axes of numbers: the setting that took the fewest rounds."""
    groups: dict[str, list[Arm]] = {}
    for arm in aimed:
        groups.setdefault(", ".join(str(v) for v in arm.labels.values() if isinstance(v, str)), []).append(arm)
    said = []
    for name, group in groups.items():
        best = min(group, key=lambda a: a.mean("rounds_to_target") or 0.0)
        goal, values = best.results[0].cell.setting.training.target_accuracy, best.values("rounds_to_target")
        chosen = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in best.labels.items() if not isinstance(v, str))
        said.append(
            f"{name + ': ' if name else ''}{goal:.0%} test accuracy takes {np.mean(values):.1f} rounds on average "
            f"(from {min(values):.0f} to {max(values):.0f} in {len(values)} seeds){' at ' + chosen if chosen else ''}."
        )
    return said
