"""Text grid: which tokens are marked how, and that nothing leaves its column or covers another."""

import numpy as np
import pytest

from fedpriv.base.errors import ParameterError
from fedpriv.figures.save import png
from fedpriv.figures.text_grid import marked, text_captions, text_grid
from fedpriv.metrics.score import ImageScore, Score

LONG = [f"word{i}" for i in range(40)]


def words(figure):
    return [t for t in figure.texts if t.get_text()]


def test_marks_by_hand():
    original = ["to", "be", "or", "not", "to", "be", "", ""]
    found = ["to", "or", "be", "", "to", "to", "x", ""]
    assert marked(original, found) == [
        ("to", "right"), ("or", "elsewhere"), ("be", "elsewhere"), ("–", "wrong"), ("to", "right"), ("to", "wrong"),
        ("x", "wrong"),
    ]  # fmt: skip


def test_a_token_counts_elsewhere_as_often_as_it_is_there():
    assert [m for _, m in marked(["a", "b", "c"], ["b", "a", "a"])] == ["elsewhere", "elsewhere", "wrong"]


def test_open_places_are_explained_and_signs_without_a_glyph_are_no_warning(recwarn):
    key = words(text_grid([["a", "b"]], {"arm": [["a", ""]]}))[-1].get_text()
    assert key.endswith("–: nothing there.")
    figure = text_grid([["a", "\U0001f469"]], {"arm": [["a", "\U0001f469"]]})
    assert "nothing there" not in words(figure)[-1].get_text()
    assert png(figure)
    assert not recwarn.list


@pytest.mark.parametrize("arms", [1, 2])
def test_long_texts_go_on_in_lines_that_stay_on_the_page(arms):
    rows = {f"arm {i}": [LONG, None] for i in range(arms)}
    figure = text_grid([LONG, ["short"]], rows, {"arm 0": ["exact", ""]}, title="A title " * 20)
    boxes = [t.get_window_extent() for t in words(figure)]
    wide, tall = figure.get_size_inches() * figure.dpi
    assert all(b.x0 >= 0 and b.x1 <= wide and b.y0 >= 0 and b.y1 <= tall for b in boxes)
    centres = sorted(((b.x0 + b.x1) / 2, (b.y0 + b.y1) / 2) for b in boxes)
    assert len({(round(x), round(y)) for x, y in centres}) == len(boxes)
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            across = min(a.x1, b.x1) - max(a.x0, b.x0)
            down = min(a.y1, b.y1) - max(a.y0, b.y0)
            assert across <= 2 or down <= 2, (a, b)
    bold = [t for t in words(figure) if t.get_text().startswith("word") and t.get_fontweight() == "bold"]
    assert len(bold) == 40 * arms


def test_blanks_and_dollars_are_seen_as_they_are():
    figure = text_grid([["a b", "$x$", "\n"]], {"arm": [["a b", "$x$", "\n"]]})
    shown = [t.get_text() for t in words(figure)]
    assert shown.count("a␣b") == 2
    assert shown.count(r"\$x\$") == 2


def test_a_reason_stands_in_place_of_texts():
    figure = text_grid([["a"]], {"one": [["a"]], "other": "does not apply"})
    assert "does not apply" in [t.get_text() for t in words(figure)]


def test_captions_say_exact_or_how_near():
    def one(success, **extra):
        return ImageScore(0, None, None, None, success, True, None, None, None, extra)

    images = (one(True), one(False, rouge_l=0.5, token_accuracy=0.25), one(None))
    score = Score(images, np.array([0]), 30, None, 0, 0, 0, 1, 0)
    assert text_captions(score) == ["exact", "ROUGE-L 0.50\nin place 0.25", ""]


@pytest.mark.parametrize(
    ("originals", "rows", "captions", "says"),
    [
        ([], {"a": []}, None, "at least one original"),
        ([["a"]], {}, None, "and one arm"),
        ([["a"]], {"a": [["a"], ["b"]]}, None, "'a' has 2 texts for 1 originals"),
        ([["a"]], {"a": [["a"]]}, {"b": ["x"]}, "captions for 'b', but the arms are a"),
    ],
)
def test_what_does_not_fit_is_named(originals, rows, captions, says):
    with pytest.raises(ParameterError, match=says):
        text_grid(originals, rows, captions)
