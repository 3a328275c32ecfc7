"""The tour's code runs as it stands, comes out as its text says, and its links and commands lead somewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedpriv.base import registry

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "tour.md").read_text()
SECTIONS = dict(re.findall(r"^## \d+\. (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.fixture(scope="module")
def toured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The names that the page's code leaves, and the folder of its pictures."""
    folder, here = tmp_path_factory.mktemp("reader"), Path.cwd()
    names: dict[str, Any] = {}
    os.chdir(folder)
    try:
        for block in BLOCKS:
            exec(block, names)
    finally:
        os.chdir(here)
    return names, folder / "tour"


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
    assert 5 <= len(block.splitlines()) <= 16
    assert "save(" in block
    assert '"tour/' in block
    assert "uv run " in text or "fedpriv_experiments" in text


def test_alone_together(toured: tuple[dict[str, Any], Path]) -> None:
    assert toured[0]["alone"].accuracy + 0.1 < toured[0]["together"].accuracy


def test_the_mean_and_the_salaries_are_right(toured: tuple[dict[str, Any], Path]) -> None:
    names = toured[0]
    assert names["mean"] == pytest.approx(np.concatenate(names["readings"]).mean(), abs=1e-4)
    assert names["salaries"].run.mean == 3650


def test_updates_give_images_away(toured: tuple[dict[str, Any], Path]) -> None:
    assert all(trial.score.images[0].psnr > 30 for trial in toured[0]["trials"])


def test_encryption_gives_the_same_bits_and_takes_more_bytes(toured: tuple[dict[str, Any], Path]) -> None:
    runs = toured[0]["runs"]
    np.testing.assert_array_equal(runs["shares"].weights, runs["CKKS"].weights)
    sent = [runs[way].records[0].bytes_up for way in ("plain", "shares", "CKKS")]
    assert sent == sorted(sent)
    assert sent[0] < sent[2]


def test_privacy_costs_accuracy(toured: tuple[dict[str, Any], Path]) -> None:
    epsilons, accuracies = zip(*toured[0]["points"])
    assert list(epsilons) == sorted(epsilons, reverse=True)
    assert accuracies[0] > accuracies[-1] + 0.05


def test_denser_graphs_keep_peers_nearer(toured: tuple[dict[str, Any], Path]) -> None:
    assert toured[0]["gap"] == pytest.approx(1)  # of the complete graph, the last
    assert toured[0]["apart"] < 1e-4
    assert toured[0]["spread"].accuracy > 0.6


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


def test_pictures_kept_with_the_page_are_small() -> None:
    kept = list((ROOT / "docs" / "images").iterdir())
    assert {f"images/{path.name}" for path in kept} == set(re.findall(r"\]\((images/.*?)\)", PAGE))
    assert sum(path.stat().st_size for path in kept) <= 60_000
