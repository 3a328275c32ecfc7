"""TopK, RandomK: sparse updates, of each client's own largest coordinates or of the same random ones for all."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.select import mask_of_largest
from fedpriv.base.types import Config, Flat, Nested, Tensor
from fedpriv.defense.domain import Domain, Real
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Context, Plan
from fedpriv.models.spec import Spec
from fedpriv_defenses.compression import bits
from fedpriv_defenses.compression.compressor import Compressor, Message, float_bits


def kept(fraction: float, size: int) -> int:
    """k, how many of d coordinates that fraction is; at least one."""
    return min(size, max(1, round(fraction * size)))


def index_bits(size: int) -> int:
    """What the index of one of d coordinates takes: log2 d, rounded up, at least 1."""
    return max(1, (size - 1).bit_length())


def placed(message: Message, spec: Spec) -> Flat:
    """(Values `[k]`, their places `[k]`) to `[d]`, 0 elsewhere; keeps the sign of a zero."""
    return tf.tensor_scatter_nd_update(tf.zeros([spec.size], spec.dtype), message[1][:, None], message[0])


def with_places(message: tuple[np.ndarray, ...], spec: Spec) -> np.ndarray:
    """(Values `[k]`, their places `[k]`) as bits: the values, then the places."""
    return np.concatenate([bits.of_floats(message[0]), bits.packed(message[1], index_bits(spec.size))])


def read_with_places(written: np.ndarray, spec: Spec) -> tuple[np.ndarray, np.ndarray]:
    """What `with_places` was given; k follows from the length."""
    index = index_bits(spec.size)
    at = len(written) // (float_bits(spec) + index) * float_bits(spec)
    return bits.to_floats(written[:at], np.dtype(spec.dtype)), bits.unpacked(written[at:], index)


def largest(whole: Flat, k: int) -> Tensor:
    """Which k of `[d]` are largest in size, bool `[d]`, the first ones among equals; what is not finite counts as 0."""
    return mask_of_largest(tf.where(tf.math.is_finite(whole), tf.abs(whole), tf.zeros_like(whole)), k)


def energy(whole: Flat, sent: Flat) -> Mapping[str, Tensor]:
    """The log of a sparse update: the part of the squared norm that is sent."""
    before, part = tf.reduce_sum(tf.square(whole)), tf.reduce_sum(tf.square(sent))
    return {"energy": tf.math.divide_no_nan(part, before)}


def cells_of_largest(sent: Flat) -> tuple[Flat, Flat]:
    """`Defense.cells` of the largest coordinates alone: those left out are no larger than the smallest one sent."""
    size = tf.abs(sent)
    least = tf.reduce_min(tf.where(size > 0, size, tf.fill(tf.shape(size), tf.cast(math.inf, size.dtype))))
    return tf.where(size > 0, sent, -least), tf.where(size > 0, sent, least)


class _Sparse(Compressor):
    """Base of the two: a client sends k of its update's d coordinates, and no others.

    A message is (values `[k]`, their places `[k]`, int64 and ascending).
    """

    adaptive_attack: ClassVar[str] = "dlg"
    sparsifies: ClassVar[bool] = True
    contracts: ClassVar[bool] = True

    fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        description="part of the coordinates that is sent; k is that times d, rounded, at least 1."
    )

    def config(self) -> Config:
        """As of any defense; results from before there was feedback stay valid."""
        config = super().config()
        if not self.error_feedback:
            del config["error_feedback"]
        return config

    def shortens(self) -> bool:
        """What is left out is a part of the update, unless an error of before is added."""
        return not self.error_feedback

    @abstractmethod
    def mask(self, whole: Flat, state: Nested) -> Tensor:
        """Which k of `[d]` are sent, bool `[d]`; `state` is the server's, as broadcast."""

    def compress(self, whole: Flat, own: Nested, context: Context) -> tuple[Message, Nested]:
        """Values and places, `[k]` each."""
        k = kept(self.fraction, context.plan.spec.size)
        places = tf.ensure_shape(tf.where(self.mask(whole, context.state))[:, 0], [k])
        return (tf.gather(whole, places), places), own

    def decompress(self, message: Message, spec: Spec) -> Flat:
        """The values at their places, `[d]`, 0 elsewhere."""
        return placed(message, spec)

    def passing(self, whole: Flat, message: Message, context: Context) -> Flat:
        """What was sent, with derivative 1 there and 0 where nothing was.

        Goes by the mask, so that a round, which needs no places, does not look for them.
        """
        return tf.where(self.mask(whole, context.state), whole, tf.zeros_like(whole))

    def measures(self, whole: Flat, sent: Flat) -> Mapping[str, Tensor]:
        """`energy`, the part of the squared norm that is sent."""
        return energy(whole, sent)


class TopK(_Sparse):
    """A client sends only the coordinates of its update with the largest absolute values.

    Compression, not privacy: Aji, Heafield 2017, "Sparse Communication for Distributed Gradient Descent", arXiv
    1704.05021, here per client over the whole vector. Among equal values the first ones are sent. What is left out is
    lost, or with `error_feedback` added to the client's next update, as in their paper (with its analysis in Stich,
    Cordonnier, Jaggi 2018, arXiv 1809.07599).

    Formal guarantee: the norm does not grow without feedback, and no epsilon follows. *Which* coordinates are sent
    depends on the data, and tells of it: the largest ones are where the loss is steepest (the rows of its classes in
    the last layer). Behind a secure sum it depends on the data where the sum is zero; and what only one client has sent
    stands in the sum as it was. `random_k` sends the same coordinates for all, so that the places tell nothing.

    On the wire a coordinate takes its value's bits and those of its index, which `fraction=1` leaves out. Behind a
    secure sum, which encodes every coordinate, nothing is saved. A replay assumes that nothing was kept before. Log:
    `energy`, the part of the squared norm that is sent.
    """

    name: ClassVar[str] = "top_k"
    paper: ClassVar[str] = "Aji, Heafield 2017, arXiv 1704.05021"

    def mask(self, whole: Flat, state: Nested) -> Tensor:
        """Of the k largest."""
        return largest(whole, kept(self.fraction, int(whole.shape[0])))

    def bits(self, message: Message, spec: Spec) -> int:
        """Those of the values and, unless all are sent, of the places."""
        k = kept(self.fraction, spec.size)
        return k * (float_bits(spec) + (index_bits(spec.size) if k < spec.size else 0))

    def to_wire(self, message: tuple[np.ndarray, ...], spec: Spec) -> np.ndarray:
        """Values, then places."""
        return with_places(message, spec) if len(message[0]) < spec.size else bits.of_floats(message[0])

    def from_wire(self, bits_: np.ndarray, spec: Spec, state: Nested = ()) -> tuple[np.ndarray, ...]:
        """As `Compressor.from_wire`."""
        if kept(self.fraction, spec.size) < spec.size:
            return read_with_places(bits_, spec)
        return bits.to_floats(bits_, np.dtype(spec.dtype)), np.arange(spec.size, dtype=np.int64)

    def cells(self, sent: Flat, spec: Spec, examples: int | None = None) -> tuple[Flat, Flat]:
        """What was left out is no larger than the smallest value sent."""
        return cells_of_largest(sent)


class RandomK(_Sparse):
    """All clients send the same coordinates of their updates, drawn anew each round from a public seed.

    Random sparsification with shared randomness: Konečný, McMahan, Yu, Richtárik, Suresh, Bacon 2016, "Federated
    Learning: Strategies for Improving Communication Efficiency", arXiv 1610.05492 (there each client draws a mask of
    its own). Values are sent as they are, so that what arrives is k / d of the update in the mean. With `unbiased` the
    server takes them times d / k, as that paper does: the mean is then the update, and the mean squared error d / k - 1
    times its squared norm. With `error_feedback` a client adds what it left out to its next update (Stich, Cordonnier,
    Jaggi 2018, arXiv 1809.07599); that needs what is left out to be shorter than the whole, which the longer, unbiased
    values do not give, so the two exclude each other.

    Formal guarantee: the norm does not grow, or with `unbiased` by d / k at most; with feedback it has no bound. No
    epsilon follows. The mask is known to everybody, so that the places tell nothing of the data, unlike those of
    `top_k`; an attack that knows it matches the update there. On the wire a coordinate takes its value's bits alone. A
    replay assumes that nothing was kept before. Log: `energy`, the squared norm of what the server holds, over that of
    the update.
    """

    name: ClassVar[str] = "random_k"
    paper: ClassVar[str] = "Konečný et al. 2016, arXiv 1610.05492"
    draws_coordinates: ClassVar[bool] = True

    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(default=0, description="public; of the rounds' masks.")
    unbiased: bool = Field(
        default=False, description="whether values count d / k times, so that the update is the mean over the masks."
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.unbiased and self.error_feedback:
            raise ValueError(
                "unbiased=true with error_feedback=true: feedback needs what is left out to be shorter than the "
                "update, which values times d / k do not give; it makes up for the bias itself, so leave unbiased out"
            )
        return self

    def config(self) -> Config:
        """As of any defense; results from before values could be scaled stay valid."""
        config = super().config()
        if not self.unbiased:
            del config["unbiased"]
        return config

    def maps(self, given: Domain, plan: Plan) -> Domain:
        """As they are, values lengthen nothing; unbiased ones by d / k at most."""
        made = super().maps(given, plan)
        if not self.unbiased or not isinstance(made, Real) or made.l2 is None:
            return made
        return Real(made.l2 * self._factor(plan.spec))

    def shortens(self) -> bool:
        """As for `top_k`, but for values that are made longer."""
        return super().shortens() and not self.unbiased

    def _factor(self, spec: Spec) -> float:
        return spec.size / kept(self.fraction, spec.size) if self.unbiased else 1.0

    def initial_state(self, plan: Plan) -> Nested:
        """How many masks have been drawn, int32; clients are sent it with the model."""
        return np.zeros([], np.int32)

    def mask(self, whole: Flat, state: Nested) -> Tensor:
        """Of the k largest of d numbers drawn for this round."""
        return self._drawn(int(whole.shape[0]), state)

    def _drawn(self, size: int, state: Nested) -> Tensor:
        seed = tf.stack([tf.constant(self.seed), tf.cast(state, tf.int32)])
        return mask_of_largest(tf.random.stateless_uniform([size], seed), kept(self.fraction, size))

    def decompress(self, message: Message, spec: Spec) -> Flat:
        """As for `top_k`; times d / k if unbiased."""
        made = super().decompress(message, spec)
        return made * self._factor(spec) if self.unbiased else made

    def passing(self, whole: Flat, message: Message, context: Context) -> Flat:
        """As for `top_k`; times d / k if unbiased, and so is the derivative."""
        made = super().passing(whole, message, context)
        return made * self._factor(context.plan.spec) if self.unbiased else made

    def bits(self, message: Message, spec: Spec) -> int:
        """Those of the values."""
        return kept(self.fraction, spec.size) * float_bits(spec)

    def to_wire(self, message: tuple[np.ndarray, ...], spec: Spec) -> np.ndarray:
        """The values; everybody knows the places."""
        return bits.of_floats(message[0])

    def from_wire(self, bits_: np.ndarray, spec: Spec, state: Nested = ()) -> tuple[np.ndarray, ...]:
        """As `Compressor.from_wire`; the places follow from the state.

        Raises:
          ParameterError: no state was given.
        """
        if isinstance(state, tuple):
            raise ParameterError(
                f"random_k's places follow from its server state, not from the message, but state={state} is none; "
                "give the round's, which `initial_state` begins and `step` counts up"
            )
        places = np.flatnonzero(self._drawn(spec.size, state).numpy())
        return bits.to_floats(bits_, np.dtype(spec.dtype)), places.astype(np.int64)

    def cells(self, sent: Flat, spec: Spec, examples: int | None = None) -> tuple[Flat, Flat]:
        """Of what was left out nothing is known."""
        left, none = tf.equal(sent, 0), tf.fill(tf.shape(sent), tf.cast(math.inf, sent.dtype))
        value = sent / self._factor(spec)
        return tf.where(left, -none, value), tf.where(left, none, value)

    def step(self, weights: Flat, context: Context) -> Passed:
        """The weights as they are; the next round has another mask."""
        return Passed(weights, state=context.state + 1)
