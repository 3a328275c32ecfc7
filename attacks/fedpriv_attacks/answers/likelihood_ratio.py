"""Likelihood ratio: membership by the update itself, with the candidate's own gradient and the noise known."""

from __future__ import annotations

import math
import time
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.errors import CapabilityError
from fedpriv.base.lazy import tf
from fedpriv.base.seeds import Purpose, generator
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.question import MembershipQuestion
from fedpriv.threat.view import View
from fedpriv_attacks.inversion.matching import checked_update
from fedpriv_attacks.parts.known_noise import known_noise

#: Simulated updates made by one call of the graph.
_AT_ONCE = 32


class LikelihoodRatio(Attack):
    """Says 'member' where an update is more probable with the candidate behind it than without.

    A candidate moves the update by g(x), what `simulate` gives with it less what it gives with another example in its
    place. Where the rest is normal with covariance S, the most powerful test (Neyman, Pearson 1933) is of
    <observed - expected, S^-1 g(x)>. Where noise of standard deviation s is all there is to the rest, that is the
    projection on the candidate's own gradient, normal with standard deviation s |g(x)| and a mean of 0 or |g(x)|^2.
    That is how Gaussian mechanisms are audited: Nasr et al. 2023, "Tight Auditing of Differentially Private Machine
    Learning", arXiv 2302.07956, with gradients seen; on such tests Ye, Maddi, Murakonda, Bindschaedler, Shokri 2022,
    arXiv 2111.09679. Those auditors know all other examples. This adversary does not: it takes them for draws from
    reference examples, whose simulated updates give the expectation and add their covariance to the noise's. The clip
    and the noise are known from the defenses that declare them.

    The reference is the adversary's own auxiliary data; without any, the candidates themselves, of whom as many are
    members as not. It fails where noise hides a single example.

    Confidences are log-likelihood ratios in nats; the guess is their sign. `measures`: `separation`, the median over
    candidates of sqrt(<g(x), S^-1 g(x)>); if all were normal, the advantage on such a candidate would be
    2 Phi(separation / 2) - 1.
    """

    name: ClassVar[str] = "likelihood_ratio"
    paper: ClassVar[str] = "Nasr et al. 2023, arXiv 2302.07956"
    goals: ClassVar[tuple[str, ...]] = ("membership",)
    needs: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.REAL_UPDATE, Capability.NUM_EXAMPLES, Capability.PROCEDURE}
    )
    reads_parts: ClassVar[bool] = True

    backgrounds: Annotated[int, Field(ge=2)] = Field(
        default=64, description="sets of reference examples drawn in place of those that it does not know."
    )
    swaps: Annotated[int, Field(ge=1)] = Field(
        default=2,
        description="of these, in how many a candidate is put; its effect is the mean. Where clients make one step and "
        "nothing is clipped, the effect is the same in all.",
    )

    def attack(self, view: View, seed: int) -> Finding:
        """Confidences are log-likelihood ratios.

        Raises:
          CapabilityError: nothing is asked about membership in an update.
        """
        began = time.perf_counter()
        question = view.asked(MembershipQuestion)
        if question.of != "update":
            raise CapabilityError(
                f"attack '{self.name}' tests what is behind an update, but is asked about the whole training; use "
                "loss_threshold, or ask of=update"
            )
        observed, _ = checked_update(view)
        noise = known_noise(view)
        pool = (question.x, question.y) if view.lab is None else (view.lab.data.floats(), view.lab.data.y)
        rng = generator(seed, Purpose.ATTACK)
        n, m = view.total_examples, len(question.y)
        rows = [rng.choice(len(pool[1]), n, replace=len(pool[1]) < n) for _ in range(self.backgrounds)]
        xs, ys = [pool[0][r] for r in rows], [pool[1][r] for r in rows]
        base = _simulated(view, xs, ys)
        swaps = min(self.swaps, self.backgrounds)
        moved = np.zeros((m, view.update_size))
        for k in range(swaps):
            # Where in the batch it is put decides, in several clients or steps, whose and when it is.
            place = int(rng.integers(n))
            with_x, with_y = [], []
            for x, y in zip(question.x, question.y, strict=True):
                with_x.append(np.concatenate([xs[k][:place], x[None], xs[k][place + 1 :]]))
                with_y.append(np.concatenate([ys[k][:place], np.asarray(y)[None], ys[k][place + 1 :]]))
            moved += _simulated(view, with_x, with_y)
        expected = base.mean(0)
        # A swap takes one reference example out: on average that is one n-th of what all of them do.
        effect = moved / swaps - base[:swaps].mean(0)
        effect -= effect.mean(0) if view.lab is None else 0.0
        whitened = _whitened(effect, base - expected, noise)
        square = np.maximum((whitened * effect).sum(1), 0.0)
        ratio = whitened @ (observed - expected) - square / 2
        return Finding(
            confidence=ratio,
            guess=ratio > 0,
            evaluations=self.backgrounds + swaps * m,
            seconds=time.perf_counter() - began,
            measures={"separation": float(np.median(np.sqrt(square))), "noise": noise},
        )


def _whitened(effect: np.ndarray, others: np.ndarray, noise: float) -> np.ndarray:
    """`effect` `[m, d]` times the inverse covariance of the noise and of what the unknown examples do.

    The covariance is s^2 I plus that of the backgrounds `others` `[k, d]`, inverted by Woodbury's identity. s^2 is the
    noise's variance and, spread evenly over all directions, what of a background lies outside the span of the rest.
    """
    rows = others / math.sqrt(len(others) - 1)
    gram = rows @ rows.T
    ridge = 1e-9 * float(np.trace(gram)) / len(gram) + 1e-300
    # The inverse Gram matrix has one over the squared distance from the others' span on its diagonal.
    outside = 1 / np.diag(np.linalg.inv(gram + ridge * np.eye(len(gram))))
    isotropic = noise**2 + float(outside.mean()) * (len(others) - 1) / others.shape[1] + 1e-300
    inner = np.linalg.solve(gram + isotropic * np.eye(len(gram)), rows @ effect.T)
    return np.asarray((effect - inner.T @ rows) / isotropic)


def _simulated(view: View, xs: list[np.ndarray], ys: list[np.ndarray]) -> np.ndarray:
    """`[k, d]` float64: updates replayed from k sets of examples."""
    model, dtype = view.model, view.model.spec.dtype
    inputs, weights = view.inputs(), tf.constant(view.weights, dtype)
    rate = tf.constant(0.0 if view.client_rate is None else view.client_rate, dtype)

    def one(pair: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        return view.static.simulate(weights, rate, pair[0], pair[1], inputs)

    @tf.function(autograph=False, reduce_retracing=True)
    def some(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(one, (x, y), fn_output_signature=dtype)

    found = []
    for start in range(0, len(xs), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        x = tf.constant(np.stack(xs[part]), dtype)
        y = tf.constant(np.stack(ys[part]).astype(model.task.target_dtype))
        found.append(some(x, y).numpy())
    return np.concatenate(found).astype(np.float64)
