"""Federated image classification with a Keras model, in both engines side by side.

The same Keras network, clients, seed and FedAvg on the compiled graph and on TensorFlow Federated, round by round.

    uv run python -m fedpriv_experiments.tff_tour.image_classification
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from fedpriv.base.lazy import tf
from fedpriv.federation.federation import Federation
from fedpriv.rounds.record import History
from fedpriv_experiments import script

ENGINES = {"graph": "Compiled graph", "tff": "TensorFlow Federated"}


def network() -> Any:
    """A small Keras CNN for 28 x 28 grey images and ten classes; its outputs are logits."""
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            layers.Conv2D(8, 5, strides=2, padding="same", activation="relu", input_shape=(28, 28, 1)),
            layers.Conv2D(16, 5, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


def federation(engine: str, clients: int, cohort: int, seed: int) -> Federation:
    """Clients with images of mostly a few classes; FedAvg with batches of 10."""
    from fedpriv.data import fashion_small, make_partition
    from fedpriv.models.keras_model import from_keras
    from fedpriv.procedure.procedure import make_procedure

    train, test = fashion_small()
    return Federation(
        from_keras(network, "keras_cnn"),
        train,
        make_partition("dirichlet(alpha=0.5)", train, clients, seed),
        make_procedure(batch_size=10, client={"learning_rate": 0.05}, sampling={"kind": "fixed", "size": cohort}),
        test=test,
        seed=seed,
        engine=engine,
    )


@dataclass(frozen=True)
class SideBySide:
    """Both engines' runs, and the largest difference of a weight at the end."""

    histories: dict[str, History]
    apart: float

    def seconds(self, engine: str) -> float:
        """The median round's, without the first, which compiles."""
        return float(np.median([r.seconds for r in self.histories[engine].records[1:]]))


def measured(rounds: int, clients: int = 100, cohort: int = 10, seed: int = 0) -> SideBySide:
    """The same run in both engines."""
    histories = {}
    for engine in ENGINES:
        made = federation(engine, clients, cohort, seed)
        try:
            histories[engine] = made.run(rounds)
        finally:
            made.close()
    apart = np.abs(histories["graph"].weights - histories["tff"].weights).max()
    return SideBySide(histories, float(apart))


def main(
    rounds: Annotated[int, typer.Option(min=2, help="Rounds.")] = 20,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the table and the figure.")] = Path("results/tff_tour"),
) -> None:
    """Trains in both engines, prints both round by round, and draws their curves."""
    from fedpriv.base.atomic import write_json
    from fedpriv.base.provenance import provenance
    from fedpriv.figures.curves import training_curves
    from fedpriv.figures.save import save

    found = measured(rounds, seed=seed)
    typer.echo("round  accuracy: graph   tff")
    for a, b in zip(found.histories["graph"].records, found.histories["tff"].records, strict=True):
        typer.echo(f"{a.round + 1:5}         {a.accuracy:8.4f}  {b.accuracy:6.4f}")
    typer.echo(f"Largest difference of a weight after {rounds} rounds: {found.apart:.1e}")
    for engine, name in ENGINES.items():
        typer.echo(f"{name}: {found.seconds(engine):.2f} s a round")
    command = ["uv", "run", "python", "-m", "fedpriv_experiments.tff_tour.image_classification", *sys.argv[1:]]
    origin = provenance(command, {"rounds": rounds, "clients": 100, "cohort": 10}, seed)
    rows = {engine: [r.row() for r in h.records] for engine, h in found.histories.items()}
    seconds = {engine: found.seconds(engine) for engine in ENGINES}
    write_json(out / "image_classification.json", {"apart": found.apart, "seconds": seconds, "rounds": rows, **origin})
    figure = training_curves({ENGINES[e]: h for e, h in found.histories.items()}, title="One federation, two engines")
    caption = f"The same seed in both engines: the largest difference of a weight is {found.apart:.1e}."
    save(figure, out / "image_classification", {"title": "One federation, two engines", "caption": caption, **origin})
    typer.echo(f"Wrote {out}")


if __name__ == "__main__":
    script.run(main)
