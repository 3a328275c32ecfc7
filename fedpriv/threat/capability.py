"""Capability: what an attack may need of its view."""

from __future__ import annotations

import enum


class Capability(enum.Enum):
    """What an attack may need of its view; the value says it in words."""

    REAL_UPDATE = "a real-valued update or sum of updates (not ring elements or ciphertext)"
    WHOLE_UPDATE = "every coordinate of the update (none of them encrypted)"
    SINGLE_CLIENT = "the update of a single client (not a sum over clients)"
    LABELS = "the examples' labels"
    NUM_EXAMPLES = "the number of examples behind the update"
    PROCEDURE = "the local training procedure (needed to replay it)"
    SINGLE_STEP = "an update made by one local step (a gradient up to scale)"
    SOFTMAX = "a classifier trained by softmax cross-entropy (task 'classes')"
    CLASSIFIER_BIAS = "a bias in the last layer of a softmax classifier"
    BATCH_STATISTICS = (
        "the batch-norm statistics of the client's batch (an adversary that knows 'batch_statistics', or an update "
        "that carries them)"
    )
    LAB = "data of its own, to calibrate or train on (auxiliary data)"
    RUNNING_STATISTICS = (
        "a model that normalizes with trained batch-norm running statistics (none, or the initial mean 0 and variance "
        "1, say nothing about the data)"
    )
    AUXILIARY = "auxiliary data of the same kind (an adversary that knows 'auxiliary(data=...)')"
    GENERATOR = "a generator of examples of the same kind (an adversary that knows 'generator(...)')"
