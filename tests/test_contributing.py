"""CONTRIBUTING's attack is whole: it runs, and passes the kit's check."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The Python blocks as one module, as a reader would save them; importing it runs the check in it."""
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    path = tmp_path_factory.mktemp("contributing") / "my_attack.py"
    path.write_text("\n".join(blocks))
    spec = importlib.util.spec_from_file_location("my_attack", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_attack_passes_its_check(written):
    from fedpriv.base.plugin import described

    assert written.checked.attack == "gradient_descent"
    assert written.checked.case == "single"
    assert min(near.psnr for near in written.checked.found) > 20
    assert described(written.GradientDescent).keys() == {"steps", "rate"}


def test_it_works_through_local_steps_too(written):
    checked = written.check_attack(written.GradientDescent(steps=400), "fedavg")
    assert min(near.psnr for near in checked.found) > 20
