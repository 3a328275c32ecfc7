"""Update: the same protocols carry a model's updates, in a round of federated averaging."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from fedpriv_defenses.clip import Clip
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing

from fedpriv.data import fashion_small
from fedpriv.data.partition import Partition
from fedpriv.defense.stations import Defense
from fedpriv.federation.federation import Federation
from fedpriv.models.zoo import logistic
from fedpriv.procedure.procedure import make_procedure
from fedpriv_experiments.private_salaries.sums import THRESHOLD

#: Images a client holds: the mean is weighted by these.
SIZES = (8, 4, 6, 10, 12)
CLIP, RESOLUTION = 1.0, 1e-6
SHARED = {
    "additive": SecretSharing(among="clients", bits=None, range=None, resolution=RESOLUTION),
    f"Shamir's, {THRESHOLD} of {len(SIZES)}": SecretSharing(
        among="clients", bits=None, range=None, resolution=RESOLUTION, threshold=THRESHOLD
    ),
}


@dataclass(frozen=True)
class Carried:
    """One round.

    Attributes:
      protocol: in words.
      elements: of the vector that a client shares.
      bits: of each.
      bytes_sent: by all clients together.
      error: the largest distance of the mean's coordinates from those of the plain weighted mean.
      bound: what rounding may make of it.
      moved: the largest coordinate of the plain mean.
    """

    protocol: str
    elements: int
    bits: int
    bytes_sent: int
    error: float
    bound: float
    moved: float


def carried(seed: int) -> list[Carried]:
    """A round without a protocol, then one with each, from the same weights on the same images."""
    plain, start, _ = _round((), seed)
    found = []
    for name, sharing in SHARED.items():
        shared, _, (sent, federation) = _round((sharing,), seed)
        line = federation.line
        codec = line.links[1]
        step, bits = codec.steps(federation.plan).step, codec.bits  # type: ignore[attr-defined]
        least = sum(SIZES) / max(SIZES)  # the sum of the weights
        # Half a step a client; float32 rounds the weights before and after.
        bound = len(SIZES) * step / 2 / least + 4 * float(np.spacing(np.float32(np.abs(start).max())))
        error = float(np.abs((shared - start) - (plain - start)).max())
        d = federation.plan.spec.size
        found.append(Carried(name, d + 1, bits, sent, error, bound, float(np.abs(plain - start).max())))
    return found


def _round(defenses: tuple[Defense, ...], seed: int) -> tuple[np.ndarray, np.ndarray, tuple[int, Federation]]:
    """(weights after the round, before it, (bytes sent, the federation)), in float64."""
    data = fashion_small()[0]
    count = sum(SIZES)
    x = data.floats(slice(0, count)).reshape(count, 7, 4, 7, 4, 1).mean((2, 4)).astype(np.float32)
    small = type(data)("fashion_7", x, data.y[:count], 10)
    federation = Federation(
        logistic((7, 7, 1), 10),
        small,
        Partition("five", tuple(np.split(np.arange(count), np.cumsum(SIZES)[:-1]))),
        make_procedure(batch_size=None, client={"learning_rate": 0.5}),
        (Clip(norm=CLIP), *defenses),
        seed=seed,
    )
    try:
        start = federation.start()
        after, record = federation.step(start, evaluate=False)
        assert not record.aborted
        return after.weights.astype(float), start.weights.astype(float), (record.bytes_up, federation)
    finally:
        federation.close()
