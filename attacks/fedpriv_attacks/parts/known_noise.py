"""Known noise: what an adversary who knows the defenses can tell of a view's noise, and the likelihood under it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from fedpriv.base.errors import CapabilityError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat, Scalar
from fedpriv.defense.aggregator import Aggregator
from fedpriv.defense.codec import Codec
from fedpriv.defense.combiner import Combiner
from fedpriv.defense.noise import Noise
from fedpriv.defense.stations import Defense, Station, labels
from fedpriv.models.spec import Spec
from fedpriv.threat.replays import NOISE, note
from fedpriv.threat.view import View
from fedpriv_attacks.parts.objectives import Objective

#: Least noise of a coordinate against the largest of a tensor's, where tensors have their own.
_LEAST_SHARE = 0.1
#: Rounding counts for nothing where a step is no larger than this share of the noise's standard deviation: it adds a
#: twelfth of its square to the variance.
_FINE = 0.5


def known_noise(view: View) -> float:
    """Standard deviation of the noise on one coordinate of `view.observed`, from what the known defenses declare.

    Noise on messages averages out in a sum; noise on the sum is in what is released alone. Whatever its distribution,
    it counts as normal with its standard deviation. What comes after the noise must leave it as large as it was, as
    fine rounding does; `clip` and `top_k` do not. What noise in one local step does to the gradients of the next is not
    reckoned with.

    Returns:
      The standard deviation, in units of the observed update; 0 where the known defenses add none that this view shows.

    Raises:
      CapabilityError: a defense says that the data decide how large its noise is, a later one changes it, or the number
        of clients behind the view is not known.
    """
    variance, taken = 0.0, []
    line = _line(view)
    for i, (label, part) in enumerate(line):
        declared = part.noise(view.plan)
        if declared is None:
            continue
        share = _share(view, declared, label)
        if share > 0 and (said := _hidden(view, line, i, declared, math.sqrt(share))):
            raise CapabilityError(said)
        variance += share
        taken.append(NOISE + label)
    note(taken)
    return math.sqrt(variance)


def _line(view: View) -> list[tuple[str, Defense]]:
    """The links of the known defenses, each with its defense's label."""
    pairs = zip(labels(view.defenses), view.defenses, strict=True)
    return [(label, part) for label, defense in pairs for part in defense.parts()]


def _hidden(view: View, line: Sequence[tuple[str, Defense]], place: int, declared: Noise, scale: float) -> str:
    """Why noise of deviation `scale`, added by the link at `place`, is not all that a replay leaves; "" if it is."""
    label = line[place][0]
    for other, part in line:
        acts = part.acts_at(Station.GRADIENT) or part.acts_at(Station.UPDATE)
        if acts and not part.replayable and part.noise(view.plan) is None:
            return (
                f"'{other}' changes an update by what a replay cannot know, so that what is left beside it is more "
                f"than the noise of '{label}'; use 'squared_error', 'cosine' or 'informed'"
            )
    if (changer := _changed_by(view, line, place, declared, scale)) is not None:
        return (
            f"'{changer}' changes an update after '{label}' has added noise to it, so that nobody knows how large "
            "that is in what is sent; use objective 'noise_likelihood', which finds it, or 'informed'"
        )
    return ""


def _changed_by(
    view: View, line: Sequence[tuple[str, Defense]], place: int, declared: Noise, scale: float
) -> str | None:
    """Which link changes the noise that the one at `place` has added, of deviation `scale`; None if none does."""
    if declared.where == "aggregate":
        return None
    if view.kind != "update":
        for label, part in line:
            if isinstance(part, Combiner | Aggregator):
                return label
    if declared.where == "encode":
        return None
    size = math.sqrt(view.model.spec.size)
    for label, part in line:
        if isinstance(part, Codec) and 2 * part.l2_error(view.plan) / size > _FINE * (declared.scale or scale):
            return label
    first = 0 if declared.where == "gradient" else place + 1
    for label, part in line[first:]:
        if part is not line[place][1] and not part.keeps_noise() and not _rounds_finely(view, part, scale):
            return label
    return None


def _rounds_finely(view: View, part: Defense, scale: float) -> bool:
    """Whether all that a link does to one client's update is to round it, in steps that noise of `scale` covers."""
    if view.kind != "update":
        return False
    cells = part.cells(tf.constant(view.observed), view.model.spec)
    if cells is None:
        return False
    steps = (cells[1] - cells[0]).numpy()
    return bool(np.sqrt(np.mean(np.square(steps))) <= _FINE * scale)


def required_noise(view: View, who: str) -> float:
    """`known_noise` that is not zero.

    Raises:
      CapabilityError: no noise is known, so there is no likelihood.
    """
    found = known_noise(view)
    if found > 0:
        return found
    known = ", ".join(labels(view.defenses)) or "none"
    raise CapabilityError(
        f"{who} goes by the noise in an update, but the defenses that this adversary knows ({known}) add none to what "
        "it sees; use 'squared_error' or 'noise_likelihood', or an adversary that knows a defense with noise"
    )


def _share(view: View, declared: Noise, label: str) -> float:
    """The variance that a defense's noise has in one coordinate of what is observed."""
    if declared.where == "aggregate" and view.kind != "released":
        return 0.0
    if declared.scale is None:
        raise CapabilityError(
            f"'{label}' adds {declared.distribution} noise whose size depends on the data, or is told from what was "
            "sent, which several steps, or another defense's noise or rounding, hide; use objective "
            "'noise_likelihood', which finds it"
        )
    scale = float(declared.scale)
    if declared.where == "gradient":
        if view.procedure is None or view.client_rate is None or not view.num_examples:
            raise CapabilityError(
                f"'{label}' adds noise to each local step, so its size in the update needs 'procedure' and "
                f"'num_examples': {view.describe()}"
            )
        steps = [view.procedure.local_steps(n) for n in view.num_examples]
        if not _adds_steps(view, max(steps)):
            raise CapabilityError(
                f"'{label}' adds noise to each local step, and what client.kind={view.procedure.client.kind} with "
                f"weight_decay={view.procedure.client.weight_decay:g} makes of it is no sum; use objective "
                "'noise_likelihood', which finds its size"
            )
        scale *= view.client_rate * math.sqrt(float(np.mean(steps)))
    if view.kind == "update":
        return scale**2
    if declared.where == "aggregate":
        clients = view.plan.expected_cohort if view.static.fixed_denominator else view.clients
    else:
        clients = view.clients
    if not clients:
        raise CapabilityError(
            f"how much noise of '{label}' is in a mean needs the number of clients: {view.describe()}"
        )
    if declared.where == "aggregate":
        return (scale / clients) ** 2
    return scale**2 / clients


class KnownNoise(Objective):
    """Negative log-likelihood under the noise that the defenses declare: e / (2 s^2), in nats.

    `e` is the squared error and s the standard deviation of the noise on one coordinate of what is observed, which an
    adversary who knows the defenses knows (`known_noise`). For normal noise its minimum is the maximum of the
    likelihood. Laplace noise, where it is all there is in one client's update, has its own: the sum of absolute
    differences times sqrt(2) / s. Discrete Gaussian, Skellam and other noise, and sums, are taken for normal of the
    same standard deviation. Where the noise's size follows from the weights that were sent (`outpost`), each
    coordinate's error in one client's update weighs by its own, and what was left out counts for nothing. About half
    the number of weights at the truth, all of it for Laplace noise.

    A prior that is a negative log-density in nats then needs no tuning: the sum is that of a posterior. Where the noise
    is not known, `noise_likelihood` finds it.
    """

    kind: ClassVar[str] = "known_noise"
    paper: ClassVar[str] = "Balunović et al. 2022, arXiv 2111.04706"

    def prepared(self, view: View) -> tuple[Objective, View]:
        """That of Laplace noise, where it stands alone."""
        line = _line(view)
        noisy = [(i, n) for i, (_, part) in enumerate(line) if (n := part.noise(view.plan)) is not None]
        if view.kind != "update" or len(noisy) != 1:
            return self, view
        place, declared = noisy[0]
        label, part = line[place]
        found = _by_tensor(view, part) if declared.scale is None else None
        least = declared.scale if found is None else min(f for f in found if f > 0)
        if least is None or _hidden(view, line, place, declared, float(least)):
            return self, view
        if found is not None:
            note([NOISE + label])
            return _KnownByTensor(layers=self.layers, defense=part, deviations=found), view
        if declared.where == "update" and declared.distribution == "laplace":
            return _KnownLaplace(layers=self.layers), view
        return self, view

    def distance(self, simulated: Flat, observed: Flat, spec: Spec) -> Scalar:
        """Half the squared error; `factor` makes nats of it."""
        return tf.nn.l2_loss(simulated - observed)

    def factor(self, view: View, norm: float) -> float:
        """The observed update's squared norm over the noise's variance."""
        return (norm / required_noise(view, f"objective '{self.kind}'")) ** 2


class _KnownLaplace(Objective):
    """`KnownNoise` where the noise is Laplace's: |e| sqrt(2) / s, in nats."""

    kind: ClassVar[str] = "known_noise"

    def distance(self, simulated: Flat, observed: Flat, spec: Spec) -> Scalar:
        """The sum of absolute differences; `factor` makes nats of it."""
        return tf.reduce_sum(tf.abs(simulated - observed))

    def factor(self, view: View, norm: float) -> float:
        """The observed update's norm over the distribution's scale, the standard deviation over sqrt(2)."""
        return norm * math.sqrt(2) / required_noise(view, f"objective '{self.kind}'")


class _KnownByTensor(Objective):
    """`KnownNoise` where each tensor has its own: the sum of e^2 / (2 s^2) over what the update tells of, in nats."""

    kind: ClassVar[str] = "known_noise"

    defense: Any
    deviations: Any

    def __call__(self, simulated: Flat, observed: Flat, spec: Spec) -> Scalar:
        """See `Objective.__call__`; the noise is that of the whole update, whichever layers count."""
        defense: Defense = self.defense
        largest = max(self.deviations)
        given = tf.repeat(tf.constant(self.deviations, simulated.dtype), list(spec.sizes))
        found = defense.noise_by_coordinate(observed, given, spec)
        # What has no noise at all would weigh infinitely.
        weights = 1 / tf.maximum(found, _LEAST_SHARE * largest)
        if self.layers is not None:
            chosen = set(self.chosen(spec))
            weights *= tf.repeat(tf.constant([float(i in chosen) for i in range(len(spec.sizes))]), list(spec.sizes))
        return tf.nn.l2_loss((simulated - observed) * weights)

    def distance(self, simulated: Flat, observed: Flat, spec: Spec) -> Scalar:
        """As called."""
        return self(simulated, observed, spec)

    def factor(self, view: View, norm: float) -> float:
        """The observed update's squared norm: deviations are in its units."""
        return norm**2


def _adds_steps(view: View, steps: int) -> bool:
    """Whether an update is the rate times the sum of its steps' gradients."""
    assert view.procedure is not None
    kinds = ("sgd", "momentum") if steps == 1 else ("sgd",)
    return view.procedure.client.kind in kinds and not view.procedure.client.weight_decay


def _by_tensor(view: View, defense: Defense) -> tuple[float, ...] | None:
    """The noise's standard deviation in each tensor of one client's update; None where it is not known, or none."""
    if view.procedure is None or view.client_rate is None or not view.num_examples:
        return None
    steps = view.procedure.local_steps(view.num_examples[0])
    if steps != 1 or not _adds_steps(view, steps):  # which coordinates have noise is told by one step's sizes
        return None
    found = defense.noise_by_tensor(view.model.spec.unflatten_numpy(view.weights), steps)
    if found is None or max(found) <= 0:
        return None
    return tuple(view.client_rate * s for s in found)


def averaged(views: Sequence[View]) -> np.ndarray:
    """`[d]` float64: the mean of what was observed in several views, each weighed by how little noise it has.

    Where nobody knows how much that is, all count alike.
    """
    try:
        variances = np.array([known_noise(view) ** 2 for view in views])
    except CapabilityError:
        variances = np.zeros(len(views))
    weights = np.ones(len(views)) if (variances == 0).any() else 1 / variances
    observed = np.stack([np.asarray(view.observed, np.float64) for view in views])
    return np.asarray(weights @ observed / weights.sum())
