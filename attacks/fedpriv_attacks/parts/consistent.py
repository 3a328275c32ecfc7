"""Consistent: matching an update that was compressed, by what its message leaves open."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from fedpriv.base.errors import CapabilityError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat, Scalar
from fedpriv.defense.stations import Defense, Station, labels
from fedpriv.models.spec import Spec
from fedpriv.threat.replays import CELLS, note
from fedpriv.threat.view import View
from fedpriv_attacks.parts.objectives import TINY, Objective


class Consistent(Objective):
    """Squared distance of the simulated update to all those that would have given the observed message.

    A compressor that the adversary knows says between what bounds an update lay, coordinate by coordinate, for what it
    sent (`Defense.cells`): half a step around a rounded value, beyond the smallest sent value none of those left
    out, a sign's half-line. Inside of its bounds a coordinate costs nothing, beyond them its square; the whole is
    relative to the observed update's squared norm. That is consistent reconstruction from quantized measurements
    (Jacques, Hammond, Fadili 2011, "Dequantizing Compressed Sensing", arXiv 0902.2367) with a network in place of their
    linear map. The update is replayed up to the compressor. 0 at the truth, whatever the rounding took away, where no
    error of earlier rounds was added.

    Needs an update of one client, whose last defense before the message is such a compressor. Without one it is
    refused; `masked` looks at what was sent alone, and `signed` at signs of unknown scale.
    """

    kind: ClassVar[str] = "consistent"
    paper: ClassVar[str] = "after Jacques, Hammond, Fadili 2011, arXiv 0902.2367"

    def prepared(self, view: View) -> tuple[Objective, View]:
        """The objective for the compressor of this view, which then knows all defenses but that one.

        Raises:
          CapabilityError: no known compressor was the last to act on one client's update.
        """
        names = labels(view.defenses)
        acting = [i for i, d in enumerate(view.defenses) if {Station.UPDATE, Station.GRADIENT} & set(d.stations)]
        i = acting[-1] if acting else None
        if view.kind != "update" or i is None:
            what = "is no single client's update" if view.kind != "update" else "was changed by no known defense"
            raise CapabilityError(
                f"objective '{self.kind}' goes by what a compressed update leaves open, but what is seen here {what}; "
                f"use 'squared_error' or 'cosine'; {view.describe()}"
            )
        link = view.defenses[i]
        if not type(link).leaves_cells():
            raise CapabilityError(
                f"objective '{self.kind}' goes by the bounds that a compressor leaves (its cells), but the last to act "
                f"on the update is '{names[i]}', which has none; use 'signed' for signs, 'known_noise' for noise, "
                "'squared_error' or 'cosine' for all else, or 'informed', which chooses"
            )
        if Station.UPDATE not in link.stations and _steps(view) != 1:
            raise CapabilityError(
                f"objective '{self.kind}': '{names[i]}' changes every local step's gradient, so its cells are seen in "
                f"an update of one step alone: {view.describe()}"
            )
        zeros = tf.zeros([view.model.spec.size], view.model.spec.dtype)
        if link.cells(zeros, view.model.spec) is None:
            raise CapabilityError(
                f"objective '{self.kind}': '{names[i]}' with these parameters leaves no cells that its message tells; "
                "use 'signed' for signs of an unknown scale, 'squared_error' where rounding is unbiased, or 'informed'"
            )
        note([CELLS + names[i]])
        start = sum(len(d.parts()) for d in view.defenses[:i])
        stop = start + len(link.parts())
        without = replace(
            view,
            defenses=(*view.defenses[:i], *view.defenses[i + 1 :]),
            states=(*view.states[:start], *view.states[stop:]),
        )
        return _Fitted(layers=self.layers, defense=link, examples=_examples(view)), without

    def distance(self, simulated: Flat, observed: Flat, spec: Spec) -> Scalar:
        """Only what `prepared` gives knows a compressor."""
        raise CapabilityError(f"objective '{self.kind}' needs a view to learn its compressor from")

    def floor(self, noise: float) -> float:
        """The noise itself, at most."""
        return noise


def _steps(view: View) -> int | None:
    """Local steps behind an update; None where they are unknown."""
    if view.procedure is None or not view.num_examples:
        return None
    return max(view.procedure.local_steps(n) for n in view.num_examples)


def _examples(view: View) -> int | None:
    """How many examples are behind an update of one step; None where there are more steps, or it is unknown."""
    if _steps(view) != 1 or view.procedure is None or not view.num_examples:
        return None
    size = view.procedure.batch_size
    return int(max(n if size is None else min(size, n) for n in view.num_examples))


class _Fitted(Objective):
    """`Consistent` for one compressor."""

    kind: ClassVar[str] = "consistent"

    defense: Any
    examples: int | None = None

    def __call__(self, simulated: Flat, observed: Flat, spec: Spec) -> Scalar:
        """See `Objective.__call__`; the bounds are those of the whole message, whichever layers count."""
        return self.matched(simulated, observed, tf.ones([], observed.dtype), spec)

    def matched(self, simulated: Flat, direction: Flat, scale: Scalar, spec: Spec) -> Scalar:
        """See `Objective.matched`; a format's smallest step does not scale with what is sent."""
        defense: Defense = self.defense
        cells = defense.cells(direction / scale, spec, self.examples)
        assert cells is not None
        low, high, simulated, observed = cells[0] * scale, cells[1] * scale, simulated * scale, direction
        beyond = tf.nn.relu(low - simulated) + tf.nn.relu(simulated - high)
        if self.layers is not None:
            chosen = set(self.chosen(spec))
            counted = tf.concat([tf.fill([n], float(i in chosen)) for i, n in enumerate(spec.sizes)], 0)
            beyond, observed = (v * tf.cast(counted, v.dtype) for v in (beyond, observed))
        return tf.nn.l2_loss(beyond) / tf.maximum(tf.nn.l2_loss(observed), TINY)

    def distance(self, simulated: Flat, observed: Flat, spec: Spec) -> Scalar:
        """As called."""
        return self(simulated, observed, spec)

    def floor(self, noise: float) -> float:
        """The noise itself, at most."""
        return noise
