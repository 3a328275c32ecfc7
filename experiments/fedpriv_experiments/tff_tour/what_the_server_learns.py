"""What the server learns about one client, in each engine: from its own update, and from the cohort's sum.

Five clients with one image each send the update of one step. The server attacks what reaches it: each client's own
update, as in plain FedAvg; their sum alone, by secret sharing; and the mean by TFF's own aggregators, which run inside
TFF. Clipping scales each client by a factor of its own, which this attack does not know. On the TFF engine a client's
update crosses only because a tap asks for it: TFF's sums are arithmetic, not cryptography, and whoever runs the server
may ask.

    uv run python -m fedpriv_experiments.tff_tour.what_the_server_learns
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from fedpriv.base import registry
from fedpriv.metrics.score import Score, aligned, summarize
from fedpriv.rounds.attempts import attempts
from fedpriv.rounds.exposure import Exposure
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.attack import Attack
from fedpriv.threat.goal import goal_of
from fedpriv_experiments import script

CLIENTS = 5
MODEL = "lenet(init=uniform)"
ATTACK = "modern"


@dataclass(frozen=True)
class Arm:
    """What reaches the server in one engine.

    Attributes:
      engine: its name.
      reaches: in words.
      defenses: as written on a command line.
      position: the adversary's.
    """

    engine: str
    reaches: str
    defenses: tuple[str, ...] = ()
    position: str = "server"

    @property
    def label(self) -> str:
        """For tables and figures."""
        return f"{self.engine}: {self.reaches}"


ARMS = (
    Arm("graph", "each update"),
    Arm("tff", "each update"),
    Arm("graph", "secret-shared sum", ("secret_sharing(aggregators=3)",)),
    Arm("tff", "secret-shared sum", ("secret_sharing(aggregators=3)",)),
    Arm("tff", "TFF's zeroing mean", ("tff_zeroing",), "observer"),
    Arm("tff", "TFF's clipping mean", ("tff_clipping",), "observer"),
)


@dataclass(frozen=True)
class Learned:
    """Originals and reconstructions `[n, h, w, c]`, and the scores, of one arm."""

    originals: np.ndarray
    found: np.ndarray
    scores: list[Score]


def attack_all(
    attack: Attack, exposure: Exposure, seed: int, threshold_db: float = 30.0
) -> tuple[np.ndarray, np.ndarray, list[Score]]:
    """Originals and reconstructions `[n, *input_shape]`, and one score an observation.

    Reconstructions are in the originals' order, not-a-number where there is none. `threshold_db` is the PSNR from
    which one counts as a success.
    """
    originals, found, scores = [], [], []
    for attempt in attempts(attack, exposure, goal_of(attack, threshold_db=threshold_db), seed):
        trial, truth = attempt.applied(), attempt.truth
        matched = aligned(trial.finding, trial.score)
        originals.append(truth.x)
        found.append(np.full_like(truth.x, np.nan) if matched is None else matched)
        scores.append(trial.score)
    return np.concatenate(originals), np.concatenate(found), scores


def learned(arm: Arm, trials: int, seed: int, attack: str = ATTACK) -> Learned:
    """Attacks `trials` cohorts of five clients."""
    from fedpriv.data import fashion_small
    from fedpriv.models import load as load_model
    from fedpriv.procedure.procedure import Procedure

    _, test = fashion_small()
    assert test is not None
    exposure = Exposure(
        load_model(MODEL, test.input_shape, test.num_classes),
        test,
        trials,
        cohort=CLIENTS,
        procedure=Procedure.fedsgd(weighting="uniform"),
        defenses=tuple(registry.defenses.create(d) for d in arm.defenses),
        adversary=Adversary(arm.position),  # type: ignore[arg-type]
        seed=seed,
        engine=arm.engine,
    )
    try:
        return Learned(*attack_all(registry.attacks.create(attack), exposure, seed))
    finally:
        exposure.federation.close()


def main(
    trials: Annotated[int, typer.Option(min=1, help="Cohorts of five clients.")] = 4,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the table and the figure.")] = Path("results/tff_tour"),
) -> None:
    """Runs all arms, prints what each gave away, and draws it."""
    from fedpriv.base.atomic import write_json
    from fedpriv.base.provenance import provenance
    from fedpriv.figures.reconstructions import quality_captions, reconstruction_grid
    from fedpriv.figures.save import save

    command = ["uv", "run", "python", "-m", "fedpriv_experiments.tff_tour.what_the_server_learns", *sys.argv[1:]]
    settings = {"model": MODEL, "attack": ATTACK, "clients": CLIENTS, "trials": trials}
    origin = provenance(command, settings, seed)
    rows, pictures, captions, originals = [], {}, {}, np.zeros(0)
    for arm in ARMS:
        found = learned(arm, trials, seed)
        summary = summarize(found.scores)
        typer.echo(f"{arm.label}\n  {summary.describe()}")
        rows.append({"engine": arm.engine, "reaches": arm.reaches, **summary.as_dict()})
        originals = found.originals[:CLIENTS]
        pictures[arm.label] = found.found[:CLIENTS]
        captions[arm.label] = [text for s in found.scores for text in quality_captions(s)][:CLIENTS]
        write_json(out / "what_the_server_learns.json", {"rows": rows, **origin})
    figure = reconstruction_grid(originals, pictures, captions, columns=CLIENTS)
    caption = "Reconstructions from what reaches the server of five clients with one image each: PSNR in dB, SSIM."
    save(figure, out / "what_the_server_learns", {"title": "What the server learns", "caption": caption, **origin})
    typer.echo(f"Wrote {out}")


if __name__ == "__main__":
    script.run(main)
