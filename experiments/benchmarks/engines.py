"""Engines: rounds a second of the graph engine, our TFF engine and TFF's own FedAvg, round by round in one run.

The same network, weights, clients and rates on all sides; TFF's own is `build_weighted_fed_avg` on the same network as
a functional model, with its default loop. Rounds alternate, so that what else the machine does falls on all. Our TFF
engine is also timed with one worker against two on this machine. `python -m experiments.benchmarks.engines`
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from experiments.benchmarks.fedavg_vs_tff import compared, interleaved, tff_clients
from fedpriv.base.lazy import tf, tff

if TYPE_CHECKING:
    from fedpriv.federation.federation import Federation

CLIENTS, BATCH, RATE = 10, 10, 0.05
#: Model to examples a client.
MODELS = {"logistic": 600, "2nn": 600, "cnn": 100}


def main(
    rounds: Annotated[int, typer.Option(min=2, help="Timed rounds of each side.")] = 20,
    warmup: Annotated[int, typer.Option(min=1, help="Untimed rounds first.")] = 2,
    models: Annotated[str, typer.Option(help="Models, by commas.")] = ",".join(MODELS),
    out: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("results/benchmarks/engines.json"),
) -> None:
    """Times all sides and writes medians and paired ratios."""
    from fedpriv.base.atomic import write_json
    from fedpriv.base.errors import FedprivError, UnknownNameError, did_you_mean
    from fedpriv.base.provenance import provenance

    try:
        chosen = [m.strip() for m in models.split(",")]
        for name in chosen:
            if name not in MODELS:
                raise UnknownNameError(f"no model '{name}' is timed here.{did_you_mean(name, MODELS)}")
        load_before = os.getloadavg()
        result: dict[str, Any] = {name: measured(name, rounds, warmup) for name in chosen}
    except FedprivError as e:
        typer.echo(f"error: {e}", err=True)
        raise typer.Exit(2) from None
    settings = {"clients": CLIENTS, "batch": BATCH, "rate": RATE, "examples": MODELS, "rounds": rounds}
    command = ["uv", "run", "python", "-m", "experiments.benchmarks.engines", *sys.argv[1:]]
    origin = provenance(command, settings, 0)
    write_json(out, {"models": result, "load_before": load_before, "load_after": os.getloadavg(), "provenance": origin})
    typer.echo(table(result))


def measured(model: str, rounds: int, warmup: int) -> dict[str, Any]:
    """Seconds of every side's rounds, and ratios by pairs."""
    from fedpriv.engine.tff.pool import default_runtime
    from fedpriv.engine.tff.runtime import Runtime

    extra = [Runtime(), Runtime()]
    sides: dict[str, Any] = {}
    made = {
        "graph": federation(model),
        "tff, own runtime": federation(model, "tff"),
        "tff, one worker": federation(model, "tff", [extra[0].address]),
        "tff, two workers": federation(model, "tff", [r.address for r in extra]),
    }
    states = {name: f.start() for name, f in made.items()}
    start = states["graph"].weights

    def step(name: str) -> Any:
        def one() -> None:
            states[name], _ = made[name].step(states[name], evaluate=False)

        return one

    try:
        with default_runtime():
            process, theirs = tffs_own(made["graph"])
            clients = tff_clients(made["graph"])

            def their_round() -> None:
                nonlocal theirs
                theirs = process.next(theirs, clients).state

            sides = {name: step(name) for name in made} | {"tff.learning": their_round}
            first, times = interleaved(sides, rounds, warmup)
            trainable = process.get_model_weights(theirs).trainable
            finish = np.concatenate([np.reshape(w, -1) for w in trainable])
    finally:
        for federated in made.values():
            federated.close()
        for runtime in extra:
            runtime.close()
    train = made["graph"].train
    x, y = tf.constant(train.x), tf.constant(train.y.astype(np.int32))
    ends = {"before": start, "tff.learning": finish} | {name: s.weights for name, s in states.items()}
    return {
        "first_round_seconds": first,
        "median_seconds": {name: float(np.median(t)) for name, t in times.items()},
        "seconds": times,
        "ratios": {
            f"{slow} / {fast}": compared(times, slow, fast)["ratio"]
            for slow, fast in (
                ("tff.learning", "tff, own runtime"),
                ("tff.learning", "graph"),
                ("tff, own runtime", "graph"),
                ("tff, one worker", "tff, two workers"),
            )
        },
        "training_loss": {name: made["graph"]._engine.evaluate(w, x, y)[0] for name, w in ends.items()},
    }


def federation(model: str, engine: str = "graph", workers: list[str] | None = None) -> Federation:
    """All ten clients every round, plain FedAvg, no evaluation."""
    from fedpriv.data import fashion_small
    from fedpriv.data.dataset import Dataset
    from fedpriv.data.partition import Partition
    from fedpriv.federation.federation import Federation
    from fedpriv.models import load as load_model
    from fedpriv.procedure.procedure import Sampling, make_procedure

    whole, _ = fashion_small()
    n = CLIENTS * MODELS[model]
    data = Dataset("fashion_small", whole.floats(slice(n)), whole.y[:n], 10)
    parts = Partition("even", tuple(np.split(np.random.default_rng(0).permutation(n), CLIENTS)))
    procedure = make_procedure(
        local_epochs=1, batch_size=BATCH, client={"learning_rate": RATE}, sampling=Sampling.full()
    )
    made = load_model(model, input_shape=data.input_shape, num_classes=10)
    options = {"workers": workers or []} if engine == "tff" else {}
    return Federation(made, data, parts, procedure, engine=engine, engine_options=options)


def tffs_own(ours: Federation) -> tuple[Any, Any]:
    """TFF's weighted FedAvg of the same network from the same weights, and its state."""
    from fedpriv.models.to_tff import to_functional_model

    learning = tff.learning
    process = learning.algorithms.build_weighted_fed_avg(
        to_functional_model(ours.model, 0),
        client_optimizer_fn=learning.optimizers.build_sgdm(RATE),
        server_optimizer_fn=learning.optimizers.build_sgdm(1.0),
    )
    start = tuple(ours.model.spec.unflatten_numpy(ours.start().weights))
    return process, process.set_model_weights(process.initialize(), learning.models.ModelWeights(start, ()))


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    names = list(next(iter(result.values()))["median_seconds"])
    lines = ["| rounds a second | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for model, row in result.items():
        lines.append(f"| {model} | " + " | ".join(f"{1 / s:.1f}" for s in row["median_seconds"].values()) + " |")
    for model, row in result.items():
        for pair, ratio in row["ratios"].items():
            low, high = ratio["quartiles"]
            lines.append(f"{model}: {pair} = {ratio['median']:.2f} ({low:.2f} to {high:.2f})")
    return "\n".join(lines)


if __name__ == "__main__":
    from fedpriv_experiments import script

    script.run(main)
