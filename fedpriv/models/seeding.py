"""Seeding: building Keras objects reproducibly without disturbing the random state of the program around it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np

from fedpriv.base.errors import printable
from fedpriv.base.lazy import tf

T = TypeVar("T")
_LOCK = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Everything Keras, TensorFlow, NumPy and Python draw inside depends on `seed` alone; afterwards all is as before.

    Keras layers without a seed of their own draw one from a generator kept for the thread, so a model built inside
    gets the same weights for the same seed. Only one thread at a time can be inside; call it where TensorFlow is
    eager (`eagerly`).

    Args:
      seed: any integer.
    """
    tf.random  # noqa: B018  imports TensorFlow and with it the two modules below
    from keras.src import backend
    from tensorflow.python.eager import context

    with _LOCK:
        eager = context.context()
        python, numpy = random.getstate(), np.random.get_state()
        tensorflow = {k: getattr(eager, k) for k in ("_seed", "_rng") if hasattr(eager, k)}  # _rng: once seeded
        keras = getattr(backend._SEED_GENERATOR, "generator", None)
        seed = int(seed) % 2**32
        random.seed(seed)
        np.random.seed(seed)
        eager._set_global_seed(seed)
        backend._SEED_GENERATOR.generator = random.Random(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            for attribute in ("_seed", "_rng"):
                if attribute in tensorflow:
                    setattr(eager, attribute, tensorflow[attribute])
                else:
                    delattr(eager, attribute)
            backend._SEED_GENERATOR.generator = keras


def eagerly(function: Callable[[], T]) -> T:
    """The value of `function()`, run where TensorFlow is eager even if a graph is being traced here.

    `tf.init_scope` does not leave a plain `tf.Graph`, such as the one TFF traces in; another thread does.
    """
    if tf.executing_eagerly():
        return function()
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(function).result()


def first_line(error: BaseException) -> str:
    """What an error says, without Keras's pages of call arguments."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told: list[str] = [
        line for line in lines if not line.startswith(("Exception encountered", "Call arguments", "in user code"))
    ]
    plain = [line for line in told if not line.startswith(("File ", "Traceback", "•", "*"))]
    said = printable((plain or lines or [type(error).__name__])[0])
    return said if len(said) <= 300 else f"{said[:300]}..."
