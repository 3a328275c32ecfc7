"""Slots: the attributes of a Keras model that hold its variables, to be filled with given tensors for one call."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fedpriv.base.lazy import tf
from fedpriv.base.types import KerasModel, Layer, Tensor

#: Where Keras keeps its own books: what it trains with, and lists that repeat the variables of the attributes.
_BOOKKEEPING = frozenset(
    {
        "_trainable_weights",
        "_non_trainable_weights",
        "_self_unconditional_checkpoint_dependencies",
        "_self_unconditional_dependency_names",
        "_self_unconditional_deferred_dependencies",
        "_self_saveable_object_factories",
        "_obj_reference_counts_dict",
        "_inbound_nodes_value",
        "_outbound_nodes_value",
        "_nodes_by_depth",
        "_layer_by_depth",
        "_network_nodes",
        "_tensor_usage_count",
        "_callable_losses",
        "_losses",
        "_updates",
        "_metrics",
        "_train_counter",
        "_test_counter",
        "_predict_counter",
        "_saved_model_inputs_spec",
        "_saved_model_arg_spec",
        "_nested_inputs",
        "_nested_outputs",
        "_thread_local",
        "_distribute_strategy",
        "_random_generator",
        "optimizer",
        "compiled_loss",
        "compiled_metrics",
        "_call_spec",
    }
)
_MISSING = object()


@dataclass(frozen=True)
class Found:
    """A variable and where it was found first.

    Attributes:
      variable: the `tf.Variable`.
      owner: the layer (or module) it belongs to.
      path: slash-separated names of the layers that lead to it, then its attribute.
    """

    variable: tf.Variable
    owner: Any
    path: str


@dataclass
class Slots:
    """The places of a Keras model that hold tensors, and what else to replace while it is called.

    A model is called with other weights by putting them where its variables were (`holding`), not by cloning it: so
    shared layers, layers that cannot be serialized and lists or dictionaries of variables all work. While one thread
    is inside `holding`, no other may use the model.

    Attributes:
      found: every variable, in the order of the walk, by `id`.
      constants: eager tensors kept as attributes, by `id`; a plain graph cannot capture those.
      places: (owner, attribute, value with variables or tensors somewhere in it).
      overrides: (owner, attribute, replacement), put in place as well.
    """

    found: dict[int, Found] = field(default_factory=dict)
    constants: dict[int, Tensor] = field(default_factory=dict)
    places: list[tuple[Any, str, Any]] = field(default_factory=list)
    overrides: list[tuple[Any, str, Any]] = field(default_factory=list)
    _seen: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, model: KerasModel) -> Slots:
        """Walks `model`: its layers and modules, and the lists, tuples and dictionaries among their attributes."""
        slots = cls()
        slots._walk(model, "")
        return slots

    def _walk(self, owner: Any, path: str) -> None:
        self._seen.add(id(owner))
        attributes = dict(owner.__dict__)
        tracked = attributes.pop("_self_tracked_trackables", ())  # first, as it has the layers in their order
        counts: dict[str, int] = {}
        for layer in tracked:
            if isinstance(layer, tf.Module):
                self._collect(owner, layer, path, "", counts, frozenset())
        for name, value in attributes.items():
            if name not in _BOOKKEEPING and self._collect(owner, value, path, name, counts, frozenset()):
                self.places.append((owner, name, value))

    def _collect(
        self, owner: Any, value: Any, path: str, name: str, counts: dict[str, int], above: frozenset[int]
    ) -> bool:
        """Whether `value` is or contains a variable or tensor; layers inside it are walked on their own."""
        if isinstance(value, tf.Variable):
            self.found.setdefault(id(value), Found(value, owner, f"{path}{name.lstrip('_')}"))
            return True
        if tf.is_tensor(value):
            kind = value.dtype
            if not hasattr(value, "numpy") or not (kind.is_floating or kind.is_integer or kind.is_bool):
                return False
            self.constants.setdefault(id(value), value.numpy())
            return True
        if isinstance(value, tf.Module):
            if id(value) not in self._seen:
                called = _own_name(value, counts) if isinstance(value, tf.keras.layers.Layer) else name
                self._walk(value, f"{path}{called}/")
            return False
        items: Sequence[tuple[Any, Any]]
        if isinstance(value, dict):
            items = list(value.items())
        elif isinstance(value, list | tuple):
            items = list(enumerate(value))
        else:
            return False
        if id(value) in above:
            return False
        within = above | {id(value)}
        holds = [self._collect(owner, v, path, f"{name}/{k}", counts, within) for k, v in items]
        return any(holds)

    @contextmanager
    def holding(self, tensors: Mapping[int, Tensor]) -> Iterator[None]:
        """The model's variables replaced by `tensors`, keyed by the variables' `id`, until the block ends."""
        before: list[tuple[dict[str, Any], str, Any]] = []
        try:
            for owner, name, value in self.places:
                before.append((owner.__dict__, name, value))
                owner.__dict__[name] = _filled(value, tensors)
            for owner, name, value in self.overrides:
                before.append((owner.__dict__, name, owner.__dict__.get(name, _MISSING)))
                owner.__dict__[name] = value
            yield
        finally:
            for attributes, name, value in reversed(before):
                if value is _MISSING:
                    del attributes[name]
                else:
                    attributes[name] = value


def _filled(value: Any, tensors: Mapping[int, Tensor]) -> Any:
    if id(value) in tensors:
        return tensors[id(value)]
    if isinstance(value, tf.Variable) or tf.is_tensor(value):
        return value
    if isinstance(value, dict):
        return {k: _filled(v, tensors) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return value.__class__(*(_filled(v, tensors) for v in value))
    if isinstance(value, list | tuple):
        return (tuple if isinstance(value, tuple) else list)(_filled(v, tensors) for v in value)
    return value


def _own_name(layer: Layer, counts: dict[str, int]) -> str:
    """The layer's name; one that Keras numbered is numbered afresh, as its count depends on what was built before."""
    from keras.src.utils.generic_utils import to_snake_case

    kind = to_snake_case(type(layer).__name__)
    if not re.fullmatch(rf"{re.escape(kind)}(_\d+)?", layer.name):
        return str(layer.name)
    number = counts.get(kind, 0)
    counts[kind] = number + 1
    return f"{kind}_{number}" if number else kind
