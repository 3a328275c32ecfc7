"""Types: names for what passes between functions, in place of `Any`.

A type checker that sees TensorFlow's types sees `Tensor` as one. At run time they are `Any`, so that naming one imports
nothing and pydantic takes it. Shapes are in square brackets: d weights, n examples, k classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing
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
    #: What `np.asarray` takes: arrays, eager tensors, numbers and lists of them.
    ArrayLike: TypeAlias = numpy.typing.ArrayLike
    #: Tensors in order, such as weights in the shapes of the model's spec.
    Tensors: TypeAlias = Sequence[tf.Tensor]
    #: A Keras layer.
    Layer: TypeAlias = tf.keras.layers.Layer
    #: A Keras model.
    KerasModel: TypeAlias = tf.keras.Model
else:
    Tensor = Scalar = Flat = Examples = Labels = Seed = Array = ArrayLike = Tensors = Layer = KerasModel = Any

#: Static sizes.
Shape: TypeAlias = tuple[int, ...]
#: A structure of tensors or arrays as `tf.nest` walks it, such as a defense's state; a tensor alone is one.
Nested: TypeAlias = Any
#: A table's row, or other facts by name; not all of them have a JSON form before `fedpriv.base.atomic.jsonable`.
Row: TypeAlias = dict[str, Any]
#: What `json.dumps` takes: a plug-in's parameters by name, and the like.
Config: TypeAlias = dict[str, Any]

__all__ = [
    *("Array", "ArrayLike", "Config", "Examples", "Flat", "KerasModel", "Labels", "Layer", "Nested", "Row", "Scalar"),
    *("Seed", "Shape", "Tensor", "Tensors"),
]
