import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from fedpriv.cli import main


@pytest.fixture(scope="session")
def npz(tmp_path_factory, toy):
    """The toy data as a file: what the command line trains on."""
    path = tmp_path_factory.mktemp("data") / "toy.npz"
    np.savez(path, x=toy.x, y=toy.y)
    return str(path)


@pytest.fixture
def run(capsys):
    """`run(*arguments)` in this process: (exit code, stdout, stderr)."""

    def call(*arguments):
        with pytest.raises(SystemExit) as exit_info:
            main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return exit_info.value.code or 0, captured.out, captured.err

    return call


def rejected_constant(text):
    raise ValueError(f"{text} is not JSON")


@pytest.fixture
def strict():
    """One strict JSON value a line."""
    return lambda text: [json.loads(line, parse_constant=rejected_constant) for line in text.splitlines()]


@pytest.fixture
def start():
    """`start(*arguments)`: the command in a process of its own."""
    made = []

    def call(*arguments, **options):
        command = [sys.executable, "-m", "fedpriv", *map(str, arguments)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
        # Whatever started the tests may have had Ctrl-C ignored, as a shell does for jobs in the background.
        pipes["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
        made.append(subprocess.Popen(command, **{**pipes, **options}))
        return made[-1]

    yield call
    for process in made:
        process.kill()
        process.wait()
