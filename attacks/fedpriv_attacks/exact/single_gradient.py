"""Single gradient: one example's gradient read off an update, for attacks that solve its equations exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedpriv.base.errors import CapabilityError
from fedpriv.base.lazy import tf
from fedpriv.threat.replays import unmeasured
from fedpriv.threat.view import View
from fedpriv_attacks.inversion.matching import checked_update


@dataclass(frozen=True, eq=False)
class SingleGradient:
    """The gradient behind one SGD step on one example.

    Attributes:
      by_name: float64, in the spec's shapes, by the weights' names.
      rounding: standard deviation of an entry's rounding error, by name. The update is the difference of the weights
        after and before, each rounded to the model's precision.
    """

    by_name: dict[str, np.ndarray]
    rounding: dict[str, float]


def single_gradient(view: View, attack: str) -> SingleGradient:
    """The observed update divided by minus the client's learning rate.

    Args:
      view: of one local step.
      attack: who asks, for the messages.

    Raises:
      CapabilityError: more than one example is behind the update, the client's optimizer is no SGD, or the update is
        zero.
      DivergenceError: the update is not finite.
    """
    if view.total_examples != 1:
        raise CapabilityError(
            f"attack '{attack}' solves the equations of a single example, but {view.total_examples} examples are "
            "behind this update; use 'dlg' or 'first_layer', or clients with one example each"
        )
    if view.procedure is not None and not view.procedure.client.linear:
        raise CapabilityError(
            f"attack '{attack}' needs the gradient, but the client's optimizer is "
            f"{view.procedure.client.nonlinearity}, so its step is no multiple of it; use 'dlg', which "
            "replays the optimizer"
        )
    update, _ = checked_update(view)
    spec, rate = view.model.spec, float(view.client_rate or 1.0)
    before = np.asarray(view.weights, np.float64)
    parts = spec.unflatten_numpy(-update / rate)
    # A rounding is uniform over one unit in the last place, which is epsilon / 1.5 of the value on average.
    step = float(np.finfo(spec.dtype).eps) / 1.5 / np.sqrt(12.0)
    sizes = [np.mean(np.square(w)) + np.mean(np.square(w + u)) for w, u in _pairs(spec, before, update)]
    tiny = float(np.finfo(spec.dtype).tiny)
    rounding = [max(step * float(np.sqrt(s)) / rate, tiny) for s in sizes]
    # The client's own arithmetic rounds as well, in proportion to the gradient.
    rounding = [float(np.hypot(r, step * np.sqrt(np.mean(np.square(p))))) for r, p in zip(rounding, parts)]
    return SingleGradient(dict(zip(spec.names, parts)), dict(zip(spec.names, rounding)))


def _pairs(spec, weights: np.ndarray, update: np.ndarray):  # type: ignore[no-untyped-def]
    return zip(spec.unflatten_numpy(weights), spec.unflatten_numpy(update), strict=True)


def relative_misfit(view: View, x: np.ndarray, y: list[int]) -> float:
    """Squared distance of the update replayed at `x`, `y` from the one observed, relative to the latter's square.

    Not a number if `x` is not finite.

    Raises:
      CapabilityError: the adversary cannot replay the client.
    """
    if not np.all(np.isfinite(x)):
        return float("nan")
    dtype = view.model.spec.dtype
    with unmeasured():  # it judges a finding, and made none
        simulated = view.simulate(tf.constant(x, dtype), tf.constant(np.asarray(y, np.int32))).numpy()
    observed = np.asarray(view.observed, np.float64)
    difference = simulated.astype(np.float64) - observed
    return float(difference @ difference / (observed @ observed))
