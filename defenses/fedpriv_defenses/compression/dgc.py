"""DGC: the largest values alone, with what is left out gathered under momentum."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat, Nested, Scalar, Tensor
from fedpriv.defense.domain import Domain, Real
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Context, Defense, Plan
from fedpriv.models.spec import Spec
from fedpriv_defenses.compression.compressor import Message, float_bits
from fedpriv_defenses.sparse import cells_of_largest, energy, index_bits, largest, placed, read_with_places, with_places


class DGC(Defense):
    """Deep gradient compression: a client sends the largest of its gathered values, and gathers the others on.

    Lin, Han, Mao, Wang, Dally 2018, "Deep Gradient Compression: Reducing the Communication Bandwidth for Distributed
    Training", ICLR, arXiv 1712.01887. From its update g a client makes u = momentum u + g (momentum correction) and v =
    v + u (local accumulation), sends the largest values of v, and sets u and v to zero there (momentum factor masking).
    `clip` shortens the update before it is gathered, to that over sqrt(clients a round), as the paper does with each
    worker's gradient; with `warmup` the part that is sent begins at 25% and falls fourfold a round, down to `fraction`.
    The paper chooses the largest of each tensor by a sample; here they are the largest of all, and exact.

    What is kept is each client's own, over the rounds that it takes part in. Nothing is hidden for good: what is left
    out is sent later. Formal guarantee: none. On the wire a value takes its bits and those of its index. A replay
    assumes that nothing was gathered before. Log: `energy`, the part of v's squared norm that is sent.
    """

    name: ClassVar[str] = "dgc"
    paper: ClassVar[str] = "Lin et al. 2018, arXiv 1712.01887"
    adaptive_attack: ClassVar[str] = "dlg(objective=consistent)"
    compresses: ClassVar[bool] = True

    fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1e-3, description="part of the coordinates that is sent, at least one."
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.9, description="of the correction; 0 is none.")
    clip: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="norm of the cohort's update to which clients clip theirs; None clips nothing."
    )
    warmup: bool = Field(default=False, description="whether the part sent falls to `fraction` over the first rounds.")

    def maps(self, given: Domain, plan: Plan) -> Domain:
        """What was gathered has no bound."""
        return Real()

    def initial_client_state(self, plan: Plan) -> Nested:
        """u and v, `[d]` each."""
        return np.zeros([plan.spec.size], plan.spec.dtype), np.zeros([plan.spec.size], plan.spec.dtype)

    def kept(self, size: int, number: Scalar) -> Scalar:
        """How many of d coordinates are sent in a round, int32."""
        least = tf.constant(self.fraction, tf.float64)
        if self.warmup:
            least = tf.maximum(least, 0.25 ** (tf.cast(number, tf.float64) + 1))
        return tf.clip_by_value(tf.cast(tf.round(least * size), tf.int32), 1, size)

    def update(self, update: Flat, context: Context) -> Passed:
        """`[d]` to `[d]`, all but k of them 0; differentiable in the k that are sent."""
        spec = context.plan.spec
        v, mask, left = self._gathered(update, context.own, context)
        sent = tf.where(mask | ~tf.math.is_finite(v), v, tf.zeros_like(v))
        bits = self.kept(spec.size, context.round) * (float_bits(spec) + index_bits(spec.size))
        return Passed(sent, log=energy(v, sent), state=left, bits=bits)

    def _gathered(self, update: Flat, own: Nested, context: Context) -> tuple[Flat, Tensor, Nested]:
        """(v before anything is sent, which of it are, (u, v) afterwards)."""
        u, v = own
        if self.clip is not None:
            limit = self.clip / math.sqrt(context.plan.expected_cohort)
            update *= tf.minimum(1.0, limit / tf.maximum(tf.sqrt(2 * tf.nn.l2_loss(update)), 1e-30))
        u = self.momentum * u + update
        v = v + u
        mask = largest(v, self.kept(int(update.shape[0]), context.round))
        left = tf.cast(~mask, v.dtype)
        return v, mask, (tf.stop_gradient(u * left), tf.stop_gradient(v * left))

    def compress(self, update: Flat, own: Nested, context: Context) -> tuple[Message, Nested]:
        """`[d]` and (u, v) to (values sent and their places, `[k]` each) and (u, v) afterwards."""
        v, mask, left = self._gathered(update, own, context)
        places = tf.where(mask)[:, 0]
        return (tf.gather(v, places), places), left

    def decompress(self, message: Message, spec: Spec) -> Flat:
        """The values at their places, `[d]`, 0 elsewhere."""
        return placed(message, spec)

    def bits(self, message: Message, spec: Spec) -> Scalar:
        """Those of the values and of their places."""
        return tf.size(message[0]) * (float_bits(spec) + index_bits(spec.size))

    def to_wire(self, message: tuple[np.ndarray, ...], spec: Spec) -> np.ndarray:
        """Values, then places."""
        return with_places(message, spec)

    def from_wire(self, bits_: np.ndarray, spec: Spec, state: Nested = ()) -> tuple[np.ndarray, ...]:
        """As `Compressor.from_wire`; how many were sent follows from the length."""
        return read_with_places(bits_, spec)

    def cells(self, sent: Flat, spec: Spec, examples: int | None = None) -> tuple[Flat, Flat] | None:
        """Of what is gathered, nothing that was left out is larger than the smallest value sent.

        None with `clip`, which shortens an update by what the message does not tell.
        """
        return cells_of_largest(sent) if self.clip is None else None
