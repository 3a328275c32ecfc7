"""Views of one client, made from arrays in place of a federation: fast, and every fact of them is in the test."""

from __future__ import annotations

import numpy as np
import pytest

from fedpriv.base.lazy import tf
from fedpriv.base.registry import defenses
from fedpriv.defense.stations import Plan
from fedpriv.models.model import Model
from fedpriv.models.spec import Spec
from fedpriv.procedure.procedure import Procedure, Sampling, make_procedure
from fedpriv.rounds.exposure import Exposure
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.view import View


def dense(shape=(8, 8, 1), classes=10, hidden=48, bias=True, activation="sigmoid", dtype="float32", scale=1.0):
    """A one-hidden-layer perceptron with U(-scale/2, scale/2) weights, its last layer with or without a bias."""
    inputs = int(np.prod(shape))
    names = ("hidden/kernel", "hidden/bias", "logits/kernel", "logits/bias")[: 4 if bias else 3]
    shapes = ((inputs, hidden), (hidden,), (hidden, classes), (classes,))[: 4 if bias else 3]
    spec = Spec(names, shapes, dtype)

    def apply(weights, x, training=False):
        h = tf.matmul(tf.reshape(x, [-1, inputs]), weights[0]) + weights[1]
        logits = tf.matmul(getattr(tf.nn, activation)(h), weights[2])
        return logits + weights[3] if bias else logits

    def initialize(seed):
        rng = np.random.default_rng(seed)
        return [rng.uniform(-scale / 2, scale / 2, s).astype(dtype) for s in shapes]

    return Model(f"dense({shape},{classes})", shape, classes, spec, apply, initialize)


def seen(model, data, *texts, **options):
    """What a server observes of one client with one example, in a round under these defenses; uniform weights."""
    made = tuple(defenses.create(text) for text in texts)
    procedure = Procedure.fedsgd(weighting="uniform")
    return next(iter(Exposure(model, data, 1, 1, defenses=made, procedure=procedure, **options)))


def make_view(model, x, y, procedure=None, weights=None, seed=0, knows=(), observed=None, labels=None):
    """The server's view of one client that holds `x` and `y`, as the replay itself computes it."""
    procedure = procedure or Procedure.fedsgd()
    n = len(x)
    adversary = Adversary().knowing(*knows)
    plan = Plan(
        spec=model.spec,
        population=1,
        cohort=1,
        expected_cohort=1.0,
        sampling=Sampling.full(),
        weighting="examples",
        max_examples=n,
    )
    weights = model.initial_weights(seed) if weights is None else weights
    rate = procedure.client.learning_rate

    def view(observed):
        return View(
            adversary=adversary,
            kind="update",
            round=0,
            model=model,
            weights=weights,
            observed=observed,
            plan=plan,
            procedure=procedure,
            num_examples=(n,),
            labels=np.asarray(y) if "labels" in knows else labels,
            client_rate=rate,
        )

    if observed is None:
        dtype = model.spec.dtype
        x, y = tf.constant(np.asarray(x), dtype), tf.constant(np.asarray(y, np.int32))
        observed = view(None).simulate(x, y).numpy()
    return view(np.asarray(observed))


def smooth_images(n, shape, seed=0):
    """Random images with the look of photographs: low frequencies, in [0, 1]."""
    rng = np.random.default_rng(seed)
    height, width, channels = shape
    coarse = rng.uniform(0, 1, (n, 4, 4, channels)).astype(np.float32)
    return tf.clip_by_value(tf.image.resize(coarse, [height, width], "bicubic"), 0, 1).numpy()


def local_steps(steps, rate=0.1, **fields):
    """FedAvg with that many full-batch local steps."""
    return make_procedure(local_epochs=steps, batch_size=None, client={"learning_rate": rate}, **fields)


@pytest.fixture(scope="session")
def helpers():
    """The functions of this file; test modules cannot import it."""
    import types

    return types.SimpleNamespace(dense=dense, make_view=make_view, smooth_images=smooth_images, local_steps=local_steps)
