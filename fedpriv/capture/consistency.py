"""Consistency: whether a stated procedure can explain an update at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Array
from fedpriv.defense.stations import Defense, labels
from fedpriv.threat.view import View

#: Two frameworks' float32 arithmetic differs by less than this of an update, times what its rounding leaves open.
CLOSE = 1e-4
#: How often its rounding a replay may be off: many steps round in single precision, half precision is rounded to once.
_OF_SINGLE, _OF_HALF = 10, 3
#: Largest side of a kernel whose rank is counted.
_LARGEST = 4096


@dataclass(frozen=True)
class Remark:
    """One thing that was looked at.

    Attributes:
      verdict: `consistent`, `contradiction`, or `open` where it tells neither.
      text: what was found.
    """

    verdict: Literal["consistent", "contradiction", "open"]
    text: str


@dataclass(frozen=True)
class Check:
    """What was found.

    Attributes:
      remarks: one for each thing looked at.
      error: of the replay, relative to the update, where the truth was given; else None.
    """

    remarks: tuple[Remark, ...]
    error: float | None = None

    @property
    def contradicted(self) -> bool:
        """Whether the stated procedure cannot have made the update."""
        return any(r.verdict == "contradiction" for r in self.remarks)

    def describe(self) -> str:
        """In lines."""
        return "\n".join(r.text for r in self.remarks)


def consistency(
    view: View,
    rounding: float,
    x: Array | None = None,
    y: Array | None = None,
    order: Array | None = None,
    *,
    coarse: bool = False,
) -> Check:
    """Replays the procedure on the truth; without it, looks at sizes and at what moved. See `Capture.check`.

    Args:
      view, rounding: as a Capture has them.
      x, y, order: as `Capture.check` has them.
      coarse: whether `rounding` is that of half precision, and so about what is to be expected; else it is a bound on
        the rounding of one step.

    Raises:
      ParameterError: examples of another shape or number.
    """
    if x is None or y is None:
        return Check(tuple(_without_truth(view, rounding)))
    lacking = [
        what
        for what, held in (("the procedure", view.procedure), ("the number of examples", view.num_examples))
        if held is None
    ]
    if lacking:
        said = (
            f"Not replayed on the truth, since {' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not said."
        )
        return Check((Remark("open", said), *_without_truth(view, rounding)))
    try:
        return _replayed(view, rounding * (_OF_HALF if coarse else _OF_SINGLE), np.asarray(x), np.asarray(y), order)
    except CapabilityError as e:
        return Check((Remark("open", f"Not replayed on the truth: {e}"),))


def _replayed(view: View, rounding: float, x: Array, y: Array, order: Array | None) -> Check:
    check_truth(view, x, y)
    trained = slice(view.model.buffer_size, None)
    observed = np.asarray(view.observed, np.float64)
    y = y.astype(view.model.task.target_dtype)

    @tf.function(autograph=False)
    def simulate(x: Array, y: Array) -> Array:
        return view.simulate(x, y) if order is None else view.simulate_from(weights, rate, x, y, by_epoch=True)

    weights, rate = (tf.constant(v, view.model.spec.dtype) for v in (view.weights, view.client_rate or 0.0))
    if order is not None:
        order = _checked_order(view, np.asarray(order), len(x))
        simulated = simulate(tf.constant(x[order]), tf.constant(y[order])).numpy()
    else:
        simulated = simulate(tf.constant(x), tf.constant(y)).numpy()
    length = float(np.linalg.norm(observed[trained]))
    error = float(np.linalg.norm(simulated[trained] - observed[trained])) / length
    if view.model.draws:
        text = (
            f"Replayed on the truth with the means of what model '{view.model.name}' draws in training: relative error "
            f"{error:.1g}. What the client drew is unknown, so that this judges nothing."
        )
        return Check((Remark("open", text),), error)
    drawing = [(label, p) for label, p in _links(view) if not p.replayable]
    if drawing:
        return Check((_beside_draws(view, drawing, error, length),), error)
    allowed = max(CLOSE, rounding)
    said = f"Replayed on the truth: relative error {error:.1g}"
    if error <= allowed:
        floor = f" (rounding leaves up to {rounding:.1g} open)" if rounding > CLOSE else ""
        return Check((Remark("consistent", f"{said}: consistent{floor}."), *_moved_statistics(view, simulated)), error)
    shuffled = order is None and any(view.procedure.steps_per_epoch(n) > 1 for n in view.num_examples or ())  # type: ignore[union-attr]
    if shuffled:
        other = np.random.default_rng(0).permutation(len(x))
        again = simulate(tf.constant(x[other]), tf.constant(y[other])).numpy()
        spread = float(np.linalg.norm(again[trained] - simulated[trained])) / length
        if error <= 2 * spread:
            text = (
                f"{said}, which the unknown order of the batches explains: two orders differ by {spread:.1g}. "
                "Consistent as far as that goes; with `order` in the truth it is exact."
            )
            return Check((Remark("consistent", text),), error)
    return Check(
        (
            Remark(
                "contradiction", f"{said}: the stated procedure does not explain the update. {_hint(view, simulated)}"
            ),
        ),
        error,
    )


def check_truth(view: View, x: Array, y: Array) -> None:
    """Raises ParameterError for examples that are not as many, or not of the shape, that the view says."""
    if x.shape[1:] != view.model.input_shape or len(x) != len(y):
        raise ParameterError(
            f"the truth has examples {list(x.shape)} and labels {list(y.shape)}, but model '{view.model.name}' takes "
            f"{list(view.model.input_shape)} and a label each"
        )
    if view.num_examples is not None and len(x) != view.total_examples:
        raise ParameterError(f"the truth has {len(x)} examples, but {view.total_examples} are stated; give the same")


def _links(view: View) -> list[tuple[str, Defense]]:
    """The links of the known defenses, each with its defense's label."""
    pairs = zip(labels(view.defenses), view.defenses, strict=True)
    return [(label, part) for label, defense in pairs for part in defense.parts()]


def _beside_draws(view: View, drawing: Sequence[tuple[str, Defense]], error: float, length: float) -> Remark:
    """What a replay says where a defense draws: where that is noise of a known size alone, whether it may be that."""
    names = " and ".join(f"'{label}'" for label in dict.fromkeys(label for label, _ in drawing))
    said = f"Replayed on the truth without what {names} {'draws' if len(drawing) == 1 else 'draw'}: relative error "
    noise = drawing[0][1].noise(view.plan) if len(drawing) == 1 and view.kind == "update" else None
    if noise is None or noise.where != "update" or noise.scale is None:
        return Remark("open", f"{said}{error:.1g}. What the client drew is unknown, so that this judges nothing.")
    sent = int(np.count_nonzero(np.asarray(view.observed)[view.model.buffer_size :]))
    expected = noise.scale * math.sqrt(sent) / length
    said += f"{error:.2g}, and its noise alone is about {expected:.2g} of the update"
    if error < expected / 2:
        return Remark("contradiction", f"{said}: there is less noise in it, or none.")
    if error > 2 * expected:
        return Remark("contradiction", f"{said}: the stated procedure and defenses do not explain the rest.")
    return Remark("consistent", f"{said}: consistent as far as noise lets that be seen.")


def _checked_order(view: View, order: Array, n: int) -> np.ndarray:
    if order.ndim == 1:
        order = order[None]
    if order.shape[1:] != (n,) or any(sorted(row) != list(range(n)) for row in order.tolist()):
        raise ParameterError(
            f"order has shape {list(order.shape)}; give [epochs, {n}], each row an order of 0 to {n - 1}"
        )
    return order


def _moved_statistics(view: View, simulated: Array) -> list[Remark]:
    """Of running statistics, which no gradient moves."""
    first = view.model.buffer_size
    if not first:
        return []
    observed = np.asarray(view.observed, np.float64)[:first]
    length = float(np.linalg.norm(observed))
    error = float(np.linalg.norm(simulated[:first] - observed)) / length if length else float("inf")
    if error <= CLOSE:
        return [Remark("consistent", f"Running statistics: relative error {error:.1g}: consistent.")]
    why = "PyTorch keeps unbiased variances, and its momentum is 1 minus Keras's"
    return [Remark("open", f"Running statistics: relative error {error:.1g} ({why}).")]


def _hint(view: View, simulated: Array) -> str:
    """What would explain it better."""
    spec, first = view.model.spec, view.model.buffer_size
    a, b = simulated[first:].astype(np.float64), np.asarray(view.observed, np.float64)[first:]
    if not np.any(a):
        return "The replay moves nothing."
    factor = float(a @ b / (a @ a))
    left = float(np.linalg.norm(b - factor * a) / np.linalg.norm(b))
    if left < min(0.02, 0.1 * float(np.linalg.norm(b - a) / np.linalg.norm(b))):
        rate = factor * (view.client_rate or 1.0)
        explained = f": a learning rate of {rate:.4g} would explain it" if factor > 0 else ""
        return f"It is {factor:.4g} times what the procedure gives{explained}."
    if factor < 0 and left < 0.7:
        return (
            "It points the other way: before and after may be exchanged, or a gradient's sign, or a difference of "
            "weights was taken for a gradient (update_is)."
        )
    parts = {}
    for name in spec.names[view.model.buffers :]:
        part = spec.slice_of(name)
        o, s = np.asarray(view.observed, np.float64)[part], simulated[part]
        parts[name] = float(np.linalg.norm(s - o)) / max(float(np.linalg.norm(o)), 1e-30)
    still = [n for n in parts if not np.any(np.asarray(view.observed)[spec.slice_of(n)]) and parts[n] > 0]
    if still:
        return (
            f"{', '.join(still)} did not move, which the procedure would have moved: say what was not trained (frozen)."
        )
    worst, best = max(parts, key=parts.__getitem__), min(parts, key=parts.__getitem__)
    return (
        f"It is furthest off at '{worst}' ({parts[worst]:.2g}), least at '{best}' ({parts[best]:.2g}). Other "
        "preprocessing of the examples, another loss, dropout, other steps or another matching of weights would do "
        "that."
    )


def _without_truth(view: View, rounding: float) -> list[Remark]:
    model, remarks = view.model, list[Remark]()
    observed = np.asarray(view.observed, np.float64)
    plain = all(d.name == "freeze" for d in view.defenses)
    client = None if view.procedure is None else view.procedure.client
    if not plain:
        remarks.append(Remark("open", "Sizes are not looked at, since defenses change them."))
    elif client is not None and client.kind not in ("sgd", "momentum"):
        remarks.append(
            Remark("open", f"Sizes are not looked at, since the client's {client.kind} rescales every weight.")
        )
    elif model.task.softmax and model.classifier_bias() is not None:
        remarks += _last_bias(view, observed[model.classifier_bias()], rounding)
    if plain:
        remarks += _ranks(view, observed, rounding)
    if not remarks:
        remarks.append(Remark("open", "Nothing in this model's update tells of the procedure without the truth."))
    return remarks


def _last_bias(view: View, moved: Array, rounding: float) -> list[Remark]:
    """The last bias's gradient is the mean of predictions minus targets: its entries add up to 0, each within 1."""
    remarks = list[Remark]()
    largest = float(np.abs(moved).max())
    if largest == 0:
        return [Remark("open", "The last layer's bias did not move, so sizes tell nothing.")]
    decays = view.procedure is not None and view.procedure.client.weight_decay > 0
    off = abs(float(moved.sum())) / float(np.abs(moved).sum())
    weight = np.abs(np.asarray(view.weights)[view.model.classifier_bias()]).max()
    grain = 1e-3 + 4 * len(moved) * float(np.finfo(np.float32).eps) * float(weight) / largest + 10 * rounding
    if not decays and off > grain:
        remarks.append(
            Remark(
                "open" if view.procedure is None else "contradiction",
                f"The last bias's update adds up to {off:.2g} of its size; under softmax cross-entropy and SGD it "
                "adds up to 0. Another loss, weight decay, noise, or an update that is not whole would do that.",
            )
        )
    elif not decays:
        remarks.append(Remark("consistent", "The last bias's update adds up to 0, as softmax cross-entropy has it."))
    rising = int(np.sum(moved > grain * largest))
    if not decays and view.num_examples is not None and rising > (n := sum(view.num_examples)):
        remarks.append(
            Remark(
                "open" if view.procedure is None else "contradiction",
                f"The last bias rises for {rising} classes, and SGD on {n} example{'s' if n > 1 else ''} raises it for "
                f"at most {n}: files before and after may be swapped, the update's sign turned, or the examples more.",
            )
        )
    if view.procedure is None or view.num_examples is None or view.client_rate is None:
        return remarks
    momentum = view.procedure.client.momentum if view.procedure.client.kind == "momentum" else 0.0
    steps = max(view.procedure.local_steps(n) for n in view.num_examples)
    reach = sum((1 - momentum**k) / (1 - momentum) for k in range(1, steps + 1)) * view.client_rate
    if decays:
        remarks.append(Remark("open", "With weight decay the last bias's size tells nothing for sure."))
    elif largest > reach * (1 + 1e-3 + rounding):
        remarks.append(
            Remark(
                "contradiction",
                f"The last bias moved by {largest:.3g}, and {steps} steps at rate {view.client_rate:g} move it by "
                f"{reach:.3g} at most: rate or steps were at least {largest / reach:.3g} times as large.",
            )
        )
    else:
        remarks.append(
            Remark(
                "consistent",
                f"The last bias moved by {largest:.3g}, within the {reach:.3g} that {steps} steps at rate "
                f"{view.client_rate:g} can move it"
                + (
                    ", but by less than a thousandth of that: the examples are fitted already, or the rate was smaller."
                    if largest < 1e-3 * reach
                    else "."
                ),
            )
        )
    return remarks


def _ranks(view: View, observed: Array, rounding: float) -> list[Remark]:
    """A dense layer's gradient is a sum of one product an example, so its rank is at most their number."""
    decays = view.procedure is not None and view.procedure.client.weight_decay > 0
    if decays or view.num_examples is None or view.procedure is None or not view.model.chain:
        return []
    several = 1 if all(view.procedure.local_steps(n) == 1 for n in view.num_examples) else None
    remarks = list[Remark]()
    for number, layer in enumerate(view.model.chain):
        if layer.kind != "dense" or layer.kernel is None or (number and several is None):
            continue  # what enters a later layer changes from step to step
        inputs, units = layer.input_shape[0], layer.output_shape[0]
        n = sum(view.num_examples)
        if min(inputs, units) <= n or max(inputs, units) > _LARGEST:
            continue
        part = view.model.spec.slice_of(layer.kernel)
        kernel, weights = (np.asarray(v, np.float64)[part] for v in (observed, view.weights))
        values = np.linalg.svd(kernel.reshape(inputs, units), compute_uv=False)
        grain = float(np.finfo(np.float32).eps) * float(np.sqrt(np.mean(weights**2))) + rounding * float(
            np.sqrt(np.mean(kernel**2))
        )
        least = 4 * grain * (np.sqrt(inputs) + np.sqrt(units)) + 1e-5 * values[0]
        rank = int(np.sum(values > least))
        if rank > n:
            text = (
                f"The update of '{layer.kernel}' has rank {rank}, and {n} examples give at most {n}: there were at "
                f"least {rank} examples, or noise was added."
            )
            remarks.append(Remark("contradiction", text))
        elif rank:
            text = f"The update of '{layer.kernel}' has rank {rank}, which {n} examples can give."
            remarks.append(Remark("consistent", text))
    return remarks
