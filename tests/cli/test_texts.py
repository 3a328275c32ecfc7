"""What a user of texts sees: notes on what was cut off or is unknown, and the tokenizer beside what was kept."""

import json
from types import SimpleNamespace

import pytest

from fedpriv.data import load
from fedpriv.data.tokenizer import read
from fedpriv.experiment.runner import keep_tokenizers

TINY = ("--model", "gpt(layers=1,width=8,heads=1)")


@pytest.mark.slow
def test_notes_are_said_and_the_tokenizer_is_kept(run, tmp_path):
    file = tmp_path / "my.txt"
    file.write_text("\n\n".join(f"Number {i} is {'not ' * (i % 3)}a number of {i * i}." for i in range(12)))
    data = f"text(path={file},length=6,vocabulary=14,test_fraction=0.3)"
    status, out, err = run(
        "train", "--data", data, *TINY, "--clients", 2, "--rounds", 1, "--checkpoint", tmp_path / "run.ckpt"
    )
    assert (status, err) == (0, "")
    train, test = load(data)
    for note in (*train.notes, *test.notes):
        assert f"Note on data 'my': {note}." in out
    assert "are not in the vocabulary and stand as <unk>" in out
    assert read(tmp_path / "run.tokenizer.json").digest == train.kind.tokenizer.digest


def test_mistakes_are_said_in_one_line(run, tmp_path):
    (tmp_path / "latin.txt").write_bytes("élan".encode("latin-1"))
    status, out, err = run("train", "--data", tmp_path / "latin.txt", *TINY)
    assert (status, out) == (2, "")
    assert err.endswith("latin.txt, line 1: the byte 0xe9 is no UTF-8; save the file in UTF-8\n")
    (tmp_path / "a.csv").write_text("text,label\na b,x\nc d,y\n")
    status, _, err = run("train", "--data", f"text(path={tmp_path / 'a.csv'},label=lable)", *TINY)
    assert (status, len(err.splitlines())) == (2, 1)
    assert "label='lable': " in err
    assert "has no such column. Did you mean 'label'?" in err
    rows = [f"number {i} of {i * i},{i / 3}" for i in range(12)]
    (tmp_path / "own.csv").write_text("\n".join(["text,label", *rows]))
    status, _, err = run("train", "--data", tmp_path / "own.csv", *TINY)
    assert (status, "column 'label' has another value in each of 12 rows" in err) == (2, True)
    status, _, err = run("train", "--data", f"text(path={tmp_path / 'a.csv'},column=text,label=text)", *TINY)
    assert (status, "column 'text' cannot be the texts and their labels" in err) == (2, True)
    partition = ("--partition-figure", tmp_path / "p.png", "--clients", 1)
    (tmp_path / "b.txt").write_text("one two three four five six seven")
    status, _, err = run("train", "--data", tmp_path / "b.txt", *TINY, *partition)
    assert status == 2
    assert "the targets of" in err
    assert "are sequences; leave it out" in err


def test_a_checkpoint_of_other_tokens_is_refused(run, tmp_path):
    file, path = tmp_path / "my.txt", tmp_path / "run.ckpt"
    file.write_text(" ".join(f"one two three {word} five" for word in ("six", "seven", "eight") for _ in range(9)))
    data = f"text(path={file},length=6,lowercase=false)"
    assert run("train", "--data", data, *TINY, "--clients", 2, "--rounds", 1, "--checkpoint", path, "--seed", 0)[0] == 0
    given = ("attack", "token_set", *TINY, "-n", 1, "--seed", 0, "--checkpoint", path, "--data")
    assert "mean other texts" not in run(*given, data)[2]
    (tmp_path / "other.txt").write_text(file.read_text().replace("two", "TWO"))
    status, _, err = run(*given, data.replace("my.txt", "other.txt"))
    assert (status, len(err.splitlines())) == (2, 1)
    assert "mean other texts; give tokenizer=" in err


@pytest.mark.slow
def test_why_nothing_was_claimed_is_said(run, tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("text,label\n" + "\n".join(f"word{i} stands {i % 3} here,{'xy'[i % 2]}" for i in range(10)))
    given = ("attack", "token_set", "--data", f"text(path={file},length=4)", *TINY, "-n", 1, "--seed", 0)
    status, out, _ = run(*given, "-d", "top_k(fraction=0.1)", "--out", tmp_path / "out")
    assert status == 0
    kept = json.loads((tmp_path / "out" / "summary.json").read_text())["summary"]["doubts"]
    assert len(kept) == 1
    assert f"Attack 'token_set' found not all, or is not sure: {kept[0]}" in out


def test_an_experiment_keeps_the_tokenizers_of_its_data(npz, tmp_path):
    file = tmp_path / "my.txt"
    file.write_text("one two three four five six seven eight")
    given = [f"text(path={file})", f"text(path={file},tokenizer=characters)", npz]
    cells = [SimpleNamespace(setting=SimpleNamespace(data=d, data_dir=None)) for d in [*given, *given]]
    keep_tokenizers(SimpleNamespace(cells=cells), tmp_path)
    digests = [load(d)[0].kind.tokenizer.digest for d in given[:2]]
    assert {f.name for f in (tmp_path / "tokenizers").iterdir()} == {f"{d}.json" for d in digests}
    assert [read(tmp_path / "tokenizers" / f"{d}.json").digest for d in digests] == digests
