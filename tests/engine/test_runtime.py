"""The runtime's log has no name in the file system, so that nothing is left of it however this process ends."""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

CODE = """
import os, signal, sys
from fedpriv.engine.tff.runtime import Runtime
runtime = Runtime()
assert "listening on" in runtime.last_words()
print(runtime.process.pid, flush=True)
signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGHUP, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_nothing_is_left_behind(number, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", CODE], stdout=subprocess.PIPE, text=True, env={**_environment(), "TMPDIR": str(tmp_path)}
    )
    child = int(process.stdout.readline())
    assert Path(f"/proc/{child}").exists()
    process.send_signal(number)
    process.wait(30)
    assert process.returncode == (128 + number if number == signal.SIGHUP else -number)
    assert list(tmp_path.glob("fedpriv-tff-*")) == []
    assert not list(Path(tempfile.gettempdir()).glob(f"fedpriv-tff-{child}*"))


def _environment():
    import os

    return {k: v for k, v in os.environ.items() if not k.startswith("TF_")}


FORKED = """
import os, sys
import numpy as np
from fedpriv import Federation, Procedure, load_model, make_partition
from fedpriv.data.dataset import Dataset
rng = np.random.default_rng(0)
data = Dataset("toy", rng.random((12, 4, 4, 1)).astype(np.float32), np.arange(12) % 3, 3)
model = load_model("logistic", data.input_shape, 3)
procedure = Procedure.fedsgd(sampling={"kind": "fixed", "size": 2})
federation = Federation(model, data, make_partition("iid", data, clients=4), procedure, engine="tff", seed=0)
federation.run(1)
child = os.fork()
if not child:
    try:
        federation.run(1)
    except Exception as e:
        print(type(e).__name__, e, flush=True)
    os._exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
def test_a_forked_child_is_told_that_the_engine_is_not_its_own():
    done = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=120, env=_environment(), check=False
    )
    assert "EngineError the TFF engine was started by process" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "3"
    assert "Exception ignored" not in done.stderr


@pytest.mark.slow
def test_tffs_own_context_goes_quietly():
    """A program that ends without TFF having run anything: its destructor would complain."""
    code = "from fedpriv.base.lazy import tff; tff.framework"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=_environment())
    assert (done.returncode, done.stderr) == (0, "")
