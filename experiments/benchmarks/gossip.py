"""Gossip: a round of 1,000 peers with models of their own beside a FedAvg round of the same local work, in turns.

The same clients, weights, batches and rates on both sides; no evaluation. FedAvg takes all clients into its cohort, as
every peer trains in gossip. What a round of gossip does besides is to hold, exchange and average 1,000 models.
`python -m experiments.benchmarks.gossip`
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from experiments.benchmarks.cohort_memory import peak_memory
from experiments.benchmarks.fedavg_vs_tff import compared, interleaved

if TYPE_CHECKING:
    from fedpriv.federation.federation import Federation

BATCH, RATE = 10, 0.05
#: What is timed against FedAvg.
SIDES = {
    "d_psgd": "gossip(graph=ring)",
    "push_sum": "gossip(graph=ring,protocol=push_sum)",
    "gosgd": "gossip(graph=ring,protocol=gosgd)",
    "choco": "gossip(graph=ring,protocol=choco)",
}


def main(
    peers: Annotated[int, typer.Option(min=3, help="Peers, and clients of FedAvg.")] = 1000,
    examples: Annotated[int, typer.Option(min=1, help="Examples each.")] = 60,
    rounds: Annotated[int, typer.Option(min=2, help="Timed rounds of each side.")] = 5,
    warmup: Annotated[int, typer.Option(min=1, help="Untimed rounds first.")] = 1,
    model: Annotated[str, typer.Option(help="The model.")] = "2nn",
    sides: Annotated[str, typer.Option(help="Protocols, by commas.")] = "d_psgd",
    out: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("results/benchmarks/gossip.json"),
) -> None:
    """Times both sides and writes medians and paired ratios."""
    from fedpriv.base.atomic import write_json
    from fedpriv.base.errors import FedprivError, UnknownNameError, did_you_mean
    from fedpriv.base.provenance import provenance

    try:
        chosen = [s.strip() for s in sides.split(",")]
        for name in chosen:
            if name not in SIDES:
                raise UnknownNameError(f"no protocol '{name}' is timed here.{did_you_mean(name, SIDES)}")
        load_before = os.getloadavg()
        result = measured(model, peers, examples, rounds, warmup, chosen)
    except FedprivError as e:
        typer.echo(f"error: {e}", err=True)
        raise typer.Exit(2) from None
    settings = {"peers": peers, "examples": examples, "batch": BATCH, "rate": RATE, "model": model, "rounds": rounds}
    command = ["uv", "run", "python", "-m", "experiments.benchmarks.gossip", *sys.argv[1:]]
    origin = provenance(command, settings, 0)
    write_json(out, result | {"load_before": load_before, "load_after": os.getloadavg(), "provenance": origin})
    typer.echo(table(result))


def measured(model: str, peers: int, examples: int, rounds: int, warmup: int, chosen: list[str]) -> dict[str, Any]:
    """Seconds of every side's rounds, ratios by pairs, and the largest resident memory up to each side's first.

    Processor seconds are those of all threads, and what else runs on the machine changes them little.
    """
    made = {"fedavg": federation(model, peers, examples)}
    made |= {name: federation(model, peers, examples, SIDES[name]) for name in chosen}
    memory: dict[str, float] = {}
    states: dict[str, Any] = {}
    processor: dict[str, list[float]] = {name: [] for name in made}

    def step(name: str) -> Any:
        def one() -> None:
            if name not in states:
                states[name] = made[name].start()
            began = time.process_time()
            states[name], _ = made[name].step(states[name], evaluate=False)
            processor[name].append(time.process_time() - began)
            memory.setdefault(name, peak_memory() / 1e6)

        return one

    sides = {name: step(name) for name in made}
    first, times = interleaved(sides, rounds, warmup)
    processor = {name: seconds[-rounds:] for name, seconds in processor.items()}
    return {
        "first_round_seconds": first,
        "median_seconds": {name: float(np.median(t)) for name, t in times.items()},
        "seconds": times,
        "ratios": {name: compared(times, name, "fedavg")["ratio"] for name in chosen},
        "processor_seconds": processor,
        "processor_ratios": {name: compared(processor, name, "fedavg")["ratio"] for name in chosen},
        "max_rss_mb": memory,
        "all_models_take_mb": peers * made["fedavg"].model.spec.size * 4 / 1e6,
    }


def federation(model: str, peers: int, examples: int, topology: str = "server") -> Federation:
    """Everybody, every round, on synthetic images of Fashion-MNIST's size."""
    from fedpriv.data.dataset import Dataset
    from fedpriv.data.partition import Partition
    from fedpriv.federation.federation import Federation
    from fedpriv.models import load as load_model
    from fedpriv.procedure.procedure import Sampling, make_procedure

    rng, count = np.random.default_rng(0), peers * examples
    data = Dataset("noise", rng.integers(0, 256, (count, 28, 28, 1), np.uint8), rng.integers(0, 10, count), 10)
    parts = Partition("even", tuple(np.split(np.arange(count), peers)))
    procedure = make_procedure(
        batch_size=BATCH, client={"learning_rate": RATE}, sampling=Sampling.full(), weighting="uniform"
    )
    made = load_model(model, input_shape=(28, 28, 1), num_classes=10)
    return Federation(made, data, parts, procedure, seed=0, topology=topology)


def table(result: dict[str, Any]) -> str:
    """For the terminal."""
    lines = []
    for name, seconds in result["median_seconds"].items():
        line = f"{name:10} {seconds:7.2f} s a round; {result['max_rss_mb'][name]:.0f} MB at most until then"
        if name in result["ratios"]:
            ratio = result["ratios"][name]
            low, high = ratio["quartiles"]
            line += f"; {ratio['median']:.2f} times FedAvg ({low:.2f} to {high:.2f})"
            line += f", in processor seconds {result['processor_ratios'][name]['median']:.2f} times"
        lines.append(line)
    return "\n".join([*lines, f"All peers' models take {result['all_models_take_mb']:.0f} MB."])


if __name__ == "__main__":
    from fedpriv_experiments import script

    script.run(main)
