"""The tour's code runs as it stands, comes out as its text says, and its links and commands lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fedpriv_experiments.tff_tour import pictures
from PIL import Image

from fedpriv.base import registry

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "tour.md").read_text()
SECTIONS = dict(re.findall(r"^## \d+\. (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))


@pytest.fixture(scope="module")
def toured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The names that the page's code leaves, and the folder of its pictures."""
    folder = tmp_path_factory.mktemp("reader")
    return pictures.follow(PAGE, folder), folder / "tour"


def test_the_order_of_the_ideas() -> None:
    assert list(SECTIONS) == [
        "Why the data stays",
        "The federated mean",
        "Federated averaging",
        "What an update gives away",
        "A secure sum",
        "Encryption",
        "Differential privacy",
        "Gossip",
    ]


@pytest.mark.parametrize("title", SECTIONS)
def test_each_has_a_few_lines_a_picture_and_an_experiment(title: str) -> None:
    text = SECTIONS[title]
    (block,) = re.findall(r"```python\n(.*?)```", text, re.S)
    assert 4 <= sum(bool(line.strip()) for line in block.splitlines()) <= 10
    (drawn,) = re.findall(r'save\(.*"tour/(\w+)"', block)
    assert f"](images/tour_{drawn}.png)" in text
    assert "uv run " in text or "fedpriv_experiments" in text


@pytest.mark.slow
def test_alone_together(toured: tuple[dict[str, Any], Path]) -> None:
    assert toured[0]["alone"].accuracy + 0.1 < toured[0]["together"].accuracy


@pytest.mark.slow
def test_the_mean_and_the_salaries_are_right(toured: tuple[dict[str, Any], Path]) -> None:
    names = toured[0]
    assert names["mean"] == pytest.approx(np.concatenate(names["readings"]).mean(), abs=1e-4)
    assert names["salaries"].run.mean == 3650


@pytest.mark.slow
def test_updates_give_images_away(toured: tuple[dict[str, Any], Path]) -> None:
    assert all(trial.score.images[0].psnr > 30 for trial in toured[0]["trials"])


@pytest.mark.slow
def test_encryption_gives_the_same_bits_and_takes_more_bytes(toured: tuple[dict[str, Any], Path]) -> None:
    runs = toured[0]["runs"]
    np.testing.assert_array_equal(runs["shares"].weights, runs["CKKS"].weights)
    sent = [runs[way].records[0].bytes_up for way in ("plain", "shares", "CKKS")]
    assert sent == sorted(sent)
    assert sent[0] < sent[2]


@pytest.mark.slow
def test_privacy_costs_accuracy(toured: tuple[dict[str, Any], Path]) -> None:
    epsilons, accuracies = zip(*toured[0]["points"])
    assert list(epsilons) == sorted(epsilons, reverse=True)
    assert accuracies[0] > accuracies[-1] + 0.05


@pytest.mark.slow
def test_denser_graphs_keep_peers_nearer(toured: tuple[dict[str, Any], Path]) -> None:
    gaps, apart = toured[0]["gaps"], toured[0]["apart"]
    assert gaps["complete"] == pytest.approx(1)
    assert gaps["ring"] < gaps["torus"] < gaps["complete"]
    assert apart["ring"] > apart["torus"] > 1e-4 > apart["complete"]
    assert toured[0]["spread"].accuracy > 0.6


@pytest.mark.slow
def test_the_pictures_are_drawn(toured: tuple[dict[str, Any], Path]) -> None:
    named = set(re.findall(r'"tour/(\w+)"', PAGE))
    assert {path.stem for path in toured[1].glob("*.png")} == named
    for name in named:
        assert np.asarray(Image.open(toured[1] / f"{name}.png").convert("L")).std() > 10


def test_the_commands_exist() -> None:
    commands = [shlex.split(c) for c in re.findall(r"`uv run (.*?)`", PAGE.replace("\n", " "))]
    assert len(commands) >= 7
    for program, *words in commands:
        if program == "python":
            assert importlib.util.find_spec(words[1]), words
        elif words[0] == "run":
            assert words[1] in registry.experiments.names() or (ROOT / words[1]).exists(), words
        else:
            assert words[0] in {"train", *registry.commands.names()}, words


@pytest.mark.slow
def test_the_page_shows_small_copies_of_what_its_code_draws(
    toured: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    kept = {path.stem.removeprefix("tour_"): path for path in (ROOT / "docs" / "images").glob("tour_*.png")}
    assert {f"images/{path.name}" for path in kept.values()} == set(re.findall(r"\]\((images/.*?)\)", PAGE))
    assert max(path.stat().st_size for path in kept.values()) <= 25_000
    for name, path in kept.items():
        pictures.keep(toured[1] / f"{name}.png", tmp_path / path.name)
        now, then = (np.asarray(Image.open(p).convert("L"), float) for p in (tmp_path / path.name, path))
        assert now.shape == then.shape
        # Shares and noise are drawn anew every time; nothing else changes but for rounding.
        assert np.abs(now - then).mean() < (8 if name in ("shares", "privacy") else 1), name
