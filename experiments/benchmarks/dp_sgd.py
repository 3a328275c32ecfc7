"""DP-SGD: what clipping each example's gradient adds to a local step, beside TF Privacy's Keras optimizers.

A step is one batch through one client: gradient, clip, noise and the weights' change, compiled. Steps of the variants
alternate, so that what else the machine does falls on all; each is compared with the plain step, and with ours. TF
Privacy's optimizers get one example a microbatch, as DP-SGD means it. Every setting of TensorFlow's threads is a
process of its own: (1, 1) compares the work; (1, 2) is what fedpriv asks for on two cores, of which a plain step of one
client uses one.
`python -m experiments.benchmarks.dp_sgd`
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

#: Models with their batch size: small, as TF Privacy's optimizers take the square of it.
WORKLOADS: dict[str, int] = {"tanh_cnn": 64, "cnn": 32}
#: (threads in an operation, operations at once).
THREADS = ((1, 1), (1, 2))
CLIP, NOISE, RATE, WARMUP, REPEATS = 1.0, 1.1, 0.15, 1, 8


def main(
    steps: Annotated[int, typer.Option(min=3, help="Timed steps of TF Privacy's; ours take more.")] = 5,
    out: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("results/benchmarks/dp_sgd.json"),
    only: Annotated[str, typer.Option("--only", hidden=True, help="Print this model's times as JSON.")] = "",
) -> None:
    """Times all variants step by step and writes medians and paired ratios."""
    if only:
        typer.echo(json.dumps(timed(only, steps)))
        return
    from fedpriv.base.atomic import jsonable, write_json
    from fedpriv.base.provenance import provenance

    load_before = os.getloadavg()
    rows = {
        f"{model}, batch {size}, threads {inside} x {beside}": summary(_in_process(model, steps, inside, beside))
        for model, size in WORKLOADS.items()
        for inside, beside in THREADS
    }
    command = ["uv", "run", "python", "-m", "experiments.benchmarks.dp_sgd", *sys.argv[1:]]
    settings = {"clip": CLIP, "noise_multiplier": NOISE, "steps": steps, "batches": WORKLOADS}
    whole = {
        "rows": rows,
        "load_before": load_before,
        "load_after": os.getloadavg(),
        "provenance": provenance(command, settings, 0),
    }
    write_json(out, jsonable(whole))
    typer.echo(f"load {load_before[0]:.2f} before and {os.getloadavg()[0]:.2f} after")
    typer.echo(table(rows))


def variants(name: str) -> dict[str, Callable[[], Any]]:
    """One step of each variant, as a function that returns when it is done."""
    from fedpriv_defenses.dp_sgd.dp_sgd import DPSGD

    from fedpriv.base.lazy import tf, tfp
    from fedpriv.defense.plan import Plan
    from fedpriv.defense.stations import Defense
    from fedpriv.defense.walker import Walker
    from fedpriv.federation.client import Client, Visit
    from fedpriv.models import load
    from fedpriv.models.example_gradients import ExampleClip, clipped_sum
    from fedpriv.procedure.procedure import Sampling, make_procedure

    size = WORKLOADS[name]
    model = load(name, input_shape=(28, 28, 1), num_classes=10)
    rng = np.random.default_rng(0)
    x = tf.constant(rng.uniform(size=(size, 28, 28, 1)), tf.float32)
    y = tf.constant(rng.integers(0, 10, size), tf.int32)
    flat = tf.constant(model.initial_weights(0))
    procedure = make_procedure(batch_size=size, weighting="uniform", client={"learning_rate": RATE})
    plan = Plan(
        spec=model.spec,
        population=1,
        cohort=1,
        expected_cohort=1.0,
        sampling=Sampling.full(),
        weighting="uniform",
        max_examples=size,
        sizes=(size,),
        procedure=procedure,
    )

    batch = [tf.TensorSpec([model.spec.size]), tf.TensorSpec([size, 28, 28, 1]), tf.TensorSpec([size], tf.int32)]

    def of_client(*defenses: Defense) -> Callable[[], Any]:
        client = Client(model, procedure, Walker(defenses, plan))

        @tf.function(autograph=False, input_signature=batch)
        def step(flat: Any, x: Any, y: Any) -> Any:
            visit = Visit(tf.constant([1, 2], tf.int64), [()] * len(defenses), [()] * len(defenses), size)
            return client.train(flat, lambda _: lambda _: (x, y), size, RATE, visit).update

        return lambda: step(flat, x, y).numpy()

    @tf.function(autograph=False, input_signature=batch)
    def one_by_one(flat: Any, x: Any, y: Any) -> Any:
        weights = tuple(model.spec.unflatten(flat))
        return model.spec.flatten(clipped_sum(model, weights, x, y, ExampleClip(CLIP), single=True).total)

    def of_tf_privacy(kind: Any) -> Callable[[], Any]:
        optimizer = kind(l2_norm_clip=CLIP, noise_multiplier=NOISE, num_microbatches=size, learning_rate=RATE)
        weights = [tf.Variable(w) for w in model.initialize(0)]

        @tf.function(autograph=False, input_signature=batch[1:])
        def step(x: Any, y: Any) -> None:
            with tf.GradientTape(persistent=True) as tape:
                losses = model.example_losses(list(map(tf.convert_to_tensor, weights)), x, y)
            optimizer.minimize(losses, weights, tape=tape)

        def run() -> Any:
            step(x, y)
            return weights[-1].numpy()

        return run

    return {
        "plain": of_client(),
        "dp_sgd": of_client(DPSGD(clip=CLIP, noise_multiplier=NOISE)),
        "dp_sgd without noise": of_client(DPSGD(clip=CLIP, noise_multiplier=0.0)),
        "one example at a time": lambda: one_by_one(flat, x, y).numpy(),
        "DPKerasSGDOptimizer": of_tf_privacy(tfp.DPKerasSGDOptimizer),
        "VectorizedDPKerasSGDOptimizer": of_tf_privacy(tfp.VectorizedDPKerasSGDOptimizer),
    }


def timed(name: str, steps: int) -> dict[str, list[float]]:
    """Seconds of each timed step, by variant; steps alternate between variants.

    TF Privacy's steps take so long, and so much memory, that whoever comes after one starts with cold caches: ours take
    REPEATS steps in turn between two of theirs, after one that is not timed.
    """
    made = variants(name)
    seconds: dict[str, list[float]] = {variant: [] for variant in made}
    theirs = {variant for variant in made if variant.endswith("Optimizer")}
    for turn in range(WARMUP + steps):
        for repeat in range(1 + REPEATS):
            for variant, step in made.items():
                if variant in theirs and repeat < REPEATS:
                    continue
                began = time.perf_counter()
                step()
                if turn >= WARMUP and repeat:
                    seconds[variant].append(time.perf_counter() - began)
    return seconds


def summary(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """By variant: median seconds of a step, and over those of the plain step and of ours.

    Of variants that took steps in turn the ratios are medians of the ratios of neighbouring steps.
    """
    times = {variant: np.array(values) for variant, values in seconds.items()}

    def over(values: Any, others: Any) -> float:
        paired = len(values) == len(others)
        return float(np.median(values / others) if paired else np.median(values) / np.median(others))

    return {
        variant: {
            "seconds": float(np.median(values)),
            "fastest": float(values.min()),
            "over_plain": over(values, times["plain"]),
            "over_dp_sgd": over(values, times["dp_sgd"]),
        }
        for variant, values in times.items()
    }


def _in_process(name: str, steps: int, inside: int, beside: int) -> dict[str, list[float]]:
    from fedpriv.base.errors import FedprivError

    threads = {"FEDPRIV_INTRA_OP_THREADS": str(inside), "FEDPRIV_INTER_OP_THREADS": str(beside)}
    command = [sys.executable, "-m", "experiments.benchmarks.dp_sgd", "--only", name, "--steps", str(steps)]
    done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise FedprivError(f"the workload '{name}' failed: {last}")
    found: dict[str, list[float]] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def table(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """The result for the terminal."""
    lines = []
    for workload, variants in rows.items():
        lines += ["", workload, f"  {'':32}{'s a step':>10}{'fastest':>10}{'x plain':>10}{'x dp_sgd':>10}"]
        for variant, row in variants.items():
            ratios = f"{row['over_plain']:10.2f}{row['over_dp_sgd']:10.2f}"
            lines.append(f"  {variant:32}{row['seconds']:10.4f}{row['fastest']:10.4f}{ratios}")
    return "\n".join(lines)


if __name__ == "__main__":
    from fedpriv_experiments import script

    script.run(main)
