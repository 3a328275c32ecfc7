"""Masks: what it costs to put a protocol's masks on in the client's graph, in place of the session in this process.

The keystream itself, in milliseconds for a million 32-bit words: by the `cryptography` package, by TensorFlow, and by
TFF's runtime. Then rounds with `secret_sharing` of three aggregators, on both engines, masked in the graph and in this
process; rounds alternate, so that what else the machine does falls on all. `python -m experiments.benchmarks.masks`
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from experiments.benchmarks import workload
from experiments.benchmarks.fedavg_vs_tff import compared, interleaved
from fedpriv.base.lazy import tf, tff

if TYPE_CHECKING:
    from fedpriv.engine.base import Engine
    from fedpriv.federation.federation import Federation

WORDS = 1_000_000
ENGINES = ("graph", "tff")
PLACES = {"in this process": False, "in the graph": True}


def main(
    rounds: Annotated[int, typer.Option(min=3, help="Timed rounds of each side.")] = 15,
    warmup: Annotated[int, typer.Option(min=1, help="Untimed rounds first.")] = 2,
    out: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("results/benchmarks/masks.json"),
) -> None:
    """Times keystreams and rounds, and writes medians and paired ratios."""
    from fedpriv.base.atomic import write_json
    from fedpriv.base.provenance import provenance

    load_before = os.getloadavg()
    result = {"keystream": streams(rounds, warmup), "rounds": measured(rounds, warmup)}
    settings = {"words": WORDS, "clients": workload.CLIENTS, "network": "784-200-200-10", "rounds": rounds}
    command = ["uv", "run", "python", "-m", "experiments.benchmarks.masks", *sys.argv[1:]]
    origin = provenance(command, settings, 0)
    write_json(out, {**result, "load_before": load_before, "load_after": os.getloadavg(), "provenance": origin})
    typer.echo(table(result))


def streams(rounds: int, warmup: int, words: int = WORDS) -> dict[str, Any]:
    """Seconds of one mask of `words` 32-bit elements on a vector, made three ways that give the same bits."""
    from fedpriv.defense.dealt import Dealt
    from fedpriv.defense.ring import RingFormat
    from fedpriv.engine.masking import Masking
    from fedpriv.engine.tff.pool import default_runtime
    from fedpriv.engine.tff.traced import traced

    rng = np.random.default_rng(0)
    key, values = rng.bytes(32), rng.integers(0, 2**32, words, np.uint64)
    dealt = Dealt(keys=np.frombuffer(key, np.uint8)[None], signs=np.ones(1, np.int8), bits=32)
    form, narrow = RingFormat(32, words), values.astype(np.uint32)
    given = tf.constant(dealt.keys), tf.constant(dealt.signs), tf.constant(values.view(np.int64))
    types = tff.TensorType(np.uint8, [1, 32]), tff.TensorType(np.int8, [1]), tff.TensorType(np.int64, [words])

    def whole(keys: Any, signs: Any, vector: Any) -> Any:
        return Masking(keys, signs, 32).mask(vector)

    def last(keys: Any, signs: Any, vector: Any) -> Any:
        """Of a runtime in another process, one element comes back, so that the way there and back counts little."""
        return tf.reduce_max(tf.cast(whole(keys, signs, vector), tf.int64))

    one, traced_last = tf.function(whole, autograph=False), traced(last, *types)
    remote = tff.tensorflow.computation(lambda k, s, v: traced_last(k, s, v), types)

    def by_host() -> np.ndarray:
        total = narrow.copy()
        for where, block in form.blocks(key):
            np.add(total[where], block, out=total[where])
        return total

    expected = dealt.mask(values)
    same = np.array_equal(by_host(), expected) and np.array_equal(one(*given).numpy(), expected)
    arguments = dealt.keys, dealt.signs, values.view(np.int64)
    with default_runtime():
        same = same and int(remote(*arguments)) == int(expected.max())
        nothing = tff.tensorflow.computation(lambda k, s, v: tf.reduce_max(v), types)
        sides = {
            "cryptography": lambda: discard(by_host()),
            "TensorFlow": lambda: discard(one(*given)),
            "TFF": lambda: discard(remote(*arguments)),
            "TFF, no mask": lambda: discard(nothing(*arguments)),
        }
        _, times = interleaved(sides, rounds, warmup)
    return {
        "same_bits": bool(same),
        "median_seconds": {n: float(np.median(t)) for n, t in times.items()},
        "words": words,
    }


def discard(_: Any) -> None:
    """Takes a result that is only timed."""


def measured(rounds: int, warmup: int) -> dict[str, Any]:
    """Seconds of a round on both engines, masked in both places."""
    sides: dict[str, Any] = {}
    made = []
    for engine in ENGINES:
        for place, inside in PLACES.items():
            federated = federation(engine)
            made.append(federated)
            sides[f"{engine}, {place}"] = _stepping(federated, inside)
    try:
        _, times = interleaved({name: side[0] for name, side in sides.items()}, rounds, warmup)
        ends = {name: side[1]() for name, side in sides.items()}
    finally:
        for federated in made:
            federated.close()
    ratios = {e: compared(times, f"{e}, in the graph", f"{e}, in this process")["ratio"] for e in ENGINES}
    same = {e: bool(np.array_equal(ends[f"{e}, in the graph"], ends[f"{e}, in this process"])) for e in ENGINES}
    medians = {name: float(np.median(t)) for name, t in times.items()}
    return {"median_seconds": medians, "seconds": times, "ratios": ratios, "same_weights": same}


def _stepping(federated: Federation, inside: bool) -> tuple[Any, Any]:
    engine: Engine = federated._engine
    engine.masks_in_graph = inside
    state = federated.start()

    def step() -> None:
        nonlocal state
        state, _ = federated.step(state, evaluate=False)

    return step, lambda: state.weights


def federation(engine: str) -> Federation:
    """The workload with `secret_sharing` by three aggregators."""
    from dataclasses import replace

    from fedpriv.base import registry

    stack = tuple(registry.defenses.create(s) for s in ("clip(norm=1)", "secret_sharing(aggregators=3,range=1)"))
    return replace(workload.federation(), engine=engine, defenses=stack)


def table(result: dict[str, Any]) -> str:
    """The result for the terminal."""
    stream = result["keystream"]
    lines = [f"a mask of {stream['words']} 32-bit elements (same bits: {stream['same_bits']}):"]
    lines += [f"  {name:24}{1e3 * s:9.2f} ms" for name, s in stream["median_seconds"].items()]
    lines.append("a round:")
    lines += [f"  {name:24}{1e3 * s:9.1f} ms" for name, s in result["rounds"]["median_seconds"].items()]
    for engine, ratio in result["rounds"]["ratios"].items():
        low, high = ratio["quartiles"]
        said = "same weights" if result["rounds"]["same_weights"][engine] else "other weights"
        lines.append(
            f"  {engine}: in the graph / in this process = {ratio['median']:.2f} ({low:.2f} to {high:.2f}), {said}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    from fedpriv_experiments import script

    script.run(main)
