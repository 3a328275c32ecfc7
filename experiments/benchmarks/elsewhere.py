"""Elsewhere: one benchmark's workload on the packages of another checkout, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: Folders of a checkout that hold packages.
SOURCES = (".", "attacks", "defenses", "experiments")


def run_elsewhere(checkout: Path, script: str, arguments: Sequence[str]) -> Any:
    """What `script`, run on that checkout's packages with `arguments`, prints as JSON on its last line.

    Raises:
      FedprivError: it failed there.
    """
    from fedpriv.base.errors import FedprivError

    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(checkout / folder) for folder in SOURCES)}
    given = [Path(script).stem, *arguments]
    code = f"import runpy, sys; sys.argv = {given!r}; runpy.run_path({script!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise FedprivError(f"the code in '{checkout}' cannot run this workload: {last}")
    return json.loads(done.stdout.strip().splitlines()[-1])
