"""Account: the event of one client's local steps of DP-SGD in one round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedpriv.account.accounting import new_accountant
from fedpriv.base.lazy import dp_accounting
from fedpriv.defense.claim import Relation
from fedpriv.defense.event import RenyiEvent
from fedpriv.procedure.procedure import Procedure
from fedpriv_defenses.dp_sgd.mixture import mixture_event

#: Of more different numbers of local steps than this, the account takes the most steps at the highest rate.
MOST_KINDS = 32


@dataclass(frozen=True)
class LocalSteps:
    """What the account needs of one client's round.

    Attributes:
      selection: as `Procedure.batch_selection`.
      examples: n.
      batch: B.
      steps: local steps.
      epochs: local epochs begun.
    """

    selection: str
    examples: int
    batch: int
    steps: int
    epochs: int

    @property
    def rate(self) -> float:
        """q = B / n."""
        return self.batch / self.examples


def kinds_of(procedure: Procedure, sizes: Sequence[int]) -> list[LocalSteps]:
    """The clients that can have the weakest guarantee: of those with as many steps, the one with fewest examples."""
    found: dict[int, LocalSteps] = {}
    for n in sorted(sizes):
        steps = procedure.local_steps(n)
        batch = min(procedure.batch_size or n, n)
        epochs = -(-steps // procedure.steps_per_epoch(n))
        one = LocalSteps(procedure.batch_selection, n, batch, steps, epochs)
        found.setdefault(one.epochs if not procedure.drawn else one.steps, one)
    kinds = list(found.values())
    if len(kinds) > MOST_KINDS:
        most = max(kinds, key=lambda one: one.steps)
        least = min(kinds, key=lambda one: one.examples)
        kinds = [LocalSteps(procedure.batch_selection, least.examples, least.batch, most.steps, most.epochs)]
    return kinds


def relation_of(selection: str) -> Relation:
    """What makes two clients' examples neighbours: one more or less where each is drawn by itself, else another."""
    return "add_or_remove_one" if selection == "poisson" else "replace_one"


def amplified(one: LocalSteps, multiplier: float, records: int = 1) -> Any:
    """The event of one client's steps, with what the drawing of batches gives.

    Args:
      one: the client.
      multiplier: noise standard deviation over the norm that each gradient is clipped to.
      records: how many examples the protected unit has.
    """
    if one.selection == "poisson":
        if records > 1:
            return mixture_event(multiplier, records, one.rate, one.steps)
        step = dp_accounting.GaussianDpEvent(multiplier)
        if one.rate < 1:
            step = dp_accounting.PoissonSampledDpEvent(one.rate, step)
        return dp_accounting.SelfComposedDpEvent(step, one.steps)
    if one.selection == "fixed" and records == 1 and one.batch < one.examples:
        step = dp_accounting.GaussianDpEvent(multiplier / 2)
        return dp_accounting.SelfComposedDpEvent(
            dp_accounting.SampledWithoutReplacementDpEvent(one.examples, one.batch, step), one.steps
        )
    return plain(one, multiplier, records)


def repeated(event: Any, times: int) -> Any:
    """An event that happens so many times."""
    if not isinstance(event, RenyiEvent):
        return dp_accounting.SelfComposedDpEvent(event, times)
    parameters = (*event.parameters, ("times", float(times)))
    return RenyiEvent(event.name, parameters, lambda order: times * event.curve(order))


def plain(one: LocalSteps, multiplier: float, records: int = 1) -> Any:
    """The event of one client's steps, as if everybody knew the batches.

    Shuffled batches are disjoint within an epoch: an example is in one of them, so that an epoch is one Gaussian
    mechanism, of sensitivity 2 clip for an example replaced by another; k records of one user, however they fall into
    the epoch's batches, move all of its sums together by at most 2 k clip.
    """
    moved = records if one.selection == "poisson" else 2 * records
    count = one.epochs if one.selection == "shuffled" else one.steps
    return dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(multiplier / moved), count)


def worst(kinds: Sequence[LocalSteps], multiplier: float, records: int = 1) -> list[Any]:
    """Events that each bound every kind of client: one if there is one kind, else two.

    Of several kinds the first takes the most steps of any at the highest rate of any, which every accountant composes;
    the second the largest Renyi divergence at each order, which is tighter and composed by `rdp`.
    """
    if len(kinds) == 1:
        return [amplified(kinds[0], multiplier, records)]
    least = min(kinds, key=lambda one: (-one.rate, one.examples))
    steps, epochs = max(one.steps for one in kinds), max(one.epochs for one in kinds)
    bound = LocalSteps(least.selection, least.examples, least.batch, steps, epochs)
    relation = relation_of(least.selection)
    events = [amplified(one, multiplier, records) for one in kinds]
    if any(isinstance(event, RenyiEvent) for event in events):
        return [amplified(bound, multiplier, records)]
    curves: dict[float, float] = {}

    def curve(order: float) -> float:
        if not curves:
            found = [new_accountant("rdp", relation).compose(event) for event in events]
            highest = np.max([one.rdp for one in found], axis=0)
            curves.update(zip((float(o) for o in found[0].orders), (float(v) for v in highest)))
        return curves.get(order, math.inf)

    facts = tuple(
        (f"{name}_{i}", float(value))
        for i, one in enumerate(kinds)
        for name, value in (
            ("examples", one.examples),
            ("batch", one.batch),
            ("steps", one.steps),
            ("epochs", one.epochs),
        )
    )
    parameters = (("noise_multiplier", float(multiplier)), ("records", float(records)), *facts)
    name = f"DP-SGD's weakest client, {least.selection} batches"
    return [amplified(bound, multiplier, records), RenyiEvent(name, parameters, curve)]
