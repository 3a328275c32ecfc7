"""The deployment files are what their tools take, and what they run are commands of ours."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[1] / "docs" / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
KUBERNETES = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


def tool(name, *arguments):
    program = Path(sys.executable).parent / name
    done = subprocess.run([str(program), *arguments], capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_compose_file_meets_the_compose_specification():
    status, said = tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml"))
    assert status == 0, said


def test_the_manifest_meets_kubernetes_schemas():
    """Its schemas take 100 MB, so it is not installed with the rest: `uv run --with kubernetes-validate pytest ...`."""
    pytest.importorskip("kubernetes_validate")
    status, said = tool("kubernetes-validate", "--strict", str(DEPLOY / "kubernetes.yaml"))
    assert status == 0, said
    assert said.count(" passed ") == len(KUBERNETES) == 5


def commands():
    for service in COMPOSE["services"].values():
        yield service["command"]
    for manifest in KUBERNETES:
        for container in manifest.get("spec", {}).get("template", {}).get("spec", {}).get("containers", []):
            yield container["args"]


@pytest.mark.parametrize("words", list(commands()), ids=shlex.join)
def test_every_command_parses(words):
    import typer

    from fedpriv.cli.main import app

    command = typer.main.get_command(app)
    chosen = command.commands[words[0]]
    context = chosen.make_context(words[0], list(words[1:]))
    assert context.params["port" if words[0] == "worker" else "workers"]


def test_runs_name_the_workers_there_are():
    run = next(w for w in COMPOSE["services"]["run"]["command"] if w.startswith("--workers"))
    assert run == "--workers=worker-0:10000,worker-1:10000"
    assert {"worker-0", "worker-1"} < set(COMPOSE["services"])
    assert COMPOSE["networks"]["federation"] == {"internal": True}
    kinds = {m["kind"]: m for m in KUBERNETES}
    workers, job = kinds["StatefulSet"], kinds["Job"]["spec"]["template"]
    count, service = workers["spec"]["replicas"], workers["spec"]["serviceName"]
    name = workers["metadata"]["name"]
    expected = ",".join(f"{name}-{i}.{service}:10000" for i in range(count))
    assert f"--workers={expected}" in job["spec"]["containers"][0]["args"]
    policy = kinds["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"] == workers["spec"]["template"]["metadata"]["labels"]
    assert policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"] == job["metadata"]["labels"]
    assert kinds["Service"]["metadata"]["name"] == service
    assert kinds["Service"]["spec"]["selector"] == workers["spec"]["template"]["metadata"]["labels"]
