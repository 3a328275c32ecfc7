import numpy as np
import pydantic
import pytest
from fedpriv_defenses.fixed_point import FixedPoint
from fedpriv_defenses.secure_sum.additive_sharing import AdditiveSharing
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing
from fedpriv_defenses.secure_sum.shamir_sharing import ShamirSharing
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.base import registry
from fedpriv.base.errors import ParameterError, StackError
from fedpriv.base.lazy import tf
from fedpriv.defense.domain import Real, Ring
from fedpriv.defense.parties import aggregator
from fedpriv.defense.stations import Plan, Station


def plan_of(d, clients, weighting="uniform", max_examples=600):
    return Plan.everybody(clients, d, weighting=weighting, max_examples=max_examples)


def run(sharing, plan, contributions, **options):
    codec, protocol = sharing.parts()
    tallies = len(contributions[0]) - plan.spec.size - 1
    session = protocol.open(plan, range(len(contributions)), round=0, seed=0, tallies=tallies, **options)
    session.begin()
    for client, contribution in enumerate(contributions):
        element, ok = codec.quantize(tf.constant(contribution, tf.float32), plan, None)
        assert bool(ok)
        assert session.submit(client, element.numpy().view(np.uint64))
    outcome = session.finish()
    decoded = codec.decode(tf.constant(outcome.total.view(np.int64)), outcome.count, plan).numpy()
    return session, outcome, decoded


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_the_sum_is_the_plain_quantized_sum_to_the_bit(data):
    clients, d = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 6))
    bits, limit = data.draw(st.integers(8, 64)), data.draw(st.sampled_from([0.1, 1.0, 3.0, 1e4]))
    sharing = SecretSharing(
        aggregators=data.draw(st.integers(2, 5)), bits=bits, range=limit, compressed=data.draw(st.booleans())
    )
    plan = plan_of(d, clients)
    top = float(np.float32(limit))
    value = st.one_of(st.floats(-top, top, width=32), st.sampled_from([top, -top, 0.0]))
    vectors = np.array([[data.draw(value) for _ in range(d)] for _ in range(clients)], np.float32)
    contributions = np.concatenate([vectors, np.ones((clients, 1), np.float32)], 1)
    _, outcome, decoded = run(sharing, plan, contributions)
    step = sharing.parts()[0].steps(plan).step
    # Python's own integers never wrap: if the protocol's sum did, it would differ.
    plain = [sum(round(float(v) / step) for v in column) for column in vectors.T]
    assert all(-(2 ** (bits - 1)) <= p < 2 ** (bits - 1) for p in plain)
    assert [int(t) for t in outcome.total[:-1]] == [p % 2**bits for p in plain]
    np.testing.assert_array_equal(decoded[:-1], [float(p) * step for p in plain])
    assert decoded[-1] == clients == outcome.count
    error = np.abs(decoded[:-1] - vectors.astype(np.float64).sum(0))
    assert (error <= clients * step / 2 + 1e-12 * top * clients).all()


def test_example_counts_as_weights_decode_exactly():
    plan = plan_of(1, 3, "examples", 600)
    counts = np.array([600, 1, 37])
    contributions = np.stack([np.zeros(3), counts / 600], 1)
    decoded = run(SecretSharing(), plan, contributions)[2]
    assert decoded[-1] * 600 == pytest.approx(counts.sum(), rel=1e-15)
    coarse = run(SecretSharing(bits=8), plan, contributions)[2]  # 600 does not fit 8 bits: weights are rounded
    assert abs(coarse[-1] - counts.sum() / 600) <= 3 / 32 / 2


@pytest.mark.parametrize("step", [None, 0.5])
def test_tallies_are_summed_at_their_own_resolution(step):
    # Two counts (clipped or not) and a mean beside values in coarse steps.
    contributions = [[0.5, -1.0, 1.0, 1.0, 0.0, 0.125], [1.0, 0.0, 1.0, 1.0, 1.0, -0.75], [0, 0, 1, -1, 1, 0.5]]
    session, _, decoded = run(SecretSharing(bits=16, resolution=step), plan_of(2, 3), contributions)
    np.testing.assert_array_equal(decoded[2:], [3, 1, 2, -0.125])
    assert session.wire.bytes(sender="client") == 3 * (32 + 6 * 2)


def test_coalitions_get_what_decodes_to_updates():
    plan, sharing = plan_of(2, 2, "examples", 8), SecretSharing(aggregators=2, range=1.0)
    contributions = [[0.25, -0.5, 0.5], [1.0, 0.125, 1.0]]
    session, _, decoded = run(sharing, plan, contributions, watched=[aggregator(0), aggregator(1)])
    codec = sharing.parts()[0]
    opened = session.seen_by([aggregator(0), aggregator(1)])
    values = [codec.decode(tf.constant(s.value.view(np.int64)), 1, plan).numpy() for s in opened]
    np.testing.assert_array_equal(values, contributions)
    np.testing.assert_array_equal(decoded, np.sum(contributions, 0))


def test_the_word_stands_for_two_links_that_are_named_themselves():
    sharing = registry.defenses.create("secret_sharing(aggregators=4,bits=24,range=2,min_clients=2,compressed=false)")
    codec, protocol = sharing.parts()
    assert codec == FixedPoint(bits=24, range=2.0) == registry.defenses.create("fixed_point(bits=24,range=2)")
    wanted = AdditiveSharing(aggregators=4, bits=24, compressed=False, min_clients=2)
    assert (
        protocol
        == wanted
        == registry.defenses.create("additive_sharing(aggregators=4,bits=24,compressed=false,min_clients=2)")
    )
    plan = plan_of(2, 2)
    assert (sharing.takes, codec.maps(Real(), plan)) == (codec.takes, protocol.takes) == (Real(), Ring(24))
    assert protocol.maps(Ring(24), plan) == Ring(24)
    assert sharing.stations == [Station.ENCODE, Station.MESSAGE]
    assert not sharing.replayable
    assert sharing.replay() is None
    assert sharing.claims(plan, Real()) == []
    # Each parameter belongs to a part, with the same limits and the same default.
    parts = {**FixedPoint.model_fields, **AdditiveSharing.model_fields}
    assert set(SecretSharing.model_fields) == {*parts, "threshold"}
    schemas = [c.model_json_schema()["properties"] for c in (FixedPoint, AdditiveSharing, SecretSharing)]
    whole = schemas.pop()
    for part in schemas:
        for name, said in part.items():
            assert whole[name] | {"description": ""} == said | {"description": ""}


def test_a_threshold_makes_it_shamirs():
    sharing = registry.defenses.create("secret_sharing(among=committee,committee=5,threshold=3,bits=24)")
    assert sharing.protocol() == ShamirSharing(among="committee", committee=5, threshold=3, bits=24, aggregators=2)
    assert registry.defenses.create("secret_sharing(among=clients)").protocol() == AdditiveSharing(among="clients")
    for text, says in {
        "secret_sharing(threshold=3)": "threshold=3 of 2 holders; give 2 to 2",
        "secret_sharing(among=committee)": "committee is not given with among=committee; add committee=m",
        "secret_sharing(committee=3)": "committee=3 is given with among=aggregators; leave it out",
        "secret_sharing(among=committee,committee=3,threshold=4)": "threshold=4 of 3 holders",
        "secret_sharing(bits=none)": "bits=none takes the fewest bits for a resolution, and none is given",
        "secret_sharing(among=aggregator)": "among",
    }.items():
        with pytest.raises(ParameterError, match=says):
            registry.defenses.create(text)
    with pytest.raises(StackError, match="secret_sharing wants committee=5 clients that hold the shares, but cohorts"):
        sharing.check(plan_of(2, 4))
    with pytest.raises(StackError, match="secret_sharing wants threshold=3 clients that hold shares, but cohorts have"):
        SecretSharing(among="clients", threshold=3).check(plan_of(2, 2))
    with pytest.raises(StackError, match=r"secret_sharing: a sum over 4 clients of integers of bits=60 .*bits <= 58"):
        SecretSharing(threshold=2, bits=60).check(plan_of(2, 4))
    SecretSharing(threshold=2, bits=58).check(plan_of(2, 4))


def test_it_is_checked_in_its_own_name():
    with pytest.raises(
        ParameterError, match="secret_sharing: bits=8 cannot hold a sum over 200 clients; use bits >= 9"
    ):
        SecretSharing(bits=8).check(plan_of(2, 200))
    with pytest.raises(ParameterError, match="secret_sharing: a sum over 100 clients"):
        SecretSharing(bits=16, resolution=2**-20).check(plan_of(2, 100))
    with pytest.raises(ParameterError, match="secret_sharing: resolution=2 is coarser than range=1"):
        SecretSharing(range=1.0, resolution=2.0).check(plan_of(2, 2))
    with pytest.raises(StackError, match="secret_sharing wants min_clients=3"):
        SecretSharing(min_clients=3).check(plan_of(2, 2))
    SecretSharing(bits=32, range=16.0, resolution=2**-20).check(plan_of(2, 100))
    for bad in ({"bits": 7}, {"bits": 65}, {"aggregators": 1}, {"range": 0}):
        with pytest.raises(pydantic.ValidationError, match=next(iter(bad))):
            SecretSharing(**bad)
