import subprocess
import sys

import numpy as np
import pytest

from fedpriv.base import registry
from fedpriv.base.errors import ModelError, ParameterError, UnknownNameError
from fedpriv.base.lazy import tf
from fedpriv.models import Model, load
from fedpriv.models.loading import Facts

MODULE = """
import tensorflow as tf
from fedpriv.models.zoo import mlp_2nn

def net(input_shape, num_classes, width=8):
    kl = tf.keras.layers
    return tf.keras.Sequential([tf.keras.Input(input_shape), kl.Flatten(), kl.Dense(width), kl.Dense(num_classes)])

def fixed():
    return net((6, 6, 1), 3)

def normalized(width: int = 4):
    kl = tf.keras.layers
    layers = [tf.keras.Input((6, 6, 1)), kl.Flatten(), kl.Dense(width), kl.BatchNormalization(), kl.Dense(3)]
    return tf.keras.Sequential(layers)

def ours(input_shape, num_classes):
    return mlp_2nn(input_shape, num_classes, hidden=[5])

class Net(tf.keras.Model):
    def __init__(self, units=3):
        super().__init__()
        self.flatten, self.dense = tf.keras.layers.Flatten(), tf.keras.layers.Dense(units)

    def call(self, x):
        return self.dense(self.flatten(x))

def broken():
    return 1 / 0

def wrong():
    return "a model"

number = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "fedpriv_test_nets.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("fedpriv_test_nets", None)


def mine(text, shape=(6, 6, 1), classes=3, **parameters):
    return load(f"fedpriv_test_nets:{text}", shape, classes, **parameters)


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.models.names())
def test_every_registered_model_loads(name):
    of_tokens = "vocabulary" in registry.parameters_of(registry.models.load(name))
    shape = (8,) if of_tokens else (16, 16, 1)
    model = load(name, Facts(shape, 4, (), vocabulary=30 if of_tokens else None))
    assert isinstance(model, Model)
    assert model.name == name
    assert (model.input_shape, model.num_classes) == (shape, 4)
    assert (model.embedding is not None) == of_tokens


def test_a_model_of_tokens_asks_for_them():
    with pytest.raises(ModelError, match=r"needs tokens.*data of kind tokens"):
        load("gpt", (16, 16, 1), 4)


@pytest.mark.parametrize("name", ["2nn", "logistic", "lenet"])
def test_numbers_of_tokens_are_no_values(name):
    with pytest.raises(ModelError, match=f"'{name}' computes with the values .* use 'gpt'"):
        load(name, Facts((8,), 4, (), vocabulary=30))


def test_written_and_given_parameters():
    assert load("2nn(hidden=[7,8])", (6, 6, 1), 3).spec.shapes[0] == (36, 7)
    assert load("convnet(width=3)", (6, 6, 1), 3, width=5).spec.shapes[0] == (3, 3, 1, 5)
    assert load("lenet(init=uniform, dtype=float64)", (6, 6, 1), 3).spec.dtype == "float64"


def test_keras_models_by_dotted_name():
    assert mine("net").spec.shapes[0] == (36, 8)
    assert mine("net(width=5)").spec.shapes[0] == (36, 5)
    assert mine("fixed").name == "fedpriv_test_nets:fixed"
    assert mine("Net").spec.shapes == ((36, 3), (3,))
    assert mine("Net(units=4)", classes=4).num_classes == 4
    assert mine("ours").spec.shapes[0] == (36, 5)


def test_options_for_keras_models():
    assert "frozen" in mine("normalized(batch_norm=eval)").notes[0]
    model = mine("normalized(width=6,batch_norm=train)")
    assert "evaluation" in model.notes[0]
    assert model.spec.shapes[0] == (36, 6)


def test_same_seed_same_weights():
    np.testing.assert_array_equal(mine("net").initial_weights(2), mine("net").initial_weights(2))
    assert not np.array_equal(mine("net").initial_weights(2), mine("net").initial_weights(3))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("2mn", UnknownNameError, "Did you mean '2nn'"),
        ("2nn(hiden=3)", ParameterError, "no parameter 'hiden'.*Did you mean 'hidden'"),
        ("lenet(init=normal)", ParameterError, "init='normal'"),
        ("lenet(batch_norm=train)", ParameterError, "no parameter 'batch_norm'"),
        ("fedpriv_test_nets:nett", UnknownNameError, "no 'nett'.*Did you mean 'net'"),
        ("fedpriv_test_nets:fixed(width=3)", ParameterError, "no parameter 'width'"),
        ("fedpriv_test_nets:Net(unit=3)", ParameterError, "no parameter 'unit'"),
        ("fedpriv_test_nets:normalized(batch_norm=both)", ParameterError, "batch_norm='both'"),
        ("fedpriv_test_nets:broken", ModelError, "failed to build: ZeroDivisionError"),
        ("fedpriv_test_nets:wrong", ModelError, "returned a builtins.str"),
        ("fedpriv_test_nets:number", ModelError, "is a int"),
        ("no_such_module:net", UnknownNameError, "no module 'no_such_module'"),
    ],
)
def test_what_is_refused(text, error, message):
    with pytest.raises(error, match=message):
        load(text, (6, 6, 1), 3)


def test_models_that_do_not_fit_the_data():
    with pytest.raises(ModelError, match="3 outputs, but the data has 4 classes"):
        mine("fixed", classes=4)
    with pytest.raises(ModelError, match=r"\(6, 6, 1\), but the data has \(8, 8, 1\)"):
        mine("fixed", shape=(8, 8, 1))
    with pytest.raises(ModelError, match="4x4"):
        load("cnn", (2, 2, 1), 3)


def test_works_while_a_graph_is_traced():
    with tf.Graph().as_default():
        model = mine("net")
    np.testing.assert_array_equal(model.initial_weights(2), mine("net").initial_weights(2))


def test_importing_the_package_does_not_import_tensorflow():
    code = (
        "import sys, fedpriv.models, fedpriv.models.zoo, fedpriv.models.resnet, fedpriv.models.to_tff;"
        "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_the_data_decide_cannot_be_written():
    with pytest.raises(ParameterError, match=r"input_shape follows from the data \(\(16, 16, 1\)\); leave it out"):
        load("2nn(input_shape=[8,8,1])", (16, 16, 1), 4)
    with pytest.raises(ParameterError, match=r"num_classes follows from the data \(4\)"):
        load("2nn(num_classes=7)", (16, 16, 1), 4)
