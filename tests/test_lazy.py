import subprocess
import sys

import pytest

from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import default_threads, tf


def test_threads_follow_the_environment(monkeypatch):
    monkeypatch.setenv("FEDPRIV_INTRA_OP_THREADS", "2")
    monkeypatch.setenv("FEDPRIV_INTER_OP_THREADS", "5")
    assert default_threads() == (2, 5)
    monkeypatch.delenv("FEDPRIV_INTRA_OP_THREADS")
    assert default_threads() == (1, 5)
    for wrong in ("many", "0", "-1", ""):
        monkeypatch.setenv("FEDPRIV_INTER_OP_THREADS", wrong)
        with pytest.raises(ParameterError, match=f"FEDPRIV_INTER_OP_THREADS='{wrong}'"):
            default_threads()


def test_tensorflow_runs_one_thread_an_operation():
    assert tf.config.threading.get_intra_op_parallelism_threads() == default_threads()[0]


@pytest.mark.slow
def test_tff_comes_silently_too():
    code = "from fedpriv.base.lazy import tff; tff.learning"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
