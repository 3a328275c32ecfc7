"""Kinks are read off the graph, whatever the layers are called."""

import pytest
import tensorflow as tf

from fedpriv.models import zoo
from fedpriv.models.keras_model import from_keras
from fedpriv.models.kinks import has_kinks

kl = tf.keras.layers
SHAPE = (16, 16, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "kinked"),
    [
        (kl.Activation("tanh"), False),
        (kl.Activation("gelu"), False),
        (kl.Activation("softplus"), False),
        (kl.AveragePooling2D(), False),
        (kl.Activation("relu"), True),
        (kl.LeakyReLU(0.1), True),
        (kl.PReLU(), True),
        (kl.MaxPooling2D(), False),
    ],
)
def test_kinks_of_a_keras_layer(layer, kinked):
    made = tf.keras.Sequential([kl.Input(SHAPE), kl.Conv2D(2, 3), layer, kl.Flatten(), kl.Dense(3)])
    assert has_kinks(from_keras(made)) == kinked


def test_kinks_of_shipped_models():
    assert has_kinks(zoo.convnet(SHAPE, 3, width=2))
    assert has_kinks(zoo.cnn(SHAPE, 3))
    assert not has_kinks(zoo.lenet(SHAPE, 3))
    assert not has_kinks(zoo.tanh_cnn(SHAPE, 3))
