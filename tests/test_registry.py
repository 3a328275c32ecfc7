import importlib.metadata
import os
from typing import Annotated, ClassVar, Literal

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.base import registry
from fedpriv.base.errors import FedprivError, ParameterError, UnknownNameError
from fedpriv.base.plugin import Plugin
from fedpriv.base.registry import Registry, build, parse_call
from fedpriv.defense.stations import Defense, Station, labels
from fedpriv.threat.attack import Attack

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
VALUES = st.one_of(
    st.from_regex(r"[a-zA-Z0-9_.\-]{1,8}", fullmatch=True),
    st.lists(st.integers(0, 99), min_size=1, max_size=3).map(lambda v: f"[{','.join(map(str, v))}]"),
    st.just("f(1,(2,3))"),
)


@given(NAMES, st.dictionaries(NAMES, VALUES, max_size=4), st.sampled_from(["", " "]))
def test_what_is_written_is_read(name, parameters, space):
    text = f"{name}({f',{space}'.join(f'{k}{space}={space}{v}' for k, v in parameters.items())})"
    assert parse_call(text, "thing") == (name, parameters)
    assert parse_call(name, "thing") == (name, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [("a(b=1", "closing parenthesis"), ("a(b)", "'b' is no key=value"), ("a(b=1,b=2)", "'b' twice")],
)
def test_bad_writing(text, message):
    with pytest.raises(ParameterError, match=message):
        parse_call(text, "thing")


class Example(Plugin):
    """An example.

    More about it.
    """

    name: ClassVar[str] = "example"

    rate: Annotated[float, pydantic.Field(gt=0)]
    steps: int | None = 3
    layers: list[int] = [1]


def test_values_are_converted_and_checked():
    made = build(Example, {"rate": "0.5", "steps": "none", "layers": "[4, 5]"}, "thing 'example'")
    assert (made.rate, made.steps, made.layers) == (0.5, None, [4, 5])
    assert made.config() == {"name": "example", "rate": 0.5, "steps": None, "layers": [4, 5]}
    for parameters, message in (
        ({"rate": "x"}, "rate='x'"),
        ({"rate": "-1"}, "greater than 0"),
        ({}, "needs a value for rate"),
        ({"rate": 1, "step": 2}, "no parameter 'step'. Did you mean 'steps'"),
    ):
        with pytest.raises(ParameterError, match=message):
            build(Example, parameters, "thing 'example'")


def test_functions_are_checked_alike():
    def half(x: int, y: float = 1.0) -> float:
        return x / 2 + y

    assert build(half, {"x": "4"}, "it") == 3.0
    with pytest.raises(ParameterError, match="x='a'"):
        build(half, {"x": "a"}, "it")
    with pytest.raises(ParameterError, match="it cannot be built from named values"):
        build(os.getcwd, {}, "it")


def test_plug_ins_do_not_change_but_make_changed_copies():
    made = Example(rate=1)
    with pytest.raises(pydantic.ValidationError):
        made.rate = 2
    assert made.with_(rate=2).rate == 2
    assert made.rate == 1
    with pytest.raises(pydantic.ValidationError):
        made.with_(rate=-2)
    with pytest.raises(pydantic.ValidationError):
        Example(rate=1, nosuch=2)
    assert Example.summary() == "An example."


def test_unknown_names_and_paths():
    for name, message in (
        ("iddlg", "no attack is named 'iddlg'. Did you mean 'idlg'"),
        ("no_such_package:X", "no module 'no_such_package'"),
        ("fedpriv.threat.attack:Atack", "has no 'Atack'. Did you mean 'Attack'"),
        (":X", "is no path to an object"),
        ("fedpriv.threat.attack:", "is no path to an object"),
        ("a..b:X", "is no path to an object"),
    ):
        with pytest.raises(UnknownNameError, match=message):
            registry.attacks.load(name)


def test_a_module_that_fails_to_import_says_so(tmp_path, monkeypatch):
    (tmp_path / "broken_plugin.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FedprivError, match="broken_plugin failed to import: ZeroDivisionError"):
        registry.attacks.load("broken_plugin:X")
    own = Registry("thing", "no.such.group")
    assert own.names() == []
    own.__dict__["_entries"] = {"b": importlib.metadata.EntryPoint("b", "broken_plugin:X", "no.such.group")}
    with pytest.raises(FedprivError, match=r"thing 'b' \(broken_plugin:X\) failed to load"):
        own.load("b")


def test_third_parties_come_in_by_path(tmp_path, monkeypatch):
    (tmp_path / "my_defenses.py").write_text(
        "from fedpriv.defense.stations import Defense\n"
        "class Nothing(Defense):\n"
        "    times: int = 1\n"
        "    def update(self, update, context):\n"
        "        return update\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    made = registry.defenses.create("my_defenses:Nothing(times=3)")
    assert isinstance(made, Defense)
    assert (made.times, made.stations) == (3, [Station.UPDATE])
    with pytest.raises(ParameterError, match=r"attack 'my_defenses:Nothing' is a Nothing; .*threat\.attack\.Attack"):
        registry.attacks.create("my_defenses:Nothing")


def test_our_own_come_through_the_same_door():
    for name in ("dlg", "idlg"):
        made = registry.attacks.create(name)
        assert isinstance(made, Attack)
        assert made.name == name
        assert "arXiv" in made.paper
    for text in ("clip(norm=1)", "central_dp(clip=1,noise_multiplier=1)", "local_dp(clip=1,noise_multiplier=1)",
                 "secret_sharing"):  # fmt: skip
        made = registry.defenses.create(text)
        assert isinstance(made, Defense)
        assert made.name == parse_call(text, "")[0]
        assert made.stations


def test_labels_number_repeats():
    a, b, c = (registry.defenses.create(f"clip(norm={n})") for n in (1, 2, 3))
    assert labels([a, registry.defenses.create("secret_sharing"), b, c]) == [
        "clip",
        "secret_sharing",
        "clip#2",
        "clip#3",
    ]
    assert labels([Defense(), Defense()]) == ["Defense", "Defense#2"]


class Decaying(Plugin):
    name: ClassVar[str] = "decaying"
    decay: Literal["step", "none"] = "step"
    limit: Literal["soft", "none"] | None = None
    rate: float | None = 1.0


def decaying(decay: Literal["step", "none"] = "step", rate: float | None = 1.0) -> tuple[str, float | None]:
    return decay, rate


def test_none_is_no_value_unless_it_is_one_of_the_words_a_parameter_may_be():
    made = build(Decaying, {"decay": "none", "limit": "none", "rate": "none"}, "thing")
    assert (made.decay, made.limit, made.rate) == ("none", "none", None)
    assert build(decaying, {"decay": "none", "rate": "none"}, "thing") == ("none", None)
