"""Mixing: a batch of mixtures in place of a batch of images; what MixUp and InstaHide have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from fedpriv.base.errors import StackError
from fedpriv.base.lazy import tf
from fedpriv.base.seeds import child
from fedpriv.base.types import Examples, Labels, Scalar, Seed, Tensor
from fedpriv.defense.mixture import Mixture
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Context, Defense, Plan
from fedpriv.models.model import Model

#: Streams of a context's seed.
_ORDER, _COEFFICIENTS, _MORE = range(3)


class Mixing(Defense):
    """Base: each row of a batch becomes a sum of several of its images, and its target the sum of their classes."""

    adaptive_attack: ClassVar[str] = "unmix"
    replayable: ClassVar[bool] = False

    images: Annotated[int, Field(ge=2)] = Field(default=2, description="k, how many images a mixture is made of.")

    @property
    def private(self) -> int:
        """How many of a mixture's images are of the batch."""
        return self.images

    @abstractmethod
    def mixture(self) -> Mixture:
        """What an adversary who knows this defense knows of it."""

    @abstractmethod
    def coefficients(self, seed: Seed, rows: Scalar) -> Tensor:
        """Of each row's images, float64 `[rows, images]`, each row's sum 1; a function of an int32 seed `[2]`."""

    def check(self, plan: Plan) -> None:
        """Raises StackError where a batch may have too few images to mix."""
        procedure = plan.procedure
        if procedure is None:
            return
        if procedure.batch_selection == "poisson":
            raise StackError(
                f"{self.name} mixes {self.private} images of a batch, and batch_selection=poisson may draw fewer; use "
                "shuffled batches"
            )
        size = procedure.batch_size
        for n in plan.sizes or (plan.max_examples,):
            least = n if size is None else min(size, n % size or size) if procedure.batch_selection != "fixed" else size
            if least < self.private:
                whose = f"a client of {n} examples"
                how = whose if size is None else f"{whose} in batches of {size}"
                raise StackError(
                    f"{self.name} mixes {self.private} images of a batch, but {how} has a batch of {least}; "
                    f"give clients and batches at least {self.private} examples, or leave {self.name} out"
                )

    def model(self, model: Model, plan: Plan | None) -> Model:
        """The model as it is, if its examples and targets can be mixed.

        Raises:
          StackError: targets that are no classes of a softmax, or examples that are tokens.
        """
        if model.embedding is not None:
            raise StackError(
                f"{self.name} adds up images value by value, but model '{model.name}' takes tokens, which cannot be "
                "added; use images or features"
            )
        if not model.task.softmax:
            raise StackError(
                f"{self.name} mixes one-hot targets, but model '{model.name}' has the task '{model.task.name}', of "
                f"{model.task.describe()} without a softmax; use task=classes"
            )
        return model

    def notes(self, plan: Plan) -> Sequence[str]:
        """What it does not do."""
        return [f"{self.name} gives no formal guarantee; its mixtures can be told apart from several rounds"]

    def batch(self, x: Examples, y: Labels, context: Context) -> Passed:
        """`x [b, ...]` and `y [b]` or `[b, classes]` to mixtures `[b, ...]` and shares of classes `[b, classes]`."""
        rows = tf.shape(x)[0]
        partners = cycle(_narrow(context, _ORDER), rows, self.private)
        shares = tf.cast(self.coefficients(_narrow(context, _COEFFICIENTS), rows), x.dtype)
        soft = tf.cast(context.model.task.soften(y) if y.dtype.is_integer else y, x.dtype)
        own = shares[:, : self.private]
        mixed = _weighted(x, partners, own)
        if self.private < self.images:
            mixed += self.beside(x, shares[:, self.private :], child(context.seed, _MORE))
            own = own / tf.reduce_sum(own, 1, keepdims=True)
        largest = tf.reduce_mean(tf.reduce_max(shares, 1))
        return Passed((self.hidden(mixed, context), _weighted(soft, partners, own)), log={"largest": largest})

    def beside(self, x: Examples, shares: Tensor, seed: Seed) -> Examples:
        """What other images than the batch's add to each row, `[b, ...]`, by their shares `[b, images - private]`."""
        raise NotImplementedError

    def hidden(self, mixed: Examples, context: Context) -> Examples:
        """Mixtures `[b, ...]` as they are trained on; by default as they are."""
        return mixed


def cycle(seed: Seed, rows: Scalar, images: int) -> Tensor:
    """Which images each row is made of, int32 `[rows, images]`, itself first, no image twice where there are enough.

    All rows in one random circle: a row's partners are those that follow it, so that each image is in as many rows.
    """
    order = tf.random.experimental.stateless_shuffle(tf.range(rows), seed)
    place = tf.math.invert_permutation(order)
    return tf.gather(order, (place[:, None] + tf.range(images)[None]) % rows)


def dirichlet(seed: Seed, rows: Scalar, parts: int, alpha: float) -> Tensor:
    """Draws `[rows, parts]` float64 of the symmetric Dirichlet distribution; of two parts the first is Beta(a, a)."""
    first, second = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    shape = tf.stack([rows, parts])
    # Gamma(a) is Gamma(a + 1) times U^(1 / a); its logarithm does not underflow where a is small.
    more = tf.random.stateless_gamma(shape, first, tf.constant(alpha + 1, tf.float64), dtype=tf.float64)
    power = tf.math.log(tf.random.stateless_uniform(shape, second, 1e-300, 1, tf.float64)) / alpha
    return tf.nn.softmax(tf.math.log(more) + power)


def _narrow(context: Context, stream: int) -> Seed:
    """An int32 seed `[2]` for TensorFlow's own draws."""
    return tf.bitcast(context.words(1, stream), tf.int32)[0]


def _weighted(values: Any, rows: Tensor, shares: Tensor) -> Tensor:
    """Sums of `values [b, ...]` at `rows [b, k]` by `shares [b, k]`."""
    total = tf.zeros_like(values)
    for j in range(int(rows.shape[1])):
        share = tf.reshape(shares[:, j], [-1, *[1] * (len(values.shape) - 1)])
        total += share * tf.gather(values, rows[:, j])
    return total
