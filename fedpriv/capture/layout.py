"""Layout: which of a file's arrays is which of a model's weights, and how its axes lie.

PyTorch keeps a convolution's kernel as `[out, in, height, width]` and a linear layer's as `[out, in]`, TensorFlow as
`[height, width, in, out]` and `[in, out]`. A dense layer after a flattening meets its inputs in the order of the
images' axes: channels first in PyTorch, last in TensorFlow, so its rows change places as well.
"""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedpriv.base.errors import ParameterError, did_you_mean, printable
from fedpriv.base.types import Array
from fedpriv.capture.files import Layout, Stored
from fedpriv.models.model import Model

_ROLES = {
    "kernel": "kernel",
    "weight": "kernel",
    "embeddings": "kernel",
    "table": "kernel",
    "bias": "bias",
    "gamma": "gamma",
    "scale": "gamma",
    "beta": "beta",
    "runningmean": "mean",
    "movingmean": "mean",
    "runningvar": "variance",
    "runningvariance": "variance",
    "movingvariance": "variance",
}
STATISTICS = ("mean", "variance")


class UnmatchedError(ParameterError):
    """A file's arrays are not the weights of the model."""


@dataclass(frozen=True)
class Match:
    """One of the model's weights and the array that it was taken from.

    Attributes:
      target: the weight's name in the model's spec.
      shape: its shape there.
      source: the array's name in the file; None for a weight that is in no file.
      stored: the array's shape there.
      change: what was done to the axes, in words; "" for nothing.
      by: what they were matched by: `given`, `name`, `shape` or `order`.
    """

    target: str
    shape: tuple[int, ...]
    source: str | None
    stored: tuple[int, ...] = ()
    change: str = ""
    by: str = ""


@dataclass(frozen=True, eq=False)
class Arrangement:
    """How a file's arrays become a model's weights.

    Attributes:
      model: the model.
      layout: whose axes the file has.
      matches: one a weight, in the spec's order, buffers left out.
      statistics: likewise, of running statistics; empty where the model has none, or the file.
      ignored: names of statistics in the file that the model does not keep.
      channels: by weight, the channels that its rows are grouped by in the file.
    """

    model: Model
    layout: Layout
    matches: tuple[Match, ...]
    statistics: tuple[Match, ...]
    ignored: tuple[str, ...]
    channels: Mapping[str, int]

    def arrays(self, given: Stored, matches: Sequence[Match]) -> list[Array | None]:
        """The weights in the model's shapes, float64; None where the file does not have it.

        Raises:
          ParameterError: an array of another shape than in the file that the mapping was made of.
        """
        out: list[Array | None] = []
        for match in matches:
            array = None if match.source is None else given.arrays.get(match.source)
            if array is None:
                out.append(None)
                continue
            if array.shape != match.stored:
                raise ParameterError(
                    f"{given.source}: '{printable(match.source or '')}' has shape {list(array.shape)}, but "
                    f"{list(match.stored)} in the other file; give files of one model"
                )
            fitted = _fitted(array, match.shape, self.layout, role_of(match.target), self.channels.get(match.target))
            assert fitted is not None
            out.append(fitted[0])
        return out


def arrange(
    model: Model,
    given: Stored,
    layout: Layout | None = None,
    assigned: Mapping[str, str] | None = None,
    flatten: Layout | None = None,
    absent: Sequence[str] = (),
) -> Arrangement:
    """Finds each weight of `model` among a file's arrays: by name, else by shape, else by the order in the file.

    Args:
      model: the model.
      given: the file.
      layout: whose axes it has; None goes by the format, the shapes and the names.
      assigned: names of weights of the model, and of the arrays that these are.
      flatten: in whose order images were flattened; None is as `layout`.
      absent: names of weights, or of layers, that may be missing from the file.

    Raises:
      UnmatchedError: a weight that the file lacks, or an array that the model lacks; names what is near.
      ParameterError: a layout that cannot be told, or an assignment that cannot be.
    """
    names = model.spec.names[model.buffers :]
    for target, source in (assigned or {}).items():
        if target not in model.spec.names:
            raise ParameterError(f"model '{model.name}' has no weight '{target}'.{did_you_mean(target, names)}")
        if source not in given.arrays:
            raise ParameterError(f"{given.source} has no array '{source}'.{did_you_mean(source, given.arrays)}")
    _refuse_stacked(given, (assigned or {}).values())
    tried: dict[Layout, _Matching] = {}
    for one in ("torch", "keras") if layout is None and given.layout is None else (layout or given.layout or "keras",):
        whose: Layout = "torch" if one == "torch" else "keras"
        tried[whose] = _Matching(model, _unflattened(model, given, whose), whose, assigned or {}, flatten, absent)
    fitting = [m for m in tried.values() if not m.missing and not m.extra]
    if len(fitting) == 2:
        fitting = _told_by_names(given, fitting)
    if not fitting:
        best = min(tried.values(), key=lambda m: len(m.missing) + len(m.extra))
        raise UnmatchedError(best.complaint())
    return fitting[0].arrangement()


#: PyTorch's names of arrays that keep several matrices: of recurrent layers and cells, and of attention.
_STACKED = re.compile(r"(?:weight|bias)_(?:ih|hh)(?:_l\d+(?:_reverse)?)?|in_proj_(?:weight|bias)")


def _refuse_stacked(given: Stored, assigned: Collection[str]) -> None:
    """A GRU without biases would fit by its shapes, with its gates in the wrong order."""
    for name in given.arrays:
        last = name.rsplit(".", 1)[-1]
        if name in assigned or not _STACKED.fullmatch(last):
            continue
        inside = "query, key and value" if last.startswith("in_proj") else "the matrices of all gates"
        raise ParameterError(
            f"{given.source}: '{printable(name)}' is of a PyTorch layer that keeps {inside} in one array, and these "
            "are not split or reordered here; store them in the order and shapes of the model's weights under its "
            "names, or, where the orders agree, say which weight it is (assign)"
        )


def unflattened(mapped: Arrangement, given: Stored) -> Stored:
    """The file, split into the model's weights if it is one flat array."""
    return _unflattened(mapped.model, given, mapped.layout)


def _unflattened(model: Model, given: Stored, layout: Layout) -> Stored:
    arrays = list(given.arrays.values())
    if len(arrays) != 1 or arrays[0].ndim != 1 or len(model.spec.names) == 1:
        return given
    flat, spec = arrays[0], model.spec
    sizes = [spec.size - model.buffer_size, spec.size]
    if flat.size not in sizes:
        raise UnmatchedError(
            f"{given.source}: one array of {flat.size:,} numbers, but model '{model.name}' has {sizes[0]:,} weights"
            f"{f' and {model.buffer_size:,} running statistics' if model.buffers else ''}; give the same model"
        )
    first = model.buffers if flat.size == sizes[0] else 0
    out, at = dict[str, Array](), 0
    for name, shape in list(zip(spec.names, spec.shapes))[first:]:
        size = math.prod(shape)
        own = _torch_shape(shape) if layout == "torch" and role_of(name) == "kernel" else shape
        out[name] = flat[at : at + size].reshape(own)
        at += size
    return Stored(given.source, out, given.layout, given.half)


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return {2: lambda s: s[::-1], 3: lambda s: s[::-1], 4: lambda s: (s[3], s[2], s[0], s[1])}.get(len(shape), tuple)(
        shape
    )


def _told_by_names(given: Stored, fitting: list[_Matching]) -> list[_Matching]:
    """Where shapes fit both ways: square kernels alone."""
    if not any(m.change for f in fitting for m in f.found.values()):
        return fitting
    ends = {re.split(r"[./:]", n)[-1 if not n.endswith(":0") else -2] for n in given.arrays}
    whose = "keras" if "kernel" in ends else "torch" if "weight" in ends else None
    if whose is None:
        raise ParameterError(
            f"{given.source}: its kernels are square, so shapes do not tell whether they lie as PyTorch's or as "
            "Keras's; give layout=torch or layout=keras"
        )
    return [f for f in fitting if f.layout == whose]


class _Matching:
    def __init__(
        self,
        model: Model,
        given: Stored,
        layout: Layout,
        assigned: Mapping[str, str],
        flatten: Layout | None,
        absent: Sequence[str],
    ) -> None:
        self.model, self.given, self.layout = model, given, layout
        spec, self.found = model.spec, dict[str, Match]()
        self.roles = _roles(given.arrays)
        self.shapes = dict(zip(spec.names, spec.shapes))
        self.channels = _channels(model) if (flatten or layout) == "torch" else {}
        statistics = [n for n in given.arrays if self.roles[n] in STATISTICS]
        weights = [n for n in given.arrays if n not in statistics]
        plain = list(spec.names[model.buffers :])
        moving = [n for n in spec.names[: model.buffers] if role_of(n) in STATISTICS]
        self._match(plain, weights, assigned)
        self._match(moving, statistics, assigned)
        used = {m.source for m in self.found.values()}
        allowed = [n for n in plain if any(n == a or n.startswith(f"{a}/") for a in absent)]
        self.missing = [n for n in plain if n not in self.found and n not in allowed]
        self.extra = [n for n in weights if n not in used]
        self.lost = [n for n in moving if n not in self.found]
        self.plain, self.moving = plain, moving
        self.ignored = tuple(n for n in statistics if n not in used)

    def _match(self, targets: list[str], sources: list[str], assigned: Mapping[str, str]) -> None:
        left = [s for s in sources if s not in assigned.values()]
        for target in targets:
            if target in assigned:
                self._take(target, assigned[target], "given")
        by_name = {_plain(s): s for s in reversed(left)}
        for target in targets:
            source = by_name.get(_plain(target))
            if target not in self.found and source in left and self._fits(target, source):
                self._take(target, source, "name")
                left.remove(source)
        for target in targets:
            if target in self.found:
                continue
            fitting = [s for s in left if self._fits(target, s)]
            if fitting:
                rivals = [t for t in targets if t not in self.found and t != target and self._fits(t, fitting[0])]
                self._take(target, fitting[0], "order" if len(fitting) > 1 or rivals else "shape")
                left.remove(fitting[0])

    def _fits(self, target: str, source: str) -> bool:
        role, own = role_of(target), self.roles[source]
        alike = own in ("", role) or not role or {own, role} == {"bias", "beta"}
        array = self.given.arrays[source]
        return alike and _fitted(array, self.shapes[target], self.layout, role, None) is not None

    def _take(self, target: str, source: str, by: str) -> None:
        array, shape = self.given.arrays[source], self.shapes[target]
        fitted = _fitted(array, shape, self.layout, role_of(target), self.channels.get(target))
        if fitted is None:
            raise ParameterError(
                f"{self.given.source}: '{printable(source)}' of shape {list(array.shape)} is no '{target}' of shape "
                f"{list(shape)}"
            )
        self.found[target] = Match(target, shape, source, array.shape, fitted[1], by)

    def complaint(self) -> str:
        said = list[str]()
        free = [n for n in self.given.arrays if n not in {m.source for m in self.found.values()}]
        for target in self.missing[:3]:
            held = {n: self.given.arrays[n].shape for n in free or self.given.arrays}
            shape = self.shapes[target]
            said.append(f"no array is its '{target}' of shape {list(shape)}{near(target, shape, held)}")
        shapes = {n: self.shapes[n] for n in self.missing or self.plain}
        for source in self.extra[:3]:
            array = self.given.arrays[source]
            hint = "" if self.missing else near(source, array.shape, shapes)
            said.append(f"'{printable(source)}' of shape {list(array.shape)} is none of its weights{hint}")
        more = len(self.missing) + len(self.extra) - len(said)
        return (
            f"{self.given.source} does not hold the weights of model '{self.model.name}': {'; '.join(said)}"
            f"{f'; and {more} more' if more else ''}. Give the model that was trained, or say which array is which "
            "weight (assign); layers that were frozen and not sent are named as such (frozen)"
        )

    def arrangement(self) -> Arrangement:
        matches = tuple(self.found.get(n) or Match(n, self.shapes[n], None) for n in self.plain)
        known = tuple(self.found[n] for n in self.moving if n in self.found) if not self.lost else ()
        return Arrangement(self.model, self.layout, matches, known, self.ignored, self.channels)


#: Names that only count arrays, such as `np.savez` gives them.
_COUNTED = re.compile(r"(?:arr_)?\d+")


def near(name: str, shape: tuple[int, ...], others: Mapping[str, tuple[int, ...]]) -> str:
    """The most similar of `others`, by shape and name, for the end of a message; "" where there are none."""
    if not others:
        return ""

    def likeness(other: str) -> tuple[float, ...]:
        theirs = others[other]
        named = 0.0 if _COUNTED.fullmatch(name) or _COUNTED.fullmatch(other) else 1.0
        names = named * difflib.SequenceMatcher(None, _plain(name), _plain(other)).ratio()
        common = sum((Counter(shape) & Counter(theirs)).values())
        apart = abs(math.log(max(math.prod(shape), 1) / max(math.prod(theirs), 1)))
        return sorted(shape) == sorted(theirs), len(shape) == len(theirs), names, common, -apart

    best = max(others, key=likeness)
    return f" (nearest: '{printable(best)}' of shape {list(others[best])})"


def _parts(name: str) -> list[str]:
    parts = [p for p in re.split(r"[./]", name.removesuffix(":0")) if p]
    while len(parts) > 2 and parts[0] in ("module", "model", "_orig_mod", "net"):
        parts = parts[1:]
    return [p for i, p in enumerate(parts) if i == 0 or p != parts[i - 1]]


def _plain(name: str) -> str:
    *layer, last = _parts(name) or [name]
    role = _ROLES.get(last.lower().replace("_", ""), last.lower())
    role = {"gamma": "kernel", "beta": "bias"}.get(role, role)
    return "/".join([p.lower().replace("_", "") for p in layer] + [role])


def role_of(name: str) -> str:
    """What a weight of that name is to its layer, such as `kernel`; "" where the name does not say."""
    last = _parts(name)[-1] if _parts(name) else name
    return _ROLES.get(last.lower().replace("_", ""), "")


def _roles(arrays: Mapping[str, Array]) -> dict[str, str]:
    """What each array is to its layer; in PyTorch a normalization's scale is a `weight` too."""
    return {n: "gamma" if (r := role_of(n)) == "kernel" and a.ndim == 1 else r for n, a in arrays.items()}


def _fitted(
    array: Array, shape: tuple[int, ...], layout: Layout, role: str, channels: int | None
) -> tuple[Array, str] | None:
    """(the array in the model's shape, what was done), or None if it does not fit."""
    change = ""
    if layout == "torch" and role == "kernel" and array.ndim == len(shape):
        axes = {2: (1, 0), 3: (2, 1, 0), 4: (2, 3, 1, 0)}.get(array.ndim)
        if axes is not None and array.ndim == 4 and array.transpose(axes).shape != shape and array.shape[1] == 1:
            axes = (2, 3, 0, 1)  # a depthwise convolution
        if axes is not None:
            array, change = array.transpose(axes), {2: "transposed", 3: "OIK to KIO", 4: "OIHW to HWIO"}[array.ndim]
    if array.shape != shape:
        return None
    if channels is not None and len(shape) == 2:
        rows = array.reshape(channels, -1, shape[1]).transpose(1, 0, 2)
        array, change = rows.reshape(shape), f"{change}, rows from CHW to HWC".removeprefix(", ")
    return array, change


def _channels(model: Model) -> dict[str, int]:
    """Of kernels that stand after a flattening: how many channels what was flattened has, where that is more than 1."""
    found: dict[str, int] = {}
    if model.chain:
        before = model.input_shape
        for layer in model.chain:
            if layer.kind == "dense" and len(before) == 3 and layer.kernel:
                found[layer.kernel] = before[2]
            before = layer.output_shape
    else:
        before = model.input_shape
        channels = before[-1] if len(before) == 3 else None
        for name, shape in list(zip(model.spec.names, model.spec.shapes))[model.buffers :]:
            if role_of(name) == "kernel" and len(shape) == 4:
                channels = shape[3]
            elif role_of(name) == "kernel" and len(shape) == 2:
                if channels is not None and shape[0] % channels == 0:
                    found[name] = channels
                channels = None
    inputs = {n: s[0] for n, s in zip(model.spec.names, model.spec.shapes) if s}
    return {n: c for n, c in found.items() if 1 < c < inputs[n]}


def table(mapped: Arrangement) -> str:
    """What was matched with what, as lines of text."""
    rows = [("weight", "shape", "from", "shape there", "by", "changed")]
    for m in (*mapped.matches, *mapped.statistics):
        if m.source is None:
            rows.append((m.target, _size(m.shape), "-", "-", "-", "in no file"))
        else:
            rows.append((m.target, _size(m.shape), printable(m.source), _size(m.stored), m.by, m.change or "-"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in rows)


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "1"


def joined(parts: Sequence[Array]) -> np.ndarray:
    """One flat vector."""
    return np.concatenate([np.reshape(p, -1) for p in parts])
