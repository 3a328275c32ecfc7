"""Types: names for what passes between functions, in place of `Any`.

A type checker that sees TensorFlow's types sees `Tensor` as one. At run time they are `Any`, so that naming one imports
nothing and pydantic takes it. Shapes are in square brackets: d weights, n examples, k classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf

    #: A tensor, eager or symbolic.
    Tensor: TypeAlias = tf.Tensor
    #: A tensor `[]`, such as a distance.
    Scalar: TypeAlias = tf.Tensor
    #: A tensor `[d]` in the order of the model's spec: weights, a gradient, an update; or an optimizer's variables.
    Flat: TypeAlias = tf.Tensor
    #: A tensor `[n, *input_shape]`.
    Examples: TypeAlias = tf.Tensor
    #: A tensor `[n]` of integers, or of probabilities `[n, k]`.
    Labels: TypeAlias = tf.Tensor
    #: An int32 tensor or array `[2]`, for `tf.random.stateless_*`; see `fedpriv.base.seeds`.
    Seed: TypeAlias = tf.Tensor | np.ndarray
    #: A NumPy array.
    Array: TypeAlias = np.ndarray
else:
    Tensor = Scalar = Flat = Examples = Labels = Seed = Array = Any

#: Static sizes.
Shape: TypeAlias = tuple[int, ...]
#: What `json.dumps` takes: a plug-in's parameters by name, and the like.
Config: TypeAlias = dict[str, Any]

__all__ = ["Array", "Config", "Examples", "Flat", "Labels", "Scalar", "Seed", "Shape", "Tensor"]
