"""Attacking: one attack on every observation of an exposure, gathered for tables and figures."""

from __future__ import annotations

import numpy as np

from fedpriv.metrics.score import Score, aligned
from fedpriv.rounds.attempts import attempts
from fedpriv.rounds.exposure import Exposure
from fedpriv.threat.attack import Attack
from fedpriv.threat.goal import goal_of


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
