"""Encryption: what a round of encrypted sums costs, by stage, in seconds and in bytes, for both schemes.

`clients` clients with random updates of d coordinates, and no training. Times are those of one party on this machine:
a client's is its share of the phase `encrypt`, in which the server's work of taking and adding its message is
included; the key holder's is the phase `decrypt`. Expansion is what a client sends to the server, over 4 bytes a
coordinate. `python -m experiments.benchmarks.encryption`
"""

from __future__ import annotations

import os
import sys
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
        "seconds_a_client": float(np.median([r[2] for r in rounds])),
        "bytes": {f"{phase}: {sender} to {receiver}": n for (phase, sender, receiver), n in rounds[-1][1].items()},
        "bytes_a_client": rounds[-1][3],
        "expansion": rounds[-1][3] / (4 * size),
    }


def timed(written: str, size: int, clients: int) -> tuple[dict[str, float], dict[Any, int], float, float]:
    """One round: (seconds by phase, bytes by phase and roles, seconds a client in the input phase, bytes a client)."""
    from fedpriv.base import registry
    from fedpriv.base.errors import FedprivError
    from fedpriv.defense.protocol import Revealed
    from fedpriv.defense.stations import Plan
    from fedpriv.models.spec import Spec
    from fedpriv.procedure.procedure import Sampling

    plan = Plan(
        spec=Spec(("w",), ((size,),)),
        population=clients,
        cohort=clients,
        expected_cohort=float(clients),
        sampling=Sampling.full(),
        weighting="uniform",
        max_examples=1,
    )
    codec, protocol = registry.defenses.create(written).parts()
    top = ((1 << (codec.bits - 1)) - 1) // clients
    vectors = np.random.default_rng(0).integers(-top, top + 1, (clients, size + 1))
    encoded = vectors.view(np.uint64) & np.uint64((1 << codec.bits) - 1)
    session = protocol.open(plan, range(clients), round=0, seed=0)
    session.begin()
    for client in range(clients):
        session.submit(client, encoded[client])
    outcome = session.finish()
    right = encoded.sum(0) & np.uint64((1 << codec.bits) - 1)
    if not isinstance(outcome, Revealed) or not np.array_equal(outcome.total, right):
        raise FedprivError(f"{written} did not bring the sum of {clients} updates of {size} coordinates: {outcome}")
    sent = session.wire.bytes(sender="client") / clients
    return dict(session.seconds), session.wire.traffic(), session.seconds[protocol.input_phase] / clients, sent


def line(found: dict[str, Any]) -> str:
    """A row for the terminal."""
    stages = ", ".join(f"{phase} {seconds:.3f} s" for phase, seconds in found["seconds"].items())
    return (
        f"{found['defense']:15} d={found['d']:<8} {found['seconds_a_client']:8.3f} s and "
        f"{found['bytes_a_client']:12.0f} bytes a client ({found['expansion']:.2f} x float32); {stages}"
    )


if __name__ == "__main__":
    from fedpriv_experiments import script

    script.run(main)
