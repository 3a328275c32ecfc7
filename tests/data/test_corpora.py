import importlib.resources
import re

import numpy as np
import pytest

from fedpriv.base.errors import ParameterError
from fedpriv.data import load, make_partition


def test_they_are_small():
    folder = importlib.resources.files("fedpriv.data") / "texts"
    files = [f for f in folder.iterdir() if f.name.endswith((".xz", ".md"))]
    assert {f.name for f in files} == {"plays.csv.xz", "sentences.csv.xz", "README.md"}
    assert sum(len(f.read_bytes()) for f in files) < 600_000


def test_sentences():
    train, test = load("sentences")
    assert (len(train), len(test), train.x.shape[1:], train.kind.vocabulary) == (3680, 846, (24,), 2000)
    assert train.class_names == ("Austen", "Carroll", "Doyle", "Newton", "Twain")
    assert np.bincount(train.y).tolist() == [780, 780, 780, 560, 780]
    assert np.bincount(train.y[:500]).tolist() == [100] * 5
    # A passage lies on one side of the split, and belongs to one author.
    assert not set(train.keys) & set(test.keys)
    assert {str(k).split()[0] for k in train.keys} == set(train.class_names)
    partition = make_partition("natural", train, None)
    assert len(partition) == 184
    assert all(len(set(train.y[i])) == 1 and len(i) <= 20 for i in partition.indices)
    assert train.kind.text(train.x[0]).startswith("it is a truth <unk> <unk>, that a single man in <unk> of a good")
    assert "are not in the vocabulary and stand as <unk>" in train.notes[1]
    assert 0.07 < (train.x == 1).sum() / (train.x != 0).sum() < 0.09


def test_plays():
    train, test = load("plays")
    assert (len(train), len(test), train.x.shape[1:], train.num_classes) == (6083, 1894, (32,), 2000)
    assert not {x.tobytes() for x in train.x} & {x.tobytes() for x in test.x}
    assert test.notes == ("6 of 1,900 test sequences are in the training set too and are left out",)
    assert set(test.keys) <= set(train.keys)
    assert len(set(train.keys)) == 116
    hamlet = train.keys == "Hamlet (Hamlet)"
    said = "".join(train.kind.text(x) for x in train.x[hamlet])
    assert "To be, or not to be: that is the question" in said
    np.testing.assert_array_equal(train.x[hamlet][0, 1:], train.y[hamlet][0, :-1])
    assert (train.x == 1).sum() == 0  # bytes can write anything


def test_no_text_occurs_twice_whatever_its_marks():
    import pandas

    with importlib.resources.as_file(importlib.resources.files("fedpriv.data") / "texts" / "sentences.csv.xz") as path:
        rows = pandas.read_csv(path)
    plain = [re.sub("[^a-z]", "", t.lower()) for t in rows["text"]]
    assert len(set(plain)) == len(plain) == 4526
    assert rows["text"].str.split().str.len().between(5, 31).all()


def test_other_tokenizers():
    train, _ = load("sentences(tokenizer=characters,length=40)")
    assert train.kind.text(train.x[0]) == "It is a truth universally acknowledged, "
    assert load("sentences(vocabulary=500)")[0].fingerprint != load("sentences(vocabulary=501)")[0].fingerprint
    with pytest.raises(ParameterError, match="length='0': "):
        load("plays(length=0)")
