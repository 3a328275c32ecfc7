"""Client data: to and from TensorFlow Federated's `ClientData`, a dataset already divided by client."""

from __future__ import annotations

import collections
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpriv.base.errors import DataError, ParameterError, did_you_mean, reason
from fedpriv.base.lazy import tf, tff
from fedpriv.base.types import Scalar, Tensor
from fedpriv.data.check import checked_labels, make_dataset
from fedpriv.data.dataset import Dataset
from fedpriv.data.partition import Partition
from fedpriv.data.partitioners import check_partition
from fedpriv.data.sequences import Cut, classified, lines, running_text

if TYPE_CHECKING:
    import tensorflow_federated

_IMAGE_KEYS = ("x", "pixels", "image", "images")
_LABEL_KEYS = ("y", "label", "labels")
#: Texts, as in TFF's Shakespeare and Stack Overflow.
_TEXT_KEYS = ("snippets", "tokens", "text")
_BATCH = 1024


def from_client_data(
    client_data: tensorflow_federated.simulation.datasets.ClientData,
    name: str = "client_data",
    *,
    image_key: str | None = None,
    label_key: str | None = None,
    clients: Sequence[str] | None = None,
    num_classes: int | None = None,
    class_names: tuple[str, ...] = (),
) -> tuple[Dataset, Partition]:
    """All examples of a TFF `ClientData`, with the partition by client that it comes with.

    Elements with an entry `snippets`, `tokens` or `text` of strings are texts, and read as `from_text_client_data`
    reads them by default.

    Args:
      client_data: its elements are single examples (not batches): `(image, label)`, or a mapping.
      name: the dataset's name.
      image_key: the image's key in a mapping; None to look for x, pixels, image, images.
      label_key: the label's key in a mapping; None to look for y, label, labels.
      clients: ids to read, or None for all, in the order of `client_ids`.
      num_classes: number of classes, 0 where labels are quantities, or None for one more than the largest label.
      class_names: one a class, or empty.

    Returns:
      The dataset, whose `keys` are the client ids, and the natural partition, one client an id. Clients without
      examples are left out, with a warning that counts them.

    Raises:
      DataError: elements that are batches or lack an image or a label, malformed pixels or labels, or no examples.
      ParameterError: an id that is not among `client_ids`.
    """
    what = f"client data '{name}'"
    structure = _structure(client_data, what)
    if image_key is None and _text_key(structure) is not None:
        return from_text_client_data(client_data, name, clients=clients)
    image, label = _find_keys(structure, image_key, label_key, what)
    images, labels, kept = [], [], []
    for client, parts in _read_clients(client_data, clients, what):
        images.append(_joined([p[image] for p in parts], f"{what}, client '{client}': images"))
        labels.append(_joined([p[label] for p in parts], f"{what}, client '{client}': labels"))
        kept.append(client)
    sizes = [len(y) for y in labels]
    dataset = make_dataset(
        name,
        _joined(images, f"{what}: images"),
        _joined(labels, f"{what}: labels"),
        file=what,
        num_classes=num_classes,
        class_names=class_names,
        keys=np.repeat(np.array(kept), sizes),
        source="TFF ClientData",
    )
    indices = tuple(np.split(np.arange(len(dataset)), np.cumsum(sizes)[:-1]))
    return dataset, Partition(f"natural(clients={len(kept)})", indices)


def from_text_client_data(
    client_data: tensorflow_federated.simulation.datasets.ClientData,
    name: str = "client_data",
    *,
    text_key: str | None = None,
    label_key: str | None = None,
    clients: Sequence[str] | None = None,
    running: bool | None = None,
    how: Cut | None = None,
    class_names: tuple[str, ...] = (),
) -> tuple[Dataset, Partition]:
    """All texts of a TFF `ClientData` as sequences of tokens, with the partition by client that it comes with.

    TFF's Shakespeare has speeches as `snippets`, a client for each role: running text by client, cut into windows.
    Its Stack Overflow has sentences as `tokens`, a client for each user: a text is a sequence. Both for the next token.
    A held-out `ClientData` gets the first one's tokenizer: `how=Cut(train.kind.tokenizer, length=...)`.

    Args:
      client_data: its elements are single examples: mappings with a string in UTF-8, and a whole number as label.
      name: the dataset's name.
      text_key: the text's key; None to look for snippets, tokens, text.
      label_key: the label's key, where texts have classes; None for the next token.
      clients: ids to read, or None for all, in the order of `client_ids`.
      running: whether a client's texts are pieces of one running text; None: for `snippets`.
      how: texts become sequences; None for words, 32 a sequence.
      class_names: one a class, or empty.

    Returns:
      The dataset of kind `tokens`, whose `keys` are the client ids, and the natural partition. Empty texts are left
      out, with a note that counts them.

    Raises:
      DataError: elements that are no single texts, no UTF-8, or labels that are no classes.
      ParameterError: an id or key that is not there, or `running` with labels.
    """
    what = f"client data '{name}'"
    structure = _structure(client_data, what)
    if not isinstance(structure, Mapping):
        raise DataError(f"{what}: elements are {structure}; expected a mapping with a text")
    key = _pick(structure, text_key, _TEXT_KEYS, "text_key", what)
    label = None if label_key is None else _pick(structure, label_key, (), "label_key", what)
    for part, dtype in ((key, "string"), *([] if label is None else [(label, "int")])):
        spec = structure[part]
        if not isinstance(spec, tf.TensorSpec) or spec.shape.rank not in (0, None) or dtype not in spec.dtype.name:
            raise DataError(
                f"{what}: entry '{part}' is {spec}; expected one {'text' if dtype == 'string' else 'whole number'} an "
                "example (unbatch the data first, if it is in batches)"
            )
    running = (label is None and key == "snippets") if running is None else running
    if running and label is not None:
        raise ParameterError(f"{what}: label_key='{label}' gives texts classes, and running text has none")
    texts: list[str] = []
    labels: list[np.ndarray] = []
    owners: list[str] = []
    empty = 0
    for client, parts in _read_clients(client_data, clients, what):
        own = [_text(t, f"{what}, client '{client}'") for p in parts for t in np.ravel(p[key]).tolist()]
        full = np.array([bool(t.strip()) for t in own], bool)
        empty += int((~full).sum())
        texts += [t for t, some in zip(own, full) if some]
        owners += [str(client)] * int(full.sum())
        if label is not None:
            labels.append(np.concatenate([np.ravel(p[label]) for p in parts])[full])
    if not texts:
        raise DataError(f"{what} has no texts that are not empty")
    keys, none = np.array(owners), np.zeros(len(texts), bool)
    how, source = how or Cut(), "TFF ClientData"
    if label is not None:
        numbers = checked_labels(np.concatenate(labels), what, len(class_names) or None)
        named = class_names or tuple(str(c) for c in range(int(numbers.max()) + 1))
        dataset, _ = classified(name, texts, numbers, named, keys, none, how, source, what)
    elif running:
        pieces: dict[str, list[str]] = {}
        for owner, text in zip(owners, texts):
            pieces.setdefault(owner, []).append(text)
        dataset, _ = running_text(name, pieces, how, 0.0, source)
    else:
        dataset, _ = lines(name, texts, keys, none, how, source, what)
    if empty:
        dataset = replace(dataset, notes=(*dataset.notes, f"empty texts left out: {empty:,}"))
    assert dataset.keys is not None
    found = list(dict.fromkeys(dataset.keys.tolist()))
    indices = tuple(np.flatnonzero(dataset.keys == owner) for owner in found)
    return dataset, Partition(f"natural(clients={len(found)})", indices)


def _text(value: object, where: str) -> str:
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as e:
        raise DataError(f"{where}: the text {value!r:.60} is no UTF-8; correct it") from e


def _text_key(structure: Any) -> str | None:
    """The key of an element's text, if it has one."""
    if not isinstance(structure, Mapping):
        return None
    return next((k for k in _TEXT_KEYS if getattr(structure.get(k), "dtype", None) == tf.string), None)


def _structure(client_data: Any, what: str) -> Any:
    if not isinstance(client_data, tff.simulation.datasets.ClientData):
        raise DataError(f"{what} is a {type(client_data).__name__}; expected TFF's ClientData")
    return client_data.element_type_structure


def _read_clients(client_data: Any, clients: Sequence[str] | None, what: str) -> list[tuple[str, list[Any]]]:
    """The batches of each client that has examples.

    Raises:
      ParameterError: an id that is not there, or given twice.
      DataError: a client that cannot be read, or no examples at all.
    """
    known = list(client_data.client_ids)
    ids = known if clients is None else [clients] if isinstance(clients, str) else list(clients)
    for client in ids:
        if client not in known:
            raise ParameterError(f"{what} has no client '{client}'.{did_you_mean(str(client), known[:1000])}")
    if len(set(ids)) < len(ids):
        raise ParameterError(f"{what}: an id is given twice in clients; each client can be read once")
    found = []
    for client in ids:
        try:
            parts = list(client_data.create_tf_dataset_for_client(client).batch(_BATCH).as_numpy_iterator())
        except Exception as e:  # whatever the functions that made it, and TensorFlow, raise
            raise DataError(f"{what}: client '{client}' cannot be read: {type(e).__name__}: {reason(e)}") from e
        if parts:
            found.append((client, parts))
    if not found:
        raise DataError(f"{what} has no examples at any of its {len(ids)} clients")
    if len(found) < len(ids):
        warnings.warn(f"{what}: {len(ids) - len(found)} of {len(ids)} clients have no examples; left out", stacklevel=3)
    return found


def _joined(parts: list[Any], what: str) -> np.ndarray:
    """Arrays of one shape, one after the other."""
    if not all(isinstance(p, np.ndarray) for p in parts):
        raise DataError(f"{what} come as {type(parts[0]).__name__}; expected one dense tensor an example")
    shapes = {p.shape[1:] for p in parts}
    if len(shapes) > 1:
        raise DataError(f"{what} differ in shape ({', '.join(map(str, sorted(shapes)[:3]))}); expected one shape")
    return np.concatenate(parts)


def _find_keys(structure: Any, image_key: str | None, label_key: str | None, what: str) -> tuple[Any, Any]:
    image: Any
    label: Any
    if isinstance(structure, Mapping):
        image = _pick(structure, image_key, _IMAGE_KEYS, "image_key", what)
        label = _pick(structure, label_key, _LABEL_KEYS, "label_key", what)
    elif isinstance(structure, list | tuple) and len(structure) == 2:
        image, label = 0, 1
    else:
        raise DataError(f"{what}: elements are {structure}; expected (image, label) or a mapping")
    for part in (image, label):
        if not isinstance(structure[part], tf.TensorSpec):
            raise DataError(f"{what}: entry {part!r} is {structure[part]}; expected one dense tensor an example")
    rank = structure[label].shape.rank
    if rank not in (0, None) and tuple(structure[label].shape) != (1,):
        raise DataError(
            f"{what}: labels have shape {structure[label].shape}; expected one integer an example; "
            "unbatch the data first (client_data.preprocess(lambda d: d.unbatch()))"
        )
    return image, label


def _pick(structure: Mapping[str, Any], key: str | None, accepted: tuple[str, ...], option: str, what: str) -> str:
    if key is not None:
        if key not in structure:
            raise ParameterError(f"{what} has no entry {option}='{key}'.{did_you_mean(key, structure)}")
        return key
    found = [k for k in accepted if k in structure]
    if not found:
        raise DataError(f"{what}: no entry {' or '.join(accepted)} in {', '.join(structure)}; name it with {option}")
    return found[0]


def to_client_data(dataset: Dataset, partition: Partition) -> tensorflow_federated.simulation.datasets.ClientData:
    """A TFF `ClientData` over `dataset`, one client for each of `partition`.

    Elements are `OrderedDict(x=float32, y=int32, or float32 where targets are quantities)`, as TFF's Keras models take
    them. Ids are the natural keys
    where each client holds the examples of one key of its own, else `client_00`, `client_01`, ... in order.
    `create_tf_dataset_for_client` slices arrays; `serializable_dataset_fn` (and what TFF builds from it) puts the
    data into the graph and so is limited to 2 GB.

    Raises:
      DataError: the partition does not fit the dataset.
    """
    check_partition(partition, len(dataset))
    ids = _client_ids(dataset, partition)
    number = {client: k for k, client in enumerate(ids)}
    scale = 255.0 if dataset.x.dtype == np.uint8 else 1.0
    flat = np.concatenate(partition.indices)
    ends = np.cumsum(partition.sizes)

    def dataset_fn(client_id: Scalar) -> tf.data.Dataset:
        matches = tf.equal(tf.constant(ids), client_id)
        check = tf.debugging.Assert(tf.reduce_any(matches), ["no such client:", client_id])
        with tf.control_dependencies([check] if check is not None else []):
            k = tf.argmax(tf.cast(matches, tf.int32))
        end = tf.gather(tf.constant(ends), k)
        start = end - tf.gather(tf.constant(partition.sizes), k)

        def example(position: Scalar) -> dict[str, Tensor]:
            i = tf.gather(tf.constant(flat), position)
            x = tf.cast(tf.gather(tf.constant(dataset.x), i), tf.float32) / scale
            return collections.OrderedDict(x=x, y=tf.gather(tf.constant(dataset.y), i))

        return tf.data.Dataset.range(start, end).map(example)

    class _PartitionClientData(tff.simulation.datasets.ClientData):  # type: ignore[name-defined, misc]
        @property
        def client_ids(self) -> list[str]:
            return list(ids)

        @property
        def serializable_dataset_fn(self) -> Callable[[Scalar], tf.data.Dataset]:
            return dataset_fn

        @property
        def element_type_structure(self) -> Any:
            return collections.OrderedDict(
                x=tf.TensorSpec(dataset.input_shape, tf.float32), y=tf.TensorSpec(dataset.y.shape[1:], dataset.y.dtype)
            )

        def create_tf_dataset_for_client(self, client_id: str) -> tf.data.Dataset:
            if client_id not in number:
                raise ParameterError(
                    f"no client '{client_id}' in {partition.name}.{did_you_mean(client_id, ids[:1000])}"
                )
            rows = partition.indices[number[client_id]]
            return tf.data.Dataset.from_tensor_slices(
                collections.OrderedDict(x=dataset.floats(rows), y=dataset.y[rows])
            )

    return _PartitionClientData()


def _client_ids(dataset: Dataset, partition: Partition) -> list[str]:
    if dataset.keys is not None:
        owners = [np.unique(dataset.keys[i]) for i in partition.indices]
        names = [str(o[0]) for o in owners if len(o) == 1]
        if len(names) == len(partition) == len(set(names)):
            return names
    width = len(str(len(partition) - 1))
    return [f"client_{k:0{width}d}" for k in range(len(partition))]
