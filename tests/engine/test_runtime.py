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


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
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
