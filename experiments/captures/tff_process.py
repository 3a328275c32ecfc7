"""A capture of a round of TFF's own FedAvg: uv run python experiments/captures/tff_process.py FOLDER.

What leaves `tff.learning`'s process is the model before and after a round; single clients' updates stay inside. So the
capture is a mean over the round's three clients, of one image each, weighed by how many they have. Each takes two local
epochs. TensorFlow Federated is part of fedpriv's environment.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff
from images import fashion

from fedpriv.engine.tff.pool import default_runtime

CLIENTS, EPOCHS = 3, 2


def model() -> tff.learning.models.VariableModel:
    """A perceptron of 60 ReLU units."""
    tf.keras.utils.set_random_seed(1)
    network = tf.keras.Sequential(
        [
            tf.keras.Input((14, 14, 1)),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(60, activation="relu"),
            tf.keras.layers.Dense(10),
        ]
    )
    return tff.learning.models.from_keras_model(
        network,
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        input_spec=(tf.TensorSpec([None, 14, 14, 1], tf.float32), tf.TensorSpec([None], tf.int64)),
    )


def main(folder: Path) -> None:
    """Writes the capture."""
    folder.mkdir(parents=True, exist_ok=True)
    x, y = fashion(90, CLIENTS)
    process = tff.learning.algorithms.build_weighted_fed_avg(
        model,
        client_optimizer_fn=tff.learning.optimizers.build_sgdm(learning_rate=0.05),
        server_optimizer_fn=tff.learning.optimizers.build_sgdm(learning_rate=1.0),
    )
    images = [tf.data.Dataset.from_tensors((x[i : i + 1], y[i : i + 1])).repeat(EPOCHS) for i in range(CLIENTS)]
    with default_runtime():  # that of `set_sync_local_cpp_execution_context` outlives the script
        state = process.initialize()
        before = process.get_model_weights(state).trainable
        after = process.get_model_weights(process.next(state, images).state).trainable
    np.savez(folder / "tff_before.npz", *before)
    np.savez(folder / "tff_after.npz", *after)
    np.savez_compressed(folder / "tff_truth.npz", x=x, y=y, num_classes=10)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
