"""Discrete noise: draws a second on one core, and what distributed differential privacy adds to a client's round.

The samplers of `distributed_dp`, discrete Gaussian and Skellam, at several standard deviations, beside normal noise and
TF Privacy's samplers; then the whole codec (rotation, rounding, noise, modulus) on one contribution, and its decoding.
Everything runs on one core; sides alternate. `python -m experiments.benchmarks.discrete_noise`
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fedpriv.base.lazy import tf

DEVIATIONS = (1.0, 30.0, 1000.0, 8192.0)
SIZES = (10_000, 199_210, 1_000_000)
MECHANISMS = ("discrete_gaussian", "skellam")


def main(
    draws: Annotated[int, typer.Option(min=1000, help="Draws in one call.")] = 1_000_000,
    repeats: Annotated[int, typer.Option(min=3, help="Timed calls of each side.")] = 9,
    out: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("results/benchmarks/discrete_noise.json"),
) -> None:
    """Times them, and writes medians."""
    from fedpriv.base.atomic import write_json
    from fedpriv.base.provenance import provenance

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    load_before = os.getloadavg()
    result = {"draws": samplers(draws, repeats), "codec": codecs(repeats)}
    settings = {"draws": draws, "repeats": repeats, "cores": 1, "clients": 100, "bits": 16}
    command = ["uv", "run", "python", "-m", "experiments.benchmarks.discrete_noise", *sys.argv[1:]]
    origin = provenance(command, settings, 0)
    write_json(out, {**result, "load_before": load_before, "load_after": os.getloadavg(), "provenance": origin})
    typer.echo(table(result))


def samplers(draws: int, repeats: int) -> list[dict[str, Any]]:
    """Draws a second of each sampler, and seconds to make its table, by standard deviation."""
    import tensorflow_privacy as tfp
    from fedpriv_defenses.distributed.sampler import table, variance_above

    from fedpriv.base.seeds import child, gaussian, words

    sides: dict[tuple[str, float], Callable[[int], Any]] = {}
    built: dict[tuple[str, float], float] = {}
    for deviation in DEVIATIONS:
        for mechanism in MECHANISMS:
            began = time.perf_counter()
            made = table(mechanism, variance_above(deviation**2))
            built[mechanism, deviation] = time.perf_counter() - began

            @tf.function(autograph=False)
            def ours(seed: Any, made: Any = made) -> Any:
                return made.draw(draws, lambda count, stream: words(child(seed, stream), count))

            sides[mechanism, deviation] = lambda i, f=ours: f(tf.constant([i, 1], tf.int64))
        for name, query in {
            "TF Privacy, discrete_gaussian": tfp.DistributedDiscreteGaussianSumQuery(1e9, deviation),
            "TF Privacy, skellam": tfp.DistributedSkellamSumQuery(1e9, 1e9, deviation),
        }.items():

            @tf.function
            def theirs(query: Any = query) -> Any:
                params = query.derive_sample_params(query.initial_global_state())
                return query.preprocess_record(params, [tf.zeros([draws], tf.int32)])[0]

            if "gaussian" not in name or deviation <= 1000:  # its squares leave int32 beyond
                sides[name, deviation] = lambda _, f=theirs: f()
    normal = tf.function(lambda seed: gaussian(seed, [draws]), autograph=False)
    sides["normal", 1.0] = lambda i: normal(tf.constant([i, 1], tf.int64))
    took = alternating(sides, repeats)
    return [
        {"sampler": name, "deviation": deviation, "draws_a_second": draws / took[name, deviation]}
        | ({"table_seconds": built[name, deviation]} if (name, deviation) in built else {})
        for name, deviation in sides
    ]


def codecs(repeats: int) -> list[dict[str, Any]]:
    """Seconds to encode one contribution and to decode a sum, by the update's size, beside `fixed_point`."""
    import numpy as np
    from fedpriv_defenses.fixed_point import FixedPoint

    from fedpriv.base import registry
    from fedpriv.defense.line import Line
    from fedpriv.defense.plan import Plan

    sides: dict[tuple[str, int], Callable[[int], Any]] = {}
    for size in SIZES:
        plan = Plan.everybody(100, size)
        found = {"fixed_point": FixedPoint(range=1)}
        for mechanism in MECHANISMS:
            calls = (f"distributed_dp(clip=1, noise_multiplier=1, mechanism={mechanism})", "secagg(min_clients=100)")
            found[mechanism] = Line([registry.defenses.create(c) for c in calls], plan).links[1]  # type: ignore
        vector = tf.constant(np.random.default_rng(0).normal(size=size + 1) / np.sqrt(size), tf.float32)
        vector = tf.concat([vector[:-1], [1.0]], 0)
        for name, codec in found.items():
            encode = tf.function(lambda x, s, c=codec, p=plan: c.quantize(x, p, s)[0], autograph=False)
            sides[f"{name}, encode", size] = lambda i, f=encode, x=vector: f(x, tf.constant([i, 2], tf.int64))
            total = encode(vector, tf.constant([0, 2], tf.int64))
            decode = tf.function(lambda t, c=codec, p=plan: c.decode(t, tf.constant(100), p), autograph=False)
            sides[f"{name}, decode", size] = lambda _, f=decode, t=total: f(t)
    took = alternating(sides, repeats)
    return [{"step": name, "size": size, "seconds": seconds} for (name, size), seconds in took.items()]


def alternating(sides: Mapping[Any, Callable[[int], Any]], repeats: int) -> dict[Any, float]:
    """Median seconds of each side, one call of each after the other, after a call that compiles."""
    seconds: dict[Any, list[float]] = {key: [] for key in sides}
    for repeat in range(repeats + 1):
        for key, call in sides.items():
            began = time.perf_counter()
            call(repeat).numpy()
            if repeat:
                seconds[key].append(time.perf_counter() - began)
    return {key: statistics.median(values) for key, values in seconds.items()}


def table(result: Mapping[str, Any]) -> str:
    """The medians, for people."""
    lines = [f"{'sampler':32} {'deviation':>10} {'draws a second':>16}"]
    lines += [f"{r['sampler']:32} {r['deviation']:10g} {r['draws_a_second']:16,.0f}" for r in result["draws"]]
    lines += ["", f"{'step':32} {'size':>10} {'milliseconds':>16}"]
    lines += [f"{r['step']:32} {r['size']:10,} {1e3 * r['seconds']:16.2f}" for r in result["codec"]]
    return "\n".join(lines)


if __name__ == "__main__":
    from fedpriv_experiments import script

    script.run(main)
