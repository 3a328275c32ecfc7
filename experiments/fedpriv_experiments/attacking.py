"""Attacking: one attack on every observation of an exposure, gathered for tables and figures."""

from __future__ import annotations

import numpy as np

from fedpriv.base.seeds import Purpose, integer_seed
from fedpriv.metrics.score import Score, aligned
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.trial import run_trial
from fedpriv.threat.attack import Attack


def attack_all(
    attack: Attack, exposure: Exposure, seed: int, threshold_db: float = 30.0
) -> tuple[np.ndarray, np.ndarray, list[Score]]:
    """Originals and reconstructions `[n, *input_shape]`, and one score an observation.

    Reconstructions are in the originals' order, not-a-number where there is none. `threshold_db` is the PSNR from
    which one counts as a success; the attack on observation i is seeded by (`seed`, i).
    """
    originals, found, scores = [], [], []
    for i, observation in enumerate(exposure):
        trial = run_trial(attack, observation, integer_seed(seed, Purpose.ATTACK, i), threshold_db=threshold_db)
        matched = aligned(trial.finding, trial.score)
        originals.append(observation.truth.x)
        found.append(np.full_like(observation.truth.x, np.nan) if matched is None else matched)
        scores.append(trial.score)
    return np.concatenate(originals), np.concatenate(found), scores
