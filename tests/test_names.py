"""Import packages have names of our own, so that a user's folders do not shadow them."""

import os
import subprocess
import sys


def test_a_users_own_attacks_and_experiments_folders_shadow_nothing(tmp_path):
    for package in ("attacks", "defenses", "experiments"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit(1)\n")
    done = subprocess.run(
        [sys.executable, "-m", "fedpriv", "list", "attacks"],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "dlg" in done.stdout
    assert "unusable" not in done.stdout
