"""TernGrad: values as -1, 0 or 1 times a scale for each weight tensor, unbiased."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.lazy import tf
from fedpriv.base.seeds import uniform
from fedpriv.base.types import Flat, Nested
from fedpriv.defense.stations import Context
from fedpriv.models.spec import Spec
from fedpriv_defenses.compression import bits
from fedpriv_defenses.compression.compressor import Compressor, Message, float_bits


class TernGrad(Compressor):
    """Each value as its sign with a probability that is its share of its tensor's largest value, else as zero.

    Wen, Xu, Yan, Wu, Wang, Chen, Li 2017, "TernGrad: Ternary Gradients to Reduce Communication in Distributed Deep
    Learning", NeurIPS, arXiv 1705.07878. A weight tensor's scale is its largest absolute value, after values were
    clipped at `clip` standard deviations of the tensor (2.5 in the paper). What is sent has the clipped values as its
    mean. On the wire a value takes two bits, and each tensor a scale.

    Formal guarantee: none. A replay leaves the rounding out. Log: `error`.
    """

    name: ClassVar[str] = "terngrad"
    paper: ClassVar[str] = "Wen et al. 2017, arXiv 1705.07878"
    adaptive_attack: ClassVar[str] = "dlg(objective=consistent)"
    replayable: ClassVar[bool] = False

    clip: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=2.5,
        description="standard deviations of its tensor beyond which a value is clipped; None clips nothing.",
    )

    def compress(self, whole: Flat, own: Nested, context: Context) -> tuple[Message, Nested]:
        """Signs or zeros, int8 `[d]`, and the scales `[tensors]`."""
        spec = context.plan.spec
        parts = tf.split(whole, spec.sizes)
        if self.clip is not None:
            limits = [self.clip * tf.math.reduce_std(p) for p in parts]
            parts = [tf.clip_by_value(p, -m, m) if p.shape[0] > 1 else p for p, m in zip(parts, limits, strict=True)]
        scales = tf.stack([tf.reduce_max(tf.abs(p)) for p in parts])
        clipped = tf.concat(parts, 0)
        share = tf.math.divide_no_nan(tf.abs(clipped), tf.repeat(scales, spec.sizes))
        kept = tf.cast(uniform(context.seed, [spec.size]), whole.dtype) < share
        return (tf.cast(tf.where(kept, tf.sign(clipped), tf.zeros_like(clipped)), tf.int8), scales), own

    def decompress(self, message: Message, spec: Spec) -> Flat:
        """Signs or zeros times the scales, `[d]`."""
        return tf.cast(message[0], spec.dtype) * tf.repeat(message[1], spec.sizes)

    def bits(self, message: Message, spec: Spec) -> int:
        """Two a coordinate, and the scales."""
        return 2 * spec.size + len(spec.sizes) * float_bits(spec)

    def to_wire(self, message: tuple[np.ndarray, ...], spec: Spec) -> np.ndarray:
        """Signs and zeros, then scales."""
        return np.concatenate([bits.packed(message[0].astype(np.int64) + 1, 2), bits.of_floats(message[1])])

    def from_wire(self, bits_: np.ndarray, spec: Spec, state: Nested = ()) -> tuple[np.ndarray, ...]:
        """As `Compressor.from_wire`."""
        signs = (bits.unpacked(bits_[: 2 * spec.size], 2) - 1).astype(np.int8)
        return signs, bits.to_floats(bits_[2 * spec.size :], np.dtype(spec.dtype))

    def cells(self, sent: Flat, spec: Spec, examples: int | None = None) -> tuple[Flat, Flat]:
        """A sign was seen: the value has it. A zero: it is no larger than the scale, where values were not clipped."""
        parts = tf.split(sent, spec.sizes)
        scale = tf.concat([tf.fill(tf.shape(p), tf.reduce_max(tf.abs(p))) for p in parts], 0)
        zero, none = tf.zeros_like(sent), tf.fill(tf.shape(sent), tf.cast(np.inf, sent.dtype))
        most = scale if self.clip is None else none
        return tf.where(sent > 0, zero, -most), tf.where(sent < 0, zero, most)
