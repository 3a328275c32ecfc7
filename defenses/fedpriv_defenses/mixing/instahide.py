"""InstaHide: mixtures whose values have random signs, of private images alone or with public ones."""

from __future__ import annotations

import functools
from typing import Annotated, ClassVar

import numpy as np
import pydantic
from pydantic import Field

from fedpriv.base.errors import FedprivError, StackError
from fedpriv.base.lazy import tf
from fedpriv.base.seeds import uniform
from fedpriv.base.types import Examples, Scalar, Seed, Tensor
from fedpriv.data.loading import load
from fedpriv.defense.mixture import Mixture
from fedpriv.defense.plan import Plan
from fedpriv.defense.stations import Context
from fedpriv.models.model import Model
from fedpriv_defenses.mixing.mixing import Mixing

#: Draws made of a row's coefficients, of which the first that fits is taken.
_DRAWS = 64
#: Stream of a context's seed that signs are drawn from, after those of `mixing`.
_SIGNS = 3


class InstaHide(Mixing):
    """Each row of a batch is a mixture of images, every value of it with a random sign about the middle of its range.

    Huang, Song, Li, Arora 2020, "InstaHide: Instance-hiding Schemes for Private Distributed Learning", ICML, arXiv
    2010.02772. Of k images, coefficients that are uniform on those that sum to one with none above `largest`; then a
    random sign for each value v of v - middle. With `public` the last k - `own` images are from public data; without,
    all are of the client's own batch: Intra-InstaHide, as Huang et al. 2021 (arXiv 2112.00059) call it. A target is the
    mixture of the private images' classes by their coefficients, which are divided by their sum. The mixtures are drawn
    anew in every local step, within the batch; the paper mixes a whole epoch's images.

    Formal guarantee: none; the paper's hardness assumption was broken (Carlini et al. 2021, arXiv 2011.05315). Attack
    `unmix` does without the signs and needs several rounds. A replay trains on what it is given, which are then the
    mixtures. Log: `largest`, the mean of a row's largest coefficient.
    """

    name: ClassVar[str] = "instahide"
    paper: ClassVar[str] = "Huang, Song, Li, Arora 2020, arXiv 2010.02772"

    largest: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.65, description="largest coefficient of an image; more than 1 / images."
    )
    middle: Annotated[float, Field(allow_inf_nan=False)] = Field(
        default=0.5, description="what signs are about, the middle of the range of values."
    )
    public: str | None = Field(
        default=None, description="public data to mix with, a dataset's name or path; None mixes a batch's own images."
    )
    own: Annotated[int, Field(ge=1)] = Field(
        default=2, description="with public data: how many of the images are the client's own; fewer than `images`."
    )
    pool: Annotated[int, Field(ge=1)] = Field(
        default=1000, description="with public data: how many images are drawn from, from the first on."
    )

    @pydantic.model_validator(mode="after")
    def _fits(self) -> InstaHide:
        if self.largest * self.images <= 1:
            raise ValueError(
                f"largest={self.largest} leaves {self.images} coefficients no way to sum to one; give more than "
                f"{1 / self.images:.3g}"
            )
        if self.public is None and self.own != type(self).model_fields["own"].default:
            raise ValueError(
                f"own={self.own} counts only where some images are public; give public=DATA, or leave own out"
            )
        if self.public is not None and self.own >= self.images:
            raise ValueError(
                f"own={self.own} of images={self.images} leaves no public image to mix with; give fewer, or leave out "
                "public"
            )
        return self

    @property
    def private(self) -> int:
        """How many of a mixture's images are of the batch."""
        return self.images if self.public is None else self.own

    def mixture(self) -> Mixture:
        """Images added up and their signs drawn."""
        return Mixture(
            images=self.images,
            public=self.images - self.private,
            data=self.public,
            pool=self.pool if self.public else 0,
            largest=self.largest,
            flips=True,
            middle=self.middle,
        )

    def model(self, model: Model, plan: Plan | None) -> Model:
        """As for all mixtures; and public images must be of the model's shape.

        Raises:
          StackError: they are not, or cannot be had.
        """
        model = super().model(model, plan)
        if self.public is not None:
            try:
                shape = _pool(self.public, self.pool).shape[1:]
            except FedprivError as e:
                raise StackError(f"{self.name}: its public data cannot be had: {e}") from e
            if shape != tuple(model.input_shape):
                raise StackError(
                    f"{self.name} mixes with '{self.public}', whose examples have shape {list(shape)}, but model "
                    f"'{model.name}' takes {list(model.input_shape)}; give public data of that shape"
                )
        return model

    def coefficients(self, seed: Seed, rows: Scalar) -> Tensor:
        """Uniform where they sum to one and none is above `largest`, float64 `[rows, images]`."""
        shape = tf.stack([rows, _DRAWS, self.images])
        lengths = -tf.math.log(tf.random.stateless_uniform(shape, seed, 1e-300, 1, tf.float64))
        drawn = lengths / tf.reduce_sum(lengths, 2, keepdims=True)
        most = tf.reduce_max(drawn, 2)
        first = tf.argmax(tf.cast(most <= self.largest, tf.int32), 1)  # 0 where none fits
        taken = tf.gather(drawn, first, batch_dims=1)
        # Where none fits, which is one row in 1e9 of pairs with 0.65, towards even coefficients.
        even = 1 / self.images
        reach = tf.maximum(tf.gather(most, first, batch_dims=1) - even, 1e-9)
        return even + (taken - even) * tf.minimum(tf.ones_like(reach), (self.largest - even) / reach)[:, None]

    def beside(self, x: Examples, shares: Tensor, seed: Seed) -> Examples:
        """Public images, drawn anew for each row."""
        assert self.public is not None
        others = tf.constant(_pool(self.public, self.pool), x.dtype)
        count, total = int(shares.shape[1]), tf.zeros_like(x)
        # Distinct ones of a row: the images at the smallest of as many numbers as there are images.
        drawn = uniform(seed, tf.stack([tf.shape(x)[0], tf.shape(others)[0]]))
        chosen = tf.math.top_k(drawn, count, sorted=False).indices
        for j in range(count):
            share = tf.reshape(shares[:, j], [-1, *[1] * (len(x.shape) - 1)])
            total += share * tf.gather(others, chosen[:, j])
        return total

    def hidden(self, mixed: Examples, context: Context) -> Examples:
        """Each value's distance to the middle with a random sign."""
        count = tf.size(mixed)
        octets = tf.reshape(tf.bitcast(context.words((count + 7) // 8, _SIGNS), tf.uint8), [-1])[:count]
        signs = 1 - 2 * tf.cast(tf.bitwise.bitwise_and(octets, tf.constant(1, tf.uint8)), mixed.dtype)
        return self.middle + tf.reshape(signs, tf.shape(mixed)) * (mixed - self.middle)


@functools.lru_cache(maxsize=4)
def _pool(data: str, most: int) -> np.ndarray:
    """The first public images, float `[n, ...]`."""
    train, _ = load(data)
    return train.floats(np.arange(min(most, len(train))))
