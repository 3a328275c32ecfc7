"""What the demo runs: its arms, sizes and settings, in one place."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Arm:
    """One defense setting, both attacked and trained with.

    Attributes:
      label: in tables and figures.
      kind: `none`, `noise` or `sum`.
      defenses: as written on a command line, in order.
      noise: noise multiplier, for `noise`.
      cohort: clients whose updates reach the adversary together, in the attacked round.
      trained: whether a federation is trained with it, besides being attacked.
    """

    label: str
    kind: Literal["none", "noise", "sum"]
    defenses: tuple[str, ...] = ()
    noise: float | None = None
    cohort: int = 1
    trained: bool = True


def noise_arm(multiplier: float, clip: float) -> Arm:
    """Clipping and Gaussian noise on the client's own update."""
    return Arm(
        f"DP noise {multiplier:g}", "noise", (f"local_dp(clip={clip:g},noise_multiplier={multiplier:g})",), multiplier
    )


def sum_arm(cohort: int, clip: float, trained: bool) -> Arm:
    """Secure aggregation among three aggregators; the server sees only the cohort's sum."""
    defenses = (f"clip(norm={clip:g})", f"secret_sharing(aggregators=3,range={clip:g})")
    return Arm(f"Secure sum of {cohort}", "sum", defenses, cohort=cohort, trained=trained)


@dataclass(frozen=True)
class Plan:
    """Everything the demo's results depend on.

    Attributes:
      data, model, attack: as written on a command line; every arm meets the same attack.
      seed: fixes every draw but the secret shares, which cancel in the sum.
      images: attacked images an arm, each one client's batch.
      clients, cohort, rounds: the federation that is trained.
      local_epochs, batch_size, client_rate: its local training.
      clip: L2 bound on an update, where a defense clips.
      noises: noise multipliers.
      sum_cohort: clients in the small secure sum; the large one has the trained cohort.
      delta: at which epsilon is stated.
      threshold_db: PSNR that counts as reconstructed.
    """

    data: str = "fashion_small"
    data_dir: str | None = None
    model: str = "lenet(init=uniform)"
    attack: str = "dlg(restarts=1,optimizer.max_evaluations=800)"
    seed: int = 0
    images: int = 5
    clients: int = 100
    cohort: int = 30
    rounds: int = 30
    local_epochs: int = 1
    batch_size: int = 10
    client_rate: float = 0.2
    clip: float = 1.0
    noises: tuple[float, ...] = (1e-4, 1e-3, 1e-1, 1.0)
    sum_cohort: int = 8
    delta: float = 1e-5
    threshold_db: float = 30.0

    def arms(self) -> list[Arm]:
        """No defense first, then noise from low to high, then secure sums of a few and of the whole cohort."""
        noisy = [noise_arm(z, self.clip) for z in self.noises]
        sums = [sum_arm(self.sum_cohort, self.clip, trained=False), sum_arm(self.cohort, self.clip, trained=True)]
        return [Arm("No defense", "none"), *noisy, *sums]

    def config(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)
