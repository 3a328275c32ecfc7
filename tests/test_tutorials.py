"""The tutorials run and come out as they say; their package of plug-ins installs and is found by name."""

from __future__ import annotations

import ast
import csv
import io
import math
import os
import re
import shutil
import subprocess
import sys
import tokenize
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

FOLDER = Path(__file__).parents[1] / "docs" / "tutorials"
SCRIPTS = sorted(FOLDER.glob("*.py"))
TUTORIALS = [p for p in SCRIPTS if "# %%" in p.read_text()]
SIZE = 13426  # weights of the LeNet on 28 x 28 grey images


def run(*command: object, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tutorial(name: str, out: Path) -> str:
    return run(FOLDER / f"{name}.py", cwd=out, FEDPRIV_TUTORIAL_OUT=str(out))


def cells(text: str) -> list[tuple[str, str]]:
    """(what follows `# %%`, the cell's text), without what stands before the first."""
    parts = re.split(r"^# %%(.*)\n", text, flags=re.M)[1:]
    return list(zip(map(str.strip, parts[::2]), parts[1::2], strict=True))


def code_lines(text: str) -> int:
    """Lines with something on them besides comments and docstrings."""
    lines: set[int] = set()
    silent = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in silent:
            lines.update(range(token.start[0], token.end[0] + 1))
    first = ast.parse(text).body[0]
    assert isinstance(first, ast.Expr)  # the docstring
    return len(lines - set(range(first.lineno, (first.end_lineno or 0) + 1)))


def decibels(line: str) -> float:
    found = re.search(r"([\d.]+) dB", line)
    assert found, line
    return float(found.group(1))


def drawn(path: Path) -> None:
    """The figure is there, and is no blank page."""
    assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    pixels = np.asarray(Image.open(path.with_suffix(".png")).convert("L"))
    assert min(pixels.shape) > 100
    assert pixels.std() > 20


def test_the_three_tutorials_are_listed() -> None:
    names = {p.name for p in TUTORIALS}
    assert names == {"first_attack.py", "own_attack_and_defense.py", "own_model_and_data.py"}
    readme = (FOLDER / "README.md").read_text()
    assert all(f"uv run python docs/tutorials/{name}" in readme for name in names)
    for target in re.findall(r"\]\(([^)]+)\)", readme):
        assert (FOLDER / target).exists(), target


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_every_cell_is_prose_or_python(path: Path) -> None:
    made = cells(path.read_text())
    assert {kind for kind, _ in made} == {"", "[markdown]"}
    for kind, text in made:
        if kind:
            assert all(line.startswith("#") for line in text.strip().splitlines()), text
        else:
            assert ast.parse(text).body, "a code cell without code"


def test_the_first_attack_has_twenty_lines_of_code() -> None:
    assert 10 < code_lines((FOLDER / "first_attack.py").read_text()) <= 20


def test_lines_of_code_are_counted() -> None:
    assert code_lines('"""Doc.\n\nMore."""\n\n# %%\na = [\n    1,\n]  # why\n\n# end\nb = 2\n') == 4


@pytest.mark.slow
def test_first_attack(tmp_path: Path) -> None:
    said = tutorial("first_attack", tmp_path)
    assert decibels(said) > 30
    assert "Its labels: None" in said
    drawn(tmp_path / "first_attack")
    assert {p.name for p in tmp_path.iterdir()} == {"first_attack.png", "first_attack.pdf"}


@pytest.mark.slow
def test_nothing_is_left_without_a_folder(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "FEDPRIV_TUTORIAL_OUT"}
    (tmp_path / "tmp").mkdir()
    environment["TMPDIR"] = str(tmp_path / "tmp")
    done = subprocess.run(
        [sys.executable, FOLDER / "first_attack.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    written = done.stdout.strip().splitlines()[-1]
    assert written.startswith(str(tmp_path / "tmp"))
    assert not Path(written).exists()
    assert [p.name for p in tmp_path.iterdir()] == ["tmp"]


@pytest.mark.slow
def test_own_attack_and_defense(tmp_path: Path) -> None:
    said = tutorial("own_attack_and_defense", tmp_path)
    assert "class TopK(Defense)" in said
    assert "class Match(Attack)" in said
    kept = round(0.3 * SIZE)
    assert f"top_k: {kept} of {SIZE} coordinates are not zero" in said
    assert f"top_k keeps {kept}\n" in said
    assert decibels(said[said.index("match without a defense") :]) > 30
    assert "attack 'match' needs the examples' labels, which this view does not give" in said
    unknown = decibels(said[said.index("dlg, top_k not known") :])
    known = decibels(said[said.index("dlg, top_k known") :])
    assert unknown + 3 < known < 30  # knowing the defense helps, and it still costs the attacker something
    drawn(tmp_path / "own_attack_and_defense")
    assert "6 cells; 6 attacks to run" in said
    with open(tmp_path / "own_grid" / "arms.csv", newline="") as lines:
        arms = list(csv.DictReader(lines))
    assert len(arms) == 6
    assert all(arm["images"] == "1" and math.isfinite(float(arm["psnr_mean"])) for arm in arms)
    assert {arm["attack"] for arm in arms if float(arm["psnr_mean"]) > 30} == {"match", "DLG"}
    assert {arm["defense"] for arm in arms if float(arm["psnr_mean"]) > 30} == {"none"}
    assert (tmp_path / "own_grid" / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_own_model_and_data(tmp_path: Path) -> None:
    said = tutorial("own_model_and_data", tmp_path)
    assert "800 images of shape (16, 16, 1) in 4 classes, and 200 for testing" in said
    assert "The same images: True" in said
    assert "The same initial weights: True" in said
    assert "60 clients with 1 to 14 images" in said
    assert "dropout: model 'mine' draws random numbers in training ('alpha_dropout' (AlphaDropout))" in said
    assert "remove those layers, or pass allow_stateful_random=True" in said
    assert "shape: model 'net' takes examples of shape (16, 16, 1), but the data has (28, 28, 1)" in said
    assert "classes: model 'net' has 4 outputs, but the data has 10 classes" in said
    assert "batch normalization uses frozen running statistics" in said
    rounds = re.findall(r"round (\d+): accuracy ([\d.]+), epsilon ([\d.]+) at", said)
    assert [int(r) for r, _, _ in rounds] == [4, 8, 12]
    epsilons = [float(e) for _, _, e in rounds]
    assert 0 < epsilons[0] < epsilons[1] < epsilons[2] < 100
    assert float(rounds[-1][1]) > 0.4  # guessing gives 0.25
    assert "released models: epsilon" in said
    assert "server: no defense claims anything against 'server'" in said
    assert decibels(said[said.index("PSNR") :]) > 30
    drawn(tmp_path / "own_model_and_data")
    assert "2 rounds: test accuracy" in said


def test_data_of_ones_own_has_every_class() -> None:
    module: dict = {}
    exec((FOLDER / "my_study.py").read_text(), module)
    train, test = module["shapes"](count=100)
    assert (len(train), len(test), train.num_classes) == (100, 200, 4)
    assert set(train.y) == set(test.y) == {0, 1, 2, 3}
    assert train.x.dtype == np.uint8
    assert len(np.unique(train.x.reshape(100, -1), axis=0)) == 100


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plug-in package's wheel, built by the backend it names and unpacked, as pip would for a pure one."""
    base = tmp_path_factory.mktemp("plugins")
    source, wheels, target = base / "source", base / "wheels", base / "site"
    shutil.copytree(FOLDER / "my_plugins", source, ignore=shutil.ignore_patterns("__pycache__"))
    wheels.mkdir()
    run("-c", f"from setuptools import build_meta; build_meta.build_wheel({str(wheels)!r})", cwd=source)
    (wheel,) = wheels.glob("my_plugins-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    assert (target / "my_plugins.py").exists()
    assert list(target.glob("my_plugins-*.dist-info/entry_points.txt"))
    return target


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [
        ("attacks", "match", "Matches the update by L-BFGS"),
        ("defenses", "keep_largest", "Sends only the largest coordinates"),
    ],
)
def test_the_installed_names_are_listed(installed: Path, tmp_path: Path, kind: str, name: str, says: str) -> None:
    listed = run("-m", "fedpriv", "list", kind, cwd=tmp_path, PYTHONPATH=str(installed))
    assert re.search(rf"^\W*{name}\b.*{says}", listed, re.M), listed
    assert not re.search(rf"^\W*{name}\b", run("-m", "fedpriv", "list", kind, cwd=tmp_path), re.M)


@pytest.mark.slow
def test_the_installed_names_run(installed: Path, tmp_path: Path) -> None:
    content = {
        "name": "by_name",
        "setting": {"attack": "match(steps=5)", "exposure": {"images": 1, "knows": "labels"}},
        "grid": {"defense": ["none", "keep_largest(fraction=0.1)"]},
    }
    (tmp_path / "by_name.yaml").write_text(yaml.safe_dump(content))
    said = run("-m", "fedpriv", "run", "by_name.yaml", "--out", "found", cwd=tmp_path, PYTHONPATH=str(installed))
    assert "[2/2]" in said
    with open(tmp_path / "found" / "arms.csv", newline="") as lines:
        assert [arm["defense"] for arm in csv.DictReader(lines)] == ["none", "keep_largest(fraction=0.1)"]
