"""FedAvg against TFF: rounds a second of the graph engine and of `tff.learning`'s weighted FedAvg, in one run.

Same network, same initial weights, same clients, same rates; rounds alternate (ours, TFF's, ours, ...), so that what
else the machine does falls on both. TFF's side is its usual one, a Keras model in its default loop; the variants are
the same network as a functional model, and its other loop over batches, which it recommends for machines with several
GPUs. Also: one lane against all, and memory for 10,000 clients a round.
`python -m experiments.benchmarks.fedavg_vs_tff`
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from experiments.benchmarks import workload
from fedpriv.base.lazy import default_threads, tf, tff
from fedpriv.engine.graph import GraphEngine

if TYPE_CHECKING:
    from fedpriv.federation.federation import Federation

MODELS = ("keras", "functional")
LOOPS = ("reduce", "iterator")


def main(
    rounds: Annotated[int, typer.Option(min=2, help="Timed rounds on either side.")] = 40,
    warmup: Annotated[int, typer.Option(min=1, help="Untimed rounds first, on either side.")] = 3,
    tff_model: Annotated[str, typer.Option(help="TFF's side: keras or functional.")] = "keras",
    tff_loop: Annotated[str, typer.Option(help="TFF's loop: reduce (its default) or iterator.")] = "reduce",
    variants: Annotated[bool, typer.Option(help="Also TFF's other models and loops, with half the rounds.")] = True,
    lanes: Annotated[bool, typer.Option(help="Also one lane against all.")] = True,
    memory: Annotated[bool, typer.Option(help="Also memory of 100 and of 10,000 clients a round.")] = True,
    out: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("results/benchmarks/fedavg_vs_tff.json"),
    json_only: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """Times both sides round by round and writes medians and the paired ratio."""
    from fedpriv.base.atomic import jsonable, write_json
    from fedpriv.base.errors import FedprivError, ParameterError
    from fedpriv.base.provenance import provenance

    settings = {
        "network": "784-200-200-10",
        "clients": workload.CLIENTS,
        "examples": workload.EXAMPLES,
        "epochs": 1,
        "batch": workload.BATCH,
        "rate": workload.RATE,
        "rounds": rounds,
        "warmup": warmup,
        "tff_model": tff_model,
        "tff_loop": tff_loop,
    }
    try:
        for name, value, known in (("tff-model", tff_model, MODELS), ("tff-loop", tff_loop, LOOPS)):
            if value not in known:
                raise ParameterError(f"--{name} {value}: expected {' or '.join(known)}")
        load_before, cores = os.getloadavg(), len(os.sched_getaffinity(0))
        result: dict[str, Any] = {"fedavg": against_tff(rounds, warmup, tff_model, tff_loop)}
        if variants:
            others = [(m, k) for m in MODELS for k in LOOPS if (m, k) != (tff_model, tff_loop)]
            result["variants"] = {f"{m}, {k}": against_tff(max(2, rounds // 2), warmup, m, k) for m, k in others}
        if lanes:
            result["lanes"] = against_one_lane(rounds, warmup)
        if memory:
            result["memory"] = [_memory(cohort) for cohort in (100, 10_000)]
        command = ["uv", "run", "python", "-m", "experiments.benchmarks.fedavg_vs_tff", *sys.argv[1:]]
        result |= {
            "cores": cores,
            "load_before": load_before,
            "load_after": os.getloadavg(),
            "provenance": provenance(command, settings, 0),
        }
        write_json(out, result)
    except FedprivError as e:
        typer.echo(f"error: {e}", err=True)
        raise typer.Exit(2) from None
    typer.echo(json.dumps(jsonable(result)) if json_only else table(result))


def against_tff(rounds: int, warmup: int, model: str, loop: str) -> dict[str, Any]:
    """Alternating rounds of both engines from the same weights; times in seconds, ratio TFF / ours by pairs."""
    from fedpriv.engine.tff.pool import default_runtime

    with default_runtime():
        # Before our own model is made: TFF builds Keras layers in a graph, which spoils eager ones made earlier.
        process = tff_process(model, loop)
        theirs = process.initialize()
        start = _flat(process, theirs)
        ours = workload.federation()
        clients = tff_clients(ours)
        state = ours.start(start)

        def our_round() -> None:
            nonlocal state
            state, _ = ours.step(state, evaluate=False)

        def their_round() -> None:
            nonlocal theirs
            theirs = process.next(theirs, clients).state

        first, times = interleaved({"fedpriv": our_round, "tff": their_round}, rounds, warmup)
        finish = _flat(process, theirs)
    x, y = tf.constant(ours.train.x), tf.constant(ours.train.y)
    names = {"before": start, "fedpriv": state.weights, "tff": finish}
    losses = {name: ours._engine.evaluate(weights, x, y)[0] for name, weights in names.items()}
    return {
        **compared(times, "tff", "fedpriv"),
        "first_round_seconds": first,
        "training_loss": losses,
        "similar_loss": similar(losses),
    }


def _flat(process: Any, state: Any) -> np.ndarray:
    trainable = process.get_model_weights(state).trainable
    return np.concatenate([np.reshape(w, -1) for w in trainable]).astype(np.float32)


def tff_process(model: str, loop: str) -> Any:
    """`tff.learning`'s weighted FedAvg for the same network and rates."""
    learning = tff.learning
    spec = (tf.TensorSpec([None, 784], tf.float32), tf.TensorSpec([None], tf.int32))

    def keras_model() -> Any:
        layers = tf.keras.layers
        stack = [layers.InputLayer([784]), layers.Dense(200, "relu"), layers.Dense(200, "relu"), layers.Dense(10)]
        loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return learning.models.from_keras_model(tf.keras.Sequential(stack), loss=loss, input_spec=spec)

    if model == "functional":
        from fedpriv.models import load as load_model
        from fedpriv.models.to_tff import to_functional_model

        made = to_functional_model(load_model("2nn", input_shape=(784,), num_classes=10), 0)
    else:
        made = keras_model
    return learning.algorithms.build_weighted_fed_avg(
        made,
        client_optimizer_fn=learning.optimizers.build_sgdm(workload.RATE),
        server_optimizer_fn=learning.optimizers.build_sgdm(1.0),
        loop_implementation=learning.LoopImplementation[f"DATASET_{loop.upper()}"],
    )


def tff_clients(ours: Federation) -> list[Any]:
    """Our clients' examples as TFF's usual datasets, reshuffled in every round."""
    return [
        tf.data.Dataset.from_tensor_slices((ours.train.x[part], ours.train.y[part]))
        .shuffle(workload.EXAMPLES)
        .batch(workload.BATCH)
        for part in ours.partition.indices
    ]


def against_one_lane(rounds: int, warmup: int) -> dict[str, Any]:
    """Alternating rounds of the graph engine with one lane and with a lane a core."""
    narrow, wide = _stepper(1), _stepper(None)
    _, times = interleaved({"one_lane": narrow, "all_lanes": wide}, rounds, warmup)
    return {**compared(times, "one_lane", "all_lanes"), "lanes": default_threads()[1]}


def _stepper(lanes: int | None) -> Callable[[], None]:
    made = workload.federation()
    state, engine = made.start(), made._engine
    assert isinstance(engine, GraphEngine)
    engine.lanes = lanes or engine.lanes  # before the first round compiles it

    def step() -> None:
        made.step(state, evaluate=False)

    return step


def interleaved(
    sides: dict[str, Callable[[], None]], rounds: int, warmup: int
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Seconds of each side's very first call, and of `rounds` alternating calls after `warmup` untimed ones."""
    first: dict[str, float] = {}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(warmup + rounds):
        for name, call in sides.items():
            began = time.perf_counter()
            call()
            seconds = time.perf_counter() - began
            first.setdefault(name, seconds)
            if turn >= warmup:
                times[name].append(seconds)
    return first, times


def compared(times: dict[str, list[float]], slow: str, fast: str) -> dict[str, Any]:
    """Medians in seconds, rounds a second, and the ratio slow / fast of paired rounds: median and quartiles."""
    ratios = np.asarray(times[slow]) / np.asarray(times[fast])
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    medians = {name: float(np.median(t)) for name, t in times.items()}
    return {
        "median_seconds": medians,
        "rounds_per_second": {name: 1 / seconds for name, seconds in medians.items()},
        "ratio": {"median": middle, "quartiles": [low, high]},
        "seconds": times,
    }


def similar(losses: dict[str, float]) -> bool:
    """Whether both sides learned, and to losses within a quarter of each other (they shuffle differently)."""
    ours, theirs = losses["fedpriv"], losses["tff"]
    learned = max(ours, theirs) < 0.75 * losses["before"]
    return bool(learned and abs(ours - theirs) <= 0.25 * max(ours, theirs))


def _memory(cohort: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "experiments.benchmarks.cohort_memory", "--cohort", str(cohort)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def table(result: dict[str, Any]) -> str:
    """The result for the terminal."""
    lines = [
        f"{result['cores']} cores, load {result['load_before'][0]:.2f} before and {result['load_after'][0]:.2f} after",
        f"{'':12}{'median s':>10}{'rounds/s':>10}{'first s':>10}",
    ]
    fedavg = result["fedavg"]
    for name, seconds in fedavg["median_seconds"].items():
        first = fedavg["first_round_seconds"][name]
        lines.append(f"{name:12}{seconds:10.4f}{fedavg['rounds_per_second'][name]:10.2f}{first:10.2f}")
    ratio, loss = fedavg["ratio"], fedavg["training_loss"]
    lines += [
        f"TFF / fedpriv: {ratio['median']:.1f} (quartiles {ratio['quartiles'][0]:.1f} to {ratio['quartiles'][1]:.1f})",
        f"training loss {loss['before']:.3f} before; {loss['fedpriv']:.3f} fedpriv, {loss['tff']:.3f} TFF: "
        + ("similar" if fedavg["similar_loss"] else "NOT SIMILAR: the two sides do not do the same work"),
    ]
    for name, variant in result.get("variants", {}).items():
        low, high = variant["ratio"]["quartiles"]
        lines.append(f"  with TFF's {name}: {variant['ratio']['median']:.1f} (quartiles {low:.1f} to {high:.1f})")
    if "lanes" in result:
        lanes = result["lanes"]
        lines.append(f"one lane / {lanes['lanes']} lanes: {lanes['ratio']['median']:.2f}")
    for row in result.get("memory", ()):
        lines.append(
            f"{row['cohort']:6} clients: {row['max_rss_mb']:.0f} MB at most, {row['seconds']:.1f} s "
            f"(their updates alone: {row['all_updates_would_take_mb']:.0f} MB)"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    from fedpriv_experiments import script

    script.run(main)
