"""load: a model from what a user writes, `name`, `name(key=value)` or `package.module:function`."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Collection, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from fedpriv.base import registry
from fedpriv.base.errors import FedprivError, ModelError, ParameterError, did_you_mean
from fedpriv.base.lazy import tf
from fedpriv.base.types import Config, KerasModel
from fedpriv.models.model import Model
from fedpriv.models.seeding import eagerly, first_line, seeded


class Facts(NamedTuple):
    """What a model may depend on of a dataset.

    Attributes:
      input_shape: one example's.
      num_classes: 0 where targets are quantities.
      target_shape: one target's; None where that is unknown.
      vocabulary: how many tokens there are; None where examples are no tokens.
      padding: the token that fills up short sequences, or None.
    """

    input_shape: tuple[int, ...]
    num_classes: int
    target_shape: tuple[int, ...] | None = None
    vocabulary: int | None = None
    padding: int | None = None

    @classmethod
    def of(cls, data: Any) -> Facts:
        """Those of a `fedpriv.data.dataset.Dataset`."""
        tokens = [getattr(data.kind, name, None) for name in ("vocabulary", "padding")]
        return cls(tuple(data.input_shape), data.num_classes, tuple(data.y.shape[1:]), *tokens)


def load(
    text: str,
    data: Any = None,
    num_classes: int = 0,
    *,
    input_shape: Sequence[int] | None = None,
    **parameters: Any,
) -> Model:
    """The model that `text` names, for a dataset's examples and targets.

    Args:
      text: a registered name, `name(key=value,...)`, or a dotted `package.module:function` (also with parameters).
        What is found there may be a function that returns a fedpriv `Model` or a `tf.keras.Model`, a subclass of
        `tf.keras.Model`, or a Keras model. A function gets `input_shape`, `num_classes`, `target_shape` and, for
        tokens, `vocabulary` and `padding`, if it has parameters of those names. For Keras models the options of
        `fedpriv.models.keras_model.from_keras` are accepted as well, such as `batch_norm=train` or `task=binary`.
      data: the dataset, or its `Facts`; or one example's shape without the batch, where a model needs no more.
      num_classes: number of classes, 0 where the targets are quantities; follows from a dataset.
      input_shape: one example's shape, in place of `data`.
      **parameters: parameters of the model; they override those written in `text`.

    Raises:
      UnknownNameError: no such model, module or function.
      ParameterError: a parameter it does not have, or with an impossible value.
      ModelError: a model that does not fit the data or cannot be a pure function of its weights.
    """
    name, written = registry.parse_call(text, "model")
    target = registry.models.load(name)
    if (data is None) == (input_shape is None):
        raise ParameterError(f"model '{name}': give the dataset, or one example's shape")
    if hasattr(data, "kind"):
        facts = Facts.of(data)
    elif isinstance(data, Facts):
        facts = data
    else:
        facts = Facts(tuple(int(s) for s in (data if input_shape is None else input_shape)), int(num_classes))
    return eagerly(lambda: _load(target, name, text, facts, {**written, **parameters}))


def _load(target: Any, name: str, text: str, facts: Facts, given: Config) -> Model:
    from fedpriv.models import keras_model

    shape, num_classes = facts.input_shape, facts.num_classes
    if isinstance(target, tf.keras.Model):
        return _from_keras(keras_model, target, text, facts, given, name)
    if not callable(target):
        raise ModelError(f"model '{name}' is a {type(target).__name__}; expected a function or a Keras model")

    accepted = _signature(target)
    for_keras = {k: given.pop(k) for k in keras_model.OPTIONS if k in given and k not in accepted}
    call = {**given}
    if "vocabulary" in accepted and facts.vocabulary is None and "vocabulary" not in given:
        raise ModelError(
            f"model '{name}' needs tokens, of which it asks the vocabulary, but these examples of shape {shape} are "
            "none; use data of kind tokens, such as 'sentences', a .txt or .jsonl file, or a CSV file with a column "
            "'text' (in Python, give the dataset itself in place of its shape)"
        )
    if facts.vocabulary is not None and "vocabulary" not in accepted and _is_own(target):
        raise ModelError(
            f"model '{name}' computes with the values of an example, but the numbers of tokens are names; use 'gpt', "
            "'lstm' or 'gru', or for one target a sequence 'bert' or 'bag_of_embeddings'"
        )
    for key, value in facts._asdict().items():
        if key in accepted and (value is not None or key not in given):
            if key in given:
                raise ParameterError(f"model '{name}': {key} follows from the data ({value}); leave it out")
            call[key] = value
    made: list[Any] = []

    def build() -> Any:
        return made.pop() if made else _call(target, call, accepted, name)

    with seeded(0):
        product = build()
    if isinstance(product, tf.keras.Model):
        made.append(product)
        return _from_keras(keras_model, build, text, facts, for_keras, name)
    if not isinstance(product, Model):
        raise ModelError(
            f"model '{name}' returned a {type(product).__module__}.{type(product).__name__}; "
            "it must return a fedpriv Model or a tf.keras.Model"
        )
    if for_keras:
        _refuse_unknown(for_keras, accepted, name)
    if (product.input_shape, product.num_classes) != (shape, num_classes):
        raise ModelError(
            f"model '{name}' takes examples of shape {product.input_shape} in {product.num_classes} classes, but the "
            f"data has shape {shape} in {num_classes} classes"
        )
    return product


def _signature(target: Any) -> dict[str, inspect.Parameter]:
    try:
        return registry.parameters_of(target)
    except (TypeError, ValueError):  # built-in callables tell no signature
        return {}


def _is_own(target: Any) -> bool:
    return str(getattr(target, "__module__", "")).startswith("fedpriv.models.")


def _refuse_unknown(given: Config, accepted: Collection[str], name: str) -> None:
    for key in given:
        if key not in accepted:
            raise ParameterError(f"model '{name}' has no parameter '{key}'.{did_you_mean(key, accepted)}")


def _call(target: Any, arguments: Config, accepted: dict[str, inspect.Parameter], name: str) -> Any:
    arguments = {
        k: _literal(v) if k not in accepted or accepted[k].annotation is inspect.Parameter.empty else v
        for k, v in arguments.items()
    }
    try:
        if not inspect.isclass(target):
            return registry.build(target, arguments, f"model '{name}'")
        _refuse_unknown(arguments, accepted, name)
        return target(**arguments)
    except FedprivError:
        raise
    except Exception as e:
        raise ModelError(f"model '{name}' failed to build: {type(e).__name__}: {first_line(e)}") from e


def _literal(value: Any) -> Any:
    """Numbers, booleans and lists written as text, for parameters that do not say what they are."""
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError):
        return value


def _from_keras(
    keras_model: ModuleType,
    build: Callable[[], Any] | KerasModel,
    text: str,
    facts: Facts,
    options: Config,
    name: str,
) -> Model:
    _refuse_unknown(options, keras_model.OPTIONS, name)
    known = {"build": build, "name": text, **facts._asdict(), **options}
    made: Model = registry.build(keras_model.from_keras, known, f"model '{name}'")
    return made
