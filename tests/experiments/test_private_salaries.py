"""The mean of private salaries: every number on the page is right, and what goes wrong does."""

import html
import json
import re

import numpy as np
import pytest
from fedpriv_experiments.private_salaries import group, lessons, sums
from fedpriv_experiments.private_salaries.command import learned, salaries
from scipy import stats

from fedpriv.base.errors import ParameterError
from fedpriv.defense.parties import SERVER, client
from fedpriv.report.manifest import problems

PEOPLE = group.PEOPLE
TOTAL = sum(p.salary for p in PEOPLE)


def test_rows_are_salaries_columns_are_what_one_saw_and_their_sums_are_the_sum():
    seen = lessons.seen(PEOPLE)
    assert seen.modulus == 2**24
    np.testing.assert_array_equal(seen.shares.sum(1) % 2**24, [p.salary for p in PEOPLE])
    published = [int.from_bytes(d.payload[:3], "little") for d in seen.run.session.wire.received(SERVER)]
    np.testing.assert_array_equal(seen.published, published)  # what really went over the wire
    assert sum(published) % 2**24 == TOTAL == seen.run.total
    assert seen.run.mean == TOTAL / 5
    for holder in range(5):
        held = seen.run.session.shares(client(holder))
        assert {c: int(s[0]) for c, s in held.items()} == {c: seen.shares[c, holder] for c in range(5) if c != holder}
    again = lessons.seen(PEOPLE)
    assert (again.shares != seen.shares).sum() >= 24  # fresh each time; the mean is the same
    assert again.run.mean == seen.run.mean


def test_every_guess_at_a_salary_has_the_share_that_explains_it():
    seen = lessons.seen(PEOPLE)
    for victim in range(5):
        found = lessons.explanations(seen, victim, [0, 1, PEOPLE[victim].salary, 99_999])
        assert [e.recombined for e in found] == [e.salary for e in found]
        true = next(e for e in found if e.salary == PEOPLE[victim].salary)
        assert true.missing == seen.shares[victim, victim]


def test_shares_of_a_low_and_a_high_salary_are_alike_and_salaries_are_not():
    found = lessons.histograms(5, draws=5000)
    assert min(*found.uniform, found.alike) > 1e-6
    plain = np.full(5000, lessons.LOW / 2**24)  # the same test on salaries that are not shared
    assert stats.chisquare(np.histogram(plain, 50, (0, 1))[0]).pvalue < 1e-100


def test_leaving_and_lying_do_what_the_page_says():
    before, after, lie, boast = lessons.failures(PEOPLE)
    four = (TOTAL - PEOPLE[-1].salary) / 4
    assert before.additive.mean == before.shamir.mean == before.truth == four
    assert (before.additive.count, after.shamir.count) == (4, 5)
    assert after.additive.mean is None
    assert after.additive.reason == "client 4 of 5 gone, and all are needed; run the round again"
    assert after.shamir.mean == after.truth == TOTAL / 5
    assert lie.additive.mean == TOTAL / 5 + lessons.LIE / 5  # unseen
    assert lie.additive.session.accused == ()
    assert lie.shamir.mean == TOTAL / 5
    assert lie.shamir.session.accused == (client(4),)
    assert boast.additive.mean == boast.shamir.mean == TOTAL / 5 + lessons.LIE / 5


def test_two_runs_differ_by_the_newcomers_salary_exactly_unless_there_is_noise():
    one = lessons.difference(PEOPLE, [group.NEWCOMER])
    assert (one.before, one.after, one.known) == (TOTAL, TOTAL + 6100, 6100)
    noise = lessons.noised(group.NEWCOMER, seed=0, draws=4000)
    # Two releases of one person's 10,000: the Gaussian mechanism's multiplier is sqrt(2) that of one.
    assert 4 < noise.deviation / lessons.CLIP < 7
    assert noise.guesses.std() == pytest.approx(2**0.5 * noise.deviation, rel=0.05)
    assert abs(noise.guesses.mean() - 6100) < 5 * noise.deviation * (2 / 4000) ** 0.5
    assert noise.errors[100] == noise.deviation / 100


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Ada", "'Ada' is no person; write a name and a whole number"),
        ("Ada=2.5,B=1,C=1,D=1,E=1", "'Ada=2.5' is no person"),
        ("A=1,B=2,A=3,D=4,E=5", "'A' is there twice"),
        ("A=1,B=2", "2 people: the page needs 5 to 12"),
        ("A=90001,B=1,C=1,D=1,E=1", "A=90001 is above 90000"),
    ],
)
def test_people_who_cannot_be_are_named(text, says):
    with pytest.raises(ParameterError, match=says):
        group.read(text)
    with pytest.raises(ParameterError, match="'Ada' is in the group already"):
        learned(newcomer="Ada=5")


def test_a_group_of_ones_own_takes_part(monkeypatch):
    people = group.read("V=90000, W=0 ,X=1,Y=12345,Z=7,U=500")
    found = sums.summed(people, sums.ADDITIVE), sums.summed(people, sums.SHAMIR)
    assert [f.total for f in found] == [102_853, 102_853]
    assert [f.count for f in found] == [6, 6]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    out = tmp_path_factory.mktemp("salaries")
    salaries(out=out, people="", newcomer="", seed=0)
    text = (out / "salaries.html").read_text()
    return out, html.unescape(re.sub(r"<[^>]+>", " ", text)), text


@pytest.mark.slow
def test_the_page_says_what_was_computed(page):
    out, words, text = page
    told = json.loads((out / "salaries.json").read_text())
    for row in told["shares"]:
        for share in row:
            assert f"{share:,}" in words
    for number in (*told["published"], told["sum"], *(e["missing"] for e in told["explanations"])):
        assert f"{int(number):,}" in words
    assert told["sum"] == TOTAL
    assert "The mean is 3,650.00" in words
    assert "Emeka, one of 5, is gone, and all are needed" in words
    assert "the sum of Emeka was found false" in words
    assert "The second minus the first is 6,100. That is the salary of Farid, exactly." in words
    assert "http" not in re.sub(r"http-equiv", "", text)  # self-contained
    assert text.count("data:image/png;base64,") == 2
    assert problems(out) == []


@pytest.mark.slow
def test_the_same_protocols_carry_a_models_update_to_within_rounding(page):
    told = json.loads((page[0] / "salaries.json").read_text())["update"]
    assert [u["protocol"] for u in told] == ["additive", "Shamir's, 3 of 5"]
    for update in told:
        assert 0 < update["error"] <= update["bound"] < 1e-3 * update["moved"]
        assert (update["elements"], update["bits"]) == (501, 24)
    # Additive: each of five sends three keys and a vector of 3 bytes an element, or keeps the vector and sends four.
    shared = 4 * (3 * 32 + 501 * 3) + 4 * 32
    assert told[0]["bytes_sent"] == shared + 5 * 4 * 1 + 5 * 501 * 3
