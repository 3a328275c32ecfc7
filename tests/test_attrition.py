import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedpriv.base import registry
from fedpriv.base.errors import ParameterError
from fedpriv.defense.attrition import BernoulliAttrition, FixedAttrition, NoAttrition, PartiesAttrition, draw
from fedpriv.defense.parties import SERVER, Party, Phase, aggregator, client

SHARE, PUBLISH = Phase("share", True), Phase("publish")
OTHERS = (SERVER, aggregator(0), aggregator(1))


def cohort(n):
    return (*map(client, range(n)), *OTHERS)


RULES = st.one_of(
    st.just(NoAttrition()),
    st.floats(0, 1).map(lambda r: BernoulliAttrition(rate=r)),
    st.integers(0, 30).map(lambda c: FixedAttrition(count=c)),
    st.lists(st.sampled_from(["client 0", "client 5", "aggregator 1", "server"])).map(
        lambda names: PartiesAttrition(gone=names)
    ),
)


@settings(max_examples=50)
@given(RULES, st.integers(0, 20), st.integers(0, 10**6), st.integers(-(2**63), 2**200), st.randoms())
def test_a_pure_function_whose_answer_is_among_those_who_were_there(rule, n, round_number, seed, random):
    for phase in (SHARE, PUBLISH):
        parties = cohort(n)
        alive = rule.alive(phase, parties, round_number, seed)
        assert set(alive) <= set(parties)
        assert list(alive) == [p for p in parties if p in set(alive)]  # in order
        shuffled = list(parties)
        random.shuffle(shuffled)
        assert set(rule.alive(phase, shuffled, round_number, seed)) == set(alive)


def test_bernoulli_drops_each_client_independently_at_its_rate():
    rule, n = BernoulliAttrition(rate=0.3), 20_000
    gone = {}
    for phase in (SHARE, PUBLISH):
        for round_number in (0, 1):
            alive = set(rule.alive(phase, cohort(n), round_number, 5))
            assert set(OTHERS) <= alive
            gone[phase, round_number] = np.array([client(i) not in alive for i in range(n)])
    for draws in gone.values():
        assert stats.binomtest(int(draws.sum()), n, 0.3).pvalue > 1e-6
    kinds = list(gone.values())
    for i in range(4):
        for j in range(i):
            together = int((kinds[i] & kinds[j]).sum())
            assert stats.binomtest(together, n, 0.09).pvalue > 1e-6
    # A client's fate does not depend on who else is in the cohort.
    few = set(rule.alive(SHARE, cohort(10), 0, 5))
    assert few == set(rule.alive(SHARE, cohort(n), 0, 5)) & set(cohort(10))


def test_bernoulli_extremes_and_phases():
    assert BernoulliAttrition(rate=1).alive(SHARE, cohort(50), 0, 0) == list(OTHERS)
    assert BernoulliAttrition(rate=0).alive(SHARE, cohort(50), 0, 0) == list(cohort(50))
    later = BernoulliAttrition(rate=1, phases=["publish"])
    assert later.alive(SHARE, cohort(3), 0, 0) == cohort(3)
    assert later.alive(PUBLISH, cohort(3), 0, 0) == list(OTHERS)
    assert BernoulliAttrition(rate=1, phases=["input"]).alive(SHARE, cohort(3), 0, 0) == list(OTHERS)


def test_fixed_drops_that_many_each_set_alike():
    rule = FixedAttrition(count=2)
    counts = {}
    for round_number in range(3000):
        alive = rule.alive(SHARE, cohort(4), round_number, 0)
        gone = tuple(i for i in range(4) if client(i) not in alive)
        assert len(gone) == 2
        counts[gone] = counts.get(gone, 0) + 1
    assert len(counts) == 6
    assert stats.chisquare(list(counts.values())).pvalue > 1e-6
    assert rule.alive(PUBLISH, cohort(4), 0, 0) == cohort(4)
    assert rule.alive(SHARE, cohort(1), 0, 0) == list(OTHERS)  # no more than there are


def test_parties_are_gone_by_name():
    rule = registry.attrition.create("parties(gone=[aggregator 1, client:0],phase=publish)")
    assert rule.config() == {"name": "parties", "gone": ["aggregator 1", "client 0"], "phase": "publish"}
    assert rule.alive(SHARE, cohort(2), 3, 4) == cohort(2)
    assert rule.alive(PUBLISH, cohort(2), 3, 4) == [client(1), SERVER, aggregator(0)]
    assert PartiesAttrition(gone=[aggregator(1)]).gone == PartiesAttrition(gone="aggregator 1").gone


def test_seeds_are_used_whole():
    # Seeds that agree in their low 32 (and 64) bits, or differ in sign, draw differently.
    seeds = (1, 1 + 2**32, 1 + 2**64, 1 + 2**400, -1, 0)
    draws = [draw(seed, "bernoulli", 0, SHARE, client(0)) for seed in seeds]
    assert len(set(draws)) == len(seeds)
    assert draw(np.int64(1), "bernoulli", np.int64(0), SHARE, client(np.int64(0))) == draws[0]
    coordinates = {
        draw(1, purpose, r, phase, party)
        for purpose in ("a", "b") for r in (0, 1) for phase in (SHARE, PUBLISH)
        for party in (client(0), client(1), aggregator(0))
    }  # fmt: skip
    assert len(coordinates) == 24
    assert all(0 <= d < 2**64 for d in coordinates)
    with pytest.raises(ParameterError, match="has 600 bits"):
        draw(1 << 599, "a", 0, SHARE, client(0))


def test_draws_are_keyed_blake2b():
    import hashlib

    expected = hashlib.blake2b(b"('fixed', 2, 'share', 'client', 7)", digest_size=8, key=(9).to_bytes(8, "little"))
    assert draw(9, "fixed", 2, SHARE, client(7)) == int.from_bytes(expected.digest(), "little")


def test_what_a_protocol_does_not_have_is_named():
    phases = (SHARE, PUBLISH)
    for rule, message in (
        (BernoulliAttrition(rate=0.1, phases=["shrae"]), "no phase 'shrae'. Did you mean 'share'"),
        (FixedAttrition(count=1, phase="unmask"), "no phase 'unmask'"),
        (PartiesAttrition(gone=["aggregator 2"]), "no aggregator 2. Did you mean 'aggregator"),
        (PartiesAttrition(gone=["server"], phase="publihs"), "no phase 'publihs'. Did you mean 'publish'"),
    ):
        with pytest.raises(ParameterError, match=message):
            rule.check(phases, OTHERS)
    for rule in (NoAttrition(), FixedAttrition(count=1), PartiesAttrition(gone=["client 9", "aggregator 1"])):
        rule.check(phases, OTHERS)


def test_bad_parameters_are_refused():
    for text, message in (
        ("bernoulli(rate=1.5)", "rate='1.5'"),
        ("fixed(count=-1)", "count='-1'"),
        ("parties(gone=[nobody])", "'nobody' names no party"),
        ("bernouli(rate=1)", "Did you mean 'bernoulli'"),
        ("fixed", "needs a value for count"),
    ):
        with pytest.raises((ParameterError, registry.UnknownNameError), match=message):
            registry.attrition.create(text)
    with pytest.raises(pydantic.ValidationError):
        FixedAttrition(count=1).count = 2
    assert registry.attrition.names() == ["bernoulli", "fixed", "none", "parties"]
    assert isinstance(registry.attrition.create("none"), NoAttrition)
    assert Party("server") == SERVER
