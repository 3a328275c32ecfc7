import ast
import re
import subprocess
import sys

import pytest

from fedpriv import __version__
from fedpriv.cli.listing import registries

MISTAKES = [
    (["attack", "nosuch"], "no attack is named 'nosuch'"),
    (["attack", "idgl"], "Did you mean 'idlg'"),
    (["attack", "dlg(restart=3)"], "Did you mean 'restarts'"),
    (["attack", "dlg(restarts=0)"], "restarts='0'"),
    (["attack", "dlg", "--images", "3", "--batch", "2"], "images=3 is no multiple of batch=2"),
    (["attack", "dlg", "--adversary", "sever"], "Did you mean 'server'"),
    (["attack", "dlg", "--adversary", "aggregators(x)"], "numbers"),
    (["attack", "dlg", "--knows", "label"], "Did you mean 'labels'"),
    (["attack", "dlg", "--adversary", "server(knows=[label])"], "Did you mean 'labels'"),
    (["attack", "dlg", "--adversary", "server(knows=[labels"], "lacks its closing"),
    (["attack", "dlg", "--adversary", "observer(acts=[plant(weights=a.npy)])"], "let the adversary be a 'server'"),
    (["attack", "dlg", "--model", "lent"], "Did you mean 'lenet'"),
    (["attack", "os:getcwd"], "cannot be built from named values"),
    (["attack", "fedpriv.rounds.exposure:single_steps(steps=1)"], "must be, or return, a fedpriv.threat.attack.Attack"),
    (["attack", "no.such.module:Attack"], "no module 'no'"),
    (["train", "--defense", "clip(nrm=1)"], "Did you mean 'norm'"),
    (["train", "--defense", "clip(norm=-1)"], "--defense: defense 'clip': norm='-1': Input should be greater than"),
    (["train", "--defense", "clip"], "needs a value for norm"),
    (["train", "--defense", "clip(norm=1"], "closing parenthesis"),
    (["train", "--defense", "clip(norm=1,norm=2)"], "twice"),
    (["train", "--model", "convnt"], "Did you mean 'convnet'"),
    (["train", "--engine", "grph"], "Did you mean 'graph'"),
    (["train", "--data", "fashon_small"], "Did you mean 'fashion_small'"),
    (["train", "--data", "no/such/file.npz"], "no/such/file.npz is missing"),
    (["train", "--accountant", "pdl"], "Did you mean 'pld'"),
    (["train", "--on-nonfinite", "dorp"], "Did you mean 'drop'"),
    (["train", "--algorithm", "fedavgg"], "Did you mean 'fedavg'"),
    (["train", "--cohort", "3", "--fraction", "0.1"], "exclude each other"),
    (["train", "--fraction", "1.5"], "--fraction: training.fraction=1.5"),
    (["train", "--attrition", "bernouli"], "Did you mean 'bernoulli'"),
    (["train", "--attrition", "bernoulli(rate=2)"], "--attrition: attrition 'bernoulli': rate='2'"),
    (["train", "--poisson", "2"], "less than or equal to 1"),
    (["train", "--weighting", "unifrom"], "weighting='unifrom'"),
    (["train", "--client-lr", "0"], "greater than 0"),
    (["train", "--client-schedule", "stepp"], "Did you mean 'step'"),
    (["train", "--server-optimizer", "adm"], "kind='adm'"),
    (["train", "--partition", "irichlet(alpha=1)"], "Did you mean 'dirichlet'"),
    (["list", "atacks"], "Did you mean 'attacks'"),
    (["show", "lenett"], "Did you mean 'lenet'"),
    (["ranks", "lenett"], "Did you mean 'lenet'"),
    (["train", "--rounds", "x"], "valid integer"),
    (["train", "--nosuch"], "No such option"),
    (["nosuch"], "No such command"),
]


def test_mistakes_are_answered_without_tensorflow_without_a_traceback_and_with_a_way_out():
    code = f"""
import contextlib, io, sys
from fedpriv.cli import main
from fedpriv.cli.listing import registries
for arguments, _ in {MISTAKES!r}:
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(arguments)
    except SystemExit as e:
        print(repr((arguments, e.code, out.getvalue(), err.getvalue(), 'tensorflow' in sys.modules)))
for arguments in (['--help'], ['train', '--help'], ['attack', '-h'], ['--version'],
                  ['list', 'attacks'], ['list', 'defenses'], ['show', 'dlg'], ['show', 'clip']):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main(arguments)
    assert 'tensorflow' not in sys.modules, arguments
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = [ast.literal_eval(line) for line in done.stdout.splitlines()]
    assert [a[0] for a in answers] == [m[0] for m in MISTAKES]
    for (arguments, status, out, err, tensorflow), (_, message) in zip(answers, MISTAKES, strict=True):
        flat = " ".join(err.replace("│", " ").split())
        assert message in flat, (arguments, err)
        assert status == 2, arguments
        assert out == "", arguments
        assert "Traceback" not in err, arguments
        assert not tensorflow, arguments


def test_help_and_version(run):
    assert run("--version") == (0, f"fedpriv {__version__}\n", "")
    status, out, _ = run("--help")
    assert status == 0
    for command in ("train", "attack", "list", "show"):
        assert command in out


@pytest.mark.parametrize("kind", [*registries(), "metrics"])
def test_everything_registered_is_listed_with_a_line_and_can_be_shown(run, kind):
    status, out, err = run("list", kind)
    assert (status, err) == (0, "")
    for line in out.splitlines():
        name, _, text = line.partition(" ")
        assert len(text.strip()) > 10, line
        status, shown, err = run("show", name)
        assert (status, err) == (0, "")
        assert text.strip() in shown


def test_show_tells_parameters_and_paper(run):
    _, out, _ = run("show", "central_dp")
    assert "noise_multiplier = None" in out
    assert "Paper: McMahan" in out
    assert "Adaptive attack:" in out
    _, out, _ = run("show", "dlg")
    assert "restarts = 8\n      largest number of starts" in out
    assert "Needs:" in out
    _, out, _ = run("show", "fedpriv_defenses.clip:Clip")
    assert "norm = required" in out


@pytest.mark.parametrize(
    ("written", "loaded"),
    [
        ("dlg", {"name": "dlg", "restarts": 8}),
        ("idlg(restarts=2)", {"name": "idlg", "restarts": 2}),
        ("clip(norm=0.5)", {"name": "clip", "norm": 0.5}),
        ("total_variation(power=2)", {"kind": "total_variation", "power": 2}),
        (
            "fedpriv_attacks.inversion.idlg:IDLG(restarts=2)",
            {"name": "fedpriv_attacks.inversion.idlg:IDLG", "restarts": 2},
        ),
        ("fedpriv_defenses.clip:Clip(norm=2)", {"name": "fedpriv_defenses.clip:Clip", "norm": 2.0}),
        ("fedpriv_attacks.parts.priors:L2", {"kind": "fedpriv_attacks.parts.priors:L2", "center": 0.5}),
    ],
)
def test_show_prints_any_plug_in_as_yaml(run, written, loaded):
    import yaml

    status, out, err = run("show", written, "--yaml")
    assert (status, err) == (0, "")
    content = yaml.safe_load(out)
    assert loaded.items() <= content.items()


def test_what_show_prints_as_yaml_makes_the_same_again(run, tmp_path):
    from fedpriv.base import registry

    for reg, written in ((registry.attacks, "fedpriv_attacks.inversion.dlg:DLG"), (registry.defenses, "clip(norm=2)")):
        path = tmp_path / "plug_in.yaml"
        path.write_text(run("show", written, "--yaml")[1])
        assert reg.create(str(path)) == reg.create(written)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        *((name, "has no configuration to print") for name in ("lenet", "graph", "mnist", "demo", "psnr")),
        *((name, "has no configuration to print") for name in ("classes", "columns", "server", "plant")),
        ("pnsr", "Did you mean 'psnr'"),
        ("dlgg", "Did you mean 'dlg'"),
        ("clip", "needs a value for norm"),
        ("os:getcwd", "has no configuration to print"),
        ("no.such:Thing", "no module 'no'"),
    ],
)
def test_what_cannot_be_printed_as_yaml_is_said(run, written, says):
    status, out, err = run("show", written, "--yaml")
    assert (status, out) == (2, "")
    assert says in " ".join(err.split())


def test_the_schema_of_a_plug_ins_file(run):
    import json

    status, out, err = run("schema", "dlg")
    assert (status, err) == (0, "")
    properties = json.loads(out)["properties"]
    assert properties["name"] == {"const": "dlg"}
    assert properties["restarts"]["description"].startswith("largest number of starts")
    for name, says in (("lenet", "is not made from a file"), ("dlgg", "Did you mean 'dlg'")):
        status, out, err = run("schema", name)
        assert (status, out) == (2, "")
        assert says in " ".join(err.split())


def test_one_broken_plug_in_hides_no_other(run, monkeypatch):
    import importlib.metadata

    from fedpriv.cli import listing

    broken = importlib.metadata.EntryPoint("broken", "no_such_module:X", "fedpriv.attacks")
    entries = {**listing.REGISTRIES["attacks"]._entries, "broken": broken}
    monkeypatch.setitem(listing.REGISTRIES["attacks"].__dict__, "_entries", entries)
    status, out, _ = run("list", "attacks")
    assert status == 0
    assert re.search(r"^broken +\(unusable: attack 'broken'", out, re.MULTILINE)
    assert "dlg" in out


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"], ["attack", "-h"]])
def test_help_imports_none_of_the_libraries_that_take_long(arguments):
    slow = {"tensorflow", "numpy", "scipy", "matplotlib", "pandas", "yaml"}
    if len(arguments) == 1:  # of a command's own options Typer makes pydantic validators, even for its help
        slow |= {"pydantic"}
    code = f"""
import sys
from fedpriv.cli import main
try:
    main({arguments!r})
except SystemExit:
    print("loaded:", *sorted({slow!r} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].split() == ["loaded:"]


def test_a_users_module_that_imports_tensorflow_is_quiet_too(start, tmp_path, monkeypatch):
    (tmp_path / "theirs.py").write_text(
        "import tensorflow as tf\n\n"
        "def net(input_shape, num_classes):\n"
        "    layers = [tf.keras.layers.Flatten(), tf.keras.layers.Dense(num_classes)]\n"
        "    return tf.keras.Sequential([tf.keras.layers.Input(input_shape), *layers])\n"
    )
    monkeypatch.chdir(tmp_path)
    process = start("attack", "first_layer", "-n", 1, "--model", "theirs:net")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert "1 of 1 image reconstructed" in out
