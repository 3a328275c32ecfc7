"""A dataset and a Keras model of one's own, as own_model_and_data.py names them: `my_study:shapes`, `my_study:net`."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from fedpriv.data import Dataset


def drawings(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` grey images `[count, 16, 16, 1]`, uint8, of a bar lying, a bar standing, a square or a disc; labels."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:16, :16]
    images, labels = [], rng.integers(0, 4, count)
    for label in labels:
        y, x, half = rng.uniform(5, 11), rng.uniform(5, 11), rng.uniform(2, 5)
        high, wide = abs(row - y), abs(column - x)
        shape = (
            (high < half / 3) & (wide < half * 1.6),
            (wide < half / 3) & (high < half * 1.6),
            np.maximum(high, wide) < half,
            np.hypot(high, wide) < half,
        )[label]
        images.append(np.where(shape, rng.integers(140, 256), 40) + rng.integers(-20, 0, (16, 16)))
    return np.stack(images)[..., None].astype(np.uint8), labels.astype(np.int32)


def shapes(count: int = 800, seed: int = 0) -> tuple[Dataset, Dataset]:
    """The training and the test set, as `--data "my_study:shapes(count=800)"` asks for them."""
    names = ("lying", "standing", "square", "disc")
    made = [Dataset("shapes", *drawings(n, s), 4, names) for n, s in ((count, seed), (200, seed + 1))]
    return made[0], made[1]


def net(input_shape: tuple[int, ...] = (16, 16, 1), num_classes: int = 4) -> tf.keras.Model:
    """A small convolutional network that ends in logits. fedpriv gives it the data's shape and number of classes."""
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            layers.Input(input_shape),
            layers.Conv2D(12, 5, strides=2, padding="same", activation="tanh"),
            layers.Conv2D(12, 5, strides=2, padding="same", activation="tanh"),
            layers.Flatten(),
            layers.Dense(num_classes),
        ],
        name="net",
    )
