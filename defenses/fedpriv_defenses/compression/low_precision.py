"""LowPrecision: values in fewer bits, rounded to the nearest."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat, Nested
from fedpriv.defense.stations import Context
from fedpriv.models.spec import Spec
from fedpriv_defenses.compression import bits
from fedpriv_defenses.compression.compressor import Compressor, Message, float_bits

_WIDTH = {"float16": 16, "bfloat16": 16, "int8": 8}
#: Significant bits, the hidden one included.
_SIGNIFICANT = {"float16": 11, "bfloat16": 8}
#: Half the distance of the values nearest to zero.
_LEAST_HALF = {"float16": 2.0**-25, "bfloat16": 2.0**-134}
_LEVELS = 127


class LowPrecision(Compressor):
    """An update's values as float16, bfloat16 or 8-bit integers, each rounded to the nearest.

    Zhu, Liu, Han 2019, "Deep Leakage from Gradients", arXiv 1906.08935, section 5.2, found that half precision (both
    kinds) does not stop DLG, and that 8-bit integers do. Integers are symmetric (Jacob et al. 2017, arXiv 1712.05877):
    each weight tensor has a scale of its own, its largest absolute value over 127, sent beside them.

    Values beyond float16's range (65,504) become infinite, and stop the client like any value that is not finite.
    Formal guarantee: none. Log: `error`, what was left out relative to the update's norm.
    """

    name: ClassVar[str] = "low_precision"
    paper: ClassVar[str] = "Zhu, Liu, Han 2019, arXiv 1906.08935"
    adaptive_attack: ClassVar[str] = "dlg(objective=consistent)"

    format: Literal["float16", "bfloat16", "int8"] = Field(
        default="float16", description="`float16`, `bfloat16` or `int8`."
    )

    def compress(self, whole: Flat, own: Nested, context: Context) -> tuple[Message, Nested]:
        """Rounded values `[d]`; for integers, their scales `[tensors]` as well."""
        spec = context.plan.spec
        if self.format != "int8":
            return (tf.cast(whole, self.format),), own
        parts = tf.split(whole, spec.sizes)
        scales = tf.stack([tf.reduce_max(tf.abs(p)) / _LEVELS for p in parts])
        levels = [
            tf.round(tf.clip_by_value(tf.math.divide_no_nan(p, scales[i]), -_LEVELS, _LEVELS))
            for i, p in enumerate(parts)
        ]
        return (tf.cast(tf.concat(levels, 0), tf.int8), scales), own

    def decompress(self, message: Message, spec: Spec) -> Flat:
        """The rounded values `[d]`."""
        values = tf.cast(message[0], spec.dtype)
        return values if self.format != "int8" else values * tf.repeat(message[1], spec.sizes)

    def bits(self, message: Message, spec: Spec) -> int:
        """16 or 8 a value; for integers a scale for each tensor."""
        scales = len(spec.sizes) * float_bits(spec) if self.format == "int8" else 0
        return _WIDTH[self.format] * spec.size + scales

    def to_wire(self, message: tuple[np.ndarray, ...], spec: Spec) -> np.ndarray:
        """Values, then scales."""
        whole = [bits.packed(message[0].view(f"u{_WIDTH[self.format] // 8}"), _WIDTH[self.format])]
        return np.concatenate([*whole, *(bits.of_floats(s) for s in message[1:])])

    def from_wire(self, bits_: np.ndarray, spec: Spec, state: Nested = ()) -> tuple[np.ndarray, ...]:
        """As `Compressor.from_wire`."""
        width = _WIDTH[self.format]
        dtype = np.dtype(tf.as_dtype(self.format).as_numpy_dtype)
        words = bits.unpacked(bits_[: width * spec.size], width).astype(f"u{width // 8}")
        values = words.view(dtype)
        if self.format != "int8":
            return (values,)
        return values, bits.to_floats(bits_[width * spec.size :], np.dtype(spec.dtype))

    def cells(self, sent: Flat, spec: Spec, examples: int | None = None) -> tuple[Flat, Flat]:
        """Half a step to either side; float16's steps shrink no further below its smallest normal value."""
        if self.format == "int8":
            parts = tf.split(sent, spec.sizes)
            half = tf.concat([tf.fill(tf.shape(p), tf.reduce_max(tf.abs(p)) / (2 * _LEVELS)) for p in parts], 0)
        else:
            half = tf.maximum(tf.abs(sent) * 2.0 ** -_SIGNIFICANT[self.format], _LEAST_HALF[self.format])
        return sent - half, sent + half
