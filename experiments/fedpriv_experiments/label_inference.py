"""Label inference measured: every method, model, batch size, training stage and number of local steps.

Each trial is one client with a random batch; the truth is used for scoring alone. Reports the label existence
accuracy (fraction of all classes rightly said present or absent: LeAcc of Ma et al. 2023, ICLR, OpenReview
FIrQfNSOoTr) and the instance accuracy (sum over classes of min(claimed, true count) over n: their IRec), with
bootstrap intervals over batches, and the share of batches whose counts are all right, with Wilson's.

    uv run python -m fedpriv_experiments.label_inference --out results/label_inference
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

METHODS = (
    "auto",
    "idlg",
    "gradinversion",
    "llg",
    "llg_star",
    "llg_star(inputs=zeros)",
    "llg_plus(auxiliary={data},per_class=20)",
    "ilrg(ridge=0)",
    "ilrg",
    "bias",
    "bias(inputs=zeros)",
    "bias(inputs=calibrated)",
    "bias(auxiliary={data},per_class=20)",
)


@dataclass
class Tally:
    """One method in one cell of the table, batch by batch.

    Attributes:
      existence, instances: one value a batch.
      exact: batches whose counts are all right.
      seconds: of all batches.
      refused: batches the method refused, and its last reason.
      sources: how often each source was named.
    """

    existence: list[float] = field(default_factory=list)
    instances: list[float] = field(default_factory=list)
    exact: int = 0
    seconds: float = 0.0
    refused: int = 0
    reason: str = ""
    sources: dict[str, int] = field(default_factory=dict)

    def row(self, seed: int) -> dict[str, Any]:
        """Means with 95% intervals, as table columns."""
        from fedpriv.metrics.interval import bootstrap_mean, wilson

        n = len(self.existence)
        row: dict[str, Any] = {"batches": n, "refused": self.refused}
        for name, values in (("existence", self.existence), ("instances", self.instances)):
            low, high = bootstrap_mean([[v] for v in values], seed=seed) or (None, None)
            row |= {name: float(np.mean(values)) if n else None, f"{name}_low": low, f"{name}_high": high}
        low, high = wilson(self.exact, n)
        row |= {"exact": self.exact / n if n else None, "exact_low": low, "exact_high": high}
        return row | {
            "milliseconds": 1000 * self.seconds / n if n else None,
            "source": max(self.sources, key=self.sources.__getitem__) if self.sources else "",
            "reason": self.reason,
        }


def trained(model: Any, train: Any, test: Any, rounds: int, rate: float, seed: int) -> tuple[np.ndarray, float | None]:
    """`[d]` weights after `rounds` rounds of FedAvg (10 clients, one epoch of batches of 20), and test accuracy."""
    from fedpriv.base.seeds import Purpose, generator
    from fedpriv.data.partition import Partition
    from fedpriv.federation.federation import Federation
    from fedpriv.procedure.procedure import make_procedure

    order = generator(seed, Purpose.PARTITION).permutation(len(train))
    procedure = make_procedure(local_epochs=1, batch_size=20, client={"learning_rate": rate})
    partition = Partition("iid(clients=10)", tuple(np.array_split(order, 10)))
    federation = Federation(model, train, partition, procedure, test=test, seed=seed)
    state, reached = federation.start(), None
    for i in range(rounds):
        state, record = federation.step(state, evaluate=i == rounds - 1)
        reached = record.accuracy
    return np.asarray(state.weights), reached


def shuffled(data: Any, seed: int) -> Any:
    """The examples in random order: batches with repeated and missing classes."""
    from fedpriv.base.seeds import Purpose, generator

    return data.take(generator(seed, Purpose.PARTITION, 1).permutation(len(data)))


def measure(attacks: dict[str, Any], exposure: Any, seed: int) -> dict[str, Tally]:
    """Every method on every batch of `exposure`."""
    from fedpriv.metrics.labels import label_count_accuracy, label_existence_accuracy
    from fedpriv.metrics.matching import label_accuracy
    from fedpriv.rounds.attempts import attempts
    from fedpriv.rounds.trial import Inapplicable

    tallies = {name: Tally() for name in attacks}
    classes = exposure.model.num_classes
    for name, attack in attacks.items():
        tally = tallies[name]
        for attempt in attempts(attack, exposure, seed=seed):
            if isinstance(attempt.result, Inapplicable):
                tally.refused += 1
                tally.reason = attempt.result.reason
                continue
            found, true = attempt.result.finding, attempt.truth.y
            tally.existence.append(label_existence_accuracy(found.y, true, classes))
            tally.instances.append(label_accuracy(found.y, true))
            tally.exact += label_count_accuracy(found.y, true, classes) == 1.0
            tally.seconds += found.seconds
            source = found.extra["label_source"]
            tally.sources[source] = tally.sources.get(source, 0) + 1
    return tallies


def make_attacks(methods: list[str], data: str) -> dict[str, Any]:
    """The attack `labels` with each inference, by what it is called in the table."""
    from fedpriv_attacks.labels.attack import LabelsOnly
    from fedpriv_attacks.parts.component import REGISTRIES

    made = {}
    for text in methods:
        name = text.format(data="public").replace(",per_class=20", "")
        made[name] = LabelsOnly(inference=REGISTRIES["labels"].create(text.format(data=data)))
    return made


def main(
    data: Annotated[str, typer.Option(help="A dataset's name or path; auxiliary data are its training set.")] = (
        "fashion_small"
    ),
    models: Annotated[list[str] | None, typer.Option("--model", help="A model; repeat for more.")] = None,
    batches: Annotated[list[int] | None, typer.Option("--batch", help="A batch size; repeat for more.")] = None,
    methods: Annotated[list[str] | None, typer.Option("--method", help="An inference; repeat for more.")] = None,
    rounds: Annotated[list[int] | None, typer.Option(help="A training stage in rounds; repeat for more.")] = None,
    steps: Annotated[list[int] | None, typer.Option(help="Local steps a client; repeat for more.")] = None,
    trials: Annotated[int, typer.Option(min=2, help="Batches in each cell.")] = 20,
    rate: Annotated[float, typer.Option(help="Client learning rate of several local steps.")] = 0.1,
    training_rate: Annotated[float, typer.Option(help="Client learning rate in training.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Fixes weights, batches and simulations.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for NAME.json, NAME.csv and NAME.md.")] = Path(
        "results/label_inference"
    ),
    name: Annotated[str, typer.Option(help="What the table is called.")] = "table",
) -> None:
    """Measures label inference and writes the table, one row a cell and method, after every cell."""
    from fedpriv.base.atomic import write_csv, write_json, write_text
    from fedpriv.base.provenance import provenance
    from fedpriv.data import load as load_data
    from fedpriv.models import load as load_model
    from fedpriv.procedure.procedure import Procedure, make_procedure
    from fedpriv.rounds.exposure import Exposure

    models = models or ["2nn", "lenet", "cnn", "convnet"]
    batches, rounds, steps = batches or [1, 4, 8, 24, 64], rounds or [0, 3], steps or [1, 5]
    train, test = load_data(data)
    if test is None:
        raise typer.BadParameter(
            f"'{data}' has no test set; the attacked examples are taken from it", param_hint="data"
        )
    attacked, made = shuffled(test, seed), make_attacks(list(methods or METHODS), data)
    config = {
        "data": data, "models": models, "batches": batches, "methods": list(made), "rounds": rounds, "steps": steps,
        "trials": trials, "rate": rate, "training_rate": training_rate,
    }  # fmt: skip
    origin = provenance(["python", "-m", "fedpriv_experiments.label_inference", *sys.argv[1:]], config, seed)
    rows: list[dict[str, Any]] = []
    for written in models:
        model = load_model(written, input_shape=train.input_shape, num_classes=train.num_classes)
        for stage in rounds:
            weights, reached = trained(model, train, test, stage, training_rate, seed) if stage else (None, None)
            for local in steps:
                procedure = Procedure.fedsgd()
                if local > 1:
                    client = {"learning_rate": rate}
                    procedure = make_procedure(local_epochs=local, batch_size=None, client=client)
                for batch in batches:
                    count = min(trials, len(attacked) // batch)
                    exposure = Exposure(model, attacked, count, batch, procedure=procedure, weights=weights, seed=seed)
                    for method, tally in measure(made, exposure, seed).items():
                        cell = {"model": written, "rounds": stage, "accuracy": reached, "steps": local, "batch": batch}
                        rows.append({**cell, "method": method, **tally.row(seed)})
                    print(describe(rows[-len(made) :]), flush=True)
                    write_csv(out / f"{name}.csv", [{k: v for k, v in r.items() if k != "reason"} for r in rows])
                    write_json(out / f"{name}.json", {"rows": rows, "provenance": origin, "config": config})
                    write_text(out / f"{name}.md", markdown(rows) + "\n")


def describe(rows: list[dict[str, Any]]) -> str:
    """One cell of the table, as lines."""
    first = rows[0]
    head = f"{first['model']}, {first['rounds']} rounds, {first['steps']} local steps, batch {first['batch']}"
    lines = [
        f"  {r['method']:24} existence {r['existence']:.3f}  instances {r['instances']:.3f}  exact {r['exact']:.2f}"
        if r["batches"]
        else f"  {r['method']:24} refused"
        for r in rows
    ]
    return "\n".join([head, *lines])


def markdown(rows: list[dict[str, Any]]) -> str:
    """All rows as one Markdown table: a line a cell, a column a method, each entry existence / instance accuracy."""
    methods = list(dict.fromkeys(r["method"] for r in rows))
    cells: dict[tuple[Any, ...], dict[str, str]] = {}
    for r in rows:
        stage = "untrained" if not r["rounds"] else f"{r['rounds']} rounds ({100 * r['accuracy']:.0f} %)"
        entry = f"{r['existence']:.2f} / {r['instances']:.2f}" if r["batches"] else "-"
        partly = f" ({r['refused']} refused)" if r["batches"] and r["refused"] else ""
        cells.setdefault((r["model"], stage, r["steps"], r["batch"]), {})[r["method"]] = entry + partly
    head = ["model", "stage", "steps", "batch", *(f"`{m}`" for m in methods)]
    lines = [head, ["---"] * len(head)]
    lines += [[*map(str, cell), *(found.get(m, "") for m in methods)] for cell, found in cells.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    from fedpriv_experiments import script

    script.run(main)
