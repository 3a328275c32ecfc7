"""Files: named arrays of a model's weights, from the formats that frameworks write."""

from __future__ import annotations

import difflib
import io
import json
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fedpriv.base.errors import DataError, printable, reason, shown
from fedpriv.base.types import Array
from fedpriv.capture.pickled import from_bytes, read_pickled

Layout = Literal["torch", "keras"]
Half = Literal["float16", "bfloat16"]

SUFFIXES = (".npz", ".npy", ".keras", ".h5", ".pt", ".pth", ".safetensors")
_SAFETENSORS = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "bfloat16",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
#: What reading a file of an unknown sender may raise.
UNREADABLE = (
    *(
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
        EOFError,
        ArithmeticError,
        RuntimeError,
        MemoryError,
    ),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)
#: Bytes of the head of a `.safetensors` file; the format's own limit.
_HEAD = 100_000_000
#: What a checkpoint calls its state dict.
_STATES = ("state_dict", "model_state_dict", "model", "net", "weights", "params")
#: What Keras keeps beside the layers, at the top of a file.
_NO_LAYERS = ("optimizer", "metrics")
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")


@dataclass(frozen=True, eq=False)
class Stored:
    """What a file holds.

    Attributes:
      source: the file's name, for messages.
      arrays: by name, in the file's order.
      layout: of whom the kernels' axes are, where the format says it.
      half: the type whose precision all of them have, in whatever type they are stored; None if that is not half.
    """

    source: str
    arrays: Mapping[str, Array]
    layout: Layout | None = None
    half: Half | None = None


def stored(given: str | Path | Mapping[str, Any] | Any, what: str) -> Stored:
    """Weights or a gradient from a file, or from what holds them in this process.

    Args:
      given: a file's path; or names and arrays, a list of arrays (as Flower passes them), or one flat array.
      what: whose it is, for messages, such as `before`.

    Raises:
      DataError: missing, damaged, of a format that is not read, or holding something else than finite numbers.
    """
    if isinstance(given, str | Path):
        return _checked(read(given))
    if isinstance(given, Stored):
        return _checked(given)
    if isinstance(given, Mapping):
        arrays = {str(k): _array(v) for k, v in given.items()}
    elif isinstance(given, list | tuple):
        arrays = {f"arr_{i}": _array(v) for i, v in enumerate(given)}
    else:
        arrays = {"arr_0": _array(given)}
    return _checked(Stored(what, arrays))


def read(path: str | Path) -> Stored:
    """The arrays in a file; see `stored`, which checks them as well."""
    name, path = str(path), Path(path)
    if path.is_dir():
        raise DataError(f"{name}: is a folder; give a file, such as one of {', '.join(SUFFIXES[:3])}")
    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, beside, 1)
        raise DataError(f"{name}: no such file" + (f"; did you mean '{near[0]}'?" if near else ""))
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{name}: weights of format '{suffix}' are not read; give one of {', '.join(SUFFIXES)}")
    try:
        if suffix in (".npz", ".npy"):
            return Stored(name, _numpy(path))
        if suffix == ".safetensors":
            return Stored(name, _safetensors(path))
        if suffix in (".pt", ".pth"):
            return Stored(name, _state_dict(read_pickled(name), name), "torch")
        return Stored(name, _keras(path), "keras")
    except DataError:
        raise
    except UNREADABLE as e:
        raise DataError(f"{name}: cannot be read: {reason(e)}; it may be truncated, or of another format") from e


def _array(value: Any) -> np.ndarray:
    detached = value.detach().cpu().numpy() if hasattr(value, "detach") else value
    return np.asarray(detached)


def _numpy(path: Path) -> dict[str, Array]:
    found = np.load(path, allow_pickle=False)
    if not isinstance(found, np.lib.npyio.NpzFile):
        return {path.stem: found}
    with found:
        return {name: found[name] for name in found.files}


def _safetensors(path: Path) -> dict[str, Array]:
    """The format is documented at huggingface.co/docs/safetensors: a length, a JSON head, the numbers."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or length > min(_HEAD, len(raw) - 8):
        raise DataError(f"{path}: says that its head has {length} bytes, of {len(raw)} in all; it is damaged")
    head, body = json.loads(raw[8 : 8 + length]), memoryview(raw)[8 + length :]
    arrays = dict[str, Array]()
    for name, entry in head.items():
        if name == "__metadata__":
            continue
        shape, (start, stop), dtype = entry["shape"], entry["data_offsets"], _SAFETENSORS.get(entry["dtype"])
        if dtype is None:
            raise DataError(f"{path}: '{printable(name)}' is of type {shown(entry['dtype'])}; give floats")
        part = body[start:stop]
        numbers = from_bytes(bytes(part), dtype)
        if not 0 <= start <= stop <= len(body) or numbers.size != math.prod(shape):
            raise DataError(f"{path}: '{printable(name)}' of shape {shape} has {len(part)} bytes; the file is damaged")
        arrays[name] = numbers.reshape(shape)
    order = sorted(arrays, key=lambda n: head[n]["data_offsets"][0])
    return {name: arrays[name] for name in order}


def _state_dict(held: Any, name: str) -> dict[str, Array]:
    if not isinstance(held, dict):
        raise DataError(
            f"{name}: holds a {type(held).__name__}; save a state dict: torch.save(model.state_dict(), path)"
        )
    own = {str(k): v for k, v in held.items() if isinstance(v, np.ndarray)}
    if own:
        return own
    inner = {
        k: v for k, v in held.items() if isinstance(v, dict) and any(isinstance(a, np.ndarray) for a in v.values())
    }
    chosen = [k for k in _STATES if k in inner] or (list(inner) if len(inner) == 1 else [])
    if not chosen:
        raise DataError(f"{name}: holds {shown(list(held))} and no state dict among them; save the state dict alone")
    return {str(k): v for k, v in inner[chosen[0]].items() if isinstance(v, np.ndarray)}


def _keras(path: Path) -> dict[str, Array]:
    import h5py

    if path.suffix.lower() == ".keras":
        with zipfile.ZipFile(path) as archive:
            if "model.weights.h5" not in archive.namelist():
                raise DataError(f"{path}: a zip archive without 'model.weights.h5', so not one of Keras")
            raw = archive.read("model.weights.h5")
    else:
        raw = path.read_bytes()
    found, ordered = dict[str, Array](), False
    with h5py.File(io.BytesIO(raw), "r") as file:

        def own(group: Any, name: str) -> Any:
            """What lies in this file itself: links to others and shapes larger than the file are not followed."""
            if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
                raise DataError(f"{path}: '{printable(name)}' is a link to another file, which is not followed")
            item = group[name]
            if isinstance(item, h5py.Dataset) and (item.is_virtual or item.external or item.nbytes > len(raw)):
                raise DataError(f"{path}: '{printable(name)}' does not lie in the file itself; save the weights anew")
            return item

        root = file.get("model_weights", file)

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and not name.startswith(_NO_LAYERS):
                found[name] = own(root, name)[()]

        ordered = "layer_names" in root.attrs
        if ordered:  # this format keeps the model's order
            for layer in _texts(root.attrs["layer_names"]):
                group = own(root, layer)
                for weight in _texts(group.attrs["weight_names"]):
                    found[weight] = own(group, weight)[()]
        else:
            root.visititems(visit)
    if not found:
        raise DataError(f"{path}: holds no weights; give a file that has a model's arrays")
    return found if ordered else _named(dict(sorted(found.items(), key=lambda kv: _natural(kv[0]))))


def _texts(values: Any) -> list[str]:
    return [v.decode() if isinstance(v, bytes) else str(v) for v in values]


def _natural(name: str) -> list[Any]:
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.split(r"(\d+)", name)]


def _named(found: dict[str, Array]) -> dict[str, Array]:
    """Keras numbers a layer's variables in its newer format; here they get the names of its older one."""
    out: dict[str, Array] = {}
    for name, array in found.items():
        layer, is_numbered, number = name.rpartition("/vars/")
        layer = layer.removeprefix("_layer_checkpoint_dependencies/").replace("/layers/", "/").removeprefix("layers/")
        if not is_numbered:
            out[name] = array
            continue
        siblings = [n for n in found if n.rpartition("/vars/")[0] == name.rpartition("/vars/")[0]]
        kinds: tuple[str, ...] = ()
        if len(siblings) == 4 and all(found[n].shape == array.shape for n in siblings):
            kinds = _NORM
        elif len(siblings) <= 2 and found[siblings[0]].ndim >= 2:
            kinds = ("kernel", "bias")
        elif len(siblings) == 2:
            kinds = ("gamma", "beta")
        i = int(number)
        out[f"{layer}/{kinds[i] if i < len(kinds) else number}"] = array
    return out


def _checked(given: Stored) -> Stored:
    """The same in float64, without counters; refuses what is no weights."""
    arrays = dict[str, Array]()
    for name, array in given.arrays.items():
        shown_name = printable(name)
        if name.rsplit(".", 1)[-1] == "num_batches_tracked":
            continue
        if array.dtype.kind in "iub":
            raise DataError(
                f"{given.source}: '{shown_name}' holds integers ({array.dtype}), so it is quantized or no weights; "
                "give the numbers that they stand for, as float32"
            )
        if array.dtype.kind != "f":
            raise DataError(f"{given.source}: '{shown_name}' is of type {array.dtype}; give float32 numbers")
        if not np.isfinite(array).all():
            bad = int(np.sum(~np.isfinite(array)))
            raise DataError(
                f"{given.source}: '{shown_name}' has {bad} of {array.size} numbers that are not finite; the client has "
                "diverged, or the file is damaged"
            )
        arrays[name] = array.astype(np.float64)
    if not arrays:
        raise DataError(f"{given.source}: holds no weights; give a file that has a model's arrays")
    return Stored(given.source, arrays, given.layout, _half(list(arrays.values())))


def _half(arrays: list[Array]) -> Half | None:
    """Which of the two all numbers are of; a few are by chance, and zeros and ones always."""
    flat = np.concatenate([a.reshape(-1) for a in arrays])
    flat = flat[(flat != 0) & (np.abs(flat) != 1)]
    if flat.size < 16:
        return None
    with np.errstate(over="ignore"):
        single = flat.astype(np.float32)
        if np.any(single != flat):
            return None
        if not np.any(single.view(np.uint32) & 0xFFFF):  # the coarser first: most of its numbers are float16's too
            return "bfloat16"
        return "float16" if np.all(single.astype(np.float16) == single) else None


def half_spacing(numbers: Array, half: Half) -> np.ndarray:
    """From each number to the next that half precision has, in float64."""
    sizes = np.abs(np.asarray(numbers, np.float64))
    if half == "float16":
        return np.spacing(sizes.astype(np.float16)).astype(np.float64)
    return np.exp2(np.floor(np.log2(np.maximum(sizes, np.finfo(np.float32).tiny))) - 7)
