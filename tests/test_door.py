"""`import fedpriv` is a door: it names what a study needs, and imports it when it is asked for."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import fedpriv
from fedpriv.base.errors import UnknownNameError
from fedpriv.defense.stations import Defense
from fedpriv.threat.attack import Attack


def test_importing_it_imports_nothing_else():
    code = """
import sys
before = set(sys.modules)
import fedpriv
ours = {m for m in sys.modules if m.partition('.')[0] == 'fedpriv'}
assert ours == {'fedpriv'}, ours
heavy = {'numpy', 'pydantic', 'tensorflow', 'pandas', 'matplotlib', 'scipy', 'typer'} & (set(sys.modules) - before)
assert not heavy, heavy
assert 'Federation' in dir(fedpriv)
fedpriv.Adversary, fedpriv.Federation, fedpriv.run_trial
assert 'tensorflow' not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", fedpriv.__all__)
def test_every_name_leads_to_the_thing_itself(name):
    thing = getattr(fedpriv, name)
    assert name in dir(fedpriv)
    if name in fedpriv._DOOR:
        module, _, own = fedpriv._DOOR[name].partition(":")
        assert thing is getattr(importlib.import_module(module), own or name)
        assert thing.__module__.startswith("fedpriv.")


def test_no_name_is_also_a_subpackages():
    """Importing `fedpriv.defense.stations` sets the attribute `defense` of the package to the subpackage."""
    subpackages = {m.name for m in pkgutil.iter_modules(fedpriv.__path__)}
    assert "defense" in subpackages
    assert not subpackages & set(fedpriv.__all__)


def test_type_checkers_are_told_the_same():
    import ast
    from pathlib import Path

    tree = ast.parse(Path(fedpriv.__file__).read_text())
    (block,) = [n for n in tree.body if isinstance(n, ast.If)]
    told = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            told[alias.asname or alias.name] = f"{node.module}:{alias.name}" if alias.asname else node.module
    assert told == fedpriv._DOOR
    assert {*told, "make_attack", "make_defense", "__version__"} == set(fedpriv.__all__)


def test_plug_ins_by_name():
    attack = fedpriv.make_attack("dlg(restarts=2)", path=True)
    assert isinstance(attack, Attack)
    assert (attack.name, attack.restarts, attack.path) == ("dlg", 2, True)
    defense = fedpriv.make_defense("clip", norm=0.5)
    assert isinstance(defense, Defense)
    assert defense.config()["norm"] == 0.5
    with pytest.raises(UnknownNameError, match="Did you mean 'dlg'"):
        fedpriv.make_attack("dlgg")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Federatoin'"):
        fedpriv.Federatoin
    with pytest.raises(ImportError):
        exec("from fedpriv import Federatoin")
