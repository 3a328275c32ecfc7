"""Edge density: how probable an image is by the sizes of its edges, in nats."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Examples, Scalar
from fedpriv_attacks.parts.priors import Prior, Scene

#: Differences below this count as flat: the absolute value is rounded off there, so that second derivatives exist.
_FLAT = 0.01


class EdgeDensity(Prior):
    """Negative log-density, but for a constant, of images whose neighbouring pixels differ by Laplace variables.

    The sum of absolute differences, down and across, over twice their mean `spread`: every pixel has two neighbours to
    differ from and one value to do it with. It is the total variation with the weight of a probability, for objectives
    in nats such as `known_noise` (Green 1990, IEEE Trans. Medical Imaging 9(1); Babacan, Molina, Katsaggelos 2008, on
    total variation as a prior whose parameter follows from images). Values outside [0, 1] cost as much as an edge of
    that size. Examples must be images.
    """

    kind: ClassVar[str] = "edge_density"
    paper: ClassVar[str] = "Babacan, Molina, Katsaggelos 2008, IEEE Trans. Image Processing 17(3)"

    spread: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.075,
        description="mean absolute difference of neighbouring pixels; 0.075 is that of Fashion-MNIST's training set.",
    )

    def __call__(self, x: Examples, scene: Scene) -> Scalar:
        """The weighted penalty, of all examples together."""
        if len(x.shape) != 4:
            raise ParameterError(
                f"prior '{self.kind}' needs images [n, height, width, channels], not examples of shape "
                f"{tuple(x.shape[1:])}, which have no neighbours; leave it out, or use 'l2' or 'box'"
            )
        u = scene.unit(x)
        both = (u[:, 1:] - u[:, :-1], u[:, :, 1:] - u[:, :, :-1])
        edges = tf.add_n([tf.reduce_sum(tf.sqrt(tf.square(d) + _FLAT**2)) for d in both])
        outside = tf.reduce_sum(tf.nn.relu(-u) + tf.nn.relu(u - 1))
        return self.weight * (edges / 2 + outside) / self.spread
