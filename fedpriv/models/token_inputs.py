"""Token inputs: what enters a model of tokens, numbers or points of its embedding space, and what it is trained on."""

from __future__ import annotations

from fedpriv.base.errors import ModelError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Examples, Tensor
from fedpriv.models.task import Task, create
from fedpriv.models.tasks.next_token import NextToken


def points_and_presence(
    name: str, x: Examples, table: Tensor, padding: int | None, length: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """(Points `[n, l, width]`, which places hold tokens, bool `[n, l]`, or None where all do); traceable.

    Args:
      name: the model's, for errors.
      x: token numbers `[n, l]` of any type, points `[n, l, width]`, or points with presence `[n, l, width + 1]`; see
        `sequences.Embedding`.
      table: `[vocabulary, width]`.
      padding: the token that fills up, or None.
      length: the most places there may be; None where any number may.

    Raises:
      ModelError: another shape.
    """
    x, width = tf.convert_to_tensor(x), int(table.shape[1])
    if x.shape.rank not in (2, 3) or (x.shape.rank == 3 and x.shape[2] not in (width, width + 1)):
        raise ModelError(
            f"model '{name}' takes token numbers (n, length), points of its embedding space (n, length, {width}), or "
            f"points followed by 1 for a token and 0 for padding (n, length, {width + 1}); got shape {tuple(x.shape)}"
        )
    if length is not None and (x.shape[1] is None or x.shape[1] > length):
        raise ModelError(f"model '{name}' takes at most {length} tokens, got {x.shape[1]}; build it for longer data")
    if x.shape.rank == 2:
        numbers = tf.cast(x, tf.int32)
        return tf.gather(table, numbers), None if padding is None else tf.not_equal(numbers, padding)
    if x.shape[2] == width:
        return tf.cast(x, table.dtype), None
    return tf.cast(x[:, :, :-1], table.dtype), x[:, :, -1] > 0.5


def task_of(
    name: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    target_shape: tuple[int, ...] | None,
    task: str | Task | None,
    padding: int | None,
) -> Task:
    """The task of a model of tokens: `next_token` where there is a target at each place, else as `task.create` says.

    Args:
      name: the model's, for errors.
      input_shape: `(length,)`.
      num_classes, task: as in `task.create`.
      target_shape: one target's, or None where that is unknown.
      padding: the token that fills up, or None.

    Raises:
      ModelError: examples that are no sequences of tokens.
      ParameterError: a task that does not fit the targets.
    """
    if len(input_shape) != 1:
        raise ModelError(
            f"model '{name}' needs sequences of tokens (length,), got examples of shape {input_shape}; use data of "
            "kind tokens, such as --data sentences"
        )
    each = target_shape is not None and len(target_shape) == 1
    if (each and task is None) or task == "next_token":
        if target_shape is not None and not each:
            raise ParameterError(
                f"model '{name}': task next_token needs a target at each place, but the data has one target a "
                "sequence; leave the task out, or use data of running text such as --data plays"
            )
        return NextToken(num_classes=num_classes, length=input_shape[0], padding=padding)
    made = create(task, num_classes)
    if target_shape is not None and made.target_shape != tuple(target_shape):
        raise ParameterError(
            f"model '{name}': task '{made.name}' takes targets of shape {[*made.target_shape]}, but the data's have "
            f"{[*target_shape]}; leave the task out"
        )
    return made


def last_present(h: Tensor, present: Tensor | None) -> Tensor:
    """`h [n, l, w]` at the last place that holds a token, `[n, w]`; the first place where none does."""
    if present is None:
        return h[:, -1]
    places = tf.range(1, tf.shape(present)[1] + 1)
    last = tf.maximum(tf.reduce_max(tf.where(present, places, 0), axis=1), 1) - 1
    return tf.gather(h, last, batch_dims=1)
