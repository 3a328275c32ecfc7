"""The federated mean: each client has a list of temperature readings, and the server learns their mean alone.

Each client takes the mean of its own readings; the server gets the sum of these means, each times its number of
readings, and the sum of the numbers. Once on TensorFlow Federated, whose types show what gets to the server, and once
by secret sharing, where nobody sees one client's sum either.

    uv run python -m fedpriv_experiments.tff_tour.federated_mean
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from fedpriv.base.lazy import tf, tff
from fedpriv_experiments import script

#: The largest temperature that secret sharing's fixed-point range has room for, in degrees Celsius.
LIMIT = 100.0


@dataclass(frozen=True)
class Means:
    """What came out.

    Attributes:
      total: sum over clients of mean times count, as the server gets it.
      count: all readings.
      mean: of all readings, degrees Celsius.
      shared: the same mean, by secret sharing.
      held: what one aggregator holds of each client, uint64 `[2]`.
    """

    total: float
    count: int
    mean: float
    shared: float
    held: dict[int, np.ndarray]


def synthetic(clients: int, seed: int) -> list[np.ndarray]:
    """One to forty readings a client around a temperature of its own, float32 degrees Celsius."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 41, clients)
    return [rng.normal(rng.normal(15, 6), 2, n).round(1).astype(np.float32) for n in sizes]


def read(path: Path) -> list[np.ndarray]:
    """One client a line, readings apart by spaces or commas.

    Raises:
      DataError: no file, no readings in a line, or something that is no temperature up to LIMIT; names the line.
    """
    from fedpriv.base.errors import DataError

    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"readings file '{path}' cannot be read: {e}") from e
    if not lines:
        raise DataError(f"readings file '{path}' is empty; write one client a line, readings apart by spaces")
    clients = []
    for number, line in enumerate(lines, 1):
        try:
            values = [float(word) for word in line.replace(",", " ").split()]
        except ValueError as e:
            raise DataError(f"readings file '{path}', line {number}: {e}") from e
        if not values:
            raise DataError(f"readings file '{path}', line {number} has no readings; every client needs at least one")
        wrong = [v for v in values if not abs(v) <= LIMIT]
        if wrong:
            raise DataError(f"readings file '{path}', line {number}: {wrong[0]:g} is beyond {LIMIT:g} degrees Celsius")
        clients.append(np.asarray(values, np.float32))
    return clients


def computation() -> Any:
    """The federated mean in TFF: `{float32[?]}@CLIENTS -> <total, count, mean>@SERVER`."""

    @tff.tensorflow.computation(tff.TensorType(np.float32, [None]))
    def local(readings: Any) -> Any:
        return tf.reduce_mean(readings), tf.size(readings)

    @tff.tensorflow.computation(np.float32, np.int32)
    def weighted(mean: Any, count: Any) -> Any:
        return mean * tf.cast(count, tf.float32)

    @tff.tensorflow.computation(np.float32, np.int32)
    def divided(total: Any, count: Any) -> Any:
        return total / tf.cast(count, tf.float32)

    @tff.federated_computation(tff.FederatedType(tff.TensorType(np.float32, [None]), tff.CLIENTS))
    def federated_mean(readings: Any) -> Any:
        own = tff.federated_map(local, readings)
        total = tff.federated_sum(tff.federated_map(weighted, own))
        count = tff.federated_sum(own[1])
        return total, count, tff.federated_map(divided, (total, count))

    return federated_mean


def secretly(readings: Sequence[np.ndarray]) -> tuple[float, dict[int, np.ndarray]]:
    """The weighted mean by secret sharing, and what the first aggregator holds."""
    from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing
    from fedpriv_defenses.secure_sum.shared_sum import HoldersSession

    from fedpriv.defense.parties import aggregator
    from fedpriv.defense.protocol import Revealed
    from fedpriv.defense.stations import Plan

    n, most = len(readings), max(map(len, readings))
    plan = Plan.everybody(n, 1, weighting="examples", max_examples=most)
    codec, protocol = SecretSharing(aggregators=2, range=LIMIT, bits=64).parts()
    session = protocol.open(plan, range(n), round=0, seed=0, watched=[aggregator(0)])
    session.begin()
    for client, own in enumerate(readings):
        weight = len(own) / most
        encoded, fits = codec.quantize(tf.constant([weight * own.mean(), weight], tf.float32), plan, None)
        assert fits  # readings are at most LIMIT
        session.submit(client, encoded.numpy().view(np.uint64))
    outcome = session.finish()
    assert isinstance(outcome, Revealed)  # nobody drops out here
    assert isinstance(session, HoldersSession)
    total, weight = codec.decode(outcome.total.view(np.int64), outcome.count, plan).numpy()
    return float(total / weight), session.shares(aggregator(0))


def measured(readings: Sequence[np.ndarray]) -> Means:
    """Both ways on the same readings."""
    from fedpriv.engine.tff.pool import default_runtime

    with default_runtime():
        total, count, mean = computation()(list(readings))
    shared, held = secretly(readings)
    return Means(float(total), int(count), float(mean), shared, held)


def main(
    clients: Annotated[int, typer.Option(min=1, max=1000, help="Clients with made-up readings.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of the made-up readings.")] = 0,
    readings: Annotated[Path | None, typer.Option(help="Your own: one client a line, degrees Celsius.")] = None,
) -> None:
    """Prints what each client has, what reaches the server, and the mean."""
    held = synthetic(clients, seed) if readings is None else read(readings)
    typer.echo("At the clients\n  client  readings   mean")
    for i, own in enumerate(held):
        typer.echo(f"  {i:6}  {len(own):8}  {own.mean():5.2f}")
    found = measured(held)
    typer.echo(f"\nOn TensorFlow Federated: {computation().type_signature}")
    typer.echo(f"  reaches the server   total {found.total:.3f}, count {found.count}")
    typer.echo(f"  mean                 {found.mean:.4f}")
    typer.echo("\nBy secret sharing between two aggregators")
    typer.echo(f"  one aggregator holds {found.held[0]} of client 0, and the like of the others: random by itself")
    typer.echo(f"  mean                 {found.shared:.4f}")
    typer.echo(f"\nMean of all readings in one place: {np.concatenate(held).astype(np.float64).mean():.4f}")


if __name__ == "__main__":
    script.run(main)
