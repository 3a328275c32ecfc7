"""Running statistics as weights: what a batch normalization is evaluated with, carried in the model's flat vector.

A pure function has nowhere to keep running statistics, and FedAvg would lose what its clients keep. So they are
buffers, the first tensors of the vector: the server broadcasts them, a client moves them at each local step, and its
update has their change beside that of the trained weights. What happens to an update (clipping, noise, a secure sum,
the mean over clients) then happens to them.

A running average from nothing is biased to nothing for its first 1 / (1 - momentum) steps: a hundred steps of Keras's
default, and federated clients take a few a round. As in Adam (Kingma and Ba 2015, arXiv 1412.6980, section 3) it is
divided by the share of it that was ever filled, which is a buffer as well. Sums and shares are both linear in what the
clients saw, so their quotient is right after a mean over clients too, which a mean of quotients would not be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedpriv.base.lazy import tf
from fedpriv.base.types import Array, Layer, Tensor, Tensors

#: (layer, mean `[c]`, biased variance `[c]`, whether it normalized with them): one use of a batch normalization.
Told = tuple[Layer, Tensor, Tensor, bool]

#: A layer that keeps less than this of a batch buries it under the rounding of what it had before.
READABLE = 1e-3

#: A share filled below this is nothing: statistics start at mean 0 and variance 1.
EMPTY = 1e-6


@dataclass(frozen=True)
class Running:
    """The buffers of some batch normalizations: how much of each is filled `[layers]`, then mean and variance of each.

    Attributes:
      layers: the Keras layers, each once, in the order of the model's.
      paths: one unique name a layer.
    """

    layers: tuple[Layer, ...]
    paths: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """One name a buffer."""
        return "running_share", *(f"{p}/{part}" for p in self.paths for part in ("running_mean", "running_variance"))

    def initial(self) -> list[Array]:
        """The buffers at the start: full of the statistics that a layer came with, or empty where those are Keras's."""
        shares, parts = [], []
        for layer in self.layers:
            mean, variance = layer.moving_mean.numpy(), layer.moving_variance.numpy()
            came = untouched(layer)
            shares.append(0.0 if came else 1.0)
            parts += [mean, np.zeros_like(variance) if came else variance]
        return [np.asarray(shares, parts[0].dtype), *parts]

    def moved(self, buffers: Tensors, told: Sequence[Told]) -> tuple[Tensor, ...]:
        """The buffers after one batch.

        Args:
          buffers: as in `initial`.
          told: one for each time that a layer was applied. One that normalized with other statistics than the batch's,
            as a model may ask of it (`training=False`), does not move, as under Keras.
        """
        shares, after = tf.unstack(buffers[0]), list(buffers)
        for layer, *found, own in told:
            if layer not in self.layers or not own:
                continue
            i = self.layers.index(layer)
            kept = tf.constant(layer.momentum, shares[i].dtype)
            shares[i] = kept * shares[i] + (1 - kept)
            for part, value in enumerate(found):
                before = after[1 + 2 * i + part]
                after[1 + 2 * i + part] = kept * before + (1 - kept) * tf.reshape(value, before.shape)
        return tf.stack(shares), *after[1:]

    @property
    def readable(self) -> bool:
        """Whether one batch can be read off how it moved the buffers."""
        return all(1 - layer.momentum >= READABLE for layer in self.layers)

    def read(self, buffers: Tensors, change: Tensors) -> list[tuple[Tensor, Tensor]]:
        """(mean, variance) of the one batch that moved the buffers by `change`, layer by layer, each applied once."""
        out = []
        for i, layer in enumerate(self.layers):
            mean, variance = (buffers[j] + change[j] / (1 - layer.momentum) for j in (1 + 2 * i, 2 + 2 * i))
            out.append((tf.reshape(mean, [-1]), tf.reshape(tf.maximum(variance, 0), [-1])))
        return out

    def estimates(self, buffers: Tensors) -> list[tuple[Tensor, Tensor]]:
        """(mean, variance) of each layer, as evaluation takes them; mean 0 and variance 1 where a buffer is empty.

        Noise or a server's rate may make a variance negative; it is 0 then.
        """
        out = []
        for i, share in enumerate(tf.unstack(buffers[0])):
            mean, variance = buffers[1 + 2 * i : 3 + 2 * i]
            filled = share > EMPTY
            whole = tf.where(filled, share, tf.ones_like(share))
            mean = tf.where(filled, mean / whole, tf.zeros_like(mean))
            variance = tf.where(filled, tf.maximum(variance / whole, 0), tf.ones_like(variance))
            out.append((mean, variance))
        return out


def untouched(layer: Layer) -> bool:
    """Whether a built batch normalization has the mean 0 and variance 1 that Keras starts with."""
    return not (np.any(layer.moving_mean.numpy()) or np.any(layer.moving_variance.numpy() != 1))
