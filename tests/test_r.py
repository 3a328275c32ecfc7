"""R: the walk of docs/r.md runs through reticulate; what R hands over arrives, or is refused by name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
SCALARS = ("model", "rounds", "rate", "weighting", "defenses", "intercept", "seed", "engine")
PAGE, WALK = ROOT / "docs" / "r.md", ROOT / "experiments" / "r" / "walk.R"

pytestmark = pytest.mark.r


def called(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "RETICULATE_PYTHON": sys.executable, **environment}
    return subprocess.run(command, cwd=cwd, env=settings, capture_output=True, text=True, timeout=280, check=False)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with fedprivr in it."""
    if shutil.which("Rscript") is None:
        pytest.skip("R is not installed (Debian: r-base-core)")
    folder = tmp_path_factory.mktemp("library")
    for package in ("reticulate", "ggplot2"):
        found = called("Rscript", "-e", f"quit(status = !nzchar(system.file(package = '{package}')))", cwd=folder)
        if found.returncode:
            pytest.skip(f"R has no package '{package}' (Debian: r-cran-{package})")
    source = str(ROOT / "r" / "fedprivr")
    made = called("R", "CMD", "INSTALL", "--no-test-load", f"--library={folder}", source, cwd=folder)
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture(scope="module")
def walked(library: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What the walk printed, and then tests/r/edges.R; and the folder of the figures."""
    out = tmp_path_factory.mktemp("walk")
    edges = ROOT / "tests" / "r" / "edges.R"
    code = f"source({str(WALK)!r}); source({str(edges)!r})"
    done = called("Rscript", "-e", code, str(out), cwd=WALK.parent, R_LIBS=str(library))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, out


def edge(said: str, name: str) -> str:
    found = re.search(rf"^EDGE {name} (.*?) *$", said, re.M)
    assert found, said
    return found.group(1)


def test_the_page_shows_the_walk() -> None:
    walk = WALK.read_text()
    blocks = re.findall(r"```r\n(.*?)```", PAGE.read_text(), re.S)
    at = 0
    for block in blocks:
        assert block in walk[at:], block
        at = walk.index(block, at)
    shown = sum(len(block.splitlines()) for block in blocks)
    code = [line for line in walk.splitlines() if line and not line.startswith("#")]
    assert shown >= len(code) - 3  # all but where figures go


@pytest.mark.slow
def test_the_page_shows_what_is_printed(walked: tuple[str, Path]) -> None:
    shown = [line[4:].rstrip() for line in PAGE.read_text().splitlines() if re.match(r"    (# |  update|column)", line)]
    assert len(shown) >= 12
    printed = {line.rstrip() for line in walked[0].splitlines()}
    assert [line for line in shown if line not in printed] == []


def test_the_venv_of_a_checkout_is_found(library: Path, tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(sys.prefix)
    below = tmp_path / "docs"
    below.mkdir()
    code = (
        "Sys.unsetenv('RETICULATE_PYTHON'); cat(fedprivr::fp()$load_model$`__name__`, Sys.getenv('RETICULATE_PYTHON'))"
    )
    done = called("Rscript", "-e", code, cwd=below, R_LIBS=str(library))
    assert done.stdout.split() == ["load", str(tmp_path / ".venv" / "bin" / "python")], done.stderr


def test_loading_the_package_chooses_python_before_reticulate_does(library: Path, tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(sys.prefix)
    first = "Sys.unsetenv('RETICULATE_PYTHON'); library(fedprivr); cat(reticulate::import('sys')$prefix)"
    done = called("Rscript", "-e", first, cwd=tmp_path, R_LIBS=str(library))
    assert Path(done.stdout).resolve() == Path(sys.prefix).resolve(), done.stderr


def test_a_python_that_can_only_see_the_folder_is_refused(library: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    venv.create(bare, with_pip=False)
    code = "cat(tryCatch(fedprivr::fp(), fedpriv_error = conditionMessage))"
    done = called("Rscript", "-e", code, cwd=ROOT, R_LIBS=str(library), RETICULATE_PYTHON=str(bare / "bin" / "python"))
    assert "has no fedpriv: " in done.stdout, done.stderr
    assert "No package metadata was found for fedpriv" in done.stdout
    assert done.stdout.endswith("and restart R.")


def test_the_federated_mean_is_the_mean(walked: tuple[str, Path]) -> None:
    found = re.search(r"federated +in_one_place *\n *([\d.]+) +([\d.]+)", walked[0])
    assert found, walked[0]
    assert float(found[1]) == pytest.approx(float(found[2]), abs=1e-5)
    assert re.search(r'^\[1\] "[0-9a-f]{16}" "[0-9a-f]{16}"$', walked[0], re.M)  # and an aggregator holds noise


def test_a_keras_model_learns(walked: tuple[str, Path]) -> None:
    accuracies = [float(line.split()[6]) for line in walked[0].splitlines() if re.match(r"[125] +\d \s+10 +10 ", line)]
    assert len(accuracies) >= 3
    assert accuracies[-1] > 0.6  # guessing gives 0.1


def test_updates_give_images_away_and_noise_hides_them(walked: tuple[str, Path]) -> None:
    tables = re.findall(r"^  update image +psnr success\n((?:\d .*\n)+)", walked[0], re.M)
    noisy, summed, elsewhere = ([line.split() for line in table.splitlines()] for table in tables)
    assert all(float(row[3]) < 15 and row[4] == "FALSE" for row in noisy)
    assert {row[1] for row in summed} == {"1"}  # one sum of four images
    assert sum(row[4] == "TRUE" for row in summed) >= 2  # too few to hide each other
    assert [row[4] for row in elsewhere] == ["TRUE", "TRUE"]  # of Flower's client
    plain = re.search(r"# fedpriv attack first_layer, 4 views.*\n.*\n((?:\d .*\n)+)", walked[0])
    assert plain
    assert all(float(line.split()[4]) > 100 for line in plain[1].splitlines())


def test_what_it_costs_and_who_is_not_protected_is_printed(walked: tuple[str, Path]) -> None:
    said = " ".join(walked[0].replace("\n#", " ").split())
    assert "No formal privacy guarantee: no defense here makes one." in said
    assert re.search(r"Against 'released': epsilon [\d.]+ at delta 1e-05 after 15 rounds", said)
    assert "Against 'server': no guarantee" in said


@pytest.mark.parametrize("name", ["reconstructions", "accuracy", "grid"])
def test_the_figures_are_drawn(walked: tuple[str, Path], name: str) -> None:
    pixels = np.asarray(Image.open(walked[1] / f"{name}.png").convert("L"))
    assert min(pixels.shape) > 100
    assert pixels.std() > 10


def test_a_grid_runs(walked: tuple[str, Path]) -> None:
    assert "# fedpriv experiment grid.yaml: 12 x" in walked[0]
    assert (walked[1] / "grid" / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("name", "is_"),
    [
        ("shape", "36 8 6 1"),
        ("rows", "36 TRUE"),
        ("levels", "low high never"),
        ("levels255", "1"),
        ("frame", "c b a y x"),
        ("decoded", "a 2 False x; a 4 True x; b 1.5 True y; c 3 True y"),
        ("quantities", "0"),
        ("bug", "TRUE"),
        ("gossip", "1 9"),
        ("zero_rows", "[1] round     cohort"),
    ],
)
def test_arrays_factors_and_frames_come_through(walked: tuple[str, Path], name: str, is_: str) -> None:
    assert edge(walked[0], name).startswith(is_)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("na_real", "fedpriv_DataError column 'b' has 1 missing values (NA; the first in row 2)"),
        ("na_int", "fedpriv_DataError column 'b' has 1 missing values (NA; the first in row 3)"),
        ("na_logical", "fedpriv_DataError column 'b' has 1 missing values (NA; the first in row 1)"),
        ("na_text", "fedpriv_DataError column 'b' has 1 missing values (NA; the first in row 4)"),
        ("na_factor", "fedpriv_DataError column 'b' has 1 missing values (NA; the first in row 2)"),
        ("na_label", "fedpriv_DataError y has 1 missing values (NA; the first in row 3)"),
        ("na_pixel", "fedpriv_DataError x has 1 missing values (NA; the first in row 1)"),
        ("na_reading", "fedpriv_DataError readings has 1 missing values"),
        ("text_array", "fedpriv_DataError x is a matrix; give a data frame, or an array of numbers"),
        ("date", "fedpriv_DataError column 'b' is a Date; make it numbers, a factor, texts or logicals"),
        ("list", "fedpriv_DataError column 'b' is a AsIs; make it numbers"),
        ("lengths", "fedpriv_DataError x has 4 examples and y 3; give one a row"),
        ("model", "fedpriv_UnknownNameError no model is named '2nm'. Did you mean '2nn'?"),
        ("not_whole", "fedpriv_ParameterError rounds = 2.5 is no whole number from 1 to 2147483647; give one"),
        *((f"na_{name}", f"fedpriv_ParameterError {name} is NA; give a value, or leave it out") for name in SCALARS),
        ("na_share", "fedpriv_ParameterError test is NA; give a value, or leave it out"),
        ("share_1", "fedpriv_ParameterError test = 1 is no share; give a number from 0 to below 1"),
        ("share_minus", "fedpriv_ParameterError test = -1 is no share; give a number from 0 to below 1"),
        ("no_rounds", "fedpriv_ParameterError rounds = 0 is no whole number from 1 to 2147483647; give one"),
        ("intercept_0", "fedpriv_ParameterError intercept = 0 is no whole number from 1 to 1; give one"),
        ("intercept_1.5", "fedpriv_ParameterError intercept = 1.5 is no whole number from 1 to 1; give one"),
        ("intercept_5", "fedpriv_ParameterError intercept = 5 is no whole number from 1 to 1; give one"),
        ("gossip_cohort", "fedpriv_ParameterError gossip has no cohorts"),
        ("unknown", "fedpriv_ParameterError there is no argument 'foo'; there are data, model, clients"),
        ("unnamed", "fedpriv_ParameterError there is no argument ''; there are attack, on"),
        ("typed_text", "fedpriv_ParameterError rounds = 'two' is a text; give a whole number"),
        ("typed_half", "fedpriv_ParameterError rounds = 2.5 is a number; give a whole number"),
        ("typed_many", "fedpriv_ParameterError engine = ['graph', 'tff'] is several values; give a text"),
        ("typed_number", "fedpriv_ParameterError topology = 3.0 is a number; give a text or Plugin"),
        ("typed_list", "fedpriv_ParameterError engine_options = 'fast' is a text; give a named list"),
        ("typed_object", "fedpriv_ParameterError attrition = True is a logical; give Attrition"),
        ("typed_whole", "1"),
        ("model_3", "fedpriv_ParameterError model = 3 is no text; give one"),
        ("attack_na", "fedpriv_ParameterError attack is NA; give a value"),
        ("attack_null", "fedpriv_ParameterError attack = NULL is no text; give one"),
        ("attack_3", "fedpriv_ParameterError attack = 3 is no text; give one"),
        ("on_frame", "fedpriv_ParameterError on is a data.frame; give what fp_train(intercept = 1) returned"),
        ("on_text", "fedpriv_ParameterError on is a character; give what fp_train(intercept = 1) returned"),
        ("on_empty", "fedpriv_ParameterError nothing was intercepted"),
        ("no_readings", "fedpriv_DataError readings are no numbers, or not as many as client"),
        ("nothing_heard", "fedpriv_ParameterError nothing was intercepted; train with intercept = 1"),
        ("unfit", "8 attack 'first_layer' needs every coordinate of the update"),
        ("table", "fedpriv_DataError these examples are no images"),
        ("na_keys", "fedpriv_DataError keys has 1 missing values (NA; the first in row 1)"),
        ("one_row", "fedpriv_DataError x has 1 rows; give two or more"),
        ("a_list", "fedpriv_DataError x is a list; give a data frame, or an array of numbers"),
        ("no_images", "fedpriv_ParameterError nothing was found; give an fp_attack() that applies"),
        ("yaml", "fedpriv_ExperimentError"),
        ("checkout", "fedpriv_DataError "),
        ("plain_int", "fedpriv.base.errors.DataError: dataset 'arrays': y has 1 missing values (the first in row 2)"),
        ("plain_text", "fedpriv.base.errors.DataError: dataset 'arrays': y has 1 missing values (the first in row 2)"),
        ("plain_frame", "fedpriv.base.errors.DataError: table 't': column 'b' has 1 missing values"),
    ],
)
def test_what_is_wrong_is_a_condition_that_names_it(walked: tuple[str, Path], name: str, says: str) -> None:
    said = edge(walked[0], name)
    assert said.startswith(says)
    assert "Traceback" not in said


@pytest.mark.slow
def test_the_package_passes_rs_own_check(library: Path, tmp_path: Path) -> None:
    source = shutil.copytree(ROOT / "r" / "fedprivr", tmp_path / "fedprivr")
    assert called("R", "CMD", "build", source.name, cwd=tmp_path).returncode == 0
    (built,) = tmp_path.glob("fedprivr_*.tar.gz")
    done = called("R", "CMD", "check", "--no-manual", built.name, cwd=tmp_path, R_LIBS=str(library))
    assert done.returncode == 0, done.stdout
    assert re.search(r"^Status: (OK|\d NOTEs?)$", done.stdout, re.M), done.stdout


def test_the_package_stays_thin() -> None:
    lines = [line for file in (ROOT / "r" / "fedprivr" / "R").glob("*.R") for line in file.read_text().splitlines()]
    assert len([line for line in lines if line.strip() and not line.startswith("#'")]) < 300


def test_every_exported_function_has_its_page() -> None:
    package = ROOT / "r" / "fedprivr"
    exported = set(re.findall(r"^export\((\w+)\)", (package / "NAMESPACE").read_text(), re.M))
    assert {"fp_attack", "fp_train", "fp_run"} <= exported
    assert exported == {page.stem for page in (package / "man").glob("*.Rd")}
