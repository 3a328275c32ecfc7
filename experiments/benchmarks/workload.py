"""Workload: the federation that is timed: a 784-200-200-10 MLP, 10 clients of 600 images, E=1, B=10."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedpriv.data.dataset import Dataset
from fedpriv.data.partition import Partition
from fedpriv.procedure.procedure import Sampling, make_procedure

if TYPE_CHECKING:
    from fedpriv.federation.federation import Federation

CLIENTS, EXAMPLES, BATCH, RATE = 10, 600, 10, 0.1


def images() -> Dataset:
    """6,000 embedded Fashion-MNIST images as float32 rows of 784 in [0, 1]."""
    from fedpriv.data import fashion_small

    train, _ = fashion_small()
    x = train.floats(slice(CLIENTS * EXAMPLES)).reshape(CLIENTS * EXAMPLES, -1)
    return Dataset("fashion_small, flat", x, train.y[: CLIENTS * EXAMPLES], 10)


def federation(seed: int = 0) -> Federation:
    """All ten clients every round, plain FedAvg, no evaluation."""
    from fedpriv.federation.federation import Federation
    from fedpriv.models import load as load_model

    data = images()
    order = np.random.default_rng(seed).permutation(len(data))
    partition = Partition(f"even(clients={CLIENTS})", tuple(np.split(order, CLIENTS)))
    procedure = make_procedure(
        local_epochs=1, batch_size=BATCH, client={"learning_rate": RATE}, sampling=Sampling.full()
    )
    return Federation(load_model("2nn", input_shape=(784,), num_classes=10), data, partition, procedure, seed=seed)
