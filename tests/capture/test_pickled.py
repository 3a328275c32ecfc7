import contextlib
import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fedpriv.base.errors import DataError
from fedpriv.capture.files import stored
from fedpriv.capture.pickled import read_pickled


def archive(path, program, members=None, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as made:
        made.writestr("archive/data.pkl", program)
        for name, raw in (members or {}).items():
            made.writestr(f"archive/data/{name}", raw)
    return str(path)


def tensor_program(shape, stride, numbers, offset=0, kind=b"FloatStorage"):
    """What torch.save writes for {'w': tensor}, by hand."""
    ints = b"".join(b"K" + bytes([n]) for n in shape)
    strides = b"".join(b"K" + bytes([n]) for n in stride)
    return (
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\n"
        + kind
        + b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK"
        + bytes([numbers])
        + b"tQK"
        + bytes([offset])
        + b"("
        + ints
        + b"t("
        + strides
        + b"t\x89ccollections\nOrderedDict\n)RtRs."
    )


def test_a_tensor_is_read_as_its_strides_say(tmp_path):
    raw = np.arange(6, dtype="<f4")
    path = archive(tmp_path / "w.pt", tensor_program((3, 2), (1, 3), 6), {"0": raw.tobytes()})
    np.testing.assert_array_equal(read_pickled(path)["w"], raw.reshape(2, 3).T)
    half = (raw.view(np.uint32) >> 16).astype("<u2")
    path = archive(tmp_path / "h.pt", tensor_program((6,), (1,), 6, kind=b"BFloat16Storage"), {"0": half.tobytes()})
    np.testing.assert_array_equal(read_pickled(path)["w"], raw)


@pytest.mark.parametrize(
    ("shape", "stride", "numbers", "offset"),
    [((3, 3), (3, 1), 6, 0), ((2, 2), (200, 1), 6, 0), ((6,), (1,), 6, 1), ((200,), (0,), 6, 0), ((6,), (1,), 7, 0)],
)
def test_a_tensor_that_reaches_beyond_its_storage_is_refused(tmp_path, shape, stride, numbers, offset):
    path = archive(tmp_path / "w.pt", tensor_program(shape, stride, numbers, offset), {"0": bytes(24)})
    with pytest.raises(DataError, match=r"w\.pt"):
        read_pickled(path)


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("function", [os.system, eval, __import__, getattr])
def test_nothing_that_a_file_names_is_called(tmp_path, protocol, function):
    target = tmp_path / "touched"
    for value in (Evil(function, f"touch {target}"), {"w": Evil(function, f"touch {target}")}):
        path = archive(tmp_path / "evil.pt", pickle.dumps(value, protocol))
        with pytest.raises(DataError, match=r"not done|which no state dict needs|cannot be read"):
            read_pickled(path)
    assert not target.exists()


def test_numpy_arrays_inside_a_pickle_are_not_made(tmp_path):
    with pytest.raises(DataError, match="numpy"):
        read_pickled(archive(tmp_path / "n.pt", pickle.dumps({"w": np.zeros(3)}, 2)))


def test_damaged_files_are_refused_by_name(tmp_path, path):
    whole = Path(path("torch_cnn_before.pt")).read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 30):
        cut = tmp_path / "cut.pt"
        cut.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"cut\.pt"):
            stored(cut, "before")
    rng = np.random.default_rng(0)
    for _ in range(150):
        changed = bytearray(whole)
        for at in rng.integers(0, len(whole), 4):
            changed[at] = rng.integers(256)
        cut.write_bytes(changed)
        with contextlib.suppress(DataError):
            stored(cut, "before")
    old = io.BytesIO()
    pickle.dump({"w": 1}, old)
    cut.write_bytes(old.getvalue())
    with pytest.raises(DataError, match=r"before 1\.6"):
        read_pickled(str(cut))
    with pytest.raises(DataError, match="compressed"):
        read_pickled(archive(cut, tensor_program((6,), (1,), 6), {"0": bytes(24)}, zipfile.ZIP_DEFLATED))
