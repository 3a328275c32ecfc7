"""Tests of properties, on examples drawn anew: a search for counterexamples that gates no build."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_properties_hold_on_examples_drawn_anew():
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "hypothesis and not slow"]
    done = subprocess.run(
        [*command, "--hypothesis-profile=search", "-p", "no:cacheprovider", str(TESTS)],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout or "%]" in done.stdout, done.stdout[-500:]
