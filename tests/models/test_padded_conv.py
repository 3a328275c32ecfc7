import numpy as np
import pytest

from fedpriv.base.lazy import tf
from fedpriv.models.padded_conv import padded_conv2d


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "zeros"), [(8, 5, 2, 2), (7, 3, 2, 1), (6, 3, 1, 1), (5, 2, 3, 0)]
)
def test_is_zero_padding_then_convolution(size, kernel, stride, zeros):
    layer = padded_conv2d(4, kernel, stride, zeros, activation="relu")
    plain = tf.keras.Sequential(
        [tf.keras.layers.ZeroPadding2D(zeros), tf.keras.layers.Conv2D(4, kernel, stride, activation="relu")]
    )
    x = np.random.default_rng(0).normal(size=(2, size, size + 1, 3)).astype("float32")
    layer(x), plain(x)
    plain.set_weights(layer.get_weights())
    np.testing.assert_allclose(layer(x), plain(x), atol=1e-5)
    assert tuple(layer.compute_output_shape((None, *x.shape[1:]))) == (None, *plain(x).shape[1:])
