"""Watch: how often a client's checks alarm at an honest server, and what they see of a malicious one.

    uv run python -m experiments.benchmarks.watch --seeds 10 11 12
    uv run python -m experiments.benchmarks.watch --acts --seeds 20 21 22

Eight clients, all in every round. The checks only warn, so that training goes on. Alarms are counted by client and
round; the exact interval takes these as independent, which clients of one run are not.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest

from fedpriv.base.errors import CapabilityError, StackError
from fedpriv.base.registry import defenses
from fedpriv.data import load as load_data
from fedpriv.data import make_partition
from fedpriv.data.dataset import Dataset
from fedpriv.federation.federation import Federation
from fedpriv.models import load as load_model
from fedpriv.procedure.procedure import make_procedure
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.enact import enacted
from fedpriv.threat.tap import Tap

CLIENTS = 8
CHECKS = ("watch_weights", "watch_gradients")


class Honest(NamedTuple):
    """What an honest server trains: data, model, how the data is dealt, examples a client, and the procedure."""

    data: str
    model: str
    procedure: dict[str, object]
    examples: int = 32
    partition: str = "iid"


def _sgd(rate: float, epochs: int = 1, batch: int | None = None) -> dict[str, object]:
    return {"client": {"learning_rate": rate}, "local_epochs": epochs, "batch_size": batch}


HONEST = {
    "2NN of 100, one step": Honest("fashion_small", "2nn(hidden=[100,100])", _sgd(0.1)),
    "the same, Dirichlet 0.3": Honest(
        "fashion_small", "2nn(hidden=[100,100])", _sgd(0.1), partition="dirichlet(alpha=0.3)"
    ),
    "the same, 2 epochs of batches of 8": Honest("fashion_small", "2nn(hidden=[100,100])", _sgd(0.1, 2, 8)),
    "2NN of 300, 3 steps at rate 0.5": Honest("fashion_small", "2nn(hidden=[300])", _sgd(0.5, 3)),
    "2NN of 300, 3 epochs of batches of 10 at rate 0.1": Honest("fashion_small", "2nn(hidden=[300])", _sgd(0.1, 3, 10)),
    "the same at rate 0.5": Honest("fashion_small", "2nn(hidden=[300])", _sgd(0.5, 3, 10)),
    "2NN, rate 0.5, 128 images": Honest("fashion_small", "2nn", _sgd(0.5), 128),
    "convnet, rate 0.5, one step": Honest("fashion_small", "convnet(width=8)", _sgd(0.5)),
    "convnet, 2 epochs of batches of 8": Honest("fashion_small", "convnet(width=8)", _sgd(0.1, 2, 8)),
    "lenet": Honest("fashion_small", "lenet", _sgd(0.1, 2, 8)),
    "cnn": Honest("fashion_small", "cnn", _sgd(0.1, 2, 8)),
    "tanh_cnn": Honest("fashion_small", "tanh_cnn", _sgd(0.1, 2, 8)),
    "resnet20, batch normalization": Honest("fashion_small", "resnet20", _sgd(0.1, 1, 8)),
    "clinic, mlp of 64": Honest("clinic", "mlp(hidden=[64],activation=relu)", _sgd(0.1, 2, 8)),
    "sentences, gpt": Honest("sentences", "gpt", _sgd(0.1, 2, 8)),
    "sentences, bert": Honest("sentences", "bert", _sgd(0.1, 2, 8)),
    "sentences, lstm": Honest("sentences", "lstm", _sgd(0.1, 2, 8)),
}

_HELD = "knows=[auxiliary(data=fashion_small,examples=1000)]"
_IMAGES = Honest("fashion_small", "2nn(hidden=[100,100])", _sgd(0.1))
_TEXTS = Honest("sentences", "gpt", _sgd(0.1), 8)
ACTS = {
    "robbing_the_fed": (f"server(acts=[robbing_the_fed],{_HELD})", _IMAGES),
    "imprint": (f"server(acts=[imprint],{_HELD})", _IMAGES),
    "loki": (f"server(acts=[loki(bins=128)],{_HELD})", _IMAGES),
    "curious": ("server(acts=[curious])", _IMAGES),
    "fishing": ("server(acts=[fishing(label=4)])", _IMAGES),
    "suppression": ("server(acts=[suppression(target=[0])])", _IMAGES),
    "decepticons": ("server(acts=[decepticons])", _TEXTS),
}


def federation(setting: Honest, check: str, seed: int) -> Federation:
    """Eight clients that check what they are sent; errors as the parts'."""
    train, test = load_data(setting.data, None)
    whole: Dataset = train if test is None or len(train) >= CLIENTS * setting.examples else test
    rows = np.random.default_rng(seed).permutation(len(whole))[: CLIENTS * setting.examples]
    data = whole.take(np.sort(rows))
    procedure = make_procedure(sampling={"kind": "full"}, **setting.procedure)
    return Federation(
        model=load_model(setting.model, data),
        train=data,
        test=test if whole is train else None,
        partition=make_partition(setting.partition, data, CLIENTS, seed),
        procedure=procedure,
        defenses=(defenses.create(check),),
        seed=seed,
    )


class Run(NamedTuple):
    """Alarms, of how many client-rounds, each measure at its worst, and the test accuracy at the end or None."""

    alarms: int
    total: int
    worst: dict[str, float]
    accuracy: float | None


def watched(setting: Honest, check: str, seed: int, rounds: int, act: str = "") -> Run:
    """One run; the model is evaluated only where the server is honest."""
    adversary = Adversary.parse(act or "server")
    made = enacted(federation(setting, check, seed), adversary.acts)
    taps = [Tap(adversary)] if act else []
    history = made.run(rounds, taps=taps, evaluate_every=0 if act else rounds)
    worst = _worst([{m: r.metrics[f"{check}/{m}"] for m in made.defenses[0].measures} for r in history.records])
    counted = sum(round(CLIENTS * r.metrics[f"{check}/alarm"]) for r in history.records)
    return Run(counted, CLIENTS * len(history.records), worst, history.accuracy)


def _worst(measures: list[dict[str, float]]) -> dict[str, float]:
    """Of each measure the one nearest to an alarm: the least rank, the largest of the others."""
    return {name: (min if name == "rank" else max)(m[name] for m in measures) for name in measures[0]}


def told(name: str, check: str, runs: list[Run]) -> str:
    """A line of the output."""
    counted, total = sum(r.alarms for r in runs), sum(r.total for r in runs)
    measures = ", ".join(f"{k} {v:.2f}" for k, v in _worst([r.worst for r in runs]).items())
    reached = [r.accuracy for r in runs if r.accuracy is not None]
    end = f"; accuracy {min(reached):.2f} to {max(reached):.2f}" if reached else ""
    return f"{name}, {check}: {counted} of {total}; worst means {measures}{end}"


def main() -> None:
    """Prints a line for each setting or act and check, and the sum of the honest ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12])
    parser.add_argument("--rounds", type=int, default=6, help="of an honest server")
    parser.add_argument("--examples", type=int, help="a client, where it is another number than the setting's")
    parser.add_argument("--only", help="settings or acts whose name has this")
    parser.add_argument("--acts", action="store_true", help="one round each of the malicious acts")
    given = parser.parse_args()
    names = [n for n in (ACTS if given.acts else HONEST) if given.only is None or given.only in n]
    if not names:
        raise SystemExit(f"nothing is named '{given.only}'; there are {'; '.join(ACTS if given.acts else HONEST)}")
    whole = {check: [0, 0] for check in CHECKS}
    for name in names:
        act, setting = ("", HONEST[name]) if not given.acts else ACTS[name]
        if given.examples:
            setting = setting._replace(examples=given.examples)
        for check in CHECKS:
            try:
                runs = [watched(setting, check, seed, 1 if given.acts else given.rounds, act) for seed in given.seeds]
            except (StackError, CapabilityError) as e:
                print(f"{name}, {check}: does not apply: {e}", flush=True)
                continue
            print(told(name, check, runs), flush=True)
            whole[check][0] += sum(r.alarms for r in runs)
            whole[check][1] += sum(r.total for r in runs)
    if not given.acts:
        for check, (counted, total) in whole.items():
            if total:
                low, high = binomtest(counted, total).proportion_ci(0.95, "exact")
                print(f"{check}: {counted} false alarms of {total} ({100 * low:.2f} to {100 * high:.2f}%)")


if __name__ == "__main__":
    main()
