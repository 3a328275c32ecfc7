"""Traced: a function as TensorFlow traces it outside of TFF, for use in TFF's graphs.

TFF builds graphs in which `==` and `!=` on tensors, as a station or a model may use them, would only ask whether they
are the same tensor, without an error; and in which a model's layers would be rebuilt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedpriv.base.lazy import tf, tff
from fedpriv.base.types import Nested


def traced(function: Callable[..., Nested], *types: Any) -> Callable[..., Nested]:
    """`function` for arguments of these TFF types, traced; to be called within `tff.tensorflow.computation`."""
    specs = [tff.types.type_to_tf_tensor_specs(t) for t in types]
    made: Callable[..., Nested] = tf.function(function, autograph=False).get_concrete_function(*specs)
    return made
