import json
import os
import platform
import subprocess
import sys

import pytest

from fedpriv.base import provenance as p
from fedpriv.base.atomic import to_json


def test_records_command_config_seed_and_versions():
    record = p.provenance(["/opt/env/bin/fedpriv", "demo", "--seed", "3"], {"noise": 0.5}, seed=3)
    assert record["command"] == "fedpriv demo --seed 3"
    assert record["seed"] == 3
    assert record["config"] == {"noise": 0.5}
    assert record["config_hash"] == p.config_hash({"noise": 0.5})
    assert {"python", "fedpriv", "tensorflow", "tensorflow-federated", "tensorflow-privacy", "numpy"} <= set(
        record["versions"]
    )
    json.loads(to_json(record))


@pytest.mark.parametrize(
    ("word", "short"),
    [
        ("/home/ann/data/mnist", "mnist"),
        ("--out=/home/ann/out", "--out=out"),
        ("folder(path=/home/ann/my pictures,size=32)", "folder(path=my pictures,size=32)"),
        ("{here}/results/demo", "results/demo"),
        ("{here}", "."),
        ("q=120/3383", "q=120/3383"),
        ("results/demo", "results/demo"),
        ("../data", "../data"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("package.module:Name", "package.module:Name"),
    ],
)
def test_absolute_paths_are_shortened(word, short, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert p.shorten_paths(word.format(here=os.getcwd())) == short


def test_nothing_of_this_machine_is_in_the_record(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outside = str(tmp_path.parent / "elsewhere")
    text = to_json(p.provenance([sys.executable, "--data", outside], {"data": [outside], "deep": {"x": str(tmp_path)}}))
    assert str(tmp_path.parent) not in text
    assert os.path.dirname(sys.executable) not in text
    assert f'"{platform.node()}"' not in text


def test_config_hash_ignores_key_order_but_not_values():
    assert p.config_hash({"a": 1, "b": [1.5, None]}) == p.config_hash({"b": [1.5, None], "a": 1})
    assert p.config_hash({"a": 1}) != p.config_hash({"a": 2})
    # SHA-256 of the two bytes "{}", known from any sha256sum
    assert p.config_hash({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_no_config_no_hash():
    assert p.provenance("fedpriv demo")["config_hash"] is None


def test_without_git_the_commit_is_none(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    record = p.provenance("fedpriv demo")
    assert record["commit"] is None
    assert record["modified"] is None


def test_versions_do_not_import_tensorflow():
    code = "import sys, fedpriv.base.provenance as p; p.provenance('x'); sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
