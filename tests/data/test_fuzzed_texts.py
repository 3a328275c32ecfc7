"""Whatever lies in a file of texts or in a tokenizer's: it is read as it was meant, or refused in one line."""

import gzip
import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedpriv.data import load
from fedpriv.data.sequences import Cut, running_text
from fedpriv.data.text import text
from fedpriv.data.tokenizer import fit, read
from tests.data.fuzzing import edited, loads_or_tells, valid

same_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=40
)

CSV = 'text,label,user\n"a b, c",x,u\nd e f,y,v\nfür élan,x,u\n"g ""h""",y,w\n'.encode()
RECORDS = "\n".join(
    json.dumps({"text": t, "label": i % 2, "u": t[0]}) for i, t in enumerate(["a b", "c d e", "f", "é"])
)
WHOLE = {".csv": CSV, ".jsonl": RECORDS.encode(), ".txt": b"One two three.\n\nFour five six, seven.\nEight nine\n"}
OPTIONS = ["", ",keys=user", ",tokenizer=characters", ",running=true", ",task=next_token,length=2", ",vocabulary=5"]
TOKENIZERS = [fit(["a b c d", "b a"], name).model.encode() for name in ("words", "characters", "bpe")]
SMALL = [m for m in TOKENIZERS if len(m) < 3000]


@same_folder
@given(st.data())
def test_any_damage_of_a_file_of_texts(tmp_path, data):
    ending = data.draw(st.sampled_from(sorted(WHOLE)))
    content = data.draw(edited(WHOLE[ending]))
    path = tmp_path / f"own{ending}"
    if data.draw(st.booleans()):
        path = tmp_path / f"own{ending}.gz"
        content = data.draw(edited(gzip.compress(content, 1), most=1))
    path.write_bytes(content)
    made = loads_or_tells(lambda: load(path))
    if made is not None:
        valid(*made)
    made = loads_or_tells(lambda: load(f"text(path={path}{data.draw(st.sampled_from(OPTIONS))})"))
    if made is not None:
        valid(*made)


@same_folder
@given(st.lists(st.fixed_dictionaries({"text": st.text(), "label": st.text() | st.integers() | st.none()}), max_size=5))
def test_any_texts_and_labels(tmp_path, rows):
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    for options in ({}, {"tokenizer": "characters", "keys": "label", "task": "next_token", "running": True}):
        made = loads_or_tells(lambda options=options: text(str(path), **options))
        if made is not None:
            valid(*made)


@settings(max_examples=40)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.integers(1, 9))
def test_characters_and_bytes_keep_any_text(written, length):
    for name in ("characters", "bpe"):
        made = loads_or_tells(lambda name=name: running_text("t", {"": [written]}, Cut(name, length=length), 0.0)[0])
        if made is not None:
            stream = [*made.x[0, :1], *(t for y in made.y for t in y if t)]
            assert made.kind.text(stream) == f"{written}<end>"


@same_folder
@given(st.sampled_from(SMALL).flatmap(edited) | st.sampled_from(SMALL).flatmap(lambda m: _changed(json.loads(m))))
def test_any_damage_of_a_tokenizer(tmp_path, content):
    (tmp_path / "own.json").write_bytes(content)
    (tmp_path / "a.txt").write_text("a b c é\n\nd e f")
    made = loads_or_tells(lambda: read(tmp_path / "own.json"))
    if made is not None:
        assert len(made.entries) == made.size
        sets = loads_or_tells(
            lambda: load(f"text(path={tmp_path / 'a.txt'},tokenizer={tmp_path / 'own.json'},length=3)")
        )
        if sets is not None:
            valid(*sets)
            sets[0].kind.text(sets[0].x[0])


@st.composite
def _changed(draw, model):
    """A tokenizer's JSON with one of its parts replaced."""
    part = draw(st.sampled_from(sorted(model)))
    other = st.none() | st.integers() | st.just([]) | st.just({}) | st.just({"type": "ByteLevel"}) | st.text(max_size=3)
    return json.dumps({**model, part: draw(other)}).encode()
