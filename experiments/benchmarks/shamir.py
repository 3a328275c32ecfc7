"""Shamir's secret sharing: many secrets at once against pycryptodome's, one after the other.

Secrets of 16 and 32 bytes among n=100, t=51 of whom put them together. pycryptodome (`Crypto.Protocol.SecretSharing`)
works in the field of 2^128 elements and takes 16 bytes a time, so 32 bytes are two secrets to it. Ours takes 1, 100 or
1000 at once; a client of secure aggregation shares two or three, a cohort hundreds. Ours and theirs alternate, so that
what else the machine does falls on both; what is compared is the time of one secret. Both results are checked.
pycryptodome is needed for this alone:
`uv run --with pycryptodome python -m experiments.benchmarks.shamir`
"""

from __future__ import annotations

import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

SHARES, THRESHOLD = 100, 51
LENGTHS = (16, 32)
AT_ONCE = (1, 100, 1000)


def main(
    pairs: Annotated[int, typer.Option(min=3, help="Timed pairs of each kind.")] = 9,
    out: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("results/benchmarks/shamir.json"),
) -> None:
    """Times splitting and combining, and writes medians and paired ratios."""
    from fedpriv.base.atomic import jsonable, write_json
    from fedpriv.base.errors import ParameterError
    from fedpriv.base.provenance import provenance

    try:
        theirs = version("pycryptodome")
    except ModuleNotFoundError as e:
        raise ParameterError(
            "pycryptodome is not installed; run this as "
            "`uv run --with pycryptodome python -m experiments.benchmarks.shamir`"
        ) from e
    load_before = os.getloadavg()
    rows = {f"{length} bytes, {many} at once": compared(length, many, pairs) for length in LENGTHS for many in AT_ONCE}
    settings = {"shares": SHARES, "threshold": THRESHOLD, "pairs": pairs, "pycryptodome": theirs}
    command = ["uv", "run", "--with", "pycryptodome", "python", "-m", "experiments.benchmarks.shamir", *sys.argv[1:]]
    whole = {
        "rows": rows,
        "load_before": load_before,
        "load_after": os.getloadavg(),
        "provenance": provenance(command, settings, 0),
    }
    write_json(out, jsonable(whole))
    typer.echo(f"load {load_before[0]:.2f} before and {os.getloadavg()[0]:.2f} after; pycryptodome {theirs}")
    typer.echo(table(rows))


def compared(length: int, secrets: int, pairs: int) -> dict[str, dict[str, Any]]:
    """By operation: seconds a secret of both, and the median and range of their ratio, pair by pair."""
    times: dict[str, list[tuple[float, float]]] = {"split": [], "combine": []}
    for turn in range(pairs + 1):
        strings = [os.urandom(length) for _ in range(secrets)]
        ours, theirs = _ours(strings), _theirs(strings[0])
        if turn:  # the first one warms up
            for operation, kept in times.items():
                kept.append((ours[operation] / secrets, theirs[operation]))
    rows = {}
    for operation, kept in times.items():
        ours_all, theirs_all = np.array(kept).T
        ratios = theirs_all / ours_all
        rows[operation] = {
            "seconds": float(np.median(ours_all)),
            "pycryptodome_seconds": float(np.median(theirs_all)),
            "times_its_rate": float(np.median(ratios)),
            "range": (float(ratios.min()), float(ratios.max())),
        }
    return rows


def _ours(strings: list[bytes]) -> dict[str, float]:
    from fedpriv_defenses.secure_sum import shamir

    points = list(range(1, SHARES + 1))
    began = time.perf_counter()
    shares = shamir.share_strings(strings, THRESHOLD, points)
    split = time.perf_counter()
    found = shamir.recover_strings(shares[-THRESHOLD:], points[-THRESHOLD:], THRESHOLD, len(strings[0]))
    ended = time.perf_counter()
    assert found == strings
    return {"split": split - began, "combine": ended - split}


def _theirs(string: bytes) -> dict[str, float]:
    from Crypto.Protocol.SecretSharing import Shamir

    parts = [string[i : i + 16] for i in range(0, len(string), 16)]
    began = time.perf_counter()
    shares = [Shamir.split(THRESHOLD, SHARES, part) for part in parts]
    split = time.perf_counter()
    found = b"".join(Shamir.combine(part[-THRESHOLD:]) for part in shares)
    ended = time.perf_counter()
    assert found == string
    return {"split": split - began, "combine": ended - split}


def table(rows: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The result for the terminal."""
    lines = [f"{'':32}{'us a secret':>13}{'pycryptodome':>15}   times its rate"]
    for kind, operations in rows.items():
        for operation, row in operations.items():
            low, high = row["range"]
            lines.append(
                f"{operation + ' ' + kind:32}{1e6 * row['seconds']:13.1f}{1e6 * row['pycryptodome_seconds']:15.0f}   "
                f"{row['times_its_rate']:.0f} ({low:.0f} to {high:.0f})"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    from fedpriv_experiments import script

    script.run(main)
