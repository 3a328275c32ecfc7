"""Captured: a view of a round that somebody else's program trained, made of the files that it left."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fedpriv.base import registry
from fedpriv.base.errors import ParameterError, printable
from fedpriv.base.types import Array
from fedpriv.capture.consistency import Check, check_truth, consistency
from fedpriv.capture.files import Layout, Stored, half_spacing, stored
from fedpriv.capture.layout import STATISTICS, Arrangement, arrange, joined, near, role_of, table, unflattened
from fedpriv.capture.stated import check_room, stated_procedure
from fedpriv.data.kind import Kind
from fedpriv.data.kinds.default import kind_of
from fedpriv.defense.line import Line
from fedpriv.defense.plan import Plan
from fedpriv.defense.stations import Defense
from fedpriv.models.model import Model
from fedpriv.procedure.procedure import Optimizer, Procedure, Sampling
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.decay import without_decay
from fedpriv.threat.observation import Observation
from fedpriv.threat.truth import Truth
from fedpriv.threat.view import View

Given = str | Path | Mapping[str, Any] | Sequence[Any] | Array

#: Above this share of an update, the rounding of half precision leaves nothing that could be told.
_TOO_COARSE = 0.5


@dataclass(frozen=True, eq=False)
class Capture:
    """A captured round.

    Attributes:
      view: what attacks get.
      arrangement: what was matched with what.
      warnings: what a user must know of the files.
      rounding: of the update, relative to its length: what the numbers' precision leaves open; at most that in single
        precision, about that in half.
      half: whether a file has half precision.
    """

    view: View
    arrangement: Arrangement
    warnings: tuple[str, ...]
    rounding: float
    half: bool = False

    def table(self) -> str:
        """Which array became which of the model's weights, as lines of text."""
        return table(self.arrangement)

    def check(self, x: Array | None = None, y: Array | None = None, order: Array | None = None) -> Check:
        """Whether the stated procedure can explain the update at all.

        Args:
          x, y: the truth, `[n, *input_shape]` and `[n]`: then the procedure is replayed. Without it only sizes and what
            moved are looked at.
          order: int `[epochs, n]`, in which order each epoch took the examples, where that is known.
        """
        return consistency(self.view, self.rounding, x, y, order, coarse=self.half)

    def observation(self, x: Array, y: Array) -> Observation:
        """View and truth together, which `run_trial` scores an attack by.

        Args:
          x, y: the truth, `[n, *input_shape]` and `[n]`, clients one after the other.

        Raises:
          ParameterError: examples of another shape or number.
        """
        x, y = np.asarray(x, np.float32), np.asarray(y)
        check_truth(self.view, x, y)
        view, clients = self.view, tuple(range(self.view.clients or 1))
        truth = Truth(x, y, clients, kind=view.data_kind, num_classes=view.model.num_classes)
        return Observation(view, truth, self.warnings)


def captured(
    model: Model,
    *,
    before: Given,
    after: Given | None = None,
    update: Given | None = None,
    update_is: Literal["gradient", "difference"] = "gradient",
    procedure: Procedure | str | None = None,
    examples: int | Sequence[int] | None = None,
    labels: Array | None = None,
    layout: Layout | None = None,
    assigned: Mapping[str, str] | None = None,
    flatten: Layout | None = None,
    frozen: Sequence[str] = (),
    defenses: Sequence[Defense] = (),
    adversary: Adversary | str = "server",
    data_kind: Kind | None = None,
    weighting: Literal["uniform", "examples"] = "uniform",
    round: int = 0,
) -> Capture:
    """A view of a round from its weights before and after, or from a gradient.

    Args:
      model: the model that was trained.
      before: the weights that the client got: a file (`.npz`, `.npy`, `.keras`, `.h5`, `.pt`, `.safetensors`), names
        and arrays, a list of arrays, or one flat array.
      after: the weights that it sent back.
      update: what it sent instead: a gradient of the mean loss, or a difference of weights; see `update_is`.
      update_is: `gradient`, or `difference` for after minus before.
      procedure: how it trained, as a Procedure or as `stated_procedure` reads it; None if that is not known, and for
        one gradient.
      examples: how many each client had: one number for one client, several for the mean of several clients' updates;
        None if that is not known.
      labels: targets `[n]`, if the adversary knows them.
      layout, assigned, flatten: see `fedpriv.capture.layout.arrange`.
      frozen: weights, or layers, that were not trained, whether they were sent or not.
      defenses: those that ran, which the adversary knows.
      adversary: whose view it is.
      data_kind: what examples are; None goes by the model's input shape.
      weighting: how several clients' updates were averaged.
      round: the round's number.

    Raises:
      DataError: a file that cannot be read, or holds no weights.
      ParameterError: weights of another model, an update of nothing, or a procedure that has no room for the examples.
    """
    if (after is None) == (update is None):
        raise ParameterError("give the weights after the round, or the update that was sent: one of the two")
    counts = _counts(examples)
    made, trains = _procedure(procedure, counts, after is None and update_is == "gradient")
    if made is not None and counts is not None:
        check_room(made, counts)
    first, second = stored(before, "before"), stored(after if update is None else update, "update")
    arrangement = arrange(model, first, layout, assigned, flatten, frozen)
    first, second = (unflattened(arrangement, s) for s in (first, second))
    _check_same(arrangement, first, second, frozen)
    notes = list[str]()
    weights, change, absent = _weights_and_change(arrangement, first, second, update is not None, notes)
    if update is not None and update_is == "gradient":
        change = -(trains.client.learning_rate) * change
    held = _held_still(model, arrangement, absent, frozen, change, notes)
    rounding = _rounding(model, first, second, weights, change, update is not None, notes)
    known = tuple(defenses)
    if held:
        known = (registry.defenses.create("freeze", layers=list(held)), *known)
    if made is not None and counts is not None and not defenses:
        decaying = made
        made, change = without_decay(model, made, counts, weights, change, made.client.learning_rate, held)
        if made is not decaying:
            decay = decaying.client.weight_decay
            notes.append(f"weight_decay={decay:g} of the one step is taken out of the update")
    return _capture(
        model,
        arrangement,
        weights,
        change,
        made,
        counts,
        labels,
        known,
        adversary,
        data_kind,
        weighting,
        round,
        notes,
        rounding,
        second.half is not None or (update is None and first.half is not None),
    )


def _counts(examples: int | Sequence[int] | None) -> tuple[int, ...] | None:
    if examples is None:
        return None
    given: tuple[Any, ...] = (examples,) if np.ndim(examples) == 0 else tuple(np.asarray(examples).tolist())
    if not given or any(not isinstance(n, numbers.Real) or n < 1 or n % 1 for n in given):
        raise ParameterError(f"examples={examples}: give a whole number from 1 on, or one for each client")
    return tuple(int(float(n)) for n in given)


def _procedure(
    given: Procedure | str | None, counts: tuple[int, ...] | None, gradient: bool
) -> tuple[Procedure | None, Procedure]:
    """(the procedure, or None if it is not known; one whose rate turns a gradient into an update)."""
    single = Procedure(local_epochs=1, batch_size=None, client=Optimizer(learning_rate=1.0))
    if given is None:
        return (single, single) if gradient else (None, single)
    made = stated_procedure(given, counts) if isinstance(given, str) else given
    if gradient:
        if counts is not None and any(made.local_steps(n) > 1 for n in counts):
            raise ParameterError(
                f"a gradient is one step's, but the procedure has {max(made.local_steps(n) for n in counts)} local "
                "steps; leave the procedure out, or say that the update is a difference of weights"
            )
        if made.client.kind not in ("sgd", "momentum") or made.client.weight_decay:
            raise ParameterError("a gradient has passed no optimizer; leave the procedure out")
    return made, made


def _check_same(arrangement: Arrangement, first: Stored, second: Stored, frozen: Sequence[str]) -> None:
    """Raises ParameterError where the second file has arrays that the first has not."""
    known = {m.source for m in (*arrangement.matches, *arrangement.statistics)} | set(arrangement.ignored)
    new = [n for n in second.arrays if n not in known]
    if new:
        gone = {n: a.shape for n, a in first.arrays.items() if n not in second.arrays}
        there = gone or {n: a.shape for n, a in first.arrays.items()}
        listed = "; ".join(f"'{printable(n)}'{near(n, second.arrays[n].shape, there)}" for n in new[:3])
        more = f"; and {len(new) - 3} more" if len(new) > 3 else ""
        raise ParameterError(
            f"{second.source} has arrays that {first.source} has not: {listed}{more}; give both files in the same "
            "format, with the same names"
        )


def _weights_and_change(
    arrangement: Arrangement, first: Stored, second: Stored, is_update: bool, notes: list[str]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Weights and update `[d]` in float64, and the names of what was in no file or not sent."""
    model = arrangement.model
    own = model.spec.unflatten_numpy(model.initial_weights(0).astype(np.float64))
    starts, ends = list[Array](), list[Array]()
    absent = list[str]()
    for i, match in enumerate(arrangement.matches):
        (start,), (end,) = (arrangement.arrays(s, [match]) for s in (first, second))
        if start is None:
            start = own[model.buffers + i]
            notes.append(f"'{match.target}' is in no file: it is as the model was built")
        if end is None:
            absent.append(match.target)
            end = np.zeros_like(start) if is_update else start
        starts.append(start)
        ends.append(end)
    if model.buffers:
        before, after = _statistics(arrangement, first, second, is_update)
        starts, ends = [*before, *starts], [*after, *ends]
    elif arrangement.ignored:
        _check_frozen_statistics(model, arrangement, first)
        notes.append(
            f"the files' running statistics ('{printable(arrangement.ignored[0])}', ...) are no weights of model "
            f"'{model.name}': {_normalizes(model)}"
        )
    weights, end = joined(starts), joined(ends)
    change = end if is_update else end - weights
    if not np.any(change[model.buffer_size :]):
        raise ParameterError(
            f"{second.source} is zero: there is nothing in it; give the update of a client that trained"
            if is_update
            else f"{second.source} equals {first.source}: nothing was trained, or both were saved at the same time "
            "(PyTorch's state_dict() refers to the weights, which change; save a copy before training)"
        )
    return weights, change, absent


def _check_frozen_statistics(model: Model, arrangement: Arrangement, first: Stored) -> None:
    """Raises ParameterError where a model that normalizes with statistics of its own has others than the file."""
    if model.running is None:
        return
    own = [np.asarray(a, np.float64) for pair in model.running for a in pair]
    told = [first.arrays[n] for n in arrangement.ignored if n in first.arrays]
    if sorted(a.shape for a in own) != sorted(a.shape for a in told):
        return
    for name in arrangement.ignored:
        if name in first.arrays and not any(
            a.shape == first.arrays[name].shape and np.allclose(a, first.arrays[name], rtol=1e-4, atol=1e-6)
            for a in own
        ):
            raise ParameterError(
                f"model '{model.name}' normalizes with frozen statistics, and '{printable(name)}' of {first.source} is "
                "none of them; build it with the client's, with batch_norm=train if the client used its batches' own, "
                "or with batch_norm=running if it kept running ones"
            )


def _normalizes(model: Model) -> str:
    if model.running is not None:
        return (
            "it normalizes with frozen statistics of its own, which must be those that the client had; with "
            "batch_norm=running it takes the files'"
        )
    if model.moments is not None:
        return "it normalizes with the batch's own; with batch_norm=running attacks can use what was sent"
    return "it has no batch normalization"


def _statistics(
    arrangement: Arrangement, first: Stored, second: Stored, is_update: bool
) -> tuple[list[Array], list[Array]]:
    """The model's buffers before and after, of which the first is how full they are: wholly, as PyTorch keeps them."""
    model, found = arrangement.model, arrangement.statistics
    before, after = (arrangement.arrays(s, found) for s in (first, second))
    if not found or is_update or any(a is None for a in (*before, *after)):
        what = "the update" if is_update else "the files"
        raise ParameterError(
            f"model '{model.name}' keeps running statistics ('{model.spec.names[1]}', ...) that {what} do not tell; "
            "build it with batch_norm=train if the client normalized with its batches' own and did not send "
            "them, or give both files whole"
        )
    share = np.ones(model.spec.shapes[0])
    return [share, *(a for a in before if a is not None)], [share, *(a for a in after if a is not None)]


def _held_still(
    model: Model,
    arrangement: Arrangement,
    absent: Sequence[str],
    frozen: Sequence[str],
    change: Array,
    notes: list[str],
) -> list[str]:
    """Names of the weights that were not trained: those said to be, and those that were not sent."""
    names = [m.target for m in arrangement.matches]
    for one in frozen:
        if not any(_below(n, one) for n in names):
            from fedpriv.base.errors import did_you_mean

            raise ParameterError(
                f"frozen: model '{model.name}' has no weight or layer '{one}'.{did_you_mean(one, names)}"
            )
    said = [n for n in names if any(_below(n, one) for one in frozen)]
    moved = {n for n in names if np.any(change[model.spec.slice_of(n)])}
    if wrong := [n for n in said if n in moved]:
        raise ParameterError(f"'{wrong[0]}' is said to be frozen, but it moved; leave it out of frozen")
    if not_sent := [n for n in absent if n not in said]:
        notes.append(f"not sent, so taken to be frozen: {', '.join(not_sent)}")
    still = [n for n in names if n not in moved and n not in said and n not in absent]
    if still:
        notes.append(
            f"did not move at all: {', '.join(still)}; where that was frozen rather than dead, say so by frozen"
        )
    return [n for n in names if n in said or n in not_sent]


def _below(name: str, layer: str) -> bool:
    return name == layer or name.startswith(f"{layer}/")


def _rounding(
    model: Model, first: Stored, second: Stored, weights: Array, change: Array, is_update: bool, notes: list[str]
) -> float:
    """What rounding leaves open of the update, relative to its length."""
    trained, moved = weights[model.buffer_size :], float(np.linalg.norm(change[model.buffer_size :]))
    half = [s for s in ((second,) if is_update else (first, second)) if s.half is not None]
    if not half:
        unit = float(np.finfo(np.float32).eps)
        return unit * (1.0 if is_update else float(np.linalg.norm(trained)) / moved)
    whole = float(np.linalg.norm(joined(list(second.arrays.values())))) if is_update else moved
    size = float(np.sqrt(sum(_variance(s) for s in half))) / whole
    if size > _TOO_COARSE:
        raise ParameterError(
            f"{half[0].source} has half precision ({half[0].half}), and the update is so small that rounding is "
            f"{size:.2g} times as large; capture the round in float32"
        )
    notes.append(
        f"{half[0].source} has half precision ({half[0].half}): rounding is about {size:.1g} of the update, which no "
        "attack sees behind"
    )
    return size


def _variance(given: Stored) -> float:
    """Of the rounding of all of a file's weights, added up: a twelfth of the square of each number's spacing."""
    assert given.half is not None
    return sum(
        float(np.sum(half_spacing(a, given.half) ** 2)) / 12
        for n, a in given.arrays.items()
        if role_of(n) not in STATISTICS
    )


def _capture(
    model: Model,
    arrangement: Arrangement,
    weights: Array,
    change: Array,
    procedure: Procedure | None,
    counts: tuple[int, ...] | None,
    labels: Array | None,
    defenses: tuple[Defense, ...],
    adversary: Adversary | str,
    data_kind: Kind | None,
    weighting: Literal["uniform", "examples"],
    number: int,
    notes: list[str],
    rounding: float,
    half: bool,
) -> Capture:
    clients = 1 if counts is None else len(counts)
    if procedure is not None:
        procedure = procedure.model_copy(update={"weighting": weighting})
    sizes = counts or (1,)
    plan = Plan(
        spec=model.spec,
        population=clients,
        cohort=clients,
        expected_cohort=float(clients),
        sampling=Sampling.full(),
        weighting=weighting,
        max_examples=max(sizes),
        sizes=tuple(sorted(set(sizes))),
        procedure=procedure,
    )
    line = Line(defenses, plan)
    whose = Adversary.parse(adversary) if isinstance(adversary, str) else adversary
    whose = whose.without(*(["procedure"] if procedure is None else []), *(["num_examples"] if counts is None else []))
    targets = None
    if labels is not None:
        whose, targets = whose.knowing("labels"), np.asarray(labels)
        if counts is not None and len(targets) != sum(counts):
            raise ParameterError(f"{len(targets)} labels for {sum(counts)} examples; give one each")
    dtype = model.spec.dtype
    view = View(
        adversary=whose,
        kind="update" if clients == 1 else "sum",
        round=number,
        model=model,
        weights=weights.astype(dtype),
        observed=change.astype(dtype),
        plan=plan,
        clients=clients,
        procedure=procedure if "procedure" in whose.knows else None,
        num_examples=counts if "num_examples" in whose.knows else None,
        labels=targets,
        defenses=defenses if "defense" in whose.knows else (),
        states=line.broadcast_states(line.initial_states()) if "defense" in whose.knows else (),
        client_rate=None if procedure is None or "procedure" not in whose.knows else procedure.client.learning_rate,
        data_kind=kind_of(model.input_shape) if data_kind is None else data_kind,
    )
    return Capture(view, arrangement, tuple(notes), rounding, half)
