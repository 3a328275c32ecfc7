"""Compressor: base of the defenses that send an update in fewer bits, with or without error feedback."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat, Nested, Scalar, Tensor
from fedpriv.defense.domain import Domain, Real
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Context, Defense, Plan
from fedpriv.models.spec import Spec

#: What travels: tensors of static rank.
Message = tuple[Tensor, ...]


def float_bits(spec: Spec) -> int:
    """What one weight takes when it is sent as it is."""
    return 8 * int(tf.as_dtype(spec.dtype).size)


class Compressor(Defense):
    """A client sends a message of fewer bits, from which the server makes an update.

    With `error_feedback` a client keeps what its message left out, and adds it to its update of the next round that
    it takes part in (Seide et al. 2014; Stich, Cordonnier, Jaggi 2018, arXiv 1809.07599; Karimireddy et al. 2019, arXiv
    1901.09847): over the rounds, what was sent and what is kept add up to all updates. So nothing is hidden for good.

    Formal guarantee: none; no epsilon follows. A compressor says what of an update its message leaves open
    (`cells`), by which `objective=consistent` attacks it.
    """

    #: Whether `maps` may keep a bound: what is sent is never longer than the update.
    contracts: ClassVar[bool] = False
    compresses: ClassVar[bool] = True

    error_feedback: bool = Field(
        default=False,
        description="keep what the message left out, and add it to the client's next update.",
    )

    def maps(self, given: Domain, plan: Plan) -> Domain:
        """A bound is kept by what contracts, unless an error of before is added."""
        kept = self.contracts and not self.error_feedback
        return given if kept and isinstance(given, Real) else Real()

    def initial_client_state(self, plan: Plan) -> Nested:
        """The error kept, `[d]`, where there is feedback; and what the compressor itself keeps."""
        error = (np.zeros([plan.spec.size], plan.spec.dtype),) if self.error_feedback else ()
        return (error, self.initial_own(plan.spec))

    def initial_own(self, spec: Spec) -> Nested:
        """What the compressor keeps for each client besides an error; default nothing."""
        return ()

    def update(self, update: Flat, context: Context) -> Passed:
        """`[d]` to what the server makes of the message, `[d]`."""
        error, own = context.own
        spec = context.plan.spec
        whole = update + error[0] if self.error_feedback else update
        message, own = self.compress(tf.stop_gradient(whole), own, context)
        made = self.passing(whole, message, context)
        # Not a number in what is left out must still stop the client, not hide.
        sent = tf.where(tf.reduce_all(tf.math.is_finite(whole)), made, whole)
        left = whole - sent
        return Passed(
            sent,
            log=self.measures(whole, sent),
            state=((tf.stop_gradient(left),) if self.error_feedback else (), own),
            bits=self.bits(message, spec),
        )

    def passing(self, whole: Flat, message: Message, context: Context) -> Flat:
        """What the server makes of the message, with a derivative for replays: straight through to `whole`.

        Rounding has derivative zero almost everywhere; the straight-through estimator takes 1 for it (Bengio,
        Léonard, Courville 2013, arXiv 1308.3432).
        """
        made = self.decompress(message, context.plan.spec)

        @tf.custom_gradient
        def through(given: Flat) -> Flat:
            return tf.identity(made), lambda upstream: upstream

        return through(whole)

    def measures(self, whole: Flat, sent: Flat) -> Mapping[str, Tensor]:
        """The log: `error`, the norm of what was left out over that of the whole."""
        before, after = (tf.reduce_sum(tf.square(v)) for v in (whole, whole - sent))
        return {"error": tf.sqrt(tf.math.divide_no_nan(after, before))}

    @abstractmethod
    def compress(self, whole: Flat, own: Nested, context: Context) -> tuple[Message, Nested]:
        """`[d]` to (the message, the compressor's own state afterwards)."""

    @abstractmethod
    def decompress(self, message: Message, spec: Spec) -> Flat:
        """The message to `[d]`; pure, traceable."""

    @abstractmethod
    def bits(self, message: Message, spec: Spec) -> Scalar | int:
        """How many bits it takes; `to_wire` gives as many."""

    @abstractmethod
    def to_wire(self, message: tuple[np.ndarray, ...], spec: Spec) -> np.ndarray:
        """The message as bits, uint8 of 0 and 1; the inverse of `from_wire`."""

    @abstractmethod
    def from_wire(self, bits: np.ndarray, spec: Spec, state: Nested = ()) -> tuple[np.ndarray, ...]:
        """The message of these bits, to the last bit.

        Args:
          bits: as `to_wire` gives them.
          spec: of the update.
          state: this defense's server state as broadcast in that round, where the message is not read without it.
        """
