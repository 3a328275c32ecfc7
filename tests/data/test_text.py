import gzip
import json

import numpy as np
import pytest

from fedpriv.base.errors import DataError, ParameterError, UnknownNameError
from fedpriv.data import load, make_partition
from fedpriv.data.sequences import Cut, running_text, whole_texts, windows
from fedpriv.data.text import from_texts, text
from fedpriv.data.tokenizer import fit

CSV = "text,label,user\n" + "".join(
    f"word{i} is {'good' if i % 2 else 'bad'} w{i},{i % 2},u{i % 3}\n" for i in range(20)
)


@pytest.fixture
def reviews(tmp_path):
    (tmp_path / "reviews.csv").write_text(CSV)
    return tmp_path / "reviews.csv"


def test_texts_with_labels_from_a_csv_file(reviews):
    train, test = load(f"text(path={reviews},keys=user,length=5,test_fraction=0.25)")
    assert (len(train), len(test), train.num_classes, train.class_names) == (15, 5, 2, ("0", "1"))
    assert (train.name, train.kind.name, train.x.dtype, train.x.shape) == ("reviews", "tokens", np.int32, (15, 5))
    for part in (train, test):
        for x, y in zip(part.x, part.y, strict=True):
            assert ("good" in part.kind.tokens(x)) == bool(y)
    assert (train.x[:, 4] == 0).all()  # four words and one place of padding
    assert make_partition("natural", train, None).name == "natural(clients=3)"
    assert {str(k) for k in train.keys} == {"u0", "u1", "u2"}
    # What only test texts hold is unknown, and the vocabulary is of the training texts alone.
    assert set(train.x.ravel()) & {1} == set()
    assert (test.x == 1).sum() == 10
    assert test.notes[0] == "50.0% of the test texts' tokens (10 of 20) are not in the vocabulary and stand as <unk>"
    assert load(reviews)[0].fingerprint == text(str(reviews))[0].fingerprint  # the column is called text
    assert load(f"table(path={reviews})")[0].kind.name == "columns"


def test_what_is_too_long_is_cut_off_and_counted_or_refused(reviews):
    train, test = text(str(reviews), length=3, test_fraction=0.0)
    assert test is None
    assert (train.x != 0).all()
    assert train.notes == (
        "the training texts have 3 of 46 tokens (words in lower case) each; 0.0% of the places are padding",
        "20 of 20 training texts are longer than 3 tokens; their ends are cut off (20 tokens)",
    )
    with pytest.raises(
        DataError, match=r"reviews.csv: text 1 \('word0 is bad w0...'\) has 4 tokens, more than length=3"
    ):
        text(str(reviews), length=3, truncate=False, test_fraction=0.0)
    few = text(str(reviews), vocabulary=4, test_fraction=0.0, length=4)[0]  # "is" alone, a quarter of all
    assert few.notes[1].startswith("75.0% of the training texts' tokens (60 of 80) are not in the vocabulary")


def test_lines_predict_the_next_token_and_their_end(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"snippets": "a b c"}\n\n{"snippets": ["a", "b"]}\n{"snippets": "d"}\n')
    train, test = load(tmp_path / "a.jsonl")
    everything, none = text(str(tmp_path / "a.jsonl"), length=2, test_fraction=0.0)
    assert none is None
    assert len(train) + len(test) == 3
    kind = everything.kind
    a, b, c, d = (kind.tokenizer.entries.index(w) for w in "abcd")
    np.testing.assert_array_equal(everything.x, [[a, b], [a, b], [d, 0]])
    np.testing.assert_array_equal(everything.y, [[b, c], [b, 2], [2, 0]])
    assert everything.num_classes == kind.vocabulary == 7
    assert "1 of 3 training texts are longer than 2 tokens; their ends are cut off (1 tokens)" in everything.notes


def test_running_text_is_cut_into_windows(tmp_path):
    words = [f"w{i}" for i in range(100)]
    (tmp_path / "novel.txt").write_text("\ufeff" + " ".join(words[:40]) + "\n\n" + " ".join(words[40:]) + "\n")
    train, _ = load(f"text(path={tmp_path / 'novel.txt'},length=8,test_fraction=0)")
    kind = train.kind
    assert train.x.shape == (13, 8)  # 102 tokens with both ends, of which the first is no target
    stream = [*train.x.ravel()[: 101 - 101 % 8], *train.x[-1, : 101 % 8], train.y[-1, 101 % 8 - 1]]
    ends = [*words[:40], "<end>", *words[40:], "<end>"]
    assert [kind.tokenizer.entries[n] for n in stream] == ends
    np.testing.assert_array_equal(train.x.ravel()[1:101], train.y.ravel()[:100])
    assert train.keys is None
    assert len(load(f"text(path={tmp_path / 'novel.txt'},running=false,test_fraction=0)")[0]) == 2
    train, test = load(tmp_path / "novel.txt")
    assert not {*train.x.ravel()} & {*test.x.ravel()} - {0, 1, 2}


def test_each_owner_has_a_running_text_with_an_end_of_its_own_for_testing():
    pieces = {o: [f"{o}{i} {o} {o}" for i in range(9)] for o in ("x", "y")}
    train, test = running_text("two", pieces, Cut(length=4))
    assert {str(k) for k in train.keys} == {str(k) for k in test.keys} == {"x", "y"}
    for part, said in ((train, range(7)), (test, range(7, 9))):
        for owner in ("x", "y"):
            own = {t for x in part.x[part.keys == owner] for t in part.kind.tokens(x)}
            known = {f"{owner}{i}" for i in said} if part is train else set()
            assert {t for t in own if t[0] == owner and len(t) > 1} == known
            assert not {t for t in own if t[0] in "xy" and t[0] != owner}
    alone, ending = running_text("one", {"x": ["a b c d e f g h i j"]}, Cut(length=4))
    assert [alone.kind.text(x) for x in alone.x] == ["a b c d", "e f g h"]
    assert [ending.kind.text(x) for x in ending.x] == ["<unk> <unk>"]  # whose last target is the end


def test_sequences_that_are_in_both_sets_stay_in_training_alone(tmp_path):
    rows = [{"t": f"same {i}", "label": i % 2} for i in range(30)]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    one = f"text(path={tmp_path / 'r.jsonl'},column=t,test_fraction=0.4,vocabulary={{}})"
    train, test = load(one.format(4))  # only "same" is known, so that all texts are alike
    assert (len(train), test) == (18, None)
    assert train.notes[-1] == "all 12 test sequences are in the training set too, so that there is no test set"


def test_files_may_be_packed_and_end_lines_in_any_way(tmp_path):
    plain = tmp_path / "a.txt"
    plain.write_bytes(b"one two\r\n\r\nthree four five\r")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"one two\n\nthree four five"))
    ours, packed = (text(str(p), tokenizer="characters", test_fraction=0.0)[0] for p in (plain, tmp_path / "b.txt.gz"))
    np.testing.assert_array_equal(ours.x, packed.x)


@pytest.mark.parametrize(
    ("file", "content", "options", "kind", "message"),
    [
        ("a.txt", b"one\ntwo \xff\n", "", DataError, r"a.txt, line 2: the byte 0xff is no UTF-8; save"),
        ("a.txt", "one".encode("utf-16"), "", DataError, r"line 1: the byte 0xff is no UTF-8; it looks like UTF-16"),
        ("a.txt", b" \n\n", "", DataError, "a.txt has no texts"),
        ("a.txt", b"", "", DataError, "a.txt has no texts"),
        ("a.txt", b"one two", ",label=x", ParameterError, "label=x: .*a.txt is plain text without columns"),
        ("a.txt", b"one two", ",task=classes", ParameterError, "plain text without labels"),
        (
            "a.txt",
            b"one two",
            ",tokenizer=wrods",
            UnknownNameError,
            "no tokenizer is named 'wrods'.*Did you mean 'words'",
        ),
        ("a.txt", b"one two", ",vocabulary=2", ParameterError, "vocabulary=2 is too small"),
        ("a.txt.gz", b"no gzip", "", DataError, "cannot be read"),
        ("a.pdf", b"one", "", DataError, "expected a file of texts that ends in .txt"),
        ("a.csv", b"text,label\nhello,1\n,0\n", "", DataError, "column 'text' has 1 empty texts .the first in row 2"),
        ("a.csv", b"text,label\nhello,1\nyou,\n", "", DataError, "column 'label' is empty in row 2"),
        ("a.csv", b"text,label\nhello,1\nyou,1\n", "", DataError, "column 'label' is always '1'; nothing to predict"),
        (
            "a.csv",
            b"text,label\na,1\nb,0\n",
            ",column=txt",
            ParameterError,
            "column='txt': .*no such column.*mean 'text'",
        ),
        (
            "a.csv",
            b"text,label\na,1\nb,0\n",
            ",keys=lable",
            ParameterError,
            "keys='lable': .*no such column.*mean 'label'",
        ),
        ("a.csv", b"a,b\nx,y\n", "", ParameterError, "which column holds the texts. Name one of a, b as column"),
        ("a.csv", b"text,b\nx,y\n", ",task=classes", ParameterError, "no column of labels; name one of text, b"),
        ("a.csv", b"text,label\nx,y\n", ",label=label,running=true", ParameterError, "leave one of them out"),
        ("a.csv", b"text,text\nx,y\n", "", DataError, "two columns are called 'text'"),
        ("a.csv", b'text,b\n"x,y\n', "", DataError, "no CSV file that can be read"),
        ("a.csv", b"text\nx\n\xe9\n", "", DataError, "line 3: the byte 0xe9 is no UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{"text"', "", DataError, "line 2: no JSON"),
        ("a.jsonl", b'{"text": "a"}\n["a"]', "", DataError, "line 2: a list; expected an object"),
        ("a.jsonl", b'{"text": "a"}\n{"txt": "a"}', "", DataError, "line 2: field 'text' is in this line or the first"),
        ("a.jsonl", b'{"text": 3}', "", DataError, "column 'text' holds 3 in row 1; expected a text"),
        ("a.jsonl", b'{"text": "\\ud800"}', "", DataError, "half of a character in row 1"),
        ("a.jsonl", b"", "", DataError, "has no texts; expected one object a line"),
        ("a.jsonl", b'{"text": "a", "label": [1]}', "", DataError, r"column 'label' holds \[1\] in row 1"),
    ],
)
def test_bad_input_is_named(tmp_path, file, content, options, kind, message):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(kind, match=message) as told:
        load(f"text(path={tmp_path / file}{options})")
    assert len(str(told.value).splitlines()) == 1


def test_a_partition_of_classes_is_refused_where_targets_are_sequences(tmp_path):
    (tmp_path / "a.txt").write_text(" ".join(f"w{i % 9}" for i in range(200)))
    train, _ = text(str(tmp_path / "a.txt"), length=5)
    for name in ("shards", "dirichlet"):
        with pytest.raises(ParameterError, match=f"'{name}' divides classes, but the targets of 'a' are sequences"):
            make_partition(name, train, 2)
    for name in ("iid", "quantity"):
        assert sum(make_partition(name, train, 2).sizes) == len(train)


def test_a_kind_without_a_tokenizer_makes_no_sequences():
    kind = Cut(length=3).kind(["a b"]).with_(tokenizer=None)
    with pytest.raises(DataError, match="their kind has no tokenizer"):
        windows(["a b"], kind)
    with pytest.raises(DataError, match=r"here: text 5 .' '. has no tokens"):
        whole_texts([" "], Cut(length=3).kind(["a"]), True, np.array([4]), "here")


def test_the_fingerprint_covers_the_tokenizer():
    import pandas

    rows = pandas.DataFrame({"text": ["a b", "b a"]})
    made = [
        from_texts(rows, "t", how=Cut(t), test_fraction=0.0)[0] for t in (fit(["a b"], "words"), fit(["b a"], "words"))
    ]
    other = from_texts(rows, "t", how=Cut(fit(["a b"], "words", lowercase=False)), test_fraction=0.0)[0]
    np.testing.assert_array_equal(made[0].x, other.x)
    assert made[0].fingerprint == made[1].fingerprint  # counts are alike, so the vocabulary is the alphabet's
    assert made[0].fingerprint != other.fingerprint
