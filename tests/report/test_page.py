import base64
import html.parser
import math
import os
import re

import numpy as np
import pytest

from fedpriv.base.errors import DataError, FedprivError, ParameterError
from fedpriv.base.provenance import provenance
from fedpriv.figures.curves import training_curves
from fedpriv.figures.save import png
from fedpriv.report import Figure, Report, Section, Table
from fedpriv.report.page import show

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
NASTY = """<script>alert("1")</script> & 'x' "y" <img src=http://evil.example/>"""


class Page(html.parser.HTMLParser):
    """Collects tags with their attributes, and the text between them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [a for t, a in self.tags if t == tag]


def nasty_report():
    return Report(
        NASTY,
        [
            Section(
                NASTY,
                [NASTY],
                [Figure(PIXEL, NASTY, NASTY)],
                [Table([{NASTY: NASTY}], caption=NASTY, note=NASTY)],
                [(NASTY, 'data/"a" <b>.csv')],
            ),
            Section("Second"),
            Section("Third"),
        ],
        lead=[NASTY],
        provenance={"command": NASTY, "seed": 3, "config": {"x": NASTY}, NASTY: NASTY},
        notice=NASTY,
    )


def test_every_text_is_escaped():
    text = nasty_report().html()
    page = Page(text)
    assert len(page.all("script")) == 1  # the page's own
    assert len(page.all("img")) == 1
    assert "<script>alert" not in text
    assert page.all("img")[0]["alt"] == NASTY
    assert "".join(page.words).count(NASTY) >= 10
    assert not page.open


def test_nothing_is_loaded_from_elsewhere():
    page = Page(nasty_report().html())
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")) or not re.match(r"[a-z]+:|/", value), value
        assert "url(" not in (attributes.get("style") or "")
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    style = nasty_report().html().split("<style>")[1].split("</style>")[0]
    assert "@import" not in style
    assert "url(" not in style


def test_pictures_are_inside_with_alt_text(tmp_path):
    figure = training_curves({"a": [{"round": k, "accuracy": 0.1 * k} for k in range(3)]})
    (tmp_path / "x.png").write_bytes(PIXEL)
    section = Section("s", figures=[Figure(figure, "one"), Figure(PIXEL, "two"), Figure(tmp_path / "x.png", "three")])
    pictures = Page(Report("t", [section]).html()).all("img")
    assert [p["alt"] for p in pictures] == ["one", "two", "three"]
    data = [base64.b64decode(p["src"].removeprefix("data:image/png;base64,")) for p in pictures]
    assert data == [png(figure), PIXEL, PIXEL]


def test_a_picture_beside_the_page_is_shown_from_there(tmp_path):
    (tmp_path / "a b.png").write_bytes(PIXEL)
    inside, beside = Figure(PIXEL, "one"), Figure(tmp_path / "a b.png", "two", beside="figures/a b.png")
    page = Page(Report("t", [Section("s", figures=[inside, beside])]).html())
    assert [p["src"][:22] for p in page.all("img")] == ["data:image/png;base64,", "figures/a%20b.png"]
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "img-src 'self' file: data:;" in policy
    assert "img-src data:;" in Report("t", [Section("s", figures=[inside])]).html()
    for path in ("../x.png", "/x.png", "https://example.org/x.png"):
        with pytest.raises(ParameterError, match="own folder"):
            Report("t", [Section("s", figures=[Figure(PIXEL, "x", beside=path)])]).html()


def test_a_picture_needs_alt_text_and_must_be_a_png(tmp_path):
    with pytest.raises(ParameterError, match="alt text"):
        Figure(PIXEL, " ")
    with pytest.raises(DataError, match="PNG"):
        Figure(b"GIF89a", "x").png()
    with pytest.raises(DataError, match=r"missing\.png"):
        Figure(tmp_path / "missing.png", "x").png()


def test_tables_sort_by_value_with_buttons():
    rows = [{"name": "a", "psnr": math.inf, "n": np.int64(12000)}, {"name": "b", "psnr": None, "n": 3}]
    page = Page(Report("t", [Section("s", tables=[Table(rows)])]).html())
    assert len(page.all("button")) == len(page.all("th")) == 3
    assert all(a["scope"] == "col" for a in page.all("th"))
    # The others' texts sort as their values do; no value sorts last.
    assert [c.get("data-sort") for c in page.all("td")] == [None, "Infinity", "12000", None, None, None]
    text = "".join(page.words)
    assert "∞" in text
    assert "12,000" in text


def test_tables_show_the_columns_asked_for():
    table = Table([{"a": 1, "b": 2}], columns=["b", "c"], names={"c": "See"})
    assert table.keys() == ["b", "c"]
    assert [table.heading(k) for k in table.keys()] == ["b", "See"]  # noqa: SIM118
    assert table.cell(table.rows[0], "c") == ("–", "")


@pytest.mark.parametrize(
    ("value", "spec", "text"),
    [
        (None, None, "–"),
        (math.nan, None, "–"),
        (math.inf, ".1f", "∞"),
        (-math.inf, None, "−∞"),
        (True, None, "yes"),
        (np.bool_(False), None, "no"),
        (0.123456, None, "0.1235"),
        (-0.5, None, "−0.5"),
        (123456, None, "123,456"),
        (123456.7, None, "123,457"),
        (0.905, ".0%", "90%"),
        ((0.699, 0.972), ".0%", "70% to 97%"),
        (["a", "b"], None, "a, b"),
        ({"numpy": "1.25"}, None, "numpy 1.25"),
        ("x", ".1f", "x"),
    ],
)
def test_values_as_a_reader_wants_them(value, spec, text):
    assert show(value, spec) == text


def test_a_format_that_does_not_suit_names_its_column():
    table = Table([{"a": 1.5}], formats={"a": "d"})
    with pytest.raises(ParameterError, match="'a'"):
        table.cell(table.rows[0], "a")


@pytest.mark.parametrize("path", ["/x.csv", "../x.csv", "a/../../x", "https://example.org/x", "javascript:alert(1)"])
def test_links_stay_in_the_pages_folder(path):
    with pytest.raises(ParameterError, match="own folder"):
        Report("t", [Section("s", files=[("x", path)])]).html()


def test_anchors_are_unique_and_contents_lead_to_them():
    page = Page(Report("t", [Section("Same"), Section("Same"), Section("!?")]).html())
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(set(ids)) == len(ids)
    assert {a["href"][1:] for a in page.all("a")} <= set(ids)


def test_provenance_is_printed():
    made = provenance(["fedpriv", "demo", "--seed", "3"], {"noise": 0.5}, seed=1234567)
    text = "".join(Page(Report("t", [Section("s")], provenance=made).html()).words)
    assert "fedpriv demo --seed 3" in text
    assert made["config_hash"] in text
    assert "1234567" in text
    assert '"noise": 0.5' in text


def test_writing_is_atomic_and_repeatable(tmp_path, monkeypatch):
    path = Report("t", [Section("s")]).write(tmp_path / "deep" / "index.html")
    first = path.read_bytes()
    assert Report("t", [Section("s")]).write(path).read_bytes() == first

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(FedprivError, match="disk is full"):
        Report("other", [Section("s")]).write(path)
    assert path.read_bytes() == first


def test_a_report_needs_a_title():
    with pytest.raises(ParameterError, match="title"):
        Report(" ", []).html()
