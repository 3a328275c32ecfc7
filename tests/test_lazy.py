import os
import subprocess
import sys

import pytest

from fedpriv.base import lazy
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


@pytest.mark.parametrize(
    ("vendor", "family", "chosen"),
    [("AuthenticAMD", 26, "Haswell"), ("AuthenticAMD", 25, None), ("GenuineIntel", 26, None)],
)
def test_scipys_blas_is_told_of_processors_that_it_does_not_know(monkeypatch, vendor, family, chosen):
    described = f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: 2\n"
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    lazy._name_processor(described)
    assert os.environ.get("OPENBLAS_CORETYPE") == chosen
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Zen")
    lazy._name_processor(described)
    assert os.environ["OPENBLAS_CORETYPE"] == "Zen"
