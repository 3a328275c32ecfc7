"""Keras models as fedpriv models: any `tf.keras.Model` made a pure function of its weights."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from fedpriv.base.errors import ModelError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Array, Examples, KerasModel, Layer, Tensor, Tensors
from fedpriv.models.chain import describe, layers_of
from fedpriv.models.draws import Draw, Source
from fedpriv.models.keras_tokens import Attended, KerasTokens, unseen_rows_move, untied_head
from fedpriv.models.model import Model, Moments
from fedpriv.models.normalization import (
    NOTES,
    BatchNorm,
    BatchNormChoice,
    Listener,
    batch_norm_call,
    chosen_mode,
    group_norm_call,
    is_batch_norm,
    is_group_norm,
)
from fedpriv.models.random_layers import ENCODER, is_variational_sample, random_call
from fedpriv.models.running import Running, Told
from fedpriv.models.seeding import eagerly, first_line, seeded
from fedpriv.models.sequences import Attention, Embedding
from fedpriv.models.slots import Found, Slots
from fedpriv.models.spec import Spec
from fedpriv.models.task import Task, create
from fedpriv.models.tasks.next_token import NextToken
from fedpriv.models.token_inputs import task_of

#: The keyword options of `from_keras`, which `fedpriv.models.load` also takes for a Keras model given by name.
OPTIONS = ("outputs", "batch_norm", "allow_stateful_random", "verify", "task")
#: Initial weights that a model keeps, in numbers; those of one seed at least.
KEPT_WEIGHTS = 2**21

_RANDOM_OP = re.compile(
    "Random(Uniform|UniformInt|StandardNormal|Gamma|Poisson|PoissonV2|Shuffle)|Multinomial|TruncatedNormal|"
    "ParameterizedTruncatedNormal|Stateful(Uniform|UniformFullInt|UniformInt|StandardNormal|StandardNormalV2|"
    "TruncatedNormal|RandomBinomial)|Rng(ReadAndSkip|Skip)"
)


def from_keras(
    build: Any,
    name: str | None = None,
    input_shape: Sequence[int] | None = None,
    num_classes: int | None = None,
    *,
    outputs: Literal["logits", "probabilities"] = "logits",
    batch_norm: BatchNormChoice = "auto",
    allow_stateful_random: bool = False,
    verify: bool = True,
    task: Task | str | None = None,
    target_shape: Sequence[int] | None = None,
    vocabulary: int | None = None,
    padding: int | None = None,
) -> Model:
    """A fedpriv model from any Keras model: sequential, functional or subclassed, shared and custom layers included.

    The Keras model is built once and never cloned. Whenever fedpriv's model is applied, its variables are replaced
    by the tensors given, the Keras model is called, and its variables are put back; in a compiled function that
    happens while it is traced and costs nothing when it runs. Do not use the Keras model from another thread
    meanwhile. What is not trainable (frozen layers, running statistics except under `batch_norm=running`, embedded
    tables) is read once, here, and becomes constants.

    The regularization losses of a Keras model are not part of the loss: that is the task's alone.

    A model of tokens takes their numbers, and points of the embedding space where one `Embedding` layer (or subclass)
    looks the tokens up, and nothing else reads them but masks (`mask_zero`): see `Model.embedding`. Which layer that
    is, and that points do the same as the rows that they stand for, is found out by calling the model. Where they do
    not, the model's `notes` say why, and points are refused; it can be trained all the same.

    Args:
      build: a function of no arguments that returns the Keras model, or the model itself. A function is called
        again, under the seed, whenever initial weights are asked for; a model's own weights are its initial weights
        whatever the seed.
      name: how to call it; by default the Keras model's name.
      input_shape: one example's shape, without the batch. Needed where the Keras model does not declare it.
      num_classes: the number of classes expected of it, 0 where targets are quantities; None for as many as it has.
      outputs: `logits`, or `probabilities` for a model that ends in softmax, whose softmax is then left out.
      batch_norm: `eval` for frozen running statistics, `train` for those of the batch, `running` for those of the batch
        in training and running ones in evaluation, which become weights that clients move and send; `auto` is `eval`
        for a model that came with running statistics, and `running` for a new one. The model's `notes` say which.
        A batch normalization with `trainable=False` keeps its own under `running`, as under Keras.
      allow_stateful_random: accept layers that draw random numbers when training in a way that is not known here
        (augmentation, dropout inside of recurrent layers), giving up that the same seed gives the same bits. Dropout,
        spatial dropout, Gaussian noise and Gaussian dropout need no leave: what they draw comes from the run's seed
        (`Model.draws`).
      verify: trace the model once in training and once in evaluation to make sure that it is a pure function.
        Leaving it out saves a second for a deep model that is known to be one.
      task: what its outputs are for, such as `binary` for one logit; None is `classes`, or `regression` where
        `num_classes` is 0; `next_token` where there is a target at each place.
      target_shape: one target's; follows from a dataset.
      vocabulary, padding: number of tokens, and the one that fills up short sequences; follow from a dataset. Without
        a vocabulary examples are taken for quantities, and no embedding is looked for.

    Raises:
      ModelError: not a model that is a pure function of its weights; says why and what to change.
    """
    return eagerly(
        lambda: _from_keras(
            build,
            name,
            input_shape,
            num_classes,
            outputs,
            batch_norm,
            allow_stateful_random,
            verify,
            task,
            None if target_shape is None else tuple(target_shape),
            vocabulary,
            padding,
        )
    )


def _from_keras(
    build: Callable[[], KerasModel] | KerasModel,
    name: str | None,
    input_shape: Sequence[int] | None,
    num_classes: int | None,
    outputs: str,
    batch_norm: BatchNormChoice,
    allow_stateful_random: bool,
    verify: bool,
    task: Task | str | None,
    target_shape: tuple[int, ...] | None,
    vocabulary: int | None,
    padding: int | None,
) -> Model:
    wanted = None if input_shape is None else tuple(int(s) for s in input_shape)
    given = isinstance(build, tf.keras.Model)
    with seeded(0):
        keras_model = build if given else build()
        if not isinstance(keras_model, tf.keras.Model):
            raise ModelError(
                f"model '{name or build}': expected a tf.keras.Model, or a function of no arguments that returns one; "
                f"got {type(keras_model).__module__}.{type(keras_model).__name__}"
            )
        name = name or keras_model.name
        least = _least_rows(keras_model, vocabulary)
        shape, output_shape = _build_for(keras_model, wanted, name, least)
    made_task = _task_for(task, num_classes, output_shape, name, target_shape, shape, padding)
    dtype = _dtype_of(keras_model, name)
    slots = Slots.of(keras_model)
    last = _last_layer(keras_model)
    recorder = _Recorder()
    tokens = KerasTokens.of(keras_model, name, padding)
    least = _least_rows(keras_model, vocabulary)  # layers may have been made when it was built
    tokens.attach(slots)
    mode = chosen_mode(batch_norm, _batch_norms(keras_model))
    notes = _override(keras_model, slots, last, name, outputs, mode, recorder) + _scaled_again(keras_model)
    source = Source()
    drawing = _override_random(keras_model, slots, source)

    variables = list(keras_model.trainable_variables)
    missing = [v.name for v in variables if id(v) not in slots.found]
    if missing:
        raise ModelError(
            f"model '{name}' keeps its weights {', '.join(missing)} where they cannot be replaced; "
            "make them attributes of a layer (add_weight), or a list or dictionary of one"
        )
    frozen = {i: f.variable.numpy() for i, f in slots.found.items() if not any(f.variable is v for v in variables)}
    plain = [i for i in frozen if not _is_statistic(slots.found[i])]
    if plain:
        notes.append(f"{len(plain)} weights that are not trainable are constants of the model")
    if getattr(keras_model, "losses", None):
        notes.append("the Keras model's regularization losses are not part of the loss")
    if given:
        notes.append("its initial weights are those that the Keras model came with, whatever the seed")

    random_layers = [
        layer
        for layer in _layers(keras_model)
        if getattr(layer, "_random_generator", None) is not None and layer not in drawing
    ]
    if allow_stateful_random and random_layers:
        notes.append("draws random numbers while training, so the same seed does not give the same bits")

    running = _running(keras_model, slots) if mode == "running" and NOTES[mode] in notes else None
    first = [] if running is None else running.initial()
    fixed = {**frozen, **slots.constants}
    call = _caller(keras_model, name, shape, output_shape, dtype, slots, fixed, running, recorder, tokens, vocabulary)
    order = list(range(len(variables)))

    def applying(order: list[int]) -> Callable[[Tensors, Examples, bool], Tensor]:
        keys = [id(variables[i]) for i in order]
        return lambda weights, x, training: call(keys, weights, x, training)

    def telling(
        order: list[int],
    ) -> Callable[[Tensors, Examples], tuple[Tensor, list[Told]]]:
        keys = [id(variables[i]) for i in order]

        def told(weights: Tensors, x: Examples) -> tuple[Tensor, list[Told]]:
            with recorder as found:
                logits = call(keys, weights, x, True)
            for layer, mean, _, _ in found:
                if not tf.executing_eagerly() and mean.graph is not logits.graph:
                    raise ModelError(
                        f"model '{name}' applies batch normalization '{layer.name}' inside a loop or a condition of "
                        "the graph, so its statistics cannot be measured; apply it outside, say batch_norm=train, or "
                        "use group normalization"
                    )
            return logits, found

        return told

    couples = NOTES["train"] in notes or running is not None
    if verify:
        weights, examples = [*first, *(v.numpy() for v in variables)], _example(shape, 3, least)
        notes += _verify(
            applying(order), weights, shape, dtype, name, random_layers, allow_stateful_random, least is not None
        )
        if running is not None:  # found now rather than in the first round
            tf.function(lambda w: telling(order)(w, examples)[0], autograph=False).get_concrete_function(weights)
        logits = applying(order)(weights, examples, False).numpy()
        together, alone = (applying(order)(weights, e, True).numpy() for e in (examples, examples[:1]))
        couples |= not np.allclose(together[:1], alone, atol=1e-4, rtol=1e-3)
        if np.all(logits >= 0) and np.allclose(logits.sum(-1), 1, atol=1e-4):
            raise ModelError(_ends_in(name, "softmax (its outputs are probabilities)"))
    order = _classifier_last(
        order,
        variables,
        slots,
        last,
        lambda w, x, t: applying(order)([*first, *w], x, t),
        shape,
        output_shape[-1],
        least,
    )
    found = [slots.found[id(variables[i])] for i in order]
    draws: tuple[Draw, ...] = ()
    charges = False
    if drawing:
        start = [*first, *(variables[i].numpy() for i in order)]
        owners = [f.owner for f in found]
        draws, charges = _draws_of(keras_model, source, lambda x: applying(order)(start, x, True), shape, least)
        draws = tuple(replace(d, before=_before(d, keras_model, owners, len(first))) for d in draws)
    if draws:
        called = ", ".join(dict.fromkeys(f"'{d.name}'" for d in draws))
        notes.append(f"draws random numbers in training ({called}), from the run's seed")
    names = _unique([*(running.names if running else ()), *(f.path for f in found)])
    spec = Spec(names, (*(a.shape for a in first), *(tuple(f.variable.shape) for f in found)), dtype)
    named = {id(f.variable): n for f, n in zip(found, names[len(first) :])}
    chain = describe(layers_of(keras_model) or [], shape, named, outputs == "probabilities")

    normalizes = NOTES[mode] in notes
    told = telling(order)
    layers, moving = list[Layer](), False
    if normalizes and mode != "train":
        start = [tf.constant(w) for w in (*first, *(variables[i].numpy() for i in order))]
        uses = told(start, _example(shape, 1, least))[1]
        layers, moving = [layer for layer, *_ in uses], all(own for *_, own in uses)
    kept = {
        id(layer): (layer.moving_mean.numpy().reshape(-1), layer.moving_variance.numpy().reshape(-1))
        for layer in layers
    }

    def moments(weights: Tensors, x: Examples) -> Moments:
        return tuple((mean, variance) for _, mean, variance, _ in told(weights, x)[1])

    def advance(weights: Tensors, x: Examples) -> tuple[Tensor, tuple[Tensor, ...]]:
        assert running is not None
        logits, found = told(weights, x)
        return logits, running.moved(weights[: len(first)], found)

    def stochastic(
        weights: Tensors, x: Examples, values: Tensors | None
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
        with source.giving(values) as penalties:
            if running is None:
                logits, moved = applying(order)(weights, x, True), ()
            else:
                logits, moved = advance(weights, x)
            return logits, tf.add_n(penalties) if penalties else None, moved

    def estimates(weights: Tensors) -> Moments:
        assert running is not None
        current = {
            layer: (tf.reshape(mean, [-1]), tf.reshape(variance, [-1]))
            for layer, (mean, variance) in zip(running.layers, running.estimates(weights[: len(first)]))
        }
        return tuple(current.get(layer) or kept[id(layer)] for layer in layers)

    def sent(weights: Tensors, update: Tensors) -> Moments:
        assert running is not None
        found = dict(zip(running.layers, running.read(weights[: len(first)], update[: len(first)])))
        return tuple(found[layer] for layer in layers)

    each_once = running is not None and len(layers) == len(set(layers)) == len(running.layers)
    readable = each_once and moving and running is not None and running.readable

    # Building the network again takes as long as a small round does.
    @functools.lru_cache(max(1, min(32, KEPT_WEIGHTS // max(1, spec.size))))
    def drawn(seed: int) -> list[np.ndarray]:
        return eagerly(lambda: _initial(build, seed, shape, name, order))

    def initialize(seed: int) -> list[np.ndarray]:
        if given:
            return [*first, *(variables[i].numpy() for i in order)]
        return [*first, *(w.copy() for w in drawn(seed))]

    kinds = ("statistics",) * len(first) + tuple(_kind(f.owner) for f in found)
    embedding = None
    if least is not None and len(shape) == 1:
        start = [*first, *(variables[i].numpy() for i in order)]
        where = {id(f.variable): len(first) + i for i, f in enumerate(found)}
        embedding = _embedding(tokens, applying(order), start, where, spec, kinds, made_task, shape, vocabulary, least)
        if embedding is None:
            notes.append(f"attacks that follow gradients to its tokens cannot: {tokens.reason}")
        elif getattr(tokens.layer, "mask_zero", False) and padding:
            notes.append(f"its embedding masks token 0, but the data's padding is {padding}")

    attention: tuple[Attention, ...] = ()
    if embedding is not None and least is not None:
        attention = _attentions(tokens, applying(order), start, where, shape, least)

    pure = tf.autograph.experimental.do_not_convert

    return Model(
        name=name,
        input_shape=shape,
        num_classes=made_task.classes,
        spec=spec,
        apply=pure(applying(order)),
        initialize=initialize,
        layers=kinds,
        notes=tuple(notes),
        couples_examples=couples,
        chain=chain,
        moments=pure(moments) if normalizes else None,
        buffers=len(first),
        advance=pure(advance) if running else None,
        estimates=pure(estimates) if running else None,
        sent=pure(sent) if readable else None,
        running=tuple(kept[id(layer)] for layer in layers) if normalizes and mode == "eval" else None,
        task=made_task,
        embedding=embedding,
        attention=attention,
        draws=draws,
        stochastic=pure(stochastic) if draws or charges else None,
    )


def _embedding(
    tokens: KerasTokens,
    apply: Callable[[Tensors, Examples, bool], Tensor],
    weights: list[np.ndarray],
    where: dict[int, int],
    spec: Spec,
    kinds: tuple[str, ...],
    task: Task,
    shape: tuple[int, ...],
    vocabulary: int | None,
    least: int,
) -> Embedding | None:
    """Where the model keeps its tokens' vectors; None where `tokens.reason` says why points cannot stand for them.

    Args:
      where: the number in the spec of each variable, by its `id`.
      least: how many of the first tokens every embedding layer has.
    """
    x = _example(shape, 4, least)
    x[:, -1] = 0 if tokens.padding is None else min(tokens.padding, least - 1)

    def at(inputs: Examples) -> Tensor:
        return apply(weights, inputs, False)

    tokens.find(at, x, lambda layer: _rows(layer, weights, where))
    if tokens.layer is None:
        return None
    variable = tokens.layer.embeddings
    if vocabulary is not None and variable.shape[0] < vocabulary:
        raise ModelError(
            f"model '{tokens.name}' has an embedding of {variable.shape[0]} tokens, but the data has {vocabulary}; "
            f"build layer '{tokens.layer.name}' with input_dim={vocabulary}"
        )
    if id(variable) not in where:
        tokens.reason = f"the table of its layer '{tokens.layer.name}' is not trained"
        tokens.layer = None
        return None
    table, each = where[id(variable)], isinstance(task, NextToken)
    tied = False
    if each:
        tensors = [tf.constant(w) for w in weights]
        with tf.GradientTape() as tape:
            tape.watch(tensors[table])
            outputs = apply(tensors, x[:1], True)
            losses = task.losses(outputs, tf.constant(np.maximum(x[:1], 1), task.target_dtype))
        tied = unseen_rows_move(tf.convert_to_tensor(tape.gradient(losses, tensors[table])).numpy(), x[:1])
    positions = tokens.positions(at, x)
    return Embedding(
        table,
        tied,
        untied_head(spec.shapes, task.classes, kinds) if each and not tied else None,
        None if positions is None else where.get(id(positions.embeddings)),
    )


def _attentions(
    tokens: KerasTokens,
    apply: Callable[[Tensors, Examples, bool], Tensor],
    weights: list[np.ndarray],
    where: dict[int, int],
    shape: tuple[int, ...],
    least: int,
) -> tuple[Attention, ...]:
    """The model's attentions, if all are self-attentions over the places, each applied once, with trained queries."""
    length = shape[0]

    def applied(weights: Tensors, x: Examples) -> list[Attended]:
        return tokens.attended(lambda: apply(weights, x, False))

    x = _example(shape, 1, least)
    other = x.copy()
    other[:, -1] = (x[:, -1] + 1) % least
    before, after = (applied(weights, numbers) for numbers in (x, other))
    found: list[Attention] = []
    for number, (a, b) in enumerate(zip(before, after)):
        query = where.get(id(getattr(a.layer._query_dense, "kernel", None)))
        plain = (
            a.alone and tf.is_tensor(a.output) and tuple(a.query.shape[:2]) == (1, length) and a.query.shape.rank == 3
        )
        if query is None or not plain or any(query == f.query for f in found):
            return ()
        causal = all(
            np.allclose(p[:, :-1], q[:, :-1], atol=1e-5) for p, q in ((a.query, b.query), (a.output, b.output))
        )

        def inputs(weights: Tensors, x: Examples, number: int = number, causal: bool = causal) -> Tensor:
            whole = tokens.filled(x, length)
            if whole is not x and number and not causal and not getattr(tokens.layer, "mask_zero", False):
                raise ModelError(
                    f"model '{tokens.name}' has no mask, so that what enters its attention {number + 1} depends on all "
                    f"{length} places; give as many, or build its embedding with mask_zero=True"
                )
            places = x.shape[1] if tf.is_tensor(x) else np.shape(x)[1]
            return applied(weights, whole)[number].query[:, :places]

        found.append(Attention(query, inputs, causal))
    return tuple(found)


def _rows(layer: Layer, weights: list[np.ndarray], where: dict[int, int]) -> np.ndarray:
    """An embedding layer's table, among the weights or frozen."""
    number = where.get(id(layer.embeddings))
    return layer.embeddings.numpy() if number is None else weights[number]


def _least_rows(model: KerasModel, vocabulary: int | None) -> int | None:
    """How many of the first token numbers the model surely takes; None where its examples may be something else."""
    if vocabulary is None:
        return None
    rows = KerasTokens.of(model, model.name, None).rows
    return vocabulary if rows is None else min(rows, vocabulary)


def _task_for(
    task: Task | str | None,
    num_classes: int | None,
    output_shape: tuple[int, ...],
    name: str,
    target_shape: tuple[int, ...] | None,
    input_shape: tuple[int, ...],
    padding: int | None,
) -> Task:
    """The task of a Keras model, checked against what it gives out."""
    if task == "next_token" or (task is None and target_shape is not None and len(target_shape) == 1):
        names = num_classes or output_shape[-1]
        return _checked_task(task_of(name, input_shape, names, target_shape, task, padding), output_shape, name, names)
    if task is None and num_classes is None and output_shape == (1,):
        raise ModelError(
            f"model '{name}' has 1 output; fedpriv needs one logit a class: give its last layer as many units as there "
            "are classes, or say task=binary (one logit) or task=regression"
        )
    made = create(task, output_shape[-1] if num_classes is None and task is None else num_classes or 0)
    return _checked_task(made, output_shape, name, num_classes)


def _checked_task(made: Task, output_shape: tuple[int, ...], name: str, num_classes: int | None) -> Task:
    if output_shape == made.output_shape:
        return made
    if len(output_shape) != len(made.output_shape):
        expected = "(batch, classes)" if made.softmax else f"(batch, {', '.join(map(str, made.output_shape))})"
        raise ModelError(f"model '{name}' gives outputs of shape {(None, *output_shape)}; expected logits {expected}")
    data = f"the data has {num_classes} classes" if made.softmax else f"task '{made.name}' takes {made.output_shape}"
    units = made.output_shape[-1]
    binary = ", or say task=binary" if output_shape == (1,) and num_classes == 2 else ""
    raise ModelError(
        f"model '{name}' has {' x '.join(map(str, output_shape))} outputs, but {data}; give its last layer {units} "
        f"unit{'s' if units > 1 else ''}{binary}"
    )


class _Recorder(threading.local):
    """Collects what the batch normalizations say of their inputs while a thread is inside it."""

    def __init__(self) -> None:
        self.listening = False
        self.training = False
        self.found: list[Told] = []

    def __enter__(self) -> list[Told]:
        self.listening, self.found = True, []
        return self.found

    def __exit__(self, *_: Any) -> None:
        self.listening, self.found = False, []

    def listener(self) -> Listener | None:
        """Whom a batch normalization tells, for `batch_norm_call`."""
        return (lambda *told: self.found.append(told)) if self.listening else None


def _initial(
    build: Callable[[], KerasModel], seed: int, shape: tuple[int, ...], name: str, order: list[int]
) -> list[Array]:
    with seeded(seed):
        model = build()
        _build_for(model, shape, name)
        variables = model.trainable_variables
        return [variables[i].numpy() for i in order]


def _example(shape: tuple[int, ...], n: int, vocabulary: int | None = None) -> np.ndarray:
    drawn = np.random.RandomState(0).uniform(size=(n, *shape))
    if vocabulary is None or len(shape) != 1:
        return drawn.astype("float32")
    return np.floor(drawn * vocabulary).astype("int32")


def _build_for(
    model: KerasModel, wanted: tuple[int, ...] | None, name: str, vocabulary: int | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Creates the variables of `model` if need be; gives its example shape and its outputs' shape."""
    declared: tuple[int | None, ...] | None = None
    if getattr(model, "_is_graph_network", False):
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            raise ModelError(
                f"model '{name}' has {len(model.inputs)} inputs and {len(model.outputs)} outputs; "
                "fedpriv trains models of one input and one output"
            )
        declared = tuple(model.inputs[0].shape[1:])
    if wanted is None:
        if declared is None or None in declared:
            said = "does not declare" if declared is None else f"declares {declared}, which leaves open"
            raise ModelError(f"model '{name}' {said} its input shape; pass input_shape=(height, width, channels)")
        wanted = tuple(int(d) for d in declared if d)
    if declared is not None and (
        len(declared) != len(wanted) or any(d not in (None, w) for d, w in zip(declared, wanted))
    ):
        raise ModelError(
            f"model '{name}' takes examples of shape {declared}, but the data has {wanted}; "
            "build the model for the data, or resize the data"
        )
    if declared == wanted:
        shape = tuple(model.outputs[0].shape)
    else:
        try:  # two batch sizes, so that a nested model without a declared shape learns that the first axis varies
            for n in (2, 3):
                out = model(_example(wanted, n, vocabulary), training=False)
        except Exception as e:
            raise ModelError(f"model '{name}' cannot take examples of shape {wanted}: {first_line(e)}") from e
        if not tf.is_tensor(out):
            raise ModelError(f"model '{name}' returns a {type(out).__name__}; it must return one tensor of logits")
        shape = (None, *out.shape[1:])
    if len(shape) < 2 or None in shape[1:]:
        raise ModelError(f"model '{name}' gives outputs of shape {shape}; expected logits (batch, classes)")
    return wanted, tuple(int(s) for s in shape[1:])


def _dtype_of(model: KerasModel, name: str) -> str:
    dtypes = {v.dtype.base_dtype.name for v in model.trainable_variables}
    if not dtypes:
        raise ModelError(f"model '{name}' has no trainable weights, so there is nothing to train or to attack")
    mixed = [
        layer.name for layer in _layers(model) if layer.dtype_policy.compute_dtype != layer.dtype_policy.variable_dtype
    ]
    if mixed or len(dtypes) > 1 or not dtypes <= {"float32", "float64"}:
        what = f"mixed precision in {mixed[0]}" if mixed else f"weights of {', '.join(sorted(dtypes))}"
        raise ModelError(f"model '{name}' has {what}; build all of it in float32, or all in float64")
    return dtypes.pop()


def _layers(model: KerasModel) -> list[Layer]:
    return list(model._flatten_layers(include_self=True, recursive=True))


def _last_layer(model: KerasModel) -> Layer | None:
    """The layer whose output is the model's, if the model is a graph of layers."""
    while getattr(model, "_is_graph_network", False):
        model = model.outputs[0]._keras_history.layer
    return None if isinstance(model, tf.keras.Model) else model


def _ends_in(name: str, what: str) -> str:
    return f"model '{name}' ends in {what}, but fedpriv needs logits: remove the last activation" + (
        ", or pass outputs='probabilities' to have it left out" if what.startswith("softmax") else ""
    )


def _scaled_again(model: Any) -> list[str]:
    """A note where the first layer scales pixels of 0 to 255, since examples here are in [0, 1] already."""
    inner = [m for m in _layers(model) if not isinstance(m, tf.keras.layers.InputLayer | tf.keras.Model)]
    first = next(iter(inner), None)
    if not isinstance(first, tf.keras.layers.Rescaling) or not 0 < abs(float(first.scale)) < 0.02:
        return []
    return [
        f"its first layer '{first.name}' scales by {float(first.scale):.4g}, as for pixels from 0 to 255, but examples "
        "come in [0, 1] already, so that the next layer sees next to nothing; leave it out"
    ]


def _override(
    model: KerasModel,
    slots: Slots,
    last: Any,
    name: str,
    outputs: str,
    batch_norm: BatchNorm,
    recorder: _Recorder,
) -> list[str]:
    """Replaces what is not pure or not wanted: batch normalization's updates, a last softmax. Returns notes."""
    pure = tf.autograph.experimental.do_not_convert
    notes = []
    for layer in _layers(model):
        if is_batch_norm(layer):
            called = batch_norm_call(layer, batch_norm, recorder.listener, lambda: recorder.training)
            slots.overrides.append((layer, "call", pure(called)))
            notes = [NOTES[batch_norm]]
        elif is_group_norm(layer):
            slots.overrides.append((layer, "call", pure(group_norm_call(layer))))
    is_softmax = isinstance(last, tf.keras.layers.Softmax)
    ending = "softmax" if is_softmax else getattr(getattr(last, "activation", None), "__name__", "")
    if ending in ("sigmoid", "hard_sigmoid"):
        raise ModelError(_ends_in(name, f"{ending} (layer '{last.name}')"))
    if outputs == "probabilities":
        if ending != "softmax":
            raise ModelError(
                f"model '{name}': outputs='probabilities', but no softmax is seen at its end; "
                "pass outputs='logits' if it has none, or make the softmax a layer or activation of its own"
            )
        if len(last._inbound_nodes) > 1:
            raise ModelError(f"model '{name}' uses its last layer '{last.name}' more than once; remove its softmax")
        if is_softmax:
            slots.overrides.append((last, "call", pure(lambda inputs, mask=None: inputs)))
        else:
            slots.overrides.append((last, "activation", tf.keras.activations.linear))
    elif ending == "softmax":
        raise ModelError(_ends_in(name, f"softmax (layer '{last.name}')"))
    return notes


def _override_random(model: KerasModel, slots: Slots, source: Source) -> list[Layer]:
    """Lets layers that draw take their draws from `source`; gives those layers."""
    found = []
    for layer in _layers(model):
        called = random_call(layer, source)
        if called is not None:
            slots.overrides.append((layer, "call", tf.autograph.experimental.do_not_convert(called)))
            found.append(layer)
    return found


def _draws_of(
    model: KerasModel, source: Source, apply: Callable[[Examples], Tensor], shape: tuple[int, ...], least: int | None
) -> tuple[tuple[Draw, ...], bool]:
    """(What the model draws in one call, whether it adds to the loss)."""
    with source.finding() as found:
        apply(_example(shape, 1, least))
        return tuple(found), bool(source.penalties)


def _before(draw: Draw, model: KerasModel, owners: Sequence[Layer], first: int) -> int | None:
    """How many of the first tensors belong to layers before the one that draws; its bottleneck's count as its own."""
    layers = layers_of(model)
    names = [layer.name for layer in layers or []]
    if layers is None or names.count(draw.name) != 1:
        return None
    place = names.index(draw.name)
    if is_variational_sample(layers[place]) and ENCODER in names:
        place = names.index(ENCODER)
    earlier = [any(owner is layer for layer in layers[:place]) for owner in owners]
    count = earlier.index(False) if False in earlier else len(earlier)
    return first + count if not any(earlier[count:]) else None


def _caller(
    model: KerasModel,
    name: str,
    shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    dtype: str,
    slots: Slots,
    fixed: dict[int, np.ndarray],
    running: Running | None,
    recorder: _Recorder,
    tokens: KerasTokens,
    vocabulary: int | None,
) -> Callable[[list[int], Tensors, Examples, bool], Tensor]:
    lock = threading.RLock()
    buffers = 0 if running is None else len(running.names)
    undeclared = tf.as_dtype(dtype) if vocabulary is None else tf.int32
    takes = model.inputs[0].dtype if getattr(model, "inputs", None) else undeclared
    custom = any(not type(layer).__module__.startswith(("keras.", "fedpriv.")) for layer in _layers(model))

    def call(keys: list[int], weights: Tensors, x: Examples, training: bool) -> Tensor:
        if len(weights) != len(keys) + buffers:
            raise ModelError(f"model '{name}' takes {len(keys) + buffers} weight tensors, got {len(weights)}")
        x = tf.convert_to_tensor(x)
        points = None
        if len(shape) == 1 and x.shape.rank == 3:
            x, points = tokens.split(x)
        x = tf.cast(x, takes)
        if not x.shape[1:].is_compatible_with(shape):
            raise ModelError(f"model '{name}' takes examples of shape {shape}, got {tuple(x.shape[1:])}")
        tensors: dict[int, Tensor] = {k: tf.convert_to_tensor(w, dtype) for k, w in zip(keys, weights[buffers:])}
        tensors.update((k, tf.constant(v)) for k, v in fixed.items())
        if running is not None:
            for layer, pair in zip(running.layers, running.estimates(weights[:buffers])):
                tensors.update(zip((id(layer.moving_mean), id(layer.moving_variance)), pair))
        recorder.training = training
        try:
            with lock, slots.holding(tensors), tokens.standing(points):
                if custom:
                    logits = _with_autograph(lambda: model(x, training=training))
                else:
                    logits = model(x, training=training)
        except ModelError as e:  # Keras adds the arguments of the call
            raise ModelError(first_line(e)) from e
        logits.set_shape((None, *output_shape))
        return logits

    return call


def _with_autograph(function: Callable[[], Tensor]) -> Tensor:
    """Layers written outside Keras may use Python's `if` and `for` on tensors, as Keras allows them to."""
    from tensorflow.python.autograph.core import ag_ctx, converter

    if tf.executing_eagerly():
        return function()
    options = converter.ConversionOptions(recursive=True)
    with ag_ctx.ControlStatusCtx(status=ag_ctx.Status.ENABLED, options=options):
        return function()


def _verify(
    apply: Callable[[Tensors, Examples, bool], Tensor],
    weights: list[np.ndarray],
    shape: tuple[int, ...],
    dtype: str,
    name: str,
    random_layers: list[Layer],
    allow_stateful_random: bool,
    of_tokens: bool,
) -> list[str]:
    """Traces the model in both modes and looks at the graphs: no variable, no state, no random draw. Returns notes."""
    stops = follows = False
    signature = [tf.TensorSpec(w.shape, dtype) for w in weights], tf.TensorSpec((None, *shape), dtype)
    for training in (True, False):
        mode = "training" if training else "evaluation"
        try:
            traced = tf.function(lambda w, x, t=training: apply(w, x, t), autograph=False).get_concrete_function(
                *signature
            )
        except ModelError:
            raise
        except Exception as e:
            raise ModelError(
                f"model '{name}' cannot be called in {mode} as a pure function of its weights: {first_line(e)}. "
                "A layer that changes a variable while it is called must not do so"
            ) from e
        used = _operations(traced.graph)
        stops |= "StopGradient" in used
        follows |= _follows_its_input(traced, len(weights))
        draws = [op for op in used if _RANDOM_OP.fullmatch(op)]
        generators = [g for g in (getattr(layer._random_generator, "_generator", None) for layer in random_layers) if g]
        states = {id(g.state.handle) for g in generators} if allow_stateful_random else set()
        if draws and not allow_stateful_random:
            where = ", ".join(f"'{layer.name}' ({type(layer).__name__})" for layer in random_layers)
            raise ModelError(
                f"model '{name}' draws random numbers in {mode} ({where or draws[0]}), so the same seed could not give "
                "the same bits: remove those layers, or pass allow_stateful_random=True to accept that"
            )
        captured = [c for c in traced.captured_inputs if id(c) not in states]
        if captured:
            kept = [v.name for v in traced.variables] or [f"{c.dtype.name} tensor of shape {c.shape}" for c in captured]
            raise ModelError(
                f"model '{name}' depends on {', '.join(kept)}, which is not among its weights; "
                "make it a weight of a layer (add_weight) or a NumPy constant"
            )
    notes = []
    if stops:
        notes.append("stops gradients inside (as tf.nn.moments does), so second derivatives may not be exact")
    if not follows and not of_tokens:
        notes.append(
            "its outputs have no gradient with respect to its input (something rounds, casts or looks up), so that "
            "attacks which match updates by gradients gain nothing from it"
        )
    return notes


def _follows_its_input(traced: Any, weights: int) -> bool:
    """Whether the outputs have a gradient with respect to the input, the first after the weights."""
    with traced.graph.as_default():
        try:
            return tf.gradients(traced.outputs, [traced.inputs[weights]])[0] is not None
        except LookupError:  # an operation without any gradient
            return False


def _operations(graph: tf.Graph) -> list[str]:
    definition = graph.as_graph_def()
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    return sorted({n.op for n in nodes})


def _classifier_last(
    order: list[int],
    variables: list[tf.Variable],
    slots: Slots,
    last: Layer | None,
    apply: Callable[[Tensors, Examples, bool], Tensor],
    shape: tuple[int, ...],
    classes: int,
    vocabulary: int | None = None,
) -> list[int]:
    """The order of the weights with the last layer's at the end, its bias last of all.

    Where the layers' graph does not tell which layer is last, the bias whose change is the logits' change does.
    """
    owner = last if any(slots.found[id(v)].owner is last for v in variables) else None
    if owner is None:
        weights = [v.numpy() for v in variables]
        x, step = _example(shape, 2, vocabulary), np.linspace(0.5, 1, classes)
        base = None
        for i in reversed(order):
            if weights[i].shape == (classes,):
                base = apply(weights, x, False).numpy() if base is None else base
                moved = apply([*weights[:i], weights[i] + step.astype(weights[i].dtype), *weights[i + 1 :]], x, False)
                if np.allclose(moved.numpy() - base, step, atol=1e-3):
                    owner = slots.found[id(variables[i])].owner
                    break
    own = [i for i in order if owner is not None and slots.found[id(variables[i])].owner is owner]
    own.sort(key=lambda i: variables[i] is getattr(owner, "bias", None))
    return [i for i in order if i not in own] + own


def _batch_norms(model: KerasModel) -> list[Layer]:
    """The batch normalizations that are in use; one that is never called is never built."""
    return [layer for layer in _layers(model) if is_batch_norm(layer) and layer.built]


def _running(model: KerasModel, slots: Slots) -> Running:
    """The running statistics of the batch normalizations that are trained."""
    layers = tuple(layer for layer in _batch_norms(model) if layer.trainable)
    paths = [slots.found[id(layer.moving_mean)].path.rpartition("/")[0] or layer.name for layer in layers]
    return Running(layers, _unique(paths))


def _is_statistic(found: Found) -> bool:
    return is_batch_norm(found.owner)


def _unique(names: list[str]) -> tuple[str, ...]:
    given: dict[str, int] = {}
    out: list[str] = []
    for name in names:
        number = given.get(name, 0)
        given[name] = number + 1
        unique = f"{name}_{number}" if number else name
        while unique in out:
            number += 1
            unique = f"{name}_{number}"
        out.append(unique)
    return tuple(out)


def _kind(layer: Layer) -> str:
    kind = type(layer).__name__.lower()
    layers = tf.keras.layers
    if isinstance(layer, layers.Dense):
        return "dense"
    if "normalization" in kind:
        return "norm"
    if "conv" in kind:
        return "conv"
    if isinstance(layer, layers.Embedding):
        return "embedding"
    if kind.endswith("cell") or isinstance(layer, layers.RNN):
        return "recurrent"
    if isinstance(layer, layers.MultiHeadAttention | layers.EinsumDense):
        return "attention" if "attention" in kind else "einsum"
    return "other"
