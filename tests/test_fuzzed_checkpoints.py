"""Whatever lies in a checkpoint's place: it resumes, or is refused in one line."""

import io
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedpriv.base.errors import CheckpointError
from fedpriv.rounds.checkpoint import Checkpoint
from tests.data.fuzzing import archive, edited, edited_array, loads_or_tells

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
VALUES = [None, -1, 0, 1, 2, 10**30, 1.5, "x", "3", [], {}, [1], [[1, 2]], {"a": 1}, [[0, "x"]], True]


@pytest.fixture(scope="session")
def whole(tmp_path_factory, toy, parts, logistic_model):
    """A checkpoint's bytes and the federation that it is of."""
    from fedpriv.federation.federation import Federation
    from fedpriv.procedure.procedure import make_procedure

    procedure = make_procedure(server={"kind": "momentum"}, batch_size=4)
    federation = Federation(model=logistic_model, train=toy, partition=parts, procedure=procedure, test=toy, seed=0)
    path = tmp_path_factory.mktemp("saved") / "run.ckpt"
    federation.run(2, checkpoint=path)
    return path.read_bytes(), federation


def changed_header(data, header):
    """The header with one value of another kind, at any depth of two."""
    place = header
    if data.draw(st.booleans()):
        inner = [v for v in header.values() if isinstance(v, dict) and v]
        inner += [v for v in header["records"] if isinstance(v, dict)]
        place = data.draw(st.sampled_from(inner))
    key = data.draw(st.sampled_from(sorted(place)))
    if data.draw(st.booleans()):
        place[key] = data.draw(st.sampled_from(VALUES))
    else:
        del place[key]


@same_folder
@given(st.data())
def test_any_content_of_a_checkpoint(tmp_path, whole, data):
    content, federation = whole
    with np.load(io.BytesIO(content)) as z:
        arrays = {k: z[k] for k in z.files}
    header = json.loads(arrays.pop("header").tobytes())
    how = data.draw(st.sampled_from(["header", "array", "drop", "damage"]))
    if how == "header":
        changed_header(data, header)
    elif how != "damage":
        key = data.draw(st.sampled_from(sorted(arrays)))
        array = arrays.pop(key)
        if how == "array":
            arrays[key] = data.draw(edited_array(array))
    if how != "damage":
        content = archive({**arrays, "header": np.frombuffer(json.dumps(header).encode(), np.uint8)})
    else:
        content = data.draw(edited(content))
    path = tmp_path / "run.ckpt"
    path.write_bytes(content)
    resumed = loads_or_tells(lambda: federation.run(2, checkpoint=path))
    if resumed is not None:
        assert len(resumed.records) == 2
        assert resumed.weights.shape == (federation.model.spec.size,)
        assert np.isfinite(resumed.weights).all()


def test_a_file_that_is_something_else_is_not_to_be_deleted(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.zeros(3), y=np.zeros(3))
    with pytest.raises(CheckpointError, match="no checkpoint of fedpriv; give another file"):
        Checkpoint.load(tmp_path / "data.npz")
