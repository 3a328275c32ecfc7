"""SignSGD: one bit a coordinate."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat, Nested
from fedpriv.defense.domain import Domain, Real
from fedpriv.defense.stations import Context, Plan
from fedpriv.models.spec import Spec
from fedpriv_defenses.compression import bits
from fedpriv_defenses.compression.compressor import Compressor, Message, float_bits


class SignSGD(Compressor):
    """A client sends the signs of its update, and one length.

    Bernstein, Wang, Azizzadenesheli, Anandkumar 2018, "signSGD: Compressed Optimisation for Non-Convex Problems", ICML,
    arXiv 1802.04434. With `scale=mean` the server takes each sign times the mean absolute value (Karimireddy, Rebjock,
    Stich, Jaggi 2019, "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", arXiv 1901.09847); with
    error feedback that is EF-SignSGD. With `scale=none` it takes the signs times `length`, and nothing of the length is
    told. The server averages what it makes of the messages; a majority vote is not taken. Zero counts as positive.

    Formal guarantee: none. An attack that replays it matches its signs, each as much as the other. Log: `error`,
    as for every compressor.
    """

    name: ClassVar[str] = "sign_sgd"
    paper: ClassVar[str] = "Bernstein et al. 2018, arXiv 1802.04434; Karimireddy et al. 2019, arXiv 1901.09847"
    adaptive_attack: ClassVar[str] = "dlg"
    contracts: ClassVar[bool] = True

    scale: Literal["mean", "none"] = Field(
        default="mean", description="`mean` sends the mean absolute value as well, `none` the signs alone."
    )
    length: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] = Field(
        default=1e-3, description="what a sign counts, in update units, with `scale=none`."
    )

    def maps(self, given: Domain, plan: Plan) -> Domain:
        """Signs times their mean absolute value are no longer than the update; signs alone have a norm of their own."""
        if self.scale == "none":
            return Real(self.length * float(np.sqrt(plan.spec.size)))
        return super().maps(given, plan)

    def compress(self, whole: Flat, own: Nested, context: Context) -> tuple[Message, Nested]:
        """Which coordinates are not negative, bool `[d]`; their mean absolute value."""
        size = tf.reduce_mean(tf.abs(whole)) if self.scale == "mean" else tf.constant(self.length, whole.dtype)
        return (whole >= 0, size), own

    def decompress(self, message: Message, spec: Spec) -> Flat:
        """Signs times the scale, `[d]`."""
        return tf.where(message[0], message[1], -message[1])

    def bits(self, message: Message, spec: Spec) -> int:
        """One a coordinate, and the scale where it is sent."""
        return spec.size + (float_bits(spec) if self.scale == "mean" else 0)

    def to_wire(self, message: tuple[np.ndarray, ...], spec: Spec) -> np.ndarray:
        """Signs, then the scale."""
        signs = message[0].astype(np.uint8)
        return signs if self.scale == "none" else np.concatenate([signs, bits.of_floats(message[1].reshape(1))])

    def from_wire(self, bits_: np.ndarray, spec: Spec, state: Nested = ()) -> tuple[np.ndarray, ...]:
        """As `Compressor.from_wire`."""
        dtype = np.dtype(spec.dtype)
        size = np.array([self.length], dtype) if self.scale == "none" else bits.to_floats(bits_[spec.size :], dtype)
        return bits_[: spec.size].astype(bool), size[0]
