"""Plug-ins for fedpriv from a package of one's own: a defense, TopK, and an attack, Match."""

from __future__ import annotations

import time
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field
from scipy.optimize import minimize

from fedpriv.base.lazy import tf  # TensorFlow, imported at first use, so that `fedpriv list` answers at once
from fedpriv.defense.domain import Domain
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Context, Defense, Plan
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.view import View


class TopK(Defense):
    """Sends only the largest coordinates of an update, and zeros for the others.

    Aji, Heafield 2017, arXiv 1704.05021, without their memory of what was left out. No formal guarantee: which
    coordinates are large depends on the data, and those are sent as they are. It saves bytes, and makes an attack that
    does not know about it compare with zeros.

    Parameters:
      fraction: share of the coordinates that are kept; at least one is.

    Log: `kept`, the share of the update's squared length that was sent.
    """

    name: ClassVar[str] = "keep_largest"
    paper: ClassVar[str] = "Aji, Heafield 2017, arXiv 1704.05021"
    adaptive_attack: ClassVar[str] = "dlg"

    fraction: Annotated[float, Field(gt=0, le=1)]

    def count(self, size: int) -> int:
        """How many of `size` coordinates are kept."""
        return max(1, round(self.fraction * size))

    def maps(self, given: Domain, plan: Plan) -> Domain:
        """Zeros never make an update longer, so a bound that was known stays."""
        return given

    def update(self, update: Any, context: Context) -> Passed:
        """`[d]` to `[d]`, with `count(d)` coordinates kept; each takes its value and its place on the wire."""
        size = context.plan.spec.size
        _, where = tf.math.top_k(tf.abs(update), self.count(size))
        mask = tf.scatter_nd(where[:, None], tf.ones_like(where, update.dtype), [size])
        sent = update * mask
        kept = tf.math.divide_no_nan(tf.reduce_sum(sent**2), tf.reduce_sum(update**2))
        return Passed(sent, log={"kept": kept}, bits=self.count(size) * (32 + size.bit_length()))


class Match(Attack):
    """Matches the update by L-BFGS from random starts, with the labels known.

    Zhu, Liu, Han 2019, arXiv 1906.08935, in its shortest form: minimizes the squared distance between the simulated
    and the observed update over pixels in [0, 1]. Fails where second derivatives are useless (ReLU), and for large
    batches.

    Parameters:
      steps: most iterations of one start.
      restarts: random starts; the one that matches best is kept.
    """

    name: ClassVar[str] = "match"
    paper: ClassVar[str] = "after Zhu, Liu, Han 2019, arXiv 1906.08935"
    needs: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.REAL_UPDATE, Capability.PROCEDURE, Capability.NUM_EXAMPLES, Capability.LABELS}
    )

    steps: Annotated[int, Field(ge=1)] = 400
    restarts: Annotated[int, Field(ge=1)] = 1

    def attack(self, view: View, seed: int) -> Finding:
        """One compiled function of the pixels, minimized from each start."""
        began = time.perf_counter()
        observed, labels = tf.constant(view.observed), tf.constant(view.labels)
        shape = (view.total_examples, *view.model.input_shape)

        @tf.function
        def distance(x: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(x)
                missed = tf.reduce_sum((view.simulate(x, labels) - observed) ** 2)
                value = tf.math.divide_no_nan(missed, tf.reduce_sum(observed**2))
            return value, tape.gradient(value, x)

        def in_numpy(flat: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope = distance(tf.constant(flat.reshape(shape), observed.dtype))
            return float(value), slope.numpy().ravel().astype(np.float64)

        found, bounds = [], [(0, 1)] * int(np.prod(shape))
        for k in range(self.restarts):
            start = np.random.default_rng([seed, k]).uniform(0.4, 0.6, len(bounds))
            options = {"maxiter": self.steps, "maxfun": 2 * self.steps, "maxcor": 50, "ftol": 0, "gtol": 0}
            found.append(minimize(in_numpy, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options))
        best = min(found, key=lambda result: result.fun)
        return Finding(
            x=best.x.reshape(shape).astype(np.float32),
            y=np.asarray(view.labels),
            objective=float(best.fun),
            evaluations=sum(result.nfev for result in found),
            seconds=time.perf_counter() - began,
            restarts=self.restarts,
        )
