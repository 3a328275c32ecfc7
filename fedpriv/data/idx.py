"""IDX: the file format of MNIST and its relatives, one big-endian array a file, compressed or not.

A file starts with two zero bytes, a type byte and the number of axes, then each axis's length as a 32-bit integer,
then the values in row-major order (Yann LeCun's description of the MNIST files).
"""

from __future__ import annotations

import gzip
import io
import lzma
import math
import re
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from fedpriv.base.errors import DataError, reason
from fedpriv.data.check import check_pair, make_dataset
from fedpriv.data.dataset import Dataset

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
#: Such as `train-images-idx3-ubyte`, `emnist-letters-test-labels-idx1-ubyte.gz`, `qmnist-train-labels-idx2-int.gz`.
_NAME = re.compile(
    r"^(?:(emnist-\w+|qmnist)-)?(train|t10k|test)-(images|labels)[-.]idx[123]-(?:ubyte|int)(\.gz|\.xz)?$", re.IGNORECASE
)


def parse_idx(data: bytes | BinaryIO, name: str, rank: int | None = None) -> np.ndarray:
    """The array in an IDX stream, gzip- or xz-compressed or plain, in the machine's byte order.

    Args:
      data: the file's bytes, or an open binary stream.
      name: what to name in errors.
      rank: expected number of axes (then the values must be unsigned bytes too: 3 is the images' magic number 2051,
        1 the labels' 2049), or None for any array.

    Raises:
      DataError: wrong magic number, truncated, too long, or not decompressible.
    """
    stream = io.BytesIO(data) if isinstance(data, bytes) else data
    try:
        opened = _decompressed(stream)
        head = opened.read(4)
        if len(head) < 4:
            raise DataError(f"{name}: truncated: expected a 4-byte magic number, found {len(head)} bytes")
        dtype, axes = _parse_magic(head, name, rank)
        lengths = opened.read(4 * axes)
        if len(lengths) < 4 * axes:
            raise DataError(
                f"{name}: truncated: expected {axes} axis lengths, found {len(lengths)} of {4 * axes} bytes"
            )
        shape = struct.unpack(f">{axes}I", lengths)
        expected = math.prod(shape) * dtype.itemsize
        body = _read(opened, expected + 1)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as e:
        raise DataError(
            f"{name}: the compressed stream is damaged or truncated ({reason(e)}); get the file again"
        ) from e
    if len(body) < expected:
        raise DataError(
            f"{name}: truncated: its header says {' x '.join(map(str, shape))} values, {expected} bytes, "
            f"but {len(body)} follow; get the file again"
        )
    if len(body) > expected:
        raise DataError(f"{name}: data follow the {expected} bytes that its header announces; expected the file to end")
    return np.frombuffer(body, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _read(stream: BinaryIO, size: int) -> bytes:
    # In pieces, because a damaged header may announce more than memory holds.
    pieces: list[bytes] = []
    while size > 0 and (piece := stream.read(min(size, 1 << 26))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _decompressed(stream: BinaryIO) -> BinaryIO:
    start = stream.read(6)
    stream.seek(-len(start), io.SEEK_CUR)
    if start[:2] == b"\x1f\x8b":
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    if start == b"\xfd7zXZ\x00":
        return cast(BinaryIO, lzma.LZMAFile(stream))
    return stream


def _parse_magic(head: bytes, name: str, rank: int | None) -> tuple[np.dtype, int]:
    magic = int.from_bytes(head, "big")
    if head[:2] != b"\0\0" or head[2] not in _TYPES or not 1 <= head[3] <= 8:
        expected = f"{0x0800 + rank}" if rank else "two zero bytes, a type and a number of axes"
        raise DataError(f"{name}: wrong magic number {magic} (0x{magic:08x}); expected {expected}: this is no IDX file")
    if rank is not None and magic != 0x0800 + rank:
        hint = {2049: ": this is a labels file", 2051: ": this is an images file"}.get(magic, "")
        raise DataError(
            f"{name}: wrong magic number {magic}{hint}; expected {0x0800 + rank} (unsigned bytes, {rank} axes)"
        )
    return np.dtype(_TYPES[head[2]]), head[3]


def read_idx(path: str | Path, rank: int | None = None) -> np.ndarray:
    """The array in the IDX file at `path` (see `parse_idx`).

    Raises:
      DataError: missing, unreadable or malformed; names the file.
    """
    try:
        with open(path, "rb") as f:
            return parse_idx(f, str(path), rank)
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror or e}); expected an IDX file") from e


def write_idx(path: str | Path, array: np.ndarray) -> None:
    """Writes `array` as an IDX file; a name ending in .gz or .xz compresses it, the same bytes every time.

    Raises:
      DataError: a dtype or rank that IDX cannot hold.
    """
    kinds = {np.dtype(t).newbyteorder("="): code for code, t in _TYPES.items()}
    if array.dtype not in kinds or not 1 <= array.ndim <= 8:
        raise DataError(
            f"{path}: IDX cannot hold {array.ndim} axes of {array.dtype}; expected 1 to 8 axes of one of "
            f"{', '.join(str(k) for k in kinds)}"
        )
    code = kinds[array.dtype]
    data = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    data += np.ascontiguousarray(array, _TYPES[code]).tobytes()
    if str(path).endswith(".gz"):
        data = gzip.compress(data, mtime=0)
    elif str(path).endswith(".xz"):
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "pb": 0}]
        data = lzma.compress(data, check=lzma.CHECK_CRC64, filters=filters)
    Path(path).write_bytes(data)


def idx_files(folder: Path) -> dict[tuple[str, str], Path]:
    """IDX files in `folder` by (`train` or `test`, `images` or `labels`); a plain one wins over a compressed one.

    Raises:
      DataError: it holds several sets, as EMNIST's archive does.
    """
    found: dict[tuple[str, str], Path] = {}
    sets: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda p: (len(p.name), p.name)):
        match = _NAME.match(path.name)
        if match and path.is_file():
            sets.setdefault((match[1] or "").lower(), path)
            split = "train" if match[2].lower() == "train" else "test"
            found.setdefault((split, match[3].lower()), path)
    if len(sets) > 1:
        raise DataError(
            f"{folder} holds several sets ({', '.join(name or 'one without a name' for name in sorted(sets))}); put "
            "the files of one into a folder of its own and give that"
        )
    return found


def _prefix(files: dict[tuple[str, str], Path]) -> str:
    """`qmnist`, `emnist-letters` and so on, or ""."""
    match = _NAME.match(next(iter(files.values())).name)
    return (match[1] or "").lower() if match else ""


def read_idx_folder(
    folder: str | Path, name: str, num_classes: int | None = None, class_names: tuple[str, ...] = ()
) -> tuple[Dataset, Dataset | None]:
    """Training and test set from a folder of IDX files under their usual names, such as `train-images-idx3-ubyte.gz`.

    EMNIST's files (`emnist-letters-train-images-idx3-ubyte.gz`; Cohen et al. 2017, arXiv 1702.05373) hold their images
    on their side, and are turned; of QMNIST's labels (Yadav, Bottou 2019, arXiv 1905.10498), eight numbers an image,
    the first is the class.

    Args:
      folder: holds `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and, for a test set, `t10k-images-idx3-ubyte`,
        `t10k-labels-idx1-ubyte`; each plain, .gz or .xz.
      name: the datasets' name.
      num_classes: number of classes, or None for one more than the largest label.
      class_names: one a class, or empty.

    Returns:
      Training set and test set (None without t10k files); uint8 `[n, height, width, 1]`.

    Raises:
      DataError: a file that is missing, truncated or malformed, or whose labels are out of range.
    """
    folder = Path(folder)
    files = idx_files(folder)
    arrays: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        wanted = {"images": f"{prefix}-images-idx3-ubyte", "labels": f"{prefix}-labels-idx1-ubyte"}
        missing = [file for part, file in wanted.items() if (split, part) not in files]
        if len(missing) == 2 and split == "test":
            continue
        if missing:
            raise DataError(f"{folder}: {missing[0]} (or .gz) is missing; found {_names(files)}")
        arrays[split] = _pair(files[split, "images"], files[split, "labels"], _prefix(files))
    if num_classes is None:
        num_classes = max(int(y.max(initial=0)) for _, y in arrays.values()) + 1
    sets = {
        split: make_dataset(
            name,
            x,
            y,
            file=str(files[split, "images"]),
            labels_file=str(files[split, "labels"]),
            num_classes=num_classes,
            class_names=class_names,
            source="IDX files",
        )
        for split, (x, y) in arrays.items()
    }
    check_pair(sets["train"], sets.get("test"), str(folder))
    return sets["train"], sets.get("test")


def _pair(images: Path, labels: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Images `[n, h, w]` and classes `[n]`, as the set of that name keeps them."""
    x = read_idx(images, 3)
    if prefix.startswith("emnist"):
        x = np.ascontiguousarray(x.transpose(0, 2, 1))
    if prefix != "qmnist":
        return x, read_idx(labels, 1)
    y = read_idx(labels)
    if y.ndim == 2 and y.shape[1] >= 1:
        y = y[:, 0]
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise DataError(f"{labels}: {y.ndim} axes of {y.dtype}; expected QMNIST's labels, whole numbers [n, 8] or [n]")
    return x, y


def _names(files: dict[tuple[str, str], Path]) -> str:
    return ", ".join(sorted(p.name for p in files.values())) or "no IDX file"
