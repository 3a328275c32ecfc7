"""Kinks: whether a model's activations have them, so that its gradients jump."""

from __future__ import annotations

from functools import lru_cache

from fedpriv.base.lazy import tf
from fedpriv.models.model import Model

#: Rectifiers, whose derivative jumps. A PReLU and the like are made of these. Max pooling, which jumps too, is not
#: among them: how attacks fare through it between smooth activations was not measured.
KINKED = frozenset({"Relu", "Relu6", "LeakyRelu"})


@lru_cache(maxsize=64)
def has_kinks(model: Model) -> bool:
    """Whether a rectifier is on the way from the examples to the outputs, in training.

    Gradients of such a model are pieces with jumps between them, so that methods that trust a curvature (L-BFGS) end at
    the jumps. It is read off the graph, whatever the layers are called.
    """

    def outputs(weights: list[tf.Tensor], x: tf.Tensor) -> tf.Tensor:
        return model.apply(weights, x, True)

    of = [tf.TensorSpec(shape, model.spec.dtype) for shape in model.spec.shapes]
    traced = tf.function(outputs, autograph=False).get_concrete_function(
        of, tf.TensorSpec((1, *model.input_shape), model.spec.dtype)
    )
    graph = traced.graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return any(node.op in KINKED for node in nodes)
