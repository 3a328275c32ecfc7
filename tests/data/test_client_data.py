import collections

import numpy as np
import pytest

from fedpriv.base.errors import DataError, ParameterError
from fedpriv.base.lazy import tf, tff
from fedpriv.data import Dataset, Partition, from_client_data, from_text_client_data, iid, natural, to_client_data
from fedpriv.data.sequences import Cut
from fedpriv.engine.tff.pool import default_runtime

RNG = np.random.default_rng(0)
PIXELS = {c: RNG.random((n, 4, 4)).astype(np.float32) for c, n in (("ann", 3), ("bob", 1), ("eve", 2))}
LABELS = {"ann": np.array([0, 1, 2]), "bob": np.array([1]), "eve": np.array([2, 2])}


def client_data(image="pixels", label="label", **changes):
    pixels, labels = PIXELS | changes.get("pixels", {}), LABELS | changes.get("labels", {})
    return tff.simulation.datasets.TestClientData(
        {c: collections.OrderedDict({image: pixels[c], label: labels[c]}) for c in pixels}
    )


def test_from_client_data():
    dataset, partition = from_client_data(client_data(), "emnist")
    assert dataset.x.shape == (6, 4, 4, 1)
    assert dataset.x.dtype == np.float32
    assert dataset.num_classes == 3
    assert partition.name == "natural(clients=3)"
    assert dataset.keys.tolist() == ["ann"] * 3 + ["bob"] + ["eve"] * 2
    for client, indices in zip(("ann", "bob", "eve"), partition.indices, strict=True):
        np.testing.assert_array_equal(dataset.x[indices, ..., 0], PIXELS[client])
        np.testing.assert_array_equal(dataset.y[indices], LABELS[client])
    assert natural(dataset.keys).sizes.tolist() == partition.sizes.tolist()


def test_some_clients_other_keys_and_pairs():
    dataset, partition = from_client_data(client_data("image", "y"), clients=["eve", "ann"])
    assert partition.sizes.tolist() == [2, 3]
    dataset, _ = from_client_data(client_data("a", "b"), image_key="a", label_key="b", num_classes=5)
    assert dataset.num_classes == 5
    pairs = tff.simulation.datasets.TestClientData({c: (PIXELS[c], LABELS[c]) for c in PIXELS})
    assert len(from_client_data(pairs)[0]) == 6


def test_clients_without_examples_are_left_out_with_a_warning():
    data = client_data().preprocess(lambda d: d.filter(lambda e: e["label"] > 1))
    with pytest.warns(UserWarning, match="1 of 3 clients have no examples"):
        dataset, partition = from_client_data(data)
    assert len(partition) == 2
    assert set(dataset.y) == {2}
    with pytest.raises(DataError, match="no examples at any of its 3 clients"):
        from_client_data(client_data().preprocess(lambda d: d.take(0)))


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: from_client_data(client_data("a", "b")), DataError, "no entry x or pixels.* in a, b; name it with"),
        (lambda: from_client_data(client_data(), image_key="pixel"), ParameterError, "Did you mean 'pixels'"),
        (lambda: from_client_data(client_data(), clients=["anne"]), ParameterError, "Did you mean 'ann'"),
        (lambda: from_client_data(client_data(), clients=["ann", "ann"]), ParameterError, "given twice"),
        (lambda: from_client_data(client_data(), num_classes=2), DataError, "3 labels are out of range"),
        (lambda: from_client_data(client_data().preprocess(lambda d: d.batch(2))), DataError, "unbatch"),
        (
            lambda: from_client_data(client_data(pixels={"bob": np.full((1, 4, 4), np.nan, np.float32)}), "toy"),
            DataError,
            "client data 'toy': 16 pixels are NaN",
        ),
        (
            lambda: from_client_data(client_data().preprocess(lambda d: d.map(lambda e: e["label"]))),
            DataError,
            "mapping",
        ),
    ],
)
def test_malformed_client_data(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


@pytest.fixture
def dataset():
    x = RNG.integers(0, 256, (12, 2, 2, 3)).astype(np.uint8)
    return Dataset("toy", x, np.arange(12, dtype=np.int32) % 4, 4)


def elements(ds):
    return [(e["x"], e["y"]) for e in ds.as_numpy_iterator()]


def test_to_client_data_by_both_doors(dataset):
    partition = iid(dataset.y, 11, seed=1)
    data = to_client_data(dataset, partition)
    assert isinstance(data, tff.simulation.datasets.ClientData)
    assert data.client_ids[0] == "client_00"
    assert len(data.client_ids) == 11
    for client, indices in zip(data.client_ids, partition.indices, strict=True):
        direct = data.create_tf_dataset_for_client(client)
        assert direct.element_spec == data.element_type_structure
        in_graph = data.serializable_dataset_fn(tf.constant(client))
        for got in (elements(direct), elements(in_graph)):
            np.testing.assert_array_equal([x for x, _ in got], dataset.floats(indices))
            assert [y for _, y in got] == dataset.y[indices].tolist()


def test_tff_can_build_on_it(dataset):
    partition = iid(dataset.y, 3, seed=1)
    data = to_client_data(dataset, partition)
    assert str(data.dataset_computation.type_signature) == "(str -> <x=float32[2,2,3],y=int32>*)"
    with default_runtime():
        computed = list(data.dataset_computation("client_2"))
    assert sorted(int(e["y"]) for e in computed) == sorted(dataset.y[partition.indices[2]])
    assert len(list(data.create_tf_dataset_from_all_clients(seed=1))) == 12
    batched = data.preprocess(lambda d: d.batch(5))
    assert next(iter(batched.create_tf_dataset_for_client("client_1")))["x"].shape == (4, 2, 2, 3)


def test_there_and_back(dataset):
    partition = iid(dataset.y, 3, seed=1)
    back, natural_partition = from_client_data(to_client_data(dataset, partition))
    order = np.concatenate(partition.indices)
    np.testing.assert_array_equal(back.x, dataset.floats(order))
    np.testing.assert_array_equal(back.y, dataset.y[order])
    assert natural_partition.sizes.tolist() == partition.sizes.tolist()


def test_natural_keys_become_ids():
    dataset, partition = from_client_data(client_data())
    assert to_client_data(dataset, partition).client_ids == ["ann", "bob", "eve"]
    assert to_client_data(dataset, iid(dataset.y, 3)).client_ids[0] == "client_0"


def test_unknown_ids_and_unfit_partitions(dataset):
    data = to_client_data(dataset, iid(dataset.y, 3))
    with pytest.raises(ParameterError, match=r"no client 'client_9'.*Did you mean 'client_"):
        data.create_tf_dataset_for_client("client_9")
    with pytest.raises(tf.errors.InvalidArgumentError, match="no such client"):
        list(data.serializable_dataset_fn(tf.constant("client_9")))
    with pytest.raises(DataError, match="index 12; expected 0 to 11"):
        to_client_data(dataset, Partition("broken", (np.array([12]),)))


SNIPPETS = {
    "THE_TRAGEDY_OF_KING_LEAR_KENT": ["I thought the king had more affected", "", "Is not this your son, my lord?"],
    "THE_TRAGEDY_OF_KING_LEAR_LEAR": ["Attend the lords of France"],
}


def texts(key="snippets", **more):
    """As TFF's Shakespeare: one string an element, `snippets`; Stack Overflow has `tokens` and more."""
    return tff.simulation.datasets.TestClientData(
        {c: collections.OrderedDict({key: t, **{k: v[c] for k, v in more.items()}}) for c, t in SNIPPETS.items()}
    )


def test_speeches_of_a_client_are_one_running_text():
    dataset, partition = from_client_data(texts(), "shakespeare")
    assert (partition.name, dataset.kind.name, dataset.kind.length) == ("natural(clients=2)", "tokens", 32)
    assert set(dataset.keys) == set(SNIPPETS)
    kent = dataset.kind.text(dataset.x[partition.indices[0]][0])
    assert kent == "i thought the king had more affected <end> is not this your son, my lord?"
    np.testing.assert_array_equal(dataset.x[0, 1:17], dataset.y[0, :16])
    assert dataset.num_classes == dataset.kind.vocabulary
    assert dataset.notes[-1] == "empty texts left out: 1"
    held_out, _ = from_text_client_data(
        texts(), how=Cut(dataset.kind.tokenizer, length=8), clients=["THE_TRAGEDY_OF_KING_LEAR_LEAR"]
    )
    assert (held_out.kind.tokenizer, held_out.x.shape) == (dataset.kind.tokenizer, (1, 8))


def test_sentences_of_a_client_are_texts():
    score = {c: np.arange(len(t)) for c, t in SNIPPETS.items()}
    dataset, partition = from_client_data(texts("tokens", title=SNIPPETS, score=score), "stackoverflow")
    assert partition.sizes.tolist() == [2, 1]
    assert [dataset.kind.text(y)[-5:] for y in dataset.y] == ["<end>"] * 3
    dataset, _ = from_text_client_data(texts("title", score=score), text_key="title", label_key="score")
    assert (dataset.num_classes, dataset.y.tolist(), dataset.class_names) == (3, [0, 2, 0], ("0", "1", "2"))


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: from_text_client_data(client_data()), DataError, "no entry snippets or tokens or text in pixels"),
        (lambda: from_text_client_data(texts(), text_key="snippet"), ParameterError, "Did you mean 'snippets'"),
        (lambda: from_text_client_data(client_data(), text_key="pixels"), DataError, "expected one text an example"),
        (lambda: from_text_client_data(texts(), label_key="snippets"), DataError, "expected one whole number"),
        (lambda: from_text_client_data(texts(), clients=["x"]), ParameterError, "no client 'x'"),
        (lambda: from_text_client_data(texts().preprocess(lambda d: d.batch(2))), DataError, "unbatch the data"),
        (
            lambda: from_text_client_data(texts().preprocess(lambda d: d.filter(lambda e: e["snippets"] == ""))),
            DataError,
            "no texts that are not empty",
        ),
        (
            lambda: from_client_data(
                texts().preprocess(lambda d: d.map(lambda e: {"text": tf.strings.join([e["snippets"], b"\xff"])}))
            ),
            DataError,
            "is no UTF-8",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*have no examples")
def test_malformed_client_texts(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
