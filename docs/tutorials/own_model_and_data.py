"""A model and data of your own: from arrays and Keras to a trained federation, its epsilon, and an attack on it."""

# %% [markdown]
# # A model and data of your own
#
# `my_study.py` beside this file holds a Keras model and some made-up images. This tutorial brings both into fedpriv,
# deals the images out to clients as it likes, trains with a defense, reads its epsilon, and attacks one update.
#
# Run it as a script (`uv run python docs/tutorials/own_model_and_data.py`), or cell by cell from this folder in VS Code
# or Jupytext. Results go to a temporary folder; set `FEDPRIV_TUTORIAL_OUT` to keep them.

# %%
import inspect
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from fedpriv.base import registry
from fedpriv.base.errors import FedprivError, LedgerError
from fedpriv.data import Partition, load
from fedpriv.federation.federation import Federation
from fedpriv.figures.reconstructions import quality_captions, reconstruction_grid
from fedpriv.figures.save import save
from fedpriv.models import load as load_model
from fedpriv.models.keras_model import from_keras
from fedpriv.procedure.procedure import make_procedure
from fedpriv.rounds.trial import run_trial
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.tap import Tap

here = Path(globals().get("__file__", "own_model_and_data.py")).resolve().parent
temporary = tempfile.TemporaryDirectory()  # removed at the end
out = Path(os.environ.get("FEDPRIV_TUTORIAL_OUT", temporary.name)).resolve()
out.mkdir(parents=True, exist_ok=True)
sys.path.insert(0, str(here))

import my_study  # noqa: E402

# %% [markdown]
# ## Data
#
# The simplest way is one `.npz` file with `x` (`[n, height, width, channels]` or `[n, features]`; bytes, or floats from
# 0 to 1) and `y` (`[n]` whole numbers from 0), and `x_test` and `y_test` if there is a test set. `load` takes its path.

# %%
x, y = my_study.drawings(800, seed=0)
x_test, y_test = my_study.drawings(200, seed=1)
file = out / "shapes.npz"
np.savez_compressed(file, x=x, y=y, x_test=x_test, y_test=y_test)
train, test = load(file)
print(f"{len(train)} images of shape {train.input_shape} in {train.num_classes} classes, and {len(test)} for testing")

# %% [markdown]
# The other way is a function that returns a training and a test `Dataset`. It is named `module:function`, with
# parameters in brackets if it has any.

# %%
print(inspect.getsource(my_study.shapes))
again, _ = load("my_study:shapes(count=800)")
print("The same images:", np.array_equal(again.x, train.x))

# %% [markdown]
# ## Clients
#
# `make_partition` knows the usual ways to deal examples out (`iid`, `shards`, `dirichlet`, ...). A `Partition` of your
# own is a name and one array of indices for each client; no client may be empty. Here there are 60 clients: client 0
# has a single image, the others share the rest.

# %%
parts = (np.array([0]), *np.array_split(np.arange(1, len(train)), 59))
partition = Partition("one_and_many(clients=60)", parts)
print(f"{len(partition)} clients with {partition.sizes.min()} to {partition.sizes.max()} images")

# %% [markdown]
# ## A model
#
# Any `tf.keras.Model` that classifies: sequential, functional or subclassed. It must end in logits, one for each class.

# %%
print(inspect.getsource(my_study.net))
model = from_keras(my_study.net)
print(f"model '{model.name}': {model.spec.size:,} weights, from {model.spec.names[0]} to {model.spec.names[-1]}")

# %% [markdown]
# `from_keras` takes the function rather than a model, so that every seed gets initial weights of its own. By name it is
# the same: `load_model("my_study:net", ...)`, `model: my_study:net` in an experiment file, `--model my_study:net` on
# the command line.

# %%
by_name = load_model("my_study:net", train.input_shape, train.num_classes)
print("The same initial weights:", np.array_equal(by_name.initial_weights(3), model.initial_weights(3)))

# %% [markdown]
# ## What is refused
#
# The model must be a pure function of its weights. So these are refused, each with a reason and a way out:
#
# - layers that draw random numbers in a way that is not known (augmentation), unless you pass
#   `allow_stateful_random=True` and give up that the same seed gives the same bits. What dropout and Gaussian noise
#   draw comes from the run's seed;
# - a softmax or sigmoid at the end (`outputs="probabilities"` leaves a softmax out);
# - a shape or a number of classes that does not fit the data.
#
# Batch normalization has three ways. With `batch_norm="running"` it trains on the statistics of the batch and is
# evaluated with running ones, which are part of the weights: clients move them and send their change, the server
# averages it. With `batch_norm="eval"` they stay as they are at the start, and no client sends any. With
# `batch_norm="train"` each batch's own are used, in evaluation too. The default is `eval` for a model that came with
# statistics, and `running` for a new one, which would not learn with frozen ones. `model.notes` says which. Running
# statistics lag behind weights that move, by a hundred local steps with Keras's momentum of 0.99; take 0.9 or less.


# %%
def with_layer(layer: tf.keras.layers.Layer) -> tf.keras.Model:
    """The network with one more layer before its last."""
    layers = my_study.net().layers
    return tf.keras.Sequential([tf.keras.layers.Input((16, 16, 1)), *layers[:-1], layer, layers[-1]], name="mine")


attempts = {
    "alpha dropout": lambda: from_keras(lambda: with_layer(tf.keras.layers.AlphaDropout(0.2))),
    "shape": lambda: from_keras(my_study.net, input_shape=(28, 28, 1)),
    "classes": lambda: from_keras(my_study.net, num_classes=10),
}
for name, attempt in attempts.items():
    try:
        attempt()
    except FedprivError as refusal:
        print(f"{name}: {refusal}\n")
normalized = from_keras(lambda: with_layer(tf.keras.layers.BatchNormalization()))
print("batch normalization:", *normalized.notes)

# %% [markdown]
# ## Training with a defense
#
# DP-FedAvg: updates are clipped, and the server adds noise to their sum. The account needs a random sample of clients
# and equal weights; with other settings it refuses to give a number. `rounds` tells the federation what is planned.

# %%
federation = Federation(
    model,
    train,
    partition,
    make_procedure(
        local_epochs=2,
        batch_size=10,
        client={"learning_rate": 0.1},
        sampling={"kind": "poisson", "rate": 0.5},
        weighting="uniform",
    ),
    defenses=(registry.defenses.create("central_dp(clip=0.5,noise_multiplier=1)"),),
    test=test,
    rounds=12,
)
history = federation.run(12, evaluate_every=4)
for record in history.records:
    if record.accuracy is not None:
        print(f"round {record.round + 1}: accuracy {record.accuracy:.2f}, epsilon {record.epsilon:.2f} at delta 1e-5")

# %% [markdown]
# An epsilon is a claim about somebody. This one is about those who see the models that the server releases. Against the
# server, which receives each update before the noise, nothing is claimed, and the ledger says so instead of a number:

# %%
ledger = federation.ledger()
ledger.spend(12)
print("released models:", ledger.epsilon(1e-5))
try:
    ledger.epsilon(1e-5, against="server")
except LedgerError as refusal:
    print("server:", refusal)

# %% [markdown]
# ## Attacking one update
#
# So let the server attack. It listens to client 0 in one more round of the trained model, and runs DLG on what arrives.
# The clipping is replayed; the noise has not been added yet.

# %%
state = federation.start(history.weights)
_, record = federation.step(state, [Tap(Adversary("server"), clients=[0])], evaluate=False, clients=[0])
observation = record.observations[0]
trial = run_trial(registry.attacks.create("dlg"), observation)
print(f"PSNR {trial.score.images[0].psnr:.1f} dB from the update of client 0, clipped, without the noise")
rows, captions = {"DLG": trial.finding.x}, {"DLG": quality_captions(trial.score)}
print(*save(reconstruction_grid(observation.truth.x, rows, captions), out / "own_model_and_data"), sep="\n")

# %% [markdown]
# ## The same from a shell
#
# Dotted names are found in the current folder, or in an installed package.

# %%
command = ["train", "--model", "my_study:net", "--data", "my_study:shapes", "--clients", "40", "--rounds", "2"]
print("fedpriv", *command)
done = subprocess.run([sys.executable, "-m", "fedpriv", *command], cwd=here, capture_output=True, text=True)
print(done.stdout, done.stderr if done.returncode else "")
