"""The demo's measurements: each arm is attacked, then trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.attacking import attack_all
from experiments.demo.plan import Arm, Plan
from fedpriv import registry
from fedpriv.data import load as load_data
from fedpriv.data import make_partition
from fedpriv.errors import LedgerError
from fedpriv.exposure import Exposure
from fedpriv.federation import Federation
from fedpriv.metrics.score import Score, Summary, summarize
from fedpriv.models import load as load_model
from fedpriv.procedure import Procedure, make_procedure
from fedpriv.record import History


@dataclass
class Exposed:
    """What attacking one arm gave.

    Attributes:
      originals, found: `[n, *input_shape]`; `found` in the originals' order, not-a-number where missing.
      scores: one an observation.
      threat: the adversary in words.
    """

    originals: np.ndarray
    found: np.ndarray
    scores: list[Score]
    threat: str

    @property
    def summary(self) -> Summary:
        """All scores together."""
        return summarize(self.scores)


@dataclass
class Trained:
    """What training one arm gave.

    Attributes:
      history: the run.
      epsilon_server: epsilon against the server that receives the messages, or None for no guarantee.
      epsilon_released: epsilon against whoever sees the released models, or None.
    """

    history: History
    epsilon_server: float | None
    epsilon_released: float | None


@dataclass
class Results:
    """Everything measured so far; arms are missing where the run was cut short."""

    plan: Plan
    exposed: dict[str, Exposed] = field(default_factory=dict)
    trained: dict[str, Trained] = field(default_factory=dict)
    interrupted: bool = False

    def rows(self) -> list[dict[str, Any]]:
        """One flat row an arm that has anything."""
        rows = []
        for arm in self.plan.arms():
            exposed, trained = self.exposed.get(arm.label), self.trained.get(arm.label)
            if exposed is None and trained is None:
                continue
            row: dict[str, Any] = {"arm": arm.label, "defenses": " + ".join(arm.defenses) or "none", "noise": arm.noise}
            if exposed is not None:
                s = exposed.summary
                row |= {
                    "images": s.images,
                    "reconstructed": s.successes,
                    "success_interval": s.success_interval,
                    "psnr_mean": s.psnr_mean,
                    "psnr_median": s.psnr_median,
                    "ssim_mean": s.ssim_mean,
                    "label_accuracy": s.label_accuracy,
                    "seconds": s.seconds_total,
                    "evaluations": s.evaluations_total,
                }
            if trained is not None:
                last = trained.history.records[-1]
                row |= {
                    "rounds": len(trained.history.records),
                    "accuracy": trained.history.accuracy,
                    "epsilon_server": trained.epsilon_server,
                    "epsilon_released": trained.epsilon_released,
                    "bytes_up_per_client_round": last.bytes_up / max(last.survivors, 1),
                }
            rows.append(row)
        return rows


def measure(plan: Plan, say: Callable[[str], None], after: Callable[[Results], None]) -> Results:
    """Attacks, then trains, every arm; Ctrl-C keeps what is there.

    Args:
      plan: settings.
      say: takes a line of progress.
      after: called with the results after each arm.
    """
    results = Results(plan)
    train, test = load_data(plan.data, data_dir=plan.data_dir)
    model = load_model(plan.model, input_shape=train.input_shape, num_classes=train.num_classes)
    held_out = test if test is not None else train
    try:
        say("Attacking updates made from held-out images")
        for arm in plan.arms():
            results.exposed[arm.label] = _expose(plan, arm, model, held_out)
            say(f"  {arm.label}: {results.exposed[arm.label].summary.describe()}")
            after(results)
        partition = make_partition("iid", train, plan.clients, plan.seed)
        say(f"Training {plan.rounds} rounds, {plan.cohort} of {plan.clients} clients a round")
        for arm in plan.arms():
            if not arm.trained:
                continue
            trained = _train(plan, arm, model, train, test, partition)
            if trained.history.records:
                results.trained[arm.label] = trained
                after(results)
            if trained.history.interrupted:
                raise KeyboardInterrupt
            say(f"  {arm.label}: {_outcome(plan, trained)}")
    except KeyboardInterrupt:
        results.interrupted = True
    return results


def _expose(plan: Plan, arm: Arm, model: Any, data: Any) -> Exposed:
    attack = registry.attacks.create(plan.attack)
    exposure = Exposure(
        model,
        data,
        trials=1 if arm.kind == "sum" else plan.images,
        cohort=arm.cohort,
        procedure=Procedure.fedsgd(weighting="uniform"),
        defenses=tuple(registry.defenses.create(d) for d in arm.defenses),
        seed=plan.seed,
    )
    originals, found, scores = attack_all(attack, exposure, plan.seed, plan.threshold_db)
    return Exposed(originals, found, scores, exposure.adversary.describe())


def _train(plan: Plan, arm: Arm, model: Any, train: Any, test: Any, partition: Any) -> Trained:
    federation = Federation(
        model,
        train,
        partition,
        make_procedure(
            local_epochs=plan.local_epochs,
            batch_size=plan.batch_size,
            client={"learning_rate": plan.client_rate},
            sampling={"kind": "fixed", "size": plan.cohort},
            weighting="uniform",
        ),
        tuple(registry.defenses.create(d) for d in arm.defenses),
        test,
        seed=plan.seed,
        rounds=plan.rounds,
    )
    history = federation.run(plan.rounds, evaluate_every=2, delta=plan.delta)
    ledger = federation.stack.ledger()
    ledger.spend(len(history.records))

    def epsilon(against: Any) -> float | None:
        try:
            return float(ledger.epsilon(plan.delta, against=against).value)
        except LedgerError:
            return None

    return Trained(history, epsilon("server"), epsilon("released"))


def _outcome(plan: Plan, trained: Trained) -> str:
    accuracy = "not measured" if trained.history.accuracy is None else f"{trained.history.accuracy:.3f}"
    if trained.epsilon_server is None:
        return f"test accuracy {accuracy}; no formal guarantee against the server"
    return f"test accuracy {accuracy}; epsilon {trained.epsilon_server:.3g} at delta {plan.delta:g} against the server"
