"""Who may import whom, and that nothing imports TensorFlow before it is needed."""

import ast
import importlib.util
import pkgutil
import subprocess
import sys
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "fedpriv": ROOT / "fedpriv",
    "fedpriv_attacks": ROOT / "attacks/fedpriv_attacks",
    "fedpriv_defenses": ROOT / "defenses/fedpriv_defenses",
    "fedpriv_experiments": ROOT / "experiments/fedpriv_experiments",
}
FORBIDDEN = {
    "fedpriv": {"fedpriv_attacks", "fedpriv_defenses", "fedpriv_experiments"},
    "fedpriv_attacks": {"fedpriv_defenses", "fedpriv_experiments"},
    "fedpriv_defenses": {"fedpriv_attacks", "fedpriv_experiments"},
}


def imported(source: str) -> set[str]:
    """Top-level packages that a module imports, at any place in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            found |= {
                a.value.split(".")[0] for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)
            }
    return found


def test_the_walk_sees_every_way_to_import():
    source = "def f():\n  import a.b as c, d\n  from e.f import g\nimportlib.import_module('h.i')\nfrom . import j\n"
    assert imported(source) == {"a", "d", "e", "h"}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_one_way(package):
    files = sorted(PACKAGES[package].rglob("*.py"))
    assert files
    wrong = {str(f.relative_to(ROOT)): bad for f in files if (bad := imported(f.read_text()) & FORBIDDEN[package])}
    assert not wrong


#: The wings of fedpriv from the ground up; each may import those before it.
WINGS = (
    *(
        "base",
        "models",
        "procedure",
        "topology",
        "data",
        "defense",
        "account",
        "federation",
        "engine",
        "threat",
        "metrics",
    ),
    *("capture", "rounds", "figures", "report", "experiment", "testing", "cli"),
)


def graph():
    """Every import of every module, those inside functions and under TYPE_CHECKING included."""
    files = {}
    for package, folder in PACKAGES.items():
        for file in folder.rglob("*.py"):
            name = ".".join((package, *file.relative_to(folder).with_suffix("").parts))
            files[name.removesuffix(".__init__")] = file
    found = nx.DiGraph()
    for name, file in files.items():
        for node in ast.walk(ast.parse(file.read_text())):
            wanted = []
            if isinstance(node, ast.Import):
                wanted = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                wanted = [f"{node.module}.{alias.name}" for alias in node.names]
                wanted = [w if w in files else node.module for w in wanted]
            found.add_edges_from((name, w) for w in wanted if w in files and w != name)
    return found


@pytest.mark.slow
def test_no_circle_and_no_arrow_back_up():
    found = graph()
    assert [sorted(c) for c in nx.strongly_connected_components(found) if len(c) > 1] == []

    def wing(module):
        top, _, rest = module.partition(".")
        return rest.partition(".")[0] if top == "fedpriv" and rest else top

    built = {wing(m) for m in found if m.startswith("fedpriv.")} - {"__main__"}
    assert built <= set(WINGS)
    up = [
        (a, b)
        for a, b in found.edges
        if wing(a) in WINGS and wing(b) in WINGS and WINGS.index(wing(b)) > WINGS.index(wing(a))
    ]
    assert up == []


def modules():
    for package in PACKAGES:
        path = importlib.util.find_spec(package).submodule_search_locations
        yield package
        yield from (m.name for m in pkgutil.walk_packages(path, f"{package}.") if not m.name.endswith("__main__"))


@pytest.mark.slow
def test_importing_everything_imports_no_tensorflow():
    names = sorted(modules())
    assert len(names) > 50
    code = f"""
import importlib, sys
for name in {names!r}:
    importlib.import_module(name)
    heavy = {{'tensorflow', 'tensorflow_federated', 'tensorflow_privacy', 'keras', 'jax'}} & set(sys.modules)
    assert not heavy, (name, heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
