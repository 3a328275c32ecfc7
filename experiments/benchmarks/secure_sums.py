"""Secure sums: seconds and bytes of one round of each protocol, by phase, for growing cohorts and models.

Every cell is a process of its own that runs one whole round, all clients and the server on this machine: keys, shares,
messages and drop-outs, with contributions drawn at random. For protocols with pairwise masks, beside the seconds stands
what the cipher alone would need for the keystream of that round's masks, measured in the same process just before and
after. Cells that are expected to take more seconds than `--limit` are left out, and said to be; so are those whose
clients would hold more than some gigabytes together. `python -m experiments.benchmarks.secure_sums`
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from experiments.benchmarks.cohort_memory import peak_memory

#: Protocols by the name in figures, as on a command line: links that take what `fixed_point` gives.
PROTOCOLS = {
    "additive, 2 aggregators": "additive_sharing(aggregators=2,bits=32)",
    "Shamir, 3 of 5": "shamir_sharing(aggregators=5,threshold=3,bits=24)",
    "SecAgg": "pairwise_masking(bits=32)",
    "SecAgg, active server": "pairwise_masking(bits=32,active=true)",
    "SecAgg+": "neighbour_masking(bits=32,dropout=0.3)",
    "LightSecAgg": "coded_masking(bits=24)",
    "CKKS": "ckks_sum(bits=24)",
    "Paillier": "paillier_sum(bits=24)",
}
#: Rough seconds on two cores, by which cells are left out: given clients, parameters, clients that go, and neighbours.
EXPECTED = {
    "additive_sharing": lambda n, d, gone, k: 2e-9 * n * d,
    "shamir_sharing": lambda n, d, gone, k: 5e-8 * n * d,
    "pairwise_masking": lambda n, d, gone, k: 7e-10 * n * k * d + 2e-4 * n * k,
    "neighbour_masking": lambda n, d, gone, k: 7e-10 * n * k * d + 3e-4 * n * k,
    "coded_masking": lambda n, d, gone, k: 3e-9 * n * n * d + 1e-4 * n * n,
    "ckks_sum": lambda n, d, gone, k: 1.5e-6 * n * d,
    "paillier_sum": lambda n, d, gone, k: 5e-4 * n * d,
}
#: Bytes that all clients of `coded_masking` hold for each of n d: n pieces of d / (0.2 n) elements, four bytes each.
PIECES, MEMORY = 4 / 0.2, 8e9
#: An active server's clients check n signatures each, twice.
SIGNED = 4e-4
CLIENTS, SIZES, DROPOUTS = (10, 100, 1000), (10_000, 1_000_000), (0.0, 0.1, 0.3)
#: Bytes of a plain float32 value.
PLAIN = 4
#: Words of a keystream for one timing of the cipher, and how many timings.
_WORDS, _TIMES = 1 << 20, 9


def main(
    protocols: Annotated[str, typer.Option(help="Names of protocols, by semicolons; all by default.")] = "",
    clients: Annotated[str, typer.Option(help="Cohort sizes, by commas.")] = ",".join(map(str, CLIENTS)),
    sizes: Annotated[str, typer.Option(help="Numbers of parameters, by commas.")] = ",".join(map(str, SIZES)),
    dropouts: Annotated[str, typer.Option(help="Shares of clients that go before they send.")] = "0,0.1,0.3",
    limit: Annotated[float, typer.Option(help="Most expected seconds of a cell; larger ones are left out.")] = 120.0,
    out: Annotated[Path, typer.Option(help="Where the JSON goes; figures beside it.")] = Path(
        "results/benchmarks/secure_sums.json"
    ),
    only: Annotated[str, typer.Option("--only", hidden=True, help="One cell, printed as JSON.")] = "",
) -> None:
    """Runs one round of every cell and writes a table, two figures and the JSON."""
    from fedpriv.base.atomic import jsonable, to_json, write_text
    from fedpriv.base.errors import ParameterError, did_you_mean
    from fedpriv.base.provenance import provenance

    if only:
        name, n, d, share = json.loads(only)
        typer.echo(json.dumps(jsonable(measured(name, n, d, share))))
        return
    chosen = [p.strip() for p in protocols.split(";") if p.strip()] or list(PROTOCOLS)
    for name in chosen:
        if name not in PROTOCOLS:
            raise ParameterError(f"no protocol '{name}' is measured here.{did_you_mean(name, PROTOCOLS)}")
    load_before = os.getloadavg()
    rows: list[dict[str, Any]] = []
    for d in _numbers(sizes, "sizes"):
        for n in _numbers(clients, "clients"):
            for name in chosen:
                for share in _shares(dropouts):
                    row = _cell(name, n, d, share, limit)
                    rows.append(row)
                    typer.echo(line(row))
    settings = {"protocols": {n: PROTOCOLS[n] for n in chosen}, "clients": clients, "sizes": sizes, "limit": limit}
    command = ["uv", "run", "python", "-m", "experiments.benchmarks.secure_sums", *sys.argv[1:]]
    made = provenance(command, settings, 0)
    whole = {
        "rows": rows,
        "expansion_of_16_bit_values": expansion(1 << 10, 1 << 20),
        "load_before": load_before,
        "load_after": os.getloadavg(),
        "provenance": made,
    }
    write_text(out, to_json(jsonable(whole)) + "\n")
    draw(rows, out)
    told = whole["expansion_of_16_bit_values"]
    typer.echo(f"{told['clients']} clients of {told['parameters']} 16-bit values: {told['ours']:.2f} (paper: 1.73)")
    typer.echo(f"load {load_before[0]:.2f} before and {os.getloadavg()[0]:.2f} after; written to {out}")


def _numbers(text: str, option: str) -> list[int]:
    from fedpriv.base.errors import ParameterError

    try:
        found = [int(float(v)) for v in text.split(",") if v.strip()]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ParameterError(f"--{option} '{text}' is no list of whole numbers above 0; write e.g. 10,100")
    return found


def _shares(text: str) -> list[float]:
    from fedpriv.base.errors import ParameterError

    try:
        found = [float(v) for v in text.split(",") if v.strip()]
    except ValueError:
        found = []
    if not found or not all(0 <= v < 1 for v in found):
        raise ParameterError(f"--dropouts '{text}' is no list of shares from 0 to below 1; write e.g. 0,0.1")
    return found


def _cell(name: str, n: int, d: int, share: float, limit: float) -> dict[str, Any]:
    from fedpriv.base.errors import FedprivError

    head = {"protocol": name, "clients": n, "parameters": d, "dropout": share}
    if why := left_out(name, n, d, share, limit):
        return head | {"left_out": why}
    wanted = json.dumps([name, n, d, share])
    code = [sys.executable, "-m", "experiments.benchmarks.secure_sums", "--only", wanted]
    done = subprocess.run(code, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise FedprivError(f"{name} with {n} clients of {d} parameters did not run: {last}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return head | found


def left_out(name: str, n: int, d: int, share: float, limit: float) -> str:
    """Why a cell is not run; "" if it is."""
    protocol = _protocol(name)
    k = protocol.degree(n).neighbours if hasattr(protocol, "degree") else n - 1
    seconds = EXPECTED[protocol.name](n, d, round(share * n), k)
    if getattr(protocol, "active", False):
        seconds += SIGNED * n * n
    if protocol.name == "coded_masking" and PIECES * n * d > MEMORY:
        return f"its clients would hold {PIECES * n * d / 1e9:.0f} GB of pieces"
    if seconds > limit:
        return f"about {seconds:.0f} s, above the limit of {limit:.0f} s"
    return ""


def mask_words(protocol: Any, n: int, d: int, share: float) -> float | None:
    """Keystream words of a round's masks: those put on by clients, and those taken off by the server."""
    gone = round(share * n)
    if not hasattr(protocol, "degree"):
        return None
    k = protocol.degree(n).neighbours
    return (n - gone) * (k + 1.0) * d + (n - gone) * d + gone * k * (n - gone) / max(n - 1, 1) * d


def _protocol(name: str) -> Any:
    from fedpriv.base import registry

    return registry.defenses.create(PROTOCOLS[name])


def cipher_milliseconds() -> float:
    """ChaCha20 alone, on one core: milliseconds for a million 32-bit words of keystream; the median of some."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

    zeros, stream = bytes(4 << 15), memoryview(bytearray(4 << 15))
    times = []
    for _ in range(_TIMES):
        encryptor = Cipher(algorithms.ChaCha20(os.urandom(32), bytes(16)), mode=None).encryptor()
        began = time.perf_counter()
        for _ in range(_WORDS >> 15):
            encryptor.update_into(zeros, stream)
        times.append(time.perf_counter() - began)
    return float(np.median(times)) * 1e9 / _WORDS


def measured(name: str, n: int, d: int, share: float) -> dict[str, Any]:
    """One round: seconds by phase, bytes by phase and direction, the cipher's own time, and this process's memory."""
    from fedpriv.base.errors import FedprivError
    from fedpriv.defense.attrition import FixedAttrition
    from fedpriv.defense.protocol import Aborted
    from fedpriv.defense.stations import Plan

    protocol = _protocol(name)
    plan = Plan.everybody(n, d)
    protocol.check(plan)
    rng, bits = np.random.default_rng(0), protocol.bits
    largest = (1 << (bits - 1)) // n  # as a codec leaves room for the sum
    base = rng.integers(0, largest, d + 1, dtype=np.uint64)
    before = cipher_milliseconds()
    session = protocol.open(plan, range(n), round=0, seed=0, attrition=FixedAttrition(count=round(share * n)))
    total = np.zeros(d + 1, np.uint64)
    for client in session.begin():
        vector = np.roll(base, client)
        total += vector
        session.submit(client, vector)
    outcome = session.finish()
    after = cipher_milliseconds()
    if isinstance(outcome, Aborted):
        raise FedprivError(f"the round was aborted: {outcome.reason}")
    if not np.array_equal(outcome.total, total & np.uint64((1 << bits) - 1)):
        raise FedprivError("the sum is wrong")
    words = mask_words(protocol, n, d, share)
    seconds = sum(session.seconds.values())
    cipher = None if words is None else words * (before + after) / 2 * 1e-9
    sent = session.wire.bytes(sender="client")
    found = {
        "seconds": session.seconds,
        "total_seconds": seconds,
        "mask_words": words,
        "cipher_ms_per_million_words": [before, after],
        "over_cipher": None if cipher is None else seconds / cipher,
        "bytes": {" ".join(key): value for key, value in session.wire.traffic().items()},
        "client_sends": sent / n,
        "client_receives": session.wire.bytes(receiver="client") / n,
        "expansion": (sent + session.wire.bytes(receiver="client")) / (n * (d + 1) * PLAIN),
        "peak_mb": peak_memory() / 1e6,
    }
    return shorter(found)


def shorter(value: Any) -> Any:
    """Floats to six significant digits, however deep they lie."""
    if isinstance(value, dict):
        return {k: shorter(v) for k, v in value.items()}
    if isinstance(value, list):
        return [shorter(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def expansion(n: int, d: int) -> dict[str, float]:
    """What a client of `pairwise_masking` sends and receives over 16-bit values in the clear, by the closed form.

    Bonawitz et al. (2017) give 1.73 for 2^10 clients of 2^20 values, in a ring that holds the sum.
    """
    from fedpriv_defenses.secure_sum.pairwise.client import SEALED, SHARE

    bits = 16 + (n - 1).bit_length()
    up = 64 + 32 + (n - 1) * (4 + SEALED) + d * bits / 8 + n * (4 + SHARE)
    down = (n - 1) * 68 + (n - 1) * (4 + SEALED) + 4 * n
    return {"clients": n, "parameters": d, "bits": bits, "ours": (up + down) / (2 * d), "paper": 1.73}


def line(row: dict[str, Any]) -> str:
    """One cell for the terminal."""
    head = f"{row['protocol']:24} n={row['clients']:<5} d={row['parameters']:<8} gone={row['dropout']:<4}"
    if "left_out" in row:
        return f"{head} left out: {row['left_out']}"
    beside = "" if row["over_cipher"] is None else f" ({row['over_cipher']:.2f} x the cipher)"
    return (
        f"{head} {row['total_seconds']:8.2f} s{beside}, a client sends "
        f"{row['client_sends'] / 1e6:.3f} MB, {row['expansion']:.2f} x plain float32, {row['peak_mb']:.0f} MB of memory"
    )


def draw(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """Seconds, and bytes of a client, against the cohort's size; one line a protocol, the drop-out of one tenth."""
    from fedpriv.base.atomic import write_bytes
    from fedpriv.figures.axis_curve import AxisPoint, axis_curve
    from fedpriv.figures.save import png

    shares = sorted({row["dropout"] for row in rows})
    share = 0.1 if 0.1 in shares else shares[0]
    for d in sorted({row["parameters"] for row in rows}):
        cells = [r for r in rows if r["parameters"] == d and r["dropout"] == share and "left_out" not in r]
        for field, label, scale in (
            ("total_seconds", "seconds of a round, all parties on one machine", 1.0),
            ("client_sends", "megabytes that a client sends", 1e-6),
        ):
            series: dict[str, list[AxisPoint]] = {}
            for row in cells:
                series.setdefault(row["protocol"], []).append(AxisPoint(row["clients"], scale * row[field]))
            figure = axis_curve(
                series,
                x_label="clients",
                y_label=label,
                title=f"{d:,} parameters, {share:.0%} of the clients drop out",
                log_x=True,
                log_y=True,
            )
            write_bytes(out.with_name(f"{out.stem}_{field}_{d}.png"), png(figure, dpi=120))


if __name__ == "__main__":
    from fedpriv_experiments import script

    script.run(main)
