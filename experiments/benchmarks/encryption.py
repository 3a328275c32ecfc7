"""Encryption: what a round of encrypted sums costs, by stage, in seconds and in bytes, for both schemes.

`clients` clients with random updates of d coordinates, and no training. All parties' work is done by one thread here;
`cpu_seconds` is the processor's time for it, which other work on the machine hardly changes, `seconds` the clock's. A
client's time is its share of the input phase, in which the server takes and adds its message. Expansion is what a
client sends, over 4 bytes a coordinate. `python -m experiments.benchmarks.encryption`
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

#: Defenses by name, with the largest d that they are timed with.
DEFENSES: dict[str, tuple[str, int]] = {
    "ckks": ("ckks", 10**6),
    "ckks, a tenth": ("ckks(fraction=0.1,select=random)", 10**6),
    "paillier 2048": ("paillier", 10**5),
    "paillier 3072": ("paillier(key_bits=3072)", 10**4),
    "secret sharing": ("secret_sharing", 10**6),
}
SIZES = (10**3, 10**4, 10**5, 10**6)


def main(
    clients: Annotated[int, typer.Option(min=1, help="Clients in a round.")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of which the median is taken, up to d = 10,000.")] = 3,
    largest: Annotated[int, typer.Option(min=1000, help="Largest d.")] = 10**6,
    out: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("results/benchmarks/encryption.json"),
) -> None:
    """Times rounds of encrypted sums and writes their medians."""
    from fedpriv.base.atomic import jsonable, write_json
    from fedpriv.base.provenance import provenance

    before = os.getloadavg()
    rows = []
    for size in (s for s in SIZES if s <= largest):
        for name, (written, most) in DEFENSES.items():
            if size <= most:
                rows.append(row(name, written, size, clients, repeats if size <= 10**4 else 1))
                typer.echo(line(rows[-1]))
    command = ["uv", "run", "python", "-m", "experiments.benchmarks.encryption", *sys.argv[1:]]
    whole = {
        "rows": rows,
        "load_before": before,
        "load_after": os.getloadavg(),
        "provenance": provenance(command, {"clients": clients, "repeats": repeats, "bits": 32}, 0),
    }
    write_json(out, jsonable(whole))
    typer.echo(f"load {before[0]:.2f} before and {os.getloadavg()[0]:.2f} after")


def row(name: str, written: str, size: int, clients: int, repeats: int) -> dict[str, Any]:
    """The medians of `repeats` rounds of one defense at one d."""
    rounds = [timed(written, size, clients) for _ in range(repeats)]
    return {
        "defense": name,
        "d": size,
        "clients": clients,
        "rounds": repeats,
        "seconds": {phase: float(np.median([r[0][phase] for r in rounds])) for phase in rounds[0][0]},
        "cpu_seconds": {phase: float(np.median([r[2][phase] for r in rounds])) for phase in rounds[0][2]},
        "cpu_seconds_a_client": float(np.median([r[2]["input"] for r in rounds])) / clients,
        "bytes": {f"{phase}: {sender} to {receiver}": n for (phase, sender, receiver), n in rounds[-1][1].items()},
        "bytes_a_client": rounds[-1][3],
        "expansion": rounds[-1][3] / (4 * size),
    }


def timed(written: str, size: int, clients: int) -> tuple[dict[str, float], dict[Any, int], dict[str, float], float]:
    """One round: (seconds by phase, bytes by flow, CPU seconds before, in and after the input, bytes a client)."""
    from fedpriv.base import registry
    from fedpriv.base.errors import FedprivError
    from fedpriv.defense.protocol import Revealed
    from fedpriv.defense.stations import Plan

    plan = Plan.everybody(clients, size)
    codec, protocol = registry.defenses.create(written).parts()
    top = ((1 << (codec.bits - 1)) - 1) // clients
    vectors = np.random.default_rng(0).integers(-top, top + 1, (clients, size + 1))
    encoded = vectors.view(np.uint64) & np.uint64((1 << codec.bits) - 1)
    session = protocol.open(plan, range(clients), round=0, seed=0)
    at = [time.process_time()]
    session.begin()
    at.append(time.process_time())
    for client in range(clients):
        session.submit(client, encoded[client])
    at.append(time.process_time())
    outcome = session.finish()
    at.append(time.process_time())
    cpu = dict(zip(("before", "input", "after"), np.diff(at).tolist(), strict=True))
    right = encoded.sum(0) & np.uint64((1 << codec.bits) - 1)
    if not isinstance(outcome, Revealed) or not np.array_equal(outcome.total, right):
        raise FedprivError(f"{written} did not bring the sum of {clients} updates of {size} coordinates: {outcome}")
    sent = session.wire.bytes(sender="client") / clients
    return dict(session.seconds), session.wire.traffic(), cpu, sent


def line(found: dict[str, Any]) -> str:
    """A row for the terminal."""
    stages = ", ".join(f"{part} {seconds:.3f} s" for part, seconds in found["cpu_seconds"].items())
    return (
        f"{found['defense']:15} d={found['d']:<8} {found['cpu_seconds_a_client']:8.3f} s and "
        f"{found['bytes_a_client']:12.0f} bytes a client ({found['expansion']:.2f} x float32); {stages}"
    )


if __name__ == "__main__":
    from fedpriv_experiments import script

    script.run(main)
