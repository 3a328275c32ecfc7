import re

import numpy as np
import pytest

from fedpriv import load_model
from fedpriv.base.errors import ParameterError
from fedpriv.capture.files import Stored, stored
from fedpriv.capture.layout import arrange, unflattened


def as_torch(weights):
    """Under the names and in the layout of PyTorch."""
    return {
        n.replace("dense", "fc").replace("/kernel", ".weight").replace("/bias", ".bias"): w.T if w.ndim == 2 else w
        for n, w in weights.items()
    }


def test_names_win_over_order(small):
    model, weights = small
    found = arrange(model, stored(dict(reversed(list(weights.items()))), "before"))
    assert [m.source for m in found.matches] == list(model.spec.names)
    assert {m.by for m in found.matches} == {"name"}


def test_linear_layers_are_transposed(small):
    model, weights = small
    given = stored(as_torch(weights), "before")
    found = arrange(model, given)
    assert found.layout == "torch"
    for array, want in zip(found.arrays(given, found.matches), weights.values(), strict=True):
        np.testing.assert_allclose(array, want)


def test_missing_and_extra_layers_are_named_with_the_nearest(small):
    model, weights = small
    torch = as_torch(weights)
    with pytest.raises(ParameterError, match=r"no array is its 'dense2/bias' of shape \[3\]"):
        arrange(model, stored({n: a for n, a in torch.items() if n != "fc2.bias"}, "before"))
    with pytest.raises(ParameterError, match=r"'fc3.bias' of shape \[3\] is none of its weights.*'dense\d/bias'"):
        arrange(model, stored({**torch, "fc3.bias": np.ones(3)}, "before"))
    other = {
        n: np.ones((7, 6)) if a.shape == (5, 6) else np.ones(7) if a.shape == (5,) else a for n, a in torch.items()
    }
    with pytest.raises(
        ParameterError, match=r"'dense1/kernel' of shape \[6, 5\] \(nearest: 'fc1.weight' of shape \[7, 6\]"
    ):
        arrange(model, stored(other, "before"))


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ([(784, 300), (300,), (300, 10), (10,)], [("kernel", "arr_0", "784, 300"), ("bias", "arr_1", "300")]),
        ([(784, 400), (400,), (400, 10)], [("bias", "arr_1", "400")]),
    ],
)
def test_what_has_no_name_is_near_by_its_shape(shapes, says):
    model = load_model("2nn(hidden=[400])", input_shape=(784,), num_classes=10)
    unnamed = {f"arr_{i}": np.ones(s) for i, s in enumerate(shapes)}
    with pytest.raises(ParameterError) as raised:
        arrange(model, stored(unnamed, "before"))
    for role, name, shape in says:
        assert re.search(
            rf"/{role}' of shape \[[\d, ]+\] \(nearest: '{name}' of shape \[{shape}\]\)", str(raised.value)
        )
    with pytest.raises(
        ParameterError, match=r"'arr_4' of shape \[7, 3\] is none of its weights \(nearest: 'dense2/kernel'"
    ):
        arrange(model, stored([np.ones(s) for s in ((784, 400), (400,), (400, 10), (10,), (7, 3))], "before"))


def test_square_kernels_do_not_tell_whose_they_are():
    model = load_model("mlp(hidden=[6])", input_shape=(6,), num_classes=6)
    rng = np.random.default_rng(0)
    arrays = {n: rng.normal(size=s) for n, s in zip(model.spec.names, model.spec.shapes, strict=True)}
    assert arrange(model, stored(arrays, "before")).layout == "keras"  # they are called kernels
    assert (
        arrange(model, stored({n.replace("/kernel", ".weight"): a for n, a in arrays.items()}, "x")).layout == "torch"
    )
    with pytest.raises(ParameterError, match="layout=torch or layout=keras"):
        arrange(model, stored(list(arrays.values()), "before"))
    assert arrange(model, stored(list(arrays.values()), "before"), layout="keras").layout == "keras"


def test_equal_layers_go_by_order_unless_said_otherwise():
    model = load_model("mlp(hidden=[4,4,4])", input_shape=(4,), num_classes=3)
    arrays = {}
    for i, n in enumerate(("d", "c", "b", "a")):
        units = 3 if n == "a" else 4
        arrays[f"{n}.weight"], arrays[f"{n}.bias"] = np.full((units, 4), i + 0.5), np.full(units, i + 0.5)
    found = arrange(model, stored(arrays, "before"))
    assert [m.source for m in found.matches[:4]] == ["d.weight", "d.bias", "c.weight", "c.bias"]
    assert found.matches[0].by == "order"
    given = {"dense1/kernel": "b.weight", "dense3/kernel": "d.weight"}
    swapped = arrange(model, stored(arrays, "before"), assigned=given)
    assert [swapped.matches[i].source for i in (0, 2, 4)] == ["b.weight", "c.weight", "d.weight"]
    with pytest.raises(ParameterError, match="Did you mean 'dense1/kernel'"):
        arrange(model, stored(arrays, "before"), assigned={"dense1/kernal": "b.weight"})
    with pytest.raises(ParameterError, match=r"Did you mean 'b\.weight'"):
        arrange(model, stored(arrays, "before"), assigned={"dense1/kernel": "b.wait"})


def test_one_flat_vector_of_either_framework(small):
    model, weights = small
    flat = np.concatenate([w.reshape(-1) for w in weights.values()])
    given = stored(flat, "before")
    found = arrange(model, given, layout="keras")
    for array, want in zip(found.arrays(unflattened(found, given), found.matches), weights.values(), strict=True):
        np.testing.assert_allclose(array, want)
    given = stored(np.concatenate([w.T.reshape(-1) for w in weights.values()]), "before")
    found = arrange(model, given, layout="torch")
    for array, want in zip(found.arrays(unflattened(found, given), found.matches), weights.values(), strict=True):
        np.testing.assert_allclose(array, want)
    with pytest.raises(ParameterError, match="one array of 7 numbers, but model"):
        arrange(model, Stored("w.npy", {"w": np.ones(7)}))


@pytest.mark.parametrize(
    ("name", "inside"),
    [("rnn.weight_ih_l0", "all gates"), ("cell.bias_hh", "all gates"), ("attention.in_proj_weight", "query, key")],
)
def test_arrays_of_several_matrices_are_refused_by_name_unless_assigned(small, name, inside):
    model, weights = small
    first, *others = as_torch(weights).items()
    given = stored({name: first[1], **dict(others)}, "before")
    with pytest.raises(ParameterError, match=rf"before: '{name}' is of a PyTorch layer that keeps .*{inside}"):
        arrange(model, given)
    target = next(iter(weights))
    found = arrange(model, given, layout="torch", assigned={target: name})
    assert found.matches[0].source == name
