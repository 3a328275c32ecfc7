"""CONTRIBUTING's attack and defense are whole: they run, and pass the kit's checks."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()


def saved(folder, name, heading):
    """The Python blocks under a heading as one module, as a reader would save them; importing it runs its check."""
    section = TEXT[TEXT.index(heading) :].partition("\n## ")
    text = section[0] + (section[2].partition("\n## ")[0] if not section[0].strip() else "")
    path = folder / f"{name}.py"
    path.write_text("\n".join(re.findall(r"```python\n(.*?)```", text, re.S)))
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("contributing"), "my_attack", "## A new attack")


def test_the_defense_passes_its_check(tmp_path):
    checked = saved(tmp_path, "my_defense", "## A new defense").checked
    assert checked.defense == "top_k_with_memory"
    assert checked.stations == ("update",)
    assert checked.moved > 0.1
    assert checked.replayed < 1e-5
    assert checked.epsilon is None


@pytest.mark.slow
def test_the_attack_passes_its_check(written):
    from fedpriv.base.plugin import described

    assert written.checked.attack == "gradient_descent"
    assert written.checked.case == "single"
    assert min(near.psnr for near in written.checked.found) > 20
    assert described(written.GradientDescent).keys() == {"steps", "rate"}


@pytest.mark.slow
def test_it_works_through_local_steps_too(written):
    checked = written.check_attack(written.GradientDescent(steps=400), "fedavg")
    assert min(near.psnr for near in checked.found) > 20
