"""The README's Python example runs and reconstructs what it says; its commands exist."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_python_example_reconstructs_an_image() -> None:
    code = re.search(r"```python\n(.*?)```", README, re.S)
    assert code
    names: dict[str, Any] = {}
    exec(code.group(1), names)
    assert names["trial"].score.images[0].psnr > 30
    assert len(names["history"].records) == 3
    assert len(names["history"].observations) == 10


def test_what_the_pages_link_to_and_show_is_there() -> None:
    root = Path(__file__).parents[1]
    pages = [root / "README.md", root / "CONTRIBUTING.md", *root.glob("docs/**/*.md"), *root.glob("results/*/*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())]
    local = [(page, link) for page, link in links if not re.match(r"[a-z]+:", link)]
    assert len(local) > 30
    assert [(page.name, link) for page, link in local if not (page.parent / link).exists()] == []


def test_every_command_shown_parses() -> None:
    import shlex

    from fedpriv.base import registry

    shell = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.S)).replace("\\\n", " ")
    lines = [line for line in shell.splitlines() if line.startswith("uv run fedpriv")]
    assert len(lines) >= 5
    for line in lines:
        words = shlex.split(line, comments=True)[3:]
        for option, value in itertools.pairwise(words):
            if option in ("-d", "--defense"):
                registry.defenses.create(value)
        if words[0] == "attack":
            registry.attacks.create(words[1])
