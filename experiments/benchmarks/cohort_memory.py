"""Cohort memory: the largest resident memory of one round, in a process of its own, printed as JSON.

60,000 synthetic 784-pixel examples over 10,000 clients of 6; the cohort is what varies.
`python -m experiments.benchmarks.cohort_memory --cohort 10000`
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

POPULATION, EACH = 10_000, 6


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes.

    Read from /proc, since getrusage's figure starts at that of the process that started this one.
    """
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def main(
    cohort: Annotated[int, typer.Option(min=1, max=POPULATION, help="Clients in the round.")] = POPULATION,
) -> None:
    """Runs one round and prints cohort, seconds and the process's largest resident memory in MB."""
    from fedpriv.data.dataset import Dataset
    from fedpriv.data.partition import Partition
    from fedpriv.federation.federation import Federation
    from fedpriv.models import load as load_model
    from fedpriv.procedure.procedure import Sampling, make_procedure

    rng = np.random.default_rng(0)
    count = POPULATION * EACH
    x, y = rng.integers(0, 256, (count, 784), np.uint8), rng.integers(0, 10, count).astype(np.int32)
    made = Federation(
        load_model("2nn", input_shape=(784,), num_classes=10),
        Dataset("noise", x, y, 10),
        Partition("even", tuple(np.split(np.arange(count), POPULATION))),
        make_procedure(batch_size=10, client={"learning_rate": 0.01}, sampling=Sampling.fixed(cohort)),
    )
    state = made.start()
    began = time.perf_counter()
    _, record = made.step(state, evaluate=False)
    peak = peak_memory()
    print(
        json.dumps(
            {
                "cohort": record.survivors,
                "seconds": time.perf_counter() - began,
                "max_rss_mb": peak / 1e6,
                "all_updates_would_take_mb": cohort * made.model.spec.size * 4 / 1e6,
            }
        )
    )


if __name__ == "__main__":
    typer.run(main)
