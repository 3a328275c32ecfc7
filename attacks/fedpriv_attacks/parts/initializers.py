"""Initializers: where the dummy examples start. Run outside the graph, once a start.

What they draw is on the scale [0, 1] and is stretched to each value's range, as the view's kind of examples says: 0.5
is the middle of it, mid-grey in an image.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field, PlainSerializer

from fedpriv.base import registry
from fedpriv.base.errors import CapabilityError, DataError, FedprivError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.seeds import Purpose, graph_seed
from fedpriv.threat.attack import Capability
from fedpriv.threat.knowledge import Auxiliary, Knowledge
from fedpriv_attacks.parts.component import Component
from fedpriv_attacks.parts.embedding import table_of

if TYPE_CHECKING:
    from fedpriv.threat.view import View

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Initializer(Component):
    """Base of the initializers."""

    #: What it draws: `examples`, or `points` of an embedding, in units of the table's root mean square entry.
    space: ClassVar[str] = "examples"

    def tries(self) -> tuple[int, int]:
        """How many starts are drawn for one, and in how many orders the best of them is tried."""
        return 1, 0

    @abstractmethod
    def __call__(self, view: View, seed: int) -> np.ndarray:
        """A start `[n, *input_shape]` in the model's precision; the same seed gives the same bits."""


def _in_range(view: View, u: np.ndarray) -> np.ndarray:
    """Values drawn on the scale [0, 1], stretched to the range of the view's kind of examples."""
    return np.asarray(view.data_kind.from_unit(u), u.dtype)


def _shape(view: View) -> tuple[int, ...]:
    return (view.total_examples, *view.model.input_shape)


def _normal(shape: Sequence[int], seed: int, mean: float, spread: float, dtype: str) -> np.ndarray:
    return tf.random.stateless_normal(shape, graph_seed(seed, Purpose.ATTACK), mean, spread, dtype).numpy()


def _uniform(shape: Sequence[int], seed: int, low: float, high: float, dtype: str) -> np.ndarray:
    return tf.random.stateless_uniform(shape, graph_seed(seed, Purpose.ATTACK), low, high, dtype).numpy()


class Normal(Initializer):
    """Independent normal values."""

    kind: ClassVar[str] = "normal"

    mean: float = Field(default=0.5, description="their mean; 0.5 is mid-grey.")
    spread: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.02,
        description="their standard deviation. The DLG paper starts from mean 0, spread 1. A small spread around grey "
        "ends nearer to natural images: what the update hardly determines stays as it started.",
    )

    def __call__(self, view: View, seed: int) -> np.ndarray:
        """A start `[n, *input_shape]`."""
        return _in_range(view, _normal(_shape(view), seed, self.mean, self.spread, view.model.spec.dtype))


class Uniform(Initializer):
    """Independent uniform values in [low, high)."""

    kind: ClassVar[str] = "uniform"

    low: float = Field(default=0.0, description="lower end.")
    high: float = Field(default=1.0, description="upper end.")

    def __call__(self, view: View, seed: int) -> np.ndarray:
        """A start `[n, *input_shape]`."""
        if not self.low < self.high:
            raise ParameterError(f"initializer 'uniform': low={self.low} is not below high={self.high}")
        return _in_range(view, _uniform(_shape(view), seed, self.low, self.high, view.model.spec.dtype))


class Points(Initializer):
    """Points of an embedding, for coordinates `embedding`: normal in every direction, or tokens' own.

    Balunovic, Dimitrov, Jovanovic, Vechev 2022 (arXiv 2202.08827) draw 500 and keep the one with the lowest objective,
    then likewise the best of 500 orders of it.
    """

    kind: ClassVar[str] = "points"
    paper: ClassVar[str] = "Balunovic, Dimitrov, Jovanovic, Vechev 2022, arXiv 2202.08827"
    space: ClassVar[str] = "points"

    distribution: Literal["normal", "tokens"] = Field(
        default="normal",
        description="`normal`, of standard deviation `spread`; or `tokens`, rows of the table, times `spread`.",
    )
    spread: Positive = Field(default=1.0, description="of an entry, in units of the table's root mean square entry.")
    draws: Annotated[int, Field(ge=1)] = Field(
        default=1, description="starts drawn, of which the one with the lowest objective is taken."
    )
    permutations: Annotated[int, Field(ge=0)] = Field(
        default=0, description="orders of its sentences' places tried after that."
    )

    def tries(self) -> tuple[int, int]:
        """As the parameters say."""
        return self.draws, self.permutations

    def __call__(self, view: View, seed: int) -> np.ndarray:
        """A start `[n, length, width]`."""
        rows = table_of(view)
        n, length = view.total_examples, view.model.input_shape[0]
        rng = np.random.default_rng(seed)
        if self.distribution == "tokens":
            unit = np.sqrt(np.mean(np.square(rows)))
            return (self.spread / unit * rows[rng.integers(0, len(rows), (n, length))]).astype(view.model.spec.dtype)
        drawn: np.ndarray = rng.normal(0, self.spread, (n, length, rows.shape[1]))
        return drawn.astype(view.model.spec.dtype)


class Constant(Initializer):
    """The same value everywhere; restarts then differ in the dummy labels only."""

    kind: ClassVar[str] = "constant"

    value: float = Field(default=0.5, description="that value.")

    def __call__(self, view: View, seed: int) -> np.ndarray:
        """A start `[n, *input_shape]`."""
        return _in_range(view, np.full(_shape(view), self.value, view.model.spec.dtype))


class Tiled(Initializer):
    """A small random patch, repeated down and across; cut off where it does not fit.

    Wei et al. 2020, "A Framework for Evaluating Gradient Leakage Attacks in Federated Learning" (CPL), arXiv
    2004.10397, which finds that such patterned starts converge faster and fail less often than plain noise. Examples
    that are not images repeat a run of `patch` values.
    """

    kind: ClassVar[str] = "tiled"
    paper: ClassVar[str] = "Wei et al. 2020, arXiv 2004.10397"

    patch: Annotated[int, Field(ge=1)] = Field(default=4, description="side of the patch in pixels.")
    distribution: Literal["uniform", "normal"] = Field(
        default="uniform",
        description="`uniform` in [mean - sqrt(3) spread, mean + sqrt(3) spread), or `normal`.",
    )
    mean: float = Field(default=0.5, description="of the patch's values.")
    spread: Positive = Field(
        default=0.5 / 3**0.5,
        description="their standard deviation; the default makes uniform values fill [0, 1).",
    )

    def __call__(self, view: View, seed: int) -> np.ndarray:
        """A start `[n, *input_shape]`."""
        n, *sides = _shape(view)
        axes = 2 if len(sides) == 3 else 1
        small = [n, *(min(self.patch, side) for side in sides[:axes]), *sides[axes:]]
        dtype = view.model.spec.dtype
        if self.distribution == "normal":
            patch = _normal(small, seed, self.mean, self.spread, dtype)
        else:
            half = 3**0.5 * self.spread
            patch = _uniform(small, seed, self.mean - half, self.mean + half, dtype)
        for axis in range(1, axes + 1):
            patch = np.take(patch, np.arange(sides[axis - 1]) % small[axis], axis)
        return _in_range(view, np.ascontiguousarray(patch))


class _Pixels:
    """An array with equality and a hash by content, so that a component may hold it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = np.array(array)
        self.array.flags.writeable = False
        parts = (str(self.array.dtype), str(self.array.shape), self.array.tobytes())
        self.digest = hashlib.sha256(b"|".join(p if isinstance(p, bytes) else p.encode() for p in parts)).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Pixels) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"array{self.array.shape} sha256:{self.digest[:12]}"


def _source(value: Any) -> Any:
    if isinstance(value, str | Path | _Pixels):
        return str(value) if isinstance(value, Path) else value
    if np.ndim(value) < 1:
        raise ValueError(f"{value!r} is neither a path (.npz, .npy or an image file) nor an array of examples")
    return _Pixels(np.asarray(value))


class Image(Initializer):
    """Public images, such as a stranger's picture of the same kind.

    A start takes as many as it needs, in an order drawn by the seed, and begins anew when they run out. Values are in
    [0, 1]; 8-bit ones are divided by 255.
    """

    kind: ClassVar[str] = "image"

    source: Annotated[Any, BeforeValidator(_source), PlainSerializer(str)] = Field(
        description="path to an `.npz` (its array `x`, or its only one), an `.npy` or an image file; or an array: one "
        "example, or several along the first axis."
    )
    fit: Literal["refuse", "resize", "crop"] = Field(
        default="refuse",
        description="what to do with images of another size or number of channels: `refuse` them, `resize` them "
        "(bilinear, antialiased), or `crop` their centre; the last two also turn grey into colour and "
        "back.",
    )
    noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.0,
        description="standard deviation of normal noise added, for restarts from one image.",
    )

    def brings(self) -> tuple[Knowledge, ...]:
        """The images, as auxiliary data."""
        return (Auxiliary(data=str(self.source)),)

    def __call__(self, view: View, seed: int) -> np.ndarray:
        """A start `[n, *input_shape]`.

        Raises:
          DataError: the file cannot be read, or its images do not fit the model and `fit` does not allow to make them.
        """
        n, *one = _shape(view)
        images = self._fitted(self._unit(self._read(), len(one)), tuple(one), view.model.name)
        order = np.random.default_rng(seed).permutation(len(images))
        dtype = view.model.spec.dtype
        start = images[order[np.arange(n) % len(images)]].astype(dtype)
        return start + _normal(start.shape, seed, 0.0, self.noise, dtype) if self.noise else start

    @property
    def _what(self) -> str:
        return f"initializer 'image': source {self.source}"

    def _read(self) -> np.ndarray:
        if isinstance(self.source, _Pixels):
            return self.source.array
        path = Path(self.source)
        if not path.is_file():
            raise DataError(f"{self._what} is no file; give the path of an .npz, .npy or image file")
        try:
            if path.suffix not in (".npz", ".npy"):
                from PIL import Image as Picture

                return np.asarray(Picture.open(path))
            found = np.load(path)
            if path.suffix == ".npy":
                return found
            if "x" not in found and len(found.files) != 1:
                raise DataError(f"{self._what} holds arrays {found.files}; name the one with the images 'x'")
            return found["x" if "x" in found else found.files[0]]
        except (OSError, ValueError) as e:
            if isinstance(e, DataError):
                raise
            raise DataError(f"{self._what} cannot be read: {e}") from e

    def _unit(self, raw: np.ndarray, rank: int) -> np.ndarray:
        """`[m, ...]` floats from one example or several; a grey image may lack its channel."""
        values = raw.astype(np.float64) / (255 if raw.dtype == np.uint8 else 1)
        if rank == 3 and (values.ndim == 2 or (values.ndim == 3 and values.shape[-1] not in (1, 3, 4))):
            values = values[..., None]
        values = values if values.ndim > rank else values[None]
        if values.ndim != rank + 1 or not values.size or not np.isfinite(values).all():
            raise DataError(
                f"{self._what} holds an array of shape {raw.shape}; finite examples of {rank} axes are needed"
            )
        return values

    def _fitted(self, images: np.ndarray, one: tuple[int, ...], model: str) -> np.ndarray:
        if images.shape[-1] == 4 and len(one) == 3 and one[-1] < 4:  # an alpha channel
            images = images[..., :3]
        if images.shape[1:] == one:
            return images
        problem = f"{self._what} has examples of shape {images.shape[1:]}, but model '{model}' takes {one}"
        if self.fit == "refuse" or len(one) != 3:
            raise DataError(f"{problem}; set fit=resize or fit=crop for images, or give others")
        if images.shape[-1] != one[-1]:
            if {images.shape[-1], one[-1]} != {1, 3}:
                raise DataError(f"{problem}; only grey and colour images can be turned into one another")
            grey = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
            images = images.repeat(3, -1) if one[-1] == 3 else (images @ grey)[..., None]
        if self.fit == "resize":
            return np.clip(tf.image.resize(images, one[:2], antialias=True).numpy(), images.min(), images.max())
        spare = [have - want for have, want in zip(images.shape[1:3], one[:2])]
        if min(spare) < 0:
            raise DataError(f"{problem}, and cannot be cropped to that; set fit=resize")
        top, left = (s // 2 for s in spare)
        return images[:, top : top + one[0], left : left + one[1]]


class Analytic(Initializer):
    """What another attack found, such as the closed-form solution of the first dense layer."""

    kind: ClassVar[str] = "analytic"

    attack: str = Field(default="first_layer", description="that attack, as users write it.")
    clip: bool = Field(default=True, description="whether to clip its examples to [0, 1].")

    def brings(self) -> tuple[Knowledge, ...]:
        """What that attack brings in."""
        return registry.attacks.create(self.attack).brings()

    def requirements(self) -> frozenset[Capability]:
        """What that attack needs."""
        return registry.attacks.create(self.attack).requirements()

    def __call__(self, view: View, seed: int) -> np.ndarray:
        """A start `[n, *input_shape]`.

        Raises:
          CapabilityError: that attack cannot be run on this view, or does not find all examples.
        """
        wanted = _shape(view)
        way_out = "use another initializer, such as 'normal'"
        try:
            found = registry.attacks.create(self.attack).run(view, seed).x
        except FedprivError as e:
            raise CapabilityError(
                f"initializer 'analytic': attack '{self.attack}' gives no start: {e}; {way_out}"
            ) from e
        if found is None or np.shape(found) != wanted or not np.isfinite(found).all():
            what = "no examples" if found is None else f"examples of shape {np.shape(found)}"
            if found is not None and np.shape(found) == wanted:
                what = "examples that are not finite"
            raise CapabilityError(
                f"initializer 'analytic': attack '{self.attack}' found {what}, where {wanted} is needed; {way_out}"
            )
        start = np.asarray(found, view.model.spec.dtype)
        return view.data_kind.settle(start) if self.clip else start
