"""Priors: what an attack believes of examples before it sees an update, as penalties added to its objective.

A prior takes examples, values in [0, 1] when they are images, and returns a scalar, lower is more plausible, already
multiplied by its `weight`. Objectives are relative to the observed update's norm, so that one weight suits any client.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from fedpriv.base.errors import FedprivError, ParameterError, SharedGraphError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Examples, Flat, Labels, Scalar, Tensor
from fedpriv_attacks.parts.component import REGISTRIES, Component

if TYPE_CHECKING:
    from fedpriv.threat.static import Static
    from fedpriv.threat.view import View
    from fedpriv_attacks.parts.coordinates import Coordinates


class Scene(NamedTuple):
    """What else a prior may look at. A graph serves many views, so all that is one view's own is a tensor here.

    Attributes:
      static: what those views share: model, procedure, counts, defenses, plan.
      weights: `[d]` tensor, the model the clients received.
      y: targets `[n]`, or relaxed ones, such as probabilities `[n, num_classes]`.
      v: `[k]` tensor, the optimizer's variables, or None.
      tensors: the prior's own, as `Prior.tensors` gave them.
      coordinates: what the variables mean, or None.
      update: `[d]` tensor, the observed update, or None.
    """

    static: Static
    weights: Flat
    y: Labels
    v: Flat | None = None
    tensors: tuple[Tensor, ...] = ()
    coordinates: Coordinates | None = None
    update: Flat | None = None

    @property
    def view(self) -> Any:
        """There is none.

        Raises:
          SharedGraphError: always.
        """
        raise SharedGraphError(
            "a prior's scene has no 'view': its graph serves many views, and would give all of them the first one's; "
            "use scene.static (what they share), scene.weights, scene.update (the observed update) or scene.y, or "
            "read arrays off the view in Prior.tensors(view) and take them from scene.tensors"
        )

    def unit(self, x: Examples) -> Examples:
        """Examples on the scale of [0, 1] over each value's range; as they are where nothing is known of them."""
        return x if self.static is None else self.static.data_kind.to_unit(x)


class Prior(Component):
    """Base of the priors."""

    #: What `__call__` gets as `x`: `examples` `[n, ...]`, `group` `[g, n, ...]` (starts side by side), or `epochs`
    #: `[e, n, ...]` (a copy of the examples for each local epoch).
    over: ClassVar[str] = "examples"

    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=1.0, description="factor of the penalty."
    )

    @abstractmethod
    def __call__(self, x: Examples, scene: Scene) -> Scalar:
        """The penalty times `weight`, a scalar."""

    def tensors(self, view: View) -> tuple[np.ndarray, ...]:
        """Arrays read off the view that the graph gets as inputs, in `scene.tensors`."""
        return ()


class TotalVariation(Prior):
    """Mean absolute difference of neighbouring pixels, down plus across: photographs are smooth but for edges.

    Rudin, Osher, Fatemi 1992; as Geiping, Bauermeister, Droege, Moeller 2020 (arXiv 2003.14053) use it. Their weights
    belong to images divided by the data's standard deviation, about 1/4: in [0, 1] the same image varies a quarter as
    much. A side of one pixel has no neighbours and adds nothing. Examples must be images.
    """

    kind: ClassVar[str] = "total_variation"
    paper: ClassVar[str] = "Rudin, Osher, Fatemi 1992, Physica D 60; Geiping et al. 2020, arXiv 2003.14053"

    power: Annotated[int, Field(ge=1, le=2)] = Field(
        default=1,
        description="1 or 2; 2 takes squared differences, which blurs edges.",
    )
    isotropic: bool = Field(
        default=False,
        description="the mean of sqrt(down^2 + across^2) (`power` 1) instead, which favours no direction, over the "
        "pixels that have both neighbours.",
    )
    opponents: bool | Literal["auto"] = Field(
        default=False,
        description="count the differences red-green, red-blue and green-blue as channels too, so that colours change "
        "where brightness does; three channels only. `auto` does so where there are three channels.",
    )

    def __call__(self, x: Examples, scene: Scene) -> Scalar:
        """The weighted penalty."""
        if len(x.shape) != 4:
            raise ParameterError(
                f"prior '{self.kind}' needs images [n, height, width, channels], not examples of shape "
                f"{tuple(x.shape[1:])}, which have no neighbours; leave it out, or use 'l2' or 'box'"
            )
        height, width, channels = x.shape[1:]
        if self.opponents is True and channels != 3:
            raise ParameterError(
                f"prior '{self.kind}': opponents=True compares red, green and blue, but examples have {channels} "
                "channels; set opponents to false or auto"
            )
        opponents = bool(self.opponents) and channels == 3
        if self.isotropic and min(height, width) > 1:
            return self.weight * self._isotropic(x, opponents)
        total = tf.zeros([], x.dtype)
        if width > 1:
            total += self._mean(_differences(tf.reshape(x, [-1, width * channels]), channels), opponents)
        if height > 1:
            total += self._mean(
                _differences(tf.reshape(x, [-1, height * width * channels]), width * channels), opponents
            )
        return self.weight * total

    def _mean(self, differences: Tensor, opponents: bool) -> Scalar:
        size = tf.cast(tf.size(differences), differences.dtype)
        flat = tf.reshape(differences, [-1])
        if opponents:
            flat = tf.reshape(self._with_opponents(tf.reshape(differences, [-1, 3])), [-1])
            size *= 2
        if self.power == 1:
            return tf.reduce_sum(tf.abs(flat)) / size
        return 2 * tf.nn.l2_loss(flat) / size

    def _with_opponents(self, rgb: Tensor) -> Tensor:
        red, green, blue = rgb[..., 0:1], rgb[..., 1:2], rgb[..., 2:3]
        return tf.concat([rgb, red - green, red - blue, green - blue], -1)

    def _isotropic(self, x: Examples, opponents: bool) -> Scalar:
        corner = x[:, :-1, :-1]
        down, across = x[:, 1:, :-1] - corner, x[:, :-1, 1:] - corner
        if opponents:
            down, across = self._with_opponents(down), self._with_opponents(across)
        squares = tf.square(down) + tf.square(across)
        # The root's slope is infinite at zero, where two flat neighbours are.
        return tf.reduce_mean(squares if self.power == 2 else tf.sqrt(squares + 1e-12) - 1e-6)


def _differences(rows: Tensor, apart: int) -> Tensor:
    """`[r, m - apart]`, entries of `[r, m]` minus those `apart` places before."""
    # tf.slice rather than brackets: its derivative, a padding, is several times faster.
    m = rows.shape[1]
    return tf.slice(rows, [0, apart], [-1, m - apart]) - tf.slice(rows, [0, 0], [-1, m - apart])


class L2(Prior):
    """Mean squared distance of the values from `center`, on the scale of [0, 1] over each one's range.

    Yin et al. 2021, "See through Gradients: Image Batch Recovery via GradInversion", arXiv 2104.07586, whose images are
    normalized to mean zero.
    """

    kind: ClassVar[str] = "l2"
    paper: ClassVar[str] = "Yin et al. 2021, arXiv 2104.07586"

    center: float = Field(default=0.5, description="value that costs nothing.")

    def __call__(self, x: Examples, scene: Scene) -> Scalar:
        """The weighted penalty."""
        u = scene.unit(x)
        return 2 * self.weight * tf.nn.l2_loss(u - self.center) / tf.cast(tf.size(x), x.dtype)


class Box(Prior):
    """Mean squared distance of the values from [low, high], on the scale of [0, 1] over each one's range."""

    kind: ClassVar[str] = "box"

    low: float = Field(default=0.0, description="lower bound.")
    high: float = Field(default=1.0, description="upper bound.")

    def __call__(self, x: Examples, scene: Scene) -> Scalar:
        """The weighted penalty."""
        if not self.low < self.high:
            raise ParameterError(f"prior '{self.kind}': low={self.low} is not below high={self.high}")
        u = scene.unit(x)
        outside = u - tf.clip_by_value(u, self.low, self.high)
        return 2 * self.weight * tf.nn.l2_loss(outside) / tf.cast(tf.size(x), x.dtype)


class EmbeddingLength(Prior):
    """Squared difference of the points' mean length from that of the table's rows, relative to the latter.

    Balunovic, Dimitrov, Jovanovic, Vechev 2022, "LAMP: Extracting Text from Gradients with Language Model Priors",
    arXiv 2202.08827. Keeps points where tokens are; needs coordinates `embedding`.
    """

    kind: ClassVar[str] = "embedding_length"
    paper: ClassVar[str] = "Balunovic, Dimitrov, Jovanovic, Vechev 2022, arXiv 2202.08827"

    def __call__(self, x: Examples, scene: Scene) -> Scalar:
        """The weighted penalty."""
        where = scene.static.model.embedding if scene.static is not None else None
        if where is None or len(x.shape) != 3:
            given = getattr(scene.coordinates, "kind", "none")
            raise ParameterError(
                f"prior '{self.kind}' needs points of an embedding, which coordinates '{given}' are not; use "
                "coordinates=embedding on text, or leave it out"
            )
        rows = scene.static.model.spec.unflatten(scene.weights)[where.table]
        width = rows.shape[1]
        usual = tf.reduce_mean(tf.norm(rows, axis=1))
        lengths = tf.sqrt(tf.reduce_sum(tf.square(x[:, :, :width]), 2) + 1e-20)
        there = x[:, :, width] if x.shape[2] > width else tf.ones_like(lengths)
        mean = tf.reduce_sum(lengths * there) / tf.maximum(tf.reduce_sum(there), 1)
        return self.weight * tf.square(mean / usual - 1)


class Orthogonality(Prior):
    """Mean squared cosine between the examples of a batch, which are seldom alike; zero for a single one.

    After Qian, Hansen 2021, "Minimal conditions analysis of gradient-based reconstruction in federated learning", arXiv
    2010.15718. Keeps an attack from spreading one example over several.
    """

    kind: ClassVar[str] = "orthogonality"
    paper: ClassVar[str] = "Qian, Hansen 2021, arXiv 2010.15718"

    centered: bool = Field(
        default=True,
        description="take each example's own mean off first: without that, all bright images look alike.",
    )

    def __call__(self, x: Examples, scene: Scene) -> Scalar:
        """The weighted penalty."""
        n = x.shape[0]
        if n == 1:
            return tf.zeros([], x.dtype)
        rows = tf.reshape(x, [n, -1])
        if self.centered:
            rows -= tf.reduce_mean(rows, 1, keepdims=True)
        rows *= tf.math.rsqrt(tf.maximum(tf.reduce_sum(tf.square(rows), 1, keepdims=True), 1e-12))
        cosines = tf.linalg.set_diag(tf.matmul(rows, rows, transpose_b=True), tf.zeros([n], x.dtype))
        return self.weight * tf.reduce_sum(tf.square(cosines)) / (n * (n - 1))


class GroupConsistency(Prior):
    """Mean squared distance of each start's examples from the mean of all starts', summed over the starts.

    Yin et al. 2021, "See through Gradients: Image Batch Recovery via GradInversion", arXiv 2104.07586. The mean is a
    target, not differentiated. The paper first registers the starts with one another by RANSAC-flow, a trained network;
    here `align` looks for whole-pixel shifts (wrapping around) by cross-correlation with the plain mean, which
    covers translations and no other deformation.
    """

    kind: ClassVar[str] = "group_consistency"
    paper: ClassVar[str] = "Yin et al. 2021, arXiv 2104.07586"
    over: ClassVar[str] = "group"

    align: bool = Field(
        default=False,
        description="whether to register images before taking the mean; other examples never are.",
    )
    reach: Annotated[int, Field(ge=1)] = Field(
        default=4, description="largest shift looked for, in pixels down or across."
    )

    def __call__(self, x: Examples, scene: Scene) -> Scalar:
        """The weighted penalty of `[g, n, *input_shape]`."""
        members = tf.stop_gradient(x)
        mean = tf.reduce_mean(members, 0)
        if self.align and len(x.shape) == 5:
            shifts = self.shifts(members, mean)
            mean = tf.reduce_mean(_rolled(members, shifts), 0)
            target = _rolled(tf.broadcast_to(mean, tf.shape(members)), -shifts)
        else:
            target = mean[None]
        return 2 * self.weight * tf.nn.l2_loss(x - target) / tf.cast(tf.size(mean), x.dtype)

    def shifts(self, members: Tensor, mean: Tensor) -> Tensor:
        """`[g, n, 2]` int32: by how many pixels down and across each image matches `mean` `[n, h, w, c]` best."""

        def spectrum(images: Tensor) -> Tensor:  # the channels to the front, as fft2d takes the last two dimensions
            centered = images - tf.reduce_mean(images, [-3, -2], keepdims=True)
            order = [*range(len(images.shape) - 3), -1, -3, -2]
            order = [o % len(images.shape) for o in order]
            return tf.signal.rfft2d(tf.transpose(tf.cast(centered, tf.float32), order))

        height, width = members.shape[2:4]
        down, across = min(self.reach, (height - 1) // 2), min(self.reach, (width - 1) // 2)
        product = tf.reduce_sum(spectrum(mean)[None] * tf.math.conj(spectrum(members)), 2)
        match = tf.signal.irfft2d(product, [height, width])
        match = tf.roll(match, [down, across], [2, 3])[:, :, : 2 * down + 1, : 2 * across + 1]
        best = tf.argmax(tf.reshape(match, [*match.shape[:2], -1]), -1, output_type=tf.int32)
        return tf.stack([best // (2 * across + 1) - down, best % (2 * across + 1) - across], -1)


def _rolled(images: Tensor, shifts: Tensor) -> Tensor:
    """`[g, n, h, w, c]`, each image moved down and across by its `[g, n, 2]` whole pixels, wrapping around."""
    g, n, height, width, channels = images.shape
    flat, moves = tf.reshape(images, [g * n, height, width, channels]), tf.reshape(shifts, [g * n, 2])
    rows = tf.math.floormod(tf.range(height)[None] - moves[:, :1], height)
    columns = tf.math.floormod(tf.range(width)[None] - moves[:, 1:], width)
    flat = tf.gather(flat, rows, axis=1, batch_dims=1)
    flat = tf.gather(tf.transpose(flat, [0, 2, 1, 3]), columns, axis=1, batch_dims=1)
    return tf.reshape(tf.transpose(flat, [0, 2, 1, 3]), images.shape)


def _function(value: Any) -> Any:
    try:
        found = REGISTRIES["prior"].load(value) if isinstance(value, str) else value
    except FedprivError as e:
        raise ValueError(str(e)) from e
    if not callable(found):
        raise ValueError(f"{value!r} is no function of (x, scene); give one, or its path as package.module:name")
    return found


def _path(function: Any) -> str:
    named = function if inspect.isfunction(function) or inspect.isclass(function) else type(function)
    return f"{named.__module__}:{named.__qualname__}"


#: A function stands in a file as its path.
_WRITTEN = WithJsonSchema({"type": "string"})


class Custom(Prior):
    """A penalty of the user's own."""

    kind: ClassVar[str] = "custom"

    function: Annotated[Callable[..., Scalar], BeforeValidator(_function), PlainSerializer(_path), _WRITTEN] = Field(
        description="`(x [n, *input_shape], scene) -> scalar`, traceable and differentiable; the function itself, or "
        "its path `package.module:name`."
    )

    def __call__(self, x: Examples, scene: Scene) -> Scalar:
        """The weighted penalty."""
        value = tf.convert_to_tensor(self.function(x, scene), x.dtype)
        if value.shape.rank not in (None, 0):
            raise ParameterError(
                f"prior 'custom': {_path(self.function)} returned shape {tuple(value.shape)}; return one number"
            )
        return self.weight * value
