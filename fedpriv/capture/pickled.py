"""Pickled: the tensors of a PyTorch `.pt` file, without unpickling it.

A pickle is a program, and running a stranger's is running his code. What `torch.save` writes of a state dict needs few
instructions and four functions. These are interpreted here, on values of our own; nothing is imported and nothing is
called, whatever the file names.
"""

from __future__ import annotations

import math
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedpriv.base.errors import DataError, reason, shown

#: Bytes of an instruction stream; that of a large model's state dict takes some hundred kilobytes.
LONGEST = 2**26

_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_KNOWN = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    *(f"torch.{name}" for name in _STORAGES),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "INT", "LONG", "FLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"),
}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class _Named:
    """A function or class that the file names."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """Numbers in a file of the archive."""

    dtype: str
    member: str
    size: int


class _Mark:
    pass


def read_pickled(path: str) -> Any:
    """What a `.pt` file holds: dictionaries and lists of arrays and of plain values.

    Args:
      path: a zip archive as `torch.save` has written it since PyTorch 1.6.

    Raises:
      DataError: no such archive, damaged, or one that asks for anything else than tensors and plain values.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            program = next((n for n in names if n.rsplit("/", 1)[-1] == "data.pkl"), None)
            if program is None:
                raise DataError(
                    f"{path}: a zip archive without 'data.pkl', so not one of torch.save; save a state dict"
                )
            root = program[: -len("data.pkl")]
            if any(archive.getinfo(n).compress_type != zipfile.ZIP_STORED for n in names):
                raise DataError(f"{path}: a compressed archive, which torch.save does not write; save it anew")
            if archive.getinfo(program).file_size > LONGEST:
                raise DataError(f"{path}: its 'data.pkl' is longer than {LONGEST:,} bytes, so no state dict's")
            if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
                raise DataError(f"{path}: saved on a big-endian machine; save it on another, or as .safetensors")
            return _Interpreter(path, archive, root).run(archive.read(program))
    except zipfile.BadZipFile as e:
        raise DataError(
            f"{path}: not a zip archive ({reason(e)}): truncated, a plain pickle, or written by PyTorch before 1.6; "
            "save the state dict anew, or as .safetensors or .npz"
        ) from e
    except DataError:
        raise
    except (
        *(OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, EOFError, ArithmeticError),
        *(MemoryError, zlib.error, struct.error),
    ) as e:
        raise DataError(f"{path}: cannot be read: {reason(e)}; save the state dict anew") from e


class _Interpreter:
    def __init__(self, path: str, archive: zipfile.ZipFile, root: str) -> None:
        self.path, self.archive, self.root = path, archive, root
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[_Storage, np.ndarray] = {}

    def run(self, program: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(program):
            name = opcode.name
            if name == "STOP":
                (value,) = self.stack
                return value
            self._do(name, argument)
        raise DataError(f"{self.path}: its 'data.pkl' does not end; the file is truncated")

    def _do(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in ("PROTO", "FRAME"):
            return
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_Mark)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[int(argument)])
        elif name == "TUPLE":
            stack.append(tuple(self._to_mark()))
        elif name in _TUPLES:
            count = _TUPLES[name]
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("APPEND", "APPENDS"):
            items = self._to_mark() if name == "APPENDS" else [stack.pop()]
            self._top(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._to_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            self._top(dict).update(zip(items[::2], items[1::2], strict=True))
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            parts = argument.split(" ", 1) if name == "GLOBAL" else [stack.pop(-2), stack.pop()]
            stack.append(self._named(".".join(map(str, parts))))
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(self._called(stack.pop(), arguments))
        elif name == "BUILD":  # attributes, such as a state dict's version
            stack.pop()
            self._top(dict)
        else:
            raise DataError(f"{self.path}: asks for the pickle instruction {name}, which no state dict needs; {_SAVE}")

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise DataError(f"{self.path}: its 'data.pkl' fills a {type(self.stack[-1]).__name__} as a {kind.__name__}")
        return self.stack[-1]

    def _to_mark(self) -> list[Any]:
        at = max(i for i, value in enumerate(self.stack) if value is _Mark)
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def _named(self, name: str) -> _Named:
        if name not in _KNOWN:
            raise DataError(f"{self.path}: asks to call {shown(name)}, which is not done; {_SAVE}")
        return _Named(name)

    def _storage(self, identity: Any) -> _Storage:
        word, kind, key, _, size = identity
        if word != "storage" or not isinstance(kind, _Named) or not isinstance(size, int):
            raise DataError(f"{self.path}: refers to something that is no tensor's storage; {_SAVE}")
        return _Storage(_STORAGES[kind.name.removeprefix("torch.")], f"{self.root}data/{key}", size)

    def _called(self, function: Any, arguments: Any) -> Any:
        known = function.name if isinstance(function, _Named) else None
        if known == "collections.OrderedDict" and not arguments:
            return {}
        if known == "torch._utils._rebuild_parameter":
            return arguments[0]
        if known == "torch._utils._rebuild_tensor_v2":
            return self._tensor(*arguments[:4])
        raise DataError(f"{self.path}: calls {shown(known or type(function).__name__)}; {_SAVE}")

    def _tensor(self, storage: Any, offset: Any, shape: Any, stride: Any) -> np.ndarray:
        numbers = [offset, *shape, *stride]
        if not isinstance(storage, _Storage) or len(shape) != len(stride):
            raise DataError(f"{self.path}: a tensor without numbers; {_SAVE}")
        if not all(isinstance(n, int) and n >= 0 for n in numbers) or math.prod(shape) > max(storage.size, 1):
            raise DataError(f"{self.path}: a tensor of shape {shown(shape)} on {storage.size} numbers; {_SAVE}")
        flat = self._numbers(storage)
        last = offset + sum((n - 1) * s for n, s in zip(shape, stride))
        if math.prod(shape) and last >= len(flat):
            raise DataError(f"{self.path}: a tensor of shape {shown(shape)} reaches beyond its storage; {_SAVE}")
        if not math.prod(shape):
            return np.zeros(shape, flat.dtype)
        strides = [s * flat.itemsize for s in stride]
        return np.lib.stride_tricks.as_strided(flat[offset:], shape, strides).copy()

    def _numbers(self, storage: _Storage) -> np.ndarray:
        if storage not in self.storages:
            raw = self.archive.read(storage.member)
            width = 2 if storage.dtype == "bfloat16" else np.dtype(storage.dtype).itemsize
            if len(raw) != storage.size * width:
                raise DataError(
                    f"{self.path}: '{storage.member}' has {len(raw)} bytes for {storage.size} numbers of {width}; the "
                    "file is damaged"
                )
            self.storages[storage] = from_bytes(raw, storage.dtype)
        return self.storages[storage]


def from_bytes(raw: bytes, dtype: str) -> np.ndarray:
    """Little-endian numbers `[n]`; `bfloat16`, which NumPy lacks, as the float32 of the same values."""
    if dtype == "bfloat16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, dtype)


_SAVE = "save a state dict alone: torch.save(model.state_dict(), path), or as .safetensors"
