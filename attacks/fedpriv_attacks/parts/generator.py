"""Generator: a small decoder from latents to images, as pure functions of weights kept in an `.npz` file.

A generator trained on public data of the same kind as the victim's is a learned prior: an attack that moves in its
latent space can only claim images that it makes. The file holds the architecture as JSON and the weights as arrays,
no code and no pickles; `fedpriv_experiments.train_generator` makes one.
"""

from __future__ import annotations

import functools
import importlib.resources
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from fedpriv.base.atomic import write_bytes
from fedpriv.base.errors import DataError, ParameterError, did_you_mean, reason
from fedpriv.base.lazy import tf
from fedpriv.base.types import Config, Examples, Tensor
from fedpriv.models.spec import Spec

FORMAT = 1
_FOLDER = "data"

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "relu": lambda x: tf.nn.relu(x),
    "elu": lambda x: tf.nn.elu(x),
    "swish": lambda x: x * tf.sigmoid(x),
    "tanh": lambda x: tf.tanh(x),
    "sigmoid": lambda x: tf.sigmoid(x),
}


@dataclass(frozen=True)
class Layer:
    """One layer of a decoder.

    Attributes:
      kind: `dense` on features, `reshape`, or a 2-D convolution with zero padding to the same size (`conv2d`) or its
        transpose, which multiplies the size by `stride` (`conv2d_transpose`).
      units: features or channels that come out; not for `reshape`.
      kernel: side of a convolution's kernel.
      stride: of a convolution.
      shape: what `reshape` makes, without the batch.
      activation: applied at the end: linear, relu, elu, swish, tanh or sigmoid.
    """

    kind: Literal["dense", "reshape", "conv2d", "conv2d_transpose"]
    units: int = 0
    kernel: int = 0
    stride: int = 1
    shape: tuple[int, ...] = ()
    activation: str = "linear"

    def shapes(self, incoming: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
        """(shape that comes out, shapes of its weights) for examples of shape `incoming`.

        Raises:
          ValueError: the layer cannot take them.
        """
        if self.activation not in _ACTIVATIONS:
            raise ValueError(f"activation '{self.activation}' is none of {', '.join(_ACTIVATIONS)}")
        if self.kind == "reshape":
            if int(np.prod(self.shape)) != int(np.prod(incoming)) or not self.shape:
                raise ValueError(f"{incoming} cannot be reshaped to {self.shape}")
            return self.shape, ()
        rank = 1 if self.kind == "dense" else 3
        if len(incoming) != rank or self.units < 1:
            raise ValueError(f"a {self.kind} layer of {self.units} units cannot take {incoming}")
        if self.kind == "dense":
            return (self.units,), ((incoming[0], self.units), (self.units,))
        if self.kind not in ("conv2d", "conv2d_transpose") or min(self.kernel, self.stride) < 1:
            raise ValueError(f"no layer is a {self.kind} of kernel {self.kernel} and stride {self.stride}")
        height, width, channels = incoming
        side = (self.kernel, self.kernel)
        if self.kind == "conv2d":
            out = (-(-height // self.stride), -(-width // self.stride), self.units)
            return out, ((*side, channels, self.units), (self.units,))
        return (height * self.stride, width * self.stride, self.units), ((*side, self.units, channels), (self.units,))

    def __call__(self, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """The layer applied to `x [n, ...]`; traceable."""
        if self.kind == "reshape":
            x = tf.reshape(x, [-1, *self.shape])
        elif self.kind == "dense":
            x = tf.matmul(x, weights[0]) + weights[1]
        elif self.kind == "conv2d":
            x = tf.nn.conv2d(x, weights[0], self.stride, "SAME") + weights[1]
        else:
            out = self.shapes(tuple(x.shape[1:]))[0]
            x = tf.nn.conv2d_transpose(x, weights[0], [tf.shape(x)[0], *out], self.stride, "SAME") + weights[1]
        return _ACTIVATIONS[self.activation](x)


@dataclass(frozen=True, eq=False)
class Generator:
    """A decoder `z [n, latent] -> x [n, *shape]` with the weights it was trained to.

    Attributes:
      name: how messages call it.
      latent: length of a latent; training makes latents of real images about standard normal.
      layers: the architecture.
      weights: float32 arrays, kernel and bias of each layer that has them.
      training: how it was trained, as recorded in its file.
    """

    name: str
    latent: int
    layers: tuple[Layer, ...]
    weights: tuple[np.ndarray, ...]
    training: Config = field(default_factory=dict)

    def __post_init__(self) -> None:
        _, wanted = chain(self.layers, self.latent, self.name)
        got = tuple(tuple(w.shape) for w in self.weights)
        if got != wanted:
            raise DataError(f"generator '{self.name}': weights of shapes {got}, but its layers have {wanted}")
        if not all(np.all(np.isfinite(w)) for w in self.weights):
            raise DataError(f"generator '{self.name}' has weights that are not finite; train it again")

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """One example's shape."""
        return chain(self.layers, self.latent, self.name)[0]

    @functools.cached_property
    def spec(self) -> Spec:
        """How the weights lie in one flat vector."""
        return Spec(tuple(f"w{i}" for i in range(len(self.weights))), tuple(w.shape for w in self.weights))

    def decode(self, z: Tensor, weights: Sequence[Tensor] | None = None) -> Examples:
        """Examples `[n, *shape]` of latents `[n, latent]`, in their precision; pure, traceable and differentiable.

        Args:
          z: the latents, float32 or float64.
          weights: tensors in place of the trained weights.
        """
        z = tf.convert_to_tensor(z)
        if weights is None:
            weights = [tf.constant(w, z.dtype) for w in self.weights]
        return decode(self.layers, self.latent, z, weights)

    def require(self, input_shape: Sequence[int], what: str = "the model") -> None:
        """Raises ParameterError unless it makes examples of `input_shape`."""
        if tuple(input_shape) != self.shape:
            raise ParameterError(
                f"generator '{self.name}' makes examples of shape {self.shape}, but {what} takes {tuple(input_shape)}; "
                "train one on public data of that shape (fedpriv_experiments.train_generator); give its path"
            )

    def save(self, path: str | Path) -> Path:
        """Writes the file atomically, weights in half precision."""
        metadata = {
            "format": FORMAT,
            "latent": self.latent,
            "layers": [asdict(layer) for layer in self.layers],
            "training": self.training,
        }
        arrays = {f"w{i}": w.astype(np.float16) for i, w in enumerate(self.weights)}
        if not all(np.all(np.isfinite(a)) for a in arrays.values()):
            raise DataError(f"generator '{self.name}' has weights beyond half precision's 65504; train it again")
        text = np.frombuffer(json.dumps(metadata, sort_keys=True).encode(), np.uint8)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, metadata=text, **arrays)  # type: ignore[arg-type]
        return write_bytes(path, buffer.getvalue())


def decode(layers: Sequence[Layer], latent: int, z: Tensor, weights: Sequence[Tensor]) -> Examples:
    """`layers` applied to latents `z [n, latent]`, taking `weights` in turn; traceable."""
    x, rest = z, list(weights)
    incoming: tuple[int, ...] = (latent,)
    for layer in layers:
        incoming, own = layer.shapes(incoming)
        x = layer(x, rest[: len(own)])
        rest = rest[len(own) :]
    return x


def chain(layers: Sequence[Layer], latent: int, name: str = "") -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """(an example's shape, shapes of all weights) of a decoder.

    Raises:
      DataError: a layer does not fit the one before.
    """
    shape: tuple[int, ...] = (latent,)
    weights: list[tuple[int, ...]] = []
    if latent < 1 or not layers:
        raise DataError(f"generator '{name}' has {len(layers)} layers on a latent of {latent}; both must be positive")
    for i, layer in enumerate(layers):
        try:
            shape, own = layer.shapes(shape)
        except ValueError as e:
            raise DataError(f"generator '{name}', layer {i}: {e}") from e
        weights += own
    return shape, tuple(weights)


def packaged() -> list[str]:
    """Names of the generators inside the package."""
    folder = importlib.resources.files("fedpriv_attacks") / _FOLDER
    return sorted(f.name.removesuffix(".npz") for f in folder.iterdir() if f.name.endswith(".npz"))


@functools.cache
def load_generator(name_or_path: str) -> Generator:
    """The generator inside the package by that name (such as `fashion`), or the one in that `.npz` file.

    A file is read once a process.

    Raises:
      ParameterError: no such generator.
      DataError: a file that is missing, damaged, or no generator.
    """
    if name_or_path.endswith(".npz"):
        path = Path(name_or_path).expanduser()
        try:
            return parse_generator(path.read_bytes(), path.name)
        except OSError as e:
            raise DataError(f"generator file {name_or_path} cannot be read ({e.strerror}); give an .npz file") from e
    names = packaged()
    if name_or_path not in names:
        raise ParameterError(
            f"no generator is named '{name_or_path}'.{did_you_mean(name_or_path, names)} Or give the path of an .npz "
            "file made by fedpriv_experiments.train_generator"
        )
    data = (importlib.resources.files("fedpriv_attacks") / _FOLDER / f"{name_or_path}.npz").read_bytes()
    return parse_generator(data, name_or_path)


def parse_generator(data: bytes, name: str) -> Generator:
    """The generator in the bytes of an `.npz` file written by `Generator.save`.

    Raises:
      DataError: damaged, of another format, or with weights that do not fit its layers.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as z:
            metadata = json.loads(z["metadata"].tobytes().decode())
            arrays = tuple(z[f"w{i}"].astype(np.float32) for i in range(len(z.files) - 1))
        if metadata["format"] != FORMAT:
            raise DataError(f"generator '{name}' has format {metadata['format']}, not {FORMAT}; train it again")
        layers = tuple(Layer(**{**row, "shape": tuple(row["shape"])}) for row in metadata["layers"])
        return Generator(name, int(metadata["latent"]), layers, arrays, metadata.get("training", {}))
    except DataError:
        raise
    except Exception as e:  # a damaged file can fail anywhere in zipfile, NumPy and JSON
        raise DataError(
            f"generator '{name}' is no generator file ({type(e).__name__}: {reason(e)}); make one with "
            "fedpriv_experiments.train_generator"
        ) from e
