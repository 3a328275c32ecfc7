"""YAML that remembers its lines."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.base.errors import ExperimentError
from fedpriv.experiment.document import lay_over, parse, read

TEXT = """\
name: a
setting:
  model: cnn
  training:
    rounds: 3
grid:
  defense: [x,
            y]
"""


def test_every_value_knows_its_line():
    document = parse(TEXT, "a.yaml")
    assert document.content["setting"] == {"model": "cnn", "training": {"rounds": 3}}
    assert document.place(("setting", "training", "rounds")) == "a.yaml, line 5"
    assert document.place(("grid", "defense", 0)) == "a.yaml, line 7"
    assert document.place(("grid", "defense", 1)) == "a.yaml, line 8"
    assert document.place(("setting", "nothing", "here")) == "a.yaml, line 2"


def test_a_value_that_is_set_is_placed_by_who_set_it():
    document = parse(TEXT, "a.yaml")
    document.set(("setting", "training", "client", "rate"), 1, "--set")
    assert document.content["setting"]["training"] == {"rounds": 3, "client": {"rate": 1}}
    assert document.place(("setting", "training", "client")) == "--set"
    assert document.place(("setting", "training", "rounds")) == "a.yaml, line 5"


def test_laying_over_replaces_fields_and_axes_and_keeps_the_rest():
    below, above = parse(TEXT, "a.yaml"), parse("setting: {model: 2nn}\ngrid: {attack: [z]}\n", "b.yaml")
    lay_over(below, above)
    assert below.content["setting"] == {"model": "2nn", "training": {"rounds": 3}}
    assert below.content["grid"] == {"defense": ["x", "y"], "attack": ["z"]}
    assert below.place(("setting", "model")) == "b.yaml, line 1"
    assert below.place(("setting", "training", "rounds")) == "a.yaml, line 5"
    lay_over(below, parse("grid: {defense: {named: q}}", "c.yaml"))
    assert below.content["grid"]["defense"] == {"named": "q"}


def test_a_file_may_extend_another_but_not_itself(tmp_path):
    (tmp_path / "base.yaml").write_text(TEXT)
    (tmp_path / "top.yaml").write_text("extends: base.yaml\nname: b\n")
    assert read(tmp_path / "top.yaml").content["name"] == "b"
    assert read(tmp_path / "top.yaml").content["setting"]["model"] == "cnn"
    (tmp_path / "base.yaml").write_text("extends: top.yaml\n")
    with pytest.raises(ExperimentError, match=r"in a circle: top.yaml -> base.yaml -> top.yaml"):
        read(tmp_path / "top.yaml")
    (tmp_path / "base.yaml").write_text("extends: [1]\n")
    with pytest.raises(ExperimentError, match="is no path"):
        read(tmp_path / "base.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [("a: [", "a.yaml, line 1: this is not YAML: "), ("- 1", "holds no mapping"), ("", "holds no mapping"),
     ("a: 1\nb: 2\na: 3", "line 3: 'a' is given twice")],
)  # fmt: skip
def test_what_is_no_document(tmp_path, text, says):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ExperimentError, match=says):
        read(path)


MERGED = """\
base: &a {rate: 1, kind: sgd}
other: &b {rate: 2, more: 3}
one: {<<: *a, kind: adam}
many: {kind: x, <<: [*b, *a]}
"""


def test_merged_mappings_lie_under_a_mappings_own_keys():
    """As YAML's merge key has it: own keys first, then the first of several that are merged."""
    document = parse(MERGED, "a.yaml")
    assert document.content["one"] == {"rate": 1, "kind": "adam"}
    assert document.content["many"] == {"rate": 2, "more": 3, "kind": "x"}
    assert document.place(("one", "kind")) == "a.yaml, line 3"
    assert document.place(("one", "rate")) == "a.yaml, line 1"
    assert document.place(("many", "more")) == "a.yaml, line 2"


BOMB = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)


MERGE_BOMB = "a0: &a0 {}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 9))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: {<<: 3}", "line 2: '<<' merges mappings"),
        ("a: &a {b: 1}\nc: {<<: [*a, 3]}", "line 2: '<<' merges mappings"),
        ("a: &a\n  b: *a", "this holds itself"),
        ("a: &a [*a]", "line 1: this holds itself"),
        ("a: &a {<<: *a}", "merges a mapping into itself"),
        ("a: !!python/object:os.system {}", "line 1: the tag .* means nothing here"),
        ("a: !!int x", "line 1: this value cannot be read"),
        (BOMB, "more than 100,000 values"),
        (MERGE_BOMB, "more than 100,000 values"),
    ],
)
def test_what_yaml_allows_and_nobody_means(text, says):
    with pytest.raises(ExperimentError, match=says):
        parse(text, "a.yaml")


PIECES = [
    "a",
    "b: ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    ", ",
    "\n",
    "  ",
    "&x ",
    "*x",
    "<<: ",
    "!!int ",
    "!!set ",
    "1",
    "'",
    "? ",
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14))
def test_any_text_is_a_mapping_or_an_answer_in_a_line(pieces):
    try:
        said = "" if isinstance(parse("".join(pieces), "a.yaml").content, dict) else "no mapping"
    except ExperimentError as e:
        said = str(e)
    assert not said or (said.startswith("a.yaml") and "\n" not in said)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ExperimentError, match="No such file"):
        read(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ExperimentError, match="UTF-8"):
        read(tmp_path / "b.yaml")
