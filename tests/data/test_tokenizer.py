import json

import numpy as np
import pytest
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers, processors

from fedpriv.base.errors import DataError, ParameterError, UnknownNameError
from fedpriv.data import load
from fedpriv.data.kinds.tokens import Tokens
from fedpriv.data.sequences import Cut
from fedpriv.data.tokenizer import BYTES, SPECIAL, fit, keep, read

TEXTS = ["The cat sat.", "the cat don't sit", "A dog sat down, the dog!"]


def test_words_are_the_most_frequent_ones_in_lower_case():
    made = fit(TEXTS, "words", vocabulary=7)
    # the: 3; cat, dog, sat: 2 each, in the alphabet's order; all else 1
    assert made.entries == (*SPECIAL, "the", "cat", "dog", "sat")
    assert (made.size, made.padding, made.unknown, made.end, made.lowercase) == (7, 0, 1, 2, True)
    assert made.encode(["THE dog don't sat."]) == [[3, 5, 1, 6, 1]]
    assert made.decode([3, 5, 1, 6, 0, 0]) == "the dog <unk> sat"
    assert "don't" in fit(TEXTS, "words").entries
    assert "The" in fit(TEXTS, "words", lowercase=False).entries


def test_characters_keep_every_letter():
    made = fit(["abba\n c"], "characters")
    assert made.entries == (*SPECIAL, "a", "b", "\n", " ", "c")
    text = "cab\nba"
    assert made.decode(made.encode([text])[0]) == text
    assert made.encode(["aZ"]) == [[3, 1]]
    assert fit(["abba\n c"], "characters", vocabulary=5).size == 5


def test_bpe_writes_every_text_and_merges_the_most_frequent_pair_first():
    made = fit(["aab aab aab xy"], "bpe", vocabulary=BYTES + 5)
    assert made.unknown is None
    assert made.entries[:3] == SPECIAL
    assert made.entries[-2:] == ("aa", "aab")
    for text in ("aab", "no such 🙂 letters,\tné\n", "<pad><unk>"):
        assert made.decode(made.encode([text])[0]) == text
    assert all(min(ids) > 2 for ids in made.encode(["<pad> <end>"]))  # what spells a special token is none


def test_the_same_texts_give_the_same_tokenizer_and_a_file_gives_it_back(tmp_path):
    for name in ("words", "characters", "bpe"):
        made = fit(TEXTS, name, lowercase=False)
        assert fit(TEXTS, name, lowercase=False) == made
        assert keep(Tokens(length=3, vocabulary=made.size, tokenizer=made), tmp_path / f"{name}.json").exists()
        again = read(tmp_path / f"{name}.json")
        assert (again.name, again.digest, again.entries) == (name, made.digest, made.entries)
        assert again.encode(TEXTS) == made.encode(TEXTS)
        assert {again.padding, again.end} == {0, 2}
    assert keep(Tokens(length=3, vocabulary=9), tmp_path / "none.json") is None
    assert fit([*TEXTS, "more"], "words").digest != fit(TEXTS, "words").digest


def test_a_kind_reads_its_tokens_and_tells_of_its_tokenizer_only_what_names_it():
    made = fit(TEXTS, "words")
    kind = Tokens(length=4, vocabulary=made.size, padding=0, tokenizer=made)
    row = np.array([*made.encode(["the dog ."])[0], 0])
    assert kind.text(row) == "the dog."
    assert kind.tokens(row.astype(np.float32)) == ["the", "dog", ".", "<pad>"]
    assert hash(kind) == hash(kind.with_(length=4))
    assert kind != kind.with_(tokenizer=fit([*TEXTS, "dog"], "words"))
    said = kind.config()["tokenizer"]
    assert {"name", "size", "digest"} <= set(said)
    assert len(json.dumps(said)) < 200
    numbers = Tokens(length=4, vocabulary=9)
    assert (numbers.text(row % 9), numbers.tokens(np.array([1, 8, 0, 2]))) == (" ".join(map(str, row % 9)), [*"1802"])


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: fit(TEXTS, "word"), UnknownNameError, "no tokenizer is named 'word'.*Did you mean 'words'"),
        (lambda: fit(TEXTS, "words", vocabulary=3), ParameterError, "vocabulary=3 is too small.*at least 4"),
        (lambda: fit(TEXTS, "bpe", vocabulary=258), ParameterError, "at least 259 .3 special tokens and 256 bytes"),
        (lambda: fit(["  "], "words"), DataError, "nothing that can be a token"),
        (lambda: fit([], "characters"), DataError, "nothing that can be a token"),
        (lambda: read("/no/such/tokenizer.json"), DataError, "cannot be read .*No such file"),
        (lambda: Cut("/no/such.json").kind(TEXTS), DataError, "cannot be read"),
        (lambda: Cut(fit(TEXTS, "words"), vocabulary=5).kind([]), ParameterError, "vocabulary=5: .* has 14 tokens"),
        (lambda: Cut(fit(TEXTS, "words"), lowercase=False).kind([]), ParameterError, "lowercase=false: .*settles"),
        (
            lambda: Tokens(length=2, vocabulary=9, tokenizer=fit(TEXTS, "words")),
            ValueError,
            "vocabulary=9, but tokenizer 'words' has 14 tokens",
        ),
        (lambda: Tokens(length=2, vocabulary=9, padding=9), ValueError, "padding=9 is no token"),
    ],
)
def test_what_cannot_be_is_told(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_a_file_of_token_numbers_names_its_tokenizer(tmp_path):
    made = fit(TEXTS, "words")
    made.save(tmp_path / "tokenizer.json")
    arrays = {"x": np.array([[3, 4, 5], [4, 0, 0]]), "y": np.array([0, 1])}
    for size in (made.size, made.size + 1):
        kind = f"tokens(length=3,vocabulary={size},padding=0,tokenizer={tmp_path / 'tokenizer.json'})"
        np.savez(tmp_path / f"{size}.npz", kind=np.array(kind), **arrays)
    train, _ = load(tmp_path / f"{made.size}.npz")
    assert train.kind.text(train.x[1]) == made.entries[4]
    with pytest.raises(ParameterError, match=f"vocabulary={made.size + 1}, but tokenizer 'tokenizer' has {made.size}"):
        load(tmp_path / f"{made.size + 1}.npz")


def own(path, vocabulary, **options):
    library = Library(models.WordLevel(vocabulary, **options))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    library.save(str(path))
    return path


def test_a_tokenizer_of_the_users(tmp_path):
    names = {"[PAD]": 3, "[CLS]": 1, "[SEP]": 2, "[UNK]": 0, "cat": 4}
    made = read(own(tmp_path / "mine.json", names, unk_token="[UNK]"))
    assert (made.name, made.size, made.padding, made.unknown, made.end) == ("mine", 5, 3, 0, None)
    assert made.encode(["cat dog"], special=True) == [[1, 4, 0, 2]]
    assert made.encode(["cat dog"]) == [[4, 0]]
    gap = own(tmp_path / "gap.json", {**names, "dog": 9}, unk_token="[UNK]")
    with pytest.raises(DataError, match=r"6 tokens have numbers up to 9; expected.*without gaps"):
        read(gap)
    with pytest.raises(ParameterError, match="'bare' has no token for padding; add one called <pad>"):
        Cut(str(own(tmp_path / "bare.json", {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "x": 3}, unk_token="[UNK]"))).kind([])
    mute = read(own(tmp_path / "mute.json", {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2}))
    with pytest.raises(DataError, match="tokenizer 'mute' cannot write the texts"):
        mute.encode(["cat"])
    (tmp_path / "odd.json").write_text('{"version": "1.0"}')
    with pytest.raises(DataError, match=r"odd.json: no tokenizer.json that can be read"):
        read(tmp_path / "odd.json")
