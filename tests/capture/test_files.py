import json

import numpy as np
import pytest

from fedpriv.base.errors import DataError
from fedpriv.base.lazy import tf
from fedpriv.capture.files import stored


def test_the_formats_of_keras_hold_the_same_weights(tmp_path):
    kl = tf.keras.layers
    layers = [kl.Conv2D(4, 3, name="first"), kl.BatchNormalization(name="norm"), kl.Flatten(), kl.Dense(3, name="out")]
    model = tf.keras.Sequential([tf.keras.Input((8, 8, 1)), *layers])
    for name in ("a.weights.h5", "b.h5"):
        model.save_weights(tmp_path / name)
    for name in ("c.h5", "d.keras"):
        model.save(tmp_path / name)
    want = sorted(float(np.sum(w**2)) for w in model.get_weights())
    for name in ("a.weights.h5", "b.h5", "c.h5", "d.keras"):
        arrays = stored(tmp_path / name, "before").arrays
        assert sorted(float(np.sum(a**2)) for a in arrays.values()) == pytest.approx(want)
        assert sum(n.split(":")[0].endswith("moving_variance") for n in arrays) == 1
        assert {len(a.shape) for n, a in arrays.items() if "kernel" in n} == {2, 4}
    assert next(iter(stored(tmp_path / "b.h5", "before").arrays)) == "first/kernel:0"  # in the model's order
    model.compile("sgd", "mse")
    model.fit(np.zeros((1, 8, 8, 1)), np.zeros((1, 3)), verbose=0)
    assert model.metrics  # which Keras saves as well, and the optimizer
    for name in ("g.weights.h5", "h.keras"):
        model.save(tmp_path / name) if name.endswith(".keras") else model.save_weights(tmp_path / name)
        assert list(stored(tmp_path / name, "after").arrays) == list(stored(tmp_path / "d.keras", "before").arrays)
    (tmp_path / "e.h5").write_bytes((tmp_path / "b.h5").read_bytes()[:2000])
    (tmp_path / "f.keras").write_bytes((tmp_path / "d.keras").read_bytes()[:2000])
    for name in ("e.h5", "f.keras"):
        with pytest.raises(DataError, match=name):
            stored(tmp_path / name, "before")


def safetensors(path, head, body):
    raw = json.dumps(head).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + body)
    return path


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
        {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2]},
        {"dtype": "F32", "shape": "no", "data_offsets": [0, 8]},
        {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]},
        [1],
    ],
)
def test_a_head_that_does_not_fit_its_numbers_is_refused(tmp_path, entry):
    path = safetensors(tmp_path / "w.safetensors", {"w": entry}, bytes(8))
    with pytest.raises(DataError, match=r"w\.safetensors"):
        stored(path, "before")


def test_lengths_that_lie_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    for raw in (b"", b"\x01", (2**63).to_bytes(8, "little"), (3).to_bytes(8, "little") + b"[1]"):
        path.write_bytes(raw)
        with pytest.raises(DataError, match=r"w\.safetensors"):
            stored(path, "before")


def test_what_is_no_weights_is_refused_by_name(tmp_path):
    for array, why in (
        (np.arange(3), "integers"),
        (np.array([1, np.nan]), "not finite"),
        (np.array([1j]), "complex128"),
        (np.array(["a"]), "of type"),
    ):
        with pytest.raises(DataError, match=f"'fc/bias'.*{why}"):
            stored({"fc/bias": array}, "before")
    np.savez(tmp_path / "o.npz", w=np.array([{}], dtype=object))
    for name, why in (
        (".", "is a folder"),
        ("o.npz", "cannot be read"),
        ("missing.npz", "no such file"),
        ("w.pickle", "no such file"),
    ):
        with pytest.raises(DataError, match=why):
            stored(tmp_path / name, "before")
    (tmp_path / "w.pickle").write_bytes(b"")
    with pytest.raises(DataError, match=r"format '\.pickle' are not read"):
        stored(tmp_path / "w.pickle", "before")
    with pytest.raises(DataError, match="holds no weights"):
        stored({}, "before")


def test_half_precision_is_seen_in_whatever_type_it_is_stored():
    numbers = np.random.default_rng(0).normal(size=64).astype(np.float32)
    assert not stored({"w": numbers}, "before").half
    assert stored({"w": numbers.astype(np.float16)}, "before").half == "float16"
    assert stored({"w": numbers.astype(np.float16).astype(np.float64)}, "before").half == "float16"
    assert stored({"w": (numbers.view(np.uint32) & 0xFFFF0000).view(np.float32)}, "before").half == "bfloat16"
    assert not stored({"w": np.zeros(64)}, "before").half


def test_links_out_of_a_file_are_not_followed(tmp_path):
    import h5py

    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["w"] = np.ones(3)
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.attrs["layer_names"] = ["a"]
        file.create_group("a").attrs["weight_names"] = ["w"]
        file["a"]["w"] = h5py.ExternalLink("secret.h5", "w")
    with pytest.raises(DataError, match="link to another file"):
        stored(tmp_path / "w.h5", "before")
    (tmp_path / "raw").write_bytes(bytes(24))
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset("w", (3,), "f8", external=[(str(tmp_path / "raw"), 0, 24)])
    with pytest.raises(DataError, match="does not lie in the file"):
        stored(tmp_path / "w.h5", "before")
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset("w", (10**9,), "f4", chunks=(1000,))
    with pytest.raises(DataError, match="does not lie in the file"):
        stored(tmp_path / "w.h5", "before")
