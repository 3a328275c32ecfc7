"""Batched starts: the gradient of a matching objective at several starts, in one vectorized graph and one by one.

Every start needs the gradient at its own dummy examples, in weights that all share. Vectorized (`tf.vectorized_map`),
dense layers of all starts are one product; convolutions of the second derivative would need a filter for each start,
which TensorFlow has no kernel for, so a model may also write them as products of patches (`patches`). One thread.
`OMP_NUM_THREADS=1 python -m experiments.benchmarks.batched_starts`
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import typer

#: Name to (dense widths, channels of the convolutions before them, as products of patches).
NETWORKS: dict[str, tuple[tuple[int, ...], tuple[int, ...], bool]] = {
    "mlp 64": ((64,), (), False),
    "2nn": ((200, 200), (), False),
    "lenet": ((), (12, 12, 12), False),
    "lenet, patches": ((), (12, 12, 12), True),
}


def main(
    starts: Annotated[str, typer.Option(help="Numbers of starts, with commas.")] = "1,4,16",
    steps: Annotated[int, typer.Option(min=10, help="Gradients of each run.")] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="Timed runs of each; the fastest counts.")] = 3,
) -> None:
    """Prints CPU milliseconds a start and gradient."""
    os.environ.setdefault("FEDPRIV_INTER_OP_THREADS", "1")  # one core; read when TensorFlow is first used
    os.environ.setdefault("FEDPRIV_INTRA_OP_THREADS", "1")
    numbers = [int(number) for number in starts.split(",")]
    typer.echo(f"load {os.getloadavg()[0]:.2f}; CPU milliseconds a start and gradient")
    typer.echo(f"{'':16}" + "".join(f"{f'{n} at once':>14}" for n in numbers))
    for name, (widths, channels, patches) in NETWORKS.items():
        one = objective(widths, channels, patches)
        cells = [milliseconds(one, number, steps, rounds) for number in numbers]
        typer.echo(f"{name:16}" + "".join(f"{'no kernel' if c is None else f'{c:.2f}':>14}" for c in cells))


def objective(widths: tuple[int, ...], channels: tuple[int, ...], patches: bool) -> Callable[[Any], Any]:
    """The gradient in one image `[1, 28, 28, 1]` of the squared error between two gradients of a sigmoid network."""
    from fedpriv.base.lazy import tf

    rng = np.random.default_rng(0)
    kernels = [
        tf.constant(rng.normal(0, 0.2, (5, 5, before, after)), tf.float32)
        for before, after in zip((1, *channels), channels)
    ]
    side = 28 // 4 if channels else 28
    sizes = (side * side * (channels[-1] if channels else 1), *widths, 10)
    dense = [tf.constant(rng.normal(0, a**-0.5, (a, b)), tf.float32) for a, b in itertools.pairwise(sizes)]
    weights = kernels + dense
    observed = [tf.constant(rng.normal(0, 0.01, w.shape), tf.float32) for w in weights]
    label = tf.one_hot([3], 10)

    def convolved(h: Any, kernel: Any, stride: int) -> Any:
        if not patches:
            return tf.nn.conv2d(h, kernel, stride, "SAME")
        h = tf.pad(h, [[0, 0], [2, 2], [2, 2], [0, 0]])
        places = [range(k, k + h.shape[1] - 4, stride) for k in range(5)]
        rows = [tf.gather(tf.gather(h, list(a), axis=1), list(b), axis=2) for a in places for b in places]
        return tf.concat(rows, 3) @ tf.reshape(kernel, [-1, kernel.shape[-1]])

    def loss(x: Any) -> Any:
        h = x
        for kernel, stride in zip(kernels, (2, 2, 1)):
            h = tf.sigmoid(convolved(h, kernel, stride))
        h = tf.reshape(h, [1, -1])
        for kernel in dense[:-1]:
            h = tf.sigmoid(h @ kernel)
        return -tf.reduce_sum(label * tf.nn.log_softmax(h @ dense[-1]))

    def gradient(x: Any) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as outer:
            outer.watch(x)
            with tf.GradientTape(watch_accessed_variables=False) as inner:
                inner.watch(weights)
                value = loss(x)
            found = inner.gradient(value, weights)
            error = tf.add_n([tf.reduce_sum((a - b) ** 2) for a, b in zip(found, observed)])
        return outer.gradient(error, x)

    return gradient


def milliseconds(one: Callable[[Any], Any], starts: int, steps: int, rounds: int) -> float | None:
    """CPU milliseconds a start and gradient, of the fastest of `rounds`; None where TensorFlow cannot vectorize."""
    from fedpriv.base.lazy import tf

    def body(i: Any, x: Any) -> Any:
        slope = one(x[0])[None] if starts == 1 else tf.vectorized_map(one, x, fallback_to_while_loop=False)
        return i + 1, x - 1e-4 * slope

    run = tf.function(
        lambda x, n: tf.while_loop(lambda i, x: i < n, body, (tf.constant(0), x))[1],
        autograph=False,
        input_signature=[tf.TensorSpec([starts, 1, 28, 28, 1], tf.float32), tf.TensorSpec([], tf.int32)],
    )
    x = tf.constant(np.random.default_rng(1).uniform(size=(starts, 1, 28, 28, 1)), tf.float32)
    tf.get_logger().setLevel("CRITICAL")  # else it prints every node that it cannot vectorize
    try:
        run(x, tf.constant(2))
    except ValueError:
        return None
    seconds = []
    for _ in range(rounds):
        began = time.process_time()
        run(x, tf.constant(steps)).numpy()
        seconds.append(time.process_time() - began)
    return 1000 * min(seconds) / steps / starts


if __name__ == "__main__":
    from fedpriv_experiments import script

    script.run(main)
