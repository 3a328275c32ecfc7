"""A dataset of 4 x 4 images in three classes that can be told apart, for `data: tests.experiment.toys:toy`."""

import numpy as np

from fedpriv.data.dataset import Dataset


def toy():
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(60) % 3).astype(np.int32)
    x = np.clip(rng.random((60, 4, 4, 1)) * 0.5 + 0.2 * y[:, None, None, None], 0, 1).astype(np.float32)
    return Dataset("toy", x[:45], y[:45], 3), Dataset("toy", x[45:], y[45:], 3)


def by_class():
    """As folders are read: one class after the other, and no test set."""
    training, test = toy()
    x, y = np.concatenate([training.x, test.x])[:45], np.concatenate([training.y, test.y])[:45]
    order = np.argsort(y, kind="stable")
    return Dataset("by_class", x[order], np.arange(45, dtype=np.int32) // 15, 3), None


def scaled(input_shape, num_classes):
    """A network made for pixels from 0 to 255."""
    from fedpriv.base.lazy import tf

    kl = tf.keras.layers
    return tf.keras.Sequential([kl.Input(input_shape), kl.Rescaling(1 / 255), kl.Flatten(), kl.Dense(num_classes)])
