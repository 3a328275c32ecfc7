"""Any command line is run, or answered in one message with exit code 2; cases are drawn from the commands."""

import contextlib
import io
import re
import traceback
from pathlib import Path

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedpriv.base import registry
from fedpriv.base.errors import FedprivError
from fedpriv.cli import main
from fedpriv.cli.listing import registries
from fedpriv.cli.main import _add_registered_commands, app
from fedpriv.data.partitioners import PARTITIONERS
from fedpriv.experiment.contents import Contents
from fedpriv.experiment.setting import Setting
from fedpriv.threat.adversary import Adversary

_add_registered_commands()
COMMANDS = typer.main.get_command(app).commands
FAMILIES = {reg.kind: reg for reg in (*registries().values(), registry.selection, registry.rounds)}
#: What options take that are not called as their family is.
KINDS = {"adversary": "position", "blind": "knowledge", "knows": "knowledge", "data": "dataset", "file": "experiment"}
OVERRIDDEN = [
    *Setting.model_fields,
    *Contents.model_fields,
    *(f"{part}.{n}" for part in ("training", "exposure") for n in Setting.model_fields[part].annotation.model_fields),
    *("setting", "grid.defense", "grid.exposure.batch", "training.client.kind", "a.b", "define.defense.x"),
]

WORDS = (
    "none None - -- é 名前 ' \" [ ] [] ( ) () , = a=b [1,2] [[]] {} * !x &a .. . / ~ %s {0} \\ : a: true False mixed"
)
ODD_NUMBERS = "0 1 2 3 5 8 -1 0.5 1e-5 -0.0 nan inf -inf 1e308 -1e308 1e400 1e-320 1_000 1,5 0x10 ٣ 1e +1 1.0 010"
FOUND = "file.txt empty folder folder/file.txt/x gone/such no.npz no.yaml bad.yaml bad.npz bad.csv list.yaml name.yaml"
TEXTS = st.one_of(
    st.sampled_from(WORDS.split(" ")),
    st.sampled_from(["", " ", "a b", "\u202e", "\n", "a\nb", "{a: 1}", "a:b", "os:getcwd", "no.such:X", "2020-99-99"]),
    st.sampled_from(["http://a/b", "x" * 300]),
    st.text(max_size=5),
)
NUMBERS = st.one_of(
    st.sampled_from(ODD_NUMBERS.split(" ")),
    st.sampled_from(["9" * 25, "-" + "9" * 25, str(2**31), str(2**63), "9" * 5000, " 1 "]),
)
PATHS = st.one_of(
    st.sampled_from(FOUND.split(" ")),
    st.sampled_from(
        [".", "folder/", "idx", "results", "experiment.yaml", "~nobody/x", "/proc/no", "/dev/null", "", "x" * 300]
    ),
)
FILES = {
    "file.txt": "text",
    "empty": "",
    "folder/x": "",
    "bad.yaml": "a: [1",
    "list.yaml": "[1, 2]",
    "name.yaml": "name: [dlg]",
    "bad.npz": "PK",
    "bad.csv": "a,b\n1\n",
    "idx/train-images-idx3-ubyte": "x",
    "results/experiment.yaml": "name: a\nsetting: {attack: dlg}\n",
    "experiment.yaml": "name: a\nsetting: {attack: dlg}\n",
}


def once_in(number):
    """Whether something rare happens."""
    return st.sampled_from(range(number)).map(lambda n: n == number - 1)


def near(name):
    """What somebody wrote who mistyped a name."""
    return st.sampled_from(
        [name[:-1], name + "s", name.upper(), name.replace("_", "-"), name[::-1], f" {name}", f"{name}("]
    )


def parameters(reg, name):
    """Names of a plug-in's parameters."""
    try:
        return sorted(registry.parameters_of(reg.load(name)))
    except (FedprivError, TypeError, ValueError):
        return []


@st.composite
def specs(draw, kinds=(*FAMILIES, "partition"), depth=0):
    """`name(key=value,...)` of a family, well or badly written."""
    kind = draw(st.sampled_from(kinds))
    if kind == "partition":
        name = draw(st.sampled_from(sorted(PARTITIONERS)))
        known = ["clients", "alpha", "seed", "min_examples", "balanced", "per_client"]
    else:
        name = draw(st.sampled_from(FAMILIES[kind].names()))
        known = parameters(FAMILIES[kind], name)
    written = draw(near(name) | TEXTS) if draw(once_in(10)) else name
    if draw(once_in(4)):
        return written
    values = st.sampled_from(["1", "2", "0.5", "none", "true", "[1,2]", "-1", "nan", "x"]) | NUMBERS | TEXTS
    if depth < 2:
        inner = specs(depth=depth + 1)
        values |= inner | inner.map(lambda s: f"[{s}]")
    keys = st.sampled_from(known or ["a"])
    pairs = draw(st.lists(st.tuples(keys, values), max_size=3, unique_by=lambda p: p[0]))
    parts = [f"{k}={v}" for k, v in pairs]
    if draw(once_in(8)):
        parts.append(draw(st.sampled_from(["", "=", "=1", "a", "a=", "x=1", "knows=[labels]", "blind=[x]", *parts])))
    end = draw(st.sampled_from(["", "))", "]"])) if draw(once_in(10)) else ")"
    return f"{written}({draw(st.sampled_from([',', ', '])).join(parts)}{end}"


def usual(option):
    """Strategy of what an option is made for, as far as its type, its name and its help tell."""
    kind, type_ = KINDS.get(option.name, option.name), option.type_descriptor.annotation
    if type_ in (int, float):
        return st.sampled_from(["1", "2", "3", "5"])
    if kind in FAMILIES or kind == "partition":
        return specs((kind,)) | PATHS if option.name in ("data", "file") else specs((kind,))
    if kind == "kind":
        return st.sampled_from(sorted(registries()))
    if kind == "overrides":
        return st.tuples(st.sampled_from(OVERRIDDEN), NUMBERS | TEXTS | specs()).map("=".join)
    if type_ is Path:
        return PATHS
    if kind == "name":
        return specs(("attack",)) | specs()
    return st.sampled_from(re.findall(r"[a-z_]+(?:\([^)]*\))?", getattr(option, "help", None) or "a"))


@st.composite
def values_of(draw, option):
    """What may be written for an option."""
    return draw(st.one_of(TEXTS, NUMBERS, PATHS, specs()) if draw(once_in(4)) else usual(option))


@st.composite
def command_lines(draw, name):
    """Arguments of a command: some options, with odd values, repeated and in any order."""
    line = []
    options = [p for p in COMMANDS[name].params if p.param_type_name == "option"]
    for option in draw(st.lists(st.sampled_from(options), max_size=4)) if options else ():
        written = draw(st.sampled_from([*option.opts, *option.secondary_opts]))
        line += [written] if option.is_flag else [written, draw(values_of(option))]
    for argument in COMMANDS[name].params:
        if argument.param_type_name == "argument" and not draw(once_in(6)):
            line.insert(draw(st.sampled_from([0, len(line)])), draw(values_of(argument)))
    if draw(once_in(20)):
        line.append(draw(TEXTS | st.sampled_from(["--nosuch", "-Z", "--see", "--"])))
    return [name, *line]


class Cut(SystemExit):
    """In place of the work."""


def cut(*_, **__):
    raise Cut(0)


@pytest.fixture(scope="module", autouse=True)
def checks_alone(tmp_path_factory):
    """Files and folders to name, and the work itself cut off."""
    import fedpriv_attacks.rgap.ranks
    import fedpriv_defenses.ats.search

    import fedpriv.data.sources
    import fedpriv.engine.tff.worker
    import fedpriv.experiment.report
    import fedpriv.experiment.runner
    import fedpriv.federation.federation
    import fedpriv.figures.partition
    import fedpriv.rounds.attempts

    folder = tmp_path_factory.mktemp("fuzz")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "10000")
        patch.setattr(fedpriv.data.sources, "_through_keras", cut)
        patch.setattr(fedpriv.federation.federation.Federation, "run", cut)
        patch.setattr(fedpriv.rounds.attempts, "attempts", cut)
        patch.setattr(fedpriv.experiment.runner, "run", cut)
        patch.setattr(fedpriv.experiment.report, "write_report", cut)
        patch.setattr(fedpriv.engine.tff.worker, "listen", cut)
        patch.setattr(fedpriv.figures.partition, "partition_figure", cut)
        patch.setattr(fedpriv_attacks.rgap.ranks, "rank_analysis", cut)
        patch.setattr(fedpriv_defenses.ats.search.Search, "run", cut)
        yield


RAW = re.compile(r"<(class|function|module|built-in|bound|unicode|_?[\w.]+ object)|PosixPath\(| at 0x|Traceback")
DOUBLED = re.compile(r"(?:^|[ ;])(\w+ '[^']*'): \1|(?:^\w+|;) '([^' ]+)': (?:\w+ )?'?\2'?:")


def faults(said):
    """What is wrong with a message."""
    found = []
    lines = [line for line in said.splitlines() if line.strip()]
    if len(lines) != 1:
        found.append(f"{len(lines)} lines")
    if RAW.search(said):
        found.append("shows a raw value of Python")
    if match := DOUBLED.search(said):
        found.append(f"says {match[1] or match[2]} twice")
    reasons = said.split("; ")
    if len(reasons) != len(set(reasons)):
        found.append("repeats a reason")
    return found


def answer(arguments):
    """Exit code, stdout and stderr of a command line, and the traceback of an error that is no message."""
    out, err, status, crash = io.StringIO(), io.StringIO(), None, ""
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(arguments))
        except SystemExit as e:
            status = e.code or 0
        except Exception:
            crash = traceback.format_exc()
    return status, out.getvalue(), err.getvalue(), crash


def message(err):
    """What is said on the error stream, without the usage and the box of a wrong option."""
    if "Usage: " not in err:
        return err
    return " ".join(line.strip("│ ") for line in err.splitlines() if line.startswith(("│", "Error: ")))


def check(arguments):
    status, out, err, crash = answer(arguments)
    assert not crash, (arguments, crash[-3000:])
    assert status in (0, 2), (arguments, status, err)
    if status == 2:
        assert not out.strip(), (arguments, out)
        assert not (found := faults(message(err))), (arguments, found, err)


def tried(strategy, test, examples):
    """Runs a test on that many examples."""
    settings(max_examples=examples, suppress_health_check=list(HealthCheck))(given(strategy)(test))()


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_line_is_run_or_answered_in_one_message(name):
    tried(command_lines(name), check, {"salaries": 2}.get(name, 14))  # a page each time


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_many_command_lines_are_run_or_answered_in_one_message(name):
    tried(command_lines(name), check, 1000)


def make(kind, text):
    """What a spec of a family makes."""
    if kind == "position":
        made = Adversary.parse(text)
        assert str(Adversary.parse(str(made))) == str(made)
    elif kind in ("knowledge", "act"):
        part = {"knowledge": "knows", "act": "acts"}[kind]
        made = Adversary.parse(f"server({part}=[{text}])")
        assert str(Adversary.parse(str(made))) == str(made)
    else:
        FAMILIES[kind].create(text)


def check_spec(kind):
    def test(text):
        said = None
        try:
            make(kind, text)
        except FedprivError as e:
            said = str(e)
        if said is not None:
            assert said
            assert not (found := [f for f in faults(said) if "lines" not in f]), (text, found, said)

    return test


#: What needs more than its parameters is made by the commands that fuzz its options.
MADE = sorted(FAMILIES.keys() - {"model", "dataset", "engine", "experiment"})


@pytest.mark.parametrize("kind", MADE)
def test_a_spec_is_made_or_refused_in_one_message(kind):
    tried(specs((kind,)), check_spec(kind), 25)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MADE)
def test_many_specs_are_made_or_refused_in_one_message(kind):
    tried(specs((kind,)), check_spec(kind), 1000)
