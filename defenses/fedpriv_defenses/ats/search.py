"""Search: policies of transforms, drawn at random and scored without an attack and without training with them.

Gao et al. 2021, arXiv 2011.12505, section 4. Two scores say what a policy is worth:

- *Privacy*: the similarity of gradients (cosine) along the straight line from noise to the transformed image, on a
  model that has been trained a little: the mean of K points, from the noise on. An attack goes about that way, and has
  it the easier the higher the similarity. Lower is more private.
- *Accuracy*: how far apart a network of random weights holds the transformed images, by Mellor, Turner, Storkey,
  Crowley 2021, arXiv 2006.04647: with v the eigenvalues of the correlations of the images' input gradients (of the
  outputs' sum), the mean of -(log(v + 1e-5) + 1 / (v + 1e-5)). At most -1, where all are uncorrelated; higher promises
  more.

The paper sums the second over a batch where this takes the mean, keeps what is above a threshold, and of that the
lowest privacy scores. Warmerdam et al. 2022 (ReScience C 8(2)), who repeated it, found most policies to score worse
than none on both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedpriv.base.atomic import write_json
from fedpriv.base.errors import DataError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.seeds import Purpose, generator, integer_seed
from fedpriv.base.types import Tensor
from fedpriv.data.dataset import Dataset
from fedpriv.data.partition import Partition
from fedpriv.federation.federation import Federation
from fedpriv.models.model import Model
from fedpriv.procedure.procedure import make_procedure
from fedpriv_defenses.ats.ats import ATS
from fedpriv_defenses.ats.policies import LIBRARY, LONGEST, Policy, written

#: Added to eigenvalues, the paper's.
_LEAST = 1e-5
#: Streams of the search's seed.
_CANDIDATES, _WAYS, _NOISE = range(3)


@dataclass(frozen=True)
class Scored:
    """A policy's two scores.

    Attributes:
      policy: places in the library; empty for images as they are.
      privacy: mean similarity of gradients on the way to the transformed images; lower is more private.
      accuracy: how far apart a random network holds them; higher is better, at most -1.
    """

    policy: Policy
    privacy: float
    accuracy: float


@dataclass(frozen=True, eq=False)
class Search:
    """A search for policies, which goes on where it was stopped.

    Attributes:
      model: whose gradients are compared, on images.
      data: images: the first `train` the privacy score's weights are trained on, the next are scored.
      candidates: how many policies are drawn and scored, the images as they are not counted.
      examples: images that each score is taken over.
      points: K, of the line from noise to the transformed image.
      train: examples that the weights are trained on; 0 leaves them random.
      epochs: over these.
      learning_rate: of SGD in that, in batches of 32.
      seed: of everything random.
    """

    model: Model
    data: Dataset
    candidates: int = 100
    examples: int = 20
    points: int = 20
    train: int = 500
    epochs: int = 20
    learning_rate: float = 0.1
    seed: int = 0
    _cache: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name, least in (("candidates", 1), ("examples", 2), ("points", 1), ("train", 0), ("epochs", 1)):
            if getattr(self, name) < least:
                raise ParameterError(f"search for policies: {name}={getattr(self, name)}; give at least {least}")
        if not np.isfinite(self.learning_rate) or self.learning_rate <= 0:
            raise ParameterError(f"search for policies: learning_rate={self.learning_rate}; give more than 0")
        ATS().model(self.model, None)
        if not self.model.task.softmax or self.model.couples_examples:
            raise ParameterError(
                f"search for policies: model '{self.model.name}' couples examples or has no classes; give a classifier "
                "of single images, such as lenet"
            )
        if self.train + self.examples > len(self.data):
            raise ParameterError(
                f"search for policies: {self.train} examples to train on and {self.examples} to score by are more than "
                f"the {len(self.data)} of '{self.data.name}'; give fewer"
            )

    def settings(self) -> dict[str, Any]:
        """What decides on the scores of one policy."""
        names = ("candidates", "examples", "points", "train", "epochs", "learning_rate", "seed")
        return {"model": self.model.name, "data": self.data.name, **{n: getattr(self, n) for n in names}}

    def drawn(self) -> list[Policy]:
        """The candidates: different policies, each of three places in the library or blanks, as in the paper."""
        rng, found = generator(self.seed, Purpose.LAB, _CANDIDATES), dict[Policy, None]()
        while len(found) < self.candidates:
            places = rng.integers(-1, len(LIBRARY), LONGEST)
            policy = tuple(int(p) for p in places if p >= 0)
            if policy:
                found[policy] = None
        return list(found)

    def run(self, keep: Path | None = None, told: Callable[[Scored], None] | None = None) -> list[Scored]:
        """Scores of the images as they are, then of each candidate in turn.

        Args:
          keep: a file that holds what is scored, rewritten as a whole after each policy; one of the same search is gone
            on with.
          told: called with each new score.

        Raises:
          ParameterError: the file is of another search.
          DataError: it cannot be read.
        """
        found = self._kept(keep)
        for policy in [(), *self.drawn()][len(found) :]:
            one = self.score(policy)
            found.append(one)
            if keep is not None:
                rows = [{"policy": list(s.policy), "privacy": s.privacy, "accuracy": s.accuracy} for s in found]
                write_json(keep, {"settings": self.settings(), "scored": rows})
            if told is not None:
                told(one)
        return found

    def _kept(self, keep: Path | None) -> list[Scored]:
        if keep is None or not keep.exists():
            return []
        import json

        try:
            held = json.loads(keep.read_text())
            rows = [Scored(tuple(r["policy"]), float(r["privacy"]), float(r["accuracy"])) for r in held["scored"]]
            before = held["settings"]
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise DataError(
                f"'{keep}' is no file of a search for policies ({e}); give another name, or remove it"
            ) from e
        if before != self.settings():
            other = sorted(k for k in self.settings() if before.get(k) != self.settings()[k])
            raise ParameterError(
                f"'{keep}' is of another search: {', '.join(f'{k}={before.get(k)}' for k in other)}; give another "
                "name, or remove it"
            )
        return rows

    def score(self, policy: Policy) -> Scored:
        """Both scores of one policy; of images as they are for none."""
        x, y = self._images()
        moved = x
        if policy:
            defense = ATS(policy=written((policy,)))
            ways = generator(self.seed, Purpose.LAB, _WAYS, *policy).integers(len(defense.ways), size=len(x))
            moved = defense.applied(tf.constant(x), tf.constant(ways, tf.int32)).numpy()
        noise = generator(self.seed, Purpose.LAB, _NOISE).random(x.shape).astype(x.dtype)
        similar = self._traced("similarity", self._similarity)
        values = similar(*(tf.constant(a) for a in (self._weights(), moved, noise, y))).numpy()
        fresh = self.model.initial_weights(integer_seed(self.seed, Purpose.WEIGHTS))
        jacobian = self._traced("jacobian", self._jacobian)(tf.constant(fresh), tf.constant(moved)).numpy()
        return Scored(policy, float(np.mean(values)), separation(jacobian))

    def _images(self) -> tuple[np.ndarray, np.ndarray]:
        places = np.arange(self.train, self.train + self.examples)
        return self.data.floats(places).astype(self.model.spec.dtype), self.data.y[places]

    def _weights(self) -> np.ndarray:
        """`[d]`, trained a little; made once."""
        if "weights" not in self._cache:
            initial = self.model.initial_weights(integer_seed(self.seed, Purpose.WEIGHTS))
            self._cache["weights"] = self._trained(initial) if self.train else initial
        weights: np.ndarray = self._cache["weights"]
        return weights

    def _trained(self, initial: np.ndarray) -> np.ndarray:
        federation = Federation(
            self.model,
            self.data.take(np.arange(self.train)),
            Partition("whole", (np.arange(self.train),)),
            make_procedure(
                local_epochs=self.epochs,
                batch_size=min(32, self.train),
                client={"learning_rate": self.learning_rate},
            ),
            seed=self.seed,
        )
        try:
            state, _ = federation.step(federation.opened(0, initial, range(1)), evaluate=False)
        finally:
            federation.close()
        return np.asarray(state.weights)

    def _traced(self, name: str, made: Callable[..., Tensor]) -> Callable[..., Tensor]:
        if name not in self._cache:
            self._cache[name] = tf.function(made, autograph=False)
        traced: Callable[..., Tensor] = self._cache[name]
        return traced

    def _gradient(self, weights: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            loss = tf.reduce_sum(self.model.example_losses(weights, x[None], y[None]))
        flat: Tensor = self.model.spec.flatten(tape.gradient(loss, weights, unconnected_gradients="zero"))
        return flat

    def _similarity(self, flat: Tensor, moved: Tensor, noise: Tensor, y: Tensor) -> Tensor:
        """`[n]`: the mean cosine of gradients at K points of the line and at its end."""
        weights = list(self.model.spec.unflatten(flat))

        def one(row: tuple[Tensor, Tensor, Tensor]) -> Tensor:
            end, start, label = row
            there = tf.math.l2_normalize(self._gradient(weights, end, label))

            def at(share: Tensor) -> Tensor:
                here = self._gradient(weights, start + share * (end - start), label)
                return tf.reduce_sum(tf.math.l2_normalize(here) * there)

            shares = tf.cast(tf.range(self.points) / self.points, end.dtype)
            return tf.reduce_mean(tf.map_fn(at, shares))

        return tf.map_fn(one, (moved, noise, y), fn_output_signature=moved.dtype)

    def _jacobian(self, flat: Tensor, moved: Tensor) -> Tensor:
        """`[n, p]`: derivatives of each image's summed outputs in its pixels."""
        weights = list(self.model.spec.unflatten(flat))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(moved)
            total = tf.reduce_sum(self.model.apply(weights, moved, False))
        return tf.reshape(tape.gradient(total, moved, unconnected_gradients="zero"), [tf.shape(moved)[0], -1])


def separation(jacobian: np.ndarray) -> float:
    """The accuracy score of input gradients `[n, p]`: -1 where all are uncorrelated, far lower where they are alike."""
    rows = np.asarray(jacobian, np.float64)
    rows = rows - rows.mean(1, keepdims=True)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    values = np.maximum(np.linalg.eigvalsh(rows @ rows.T), 0) + _LEAST
    return float(-np.mean(np.log(values) + 1 / values))


def best(scored: list[Scored], count: int, threshold: float | None = None) -> Iterator[Scored]:
    """Of those policies whose accuracy score is not below the threshold, those with the lowest privacy score, in order.

    Args:
      scored: as `Search.run` gives them.
      count: how many at most.
      threshold: None for the accuracy score of the images as they are.
    """
    if threshold is None:
        threshold = next((s.accuracy for s in scored if not s.policy), -np.inf)
    fit = [s for s in scored if s.policy and s.accuracy >= threshold]
    return iter(sorted(fit, key=lambda s: s.privacy)[:count])
