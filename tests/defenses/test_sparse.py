"""Sparse updates: which coordinates are sent, what they take on the wire, and what a replay makes of them."""

import numpy as np
import pytest
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing
from fedpriv_defenses.sparse import RandomK, TopK, kept
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.registry import defenses
from fedpriv.defense.attrition import BernoulliAttrition
from fedpriv.defense.domain import Real
from fedpriv.defense.stations import Context, Plan
from fedpriv.models.spec import Spec
from fedpriv.threat.tap import Tap
from fedpriv.topology.gossip import Gossip

ONE_STEP = {"batch_size": None, "weighting": "uniform"}


class Public:
    """The facts of a run that these read."""

    def __init__(self, size, dtype="float32"):
        self.spec = Spec(("weights",), ((size,),), dtype)


def context(defense, update, own=None, state=0):
    plan: Plan = Public(len(update), update.dtype.name)  # type: ignore[assignment]
    own = tf.nest.map_structure(tf.convert_to_tensor, defense.initial_client_state(plan) if own is None else own)
    return Context(plan=plan, seed=tf.constant([0, 0], tf.int64), state=tf.convert_to_tensor(state, tf.int32), own=own)


def sent(defense, update, own=None, state=0):
    return defense.update(tf.constant(update), context(defense, update, own, state))


@given(st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=30), st.floats(0.01, 1))
def test_the_largest_are_sent_as_they_are(values, fraction):
    update = np.array(values, np.float32)
    out = sent(TopK(fraction=fraction), update)
    found, k = out.value.numpy(), kept(fraction, len(update))
    places = np.flatnonzero(found)
    np.testing.assert_array_equal(found[places], update[places])
    assert len(places) <= k  # of zeros as many as there are
    left = np.setdiff1d(np.arange(len(update)), places)
    if len(left) and len(places) == k:
        assert np.abs(update[left]).max() <= np.abs(update[places]).min()
    np.testing.assert_allclose(np.sum(found**2), float(out.log["energy"]) * np.sum(update**2), rtol=1e-5, atol=1e-6)


def test_among_equals_the_first_are_sent():
    np.testing.assert_array_equal(sent(TopK(fraction=0.5), np.ones(4, np.float32)).value, [1, 1, 0, 0])


def test_an_update_that_is_not_finite_is_not_hidden():
    out = sent(TopK(fraction=0.3), np.array([1.0, np.nan, 2.0, 3.0], np.float32)).value.numpy()
    assert np.isnan(out[1])
    assert np.isnan(sent(RandomK(fraction=0.26), np.full(4, np.nan, np.float32)).value.numpy()).all()


def test_all_clients_send_the_same_random_ones_and_others_next_round(federate):
    federation = federate(defenses=(RandomK(fraction=0.2, seed=3),), **ONE_STEP)
    state = federation.start()
    masks = []
    for _ in range(2):
        state, record = federation.step(state, [Tap()], evaluate=False)
        rounds = [o.view.observed != 0 for o in record.observations]
        k = kept(0.2, federation.plan.spec.size)
        assert all(m.sum() <= k for m in rounds)
        masks.append(np.any(rounds, 0))
        assert masks[-1].sum() <= k
        truth = record.observations[0].truth
        view = record.observations[0].view
        np.testing.assert_allclose(view.simulate(truth.x, truth.y), view.observed, atol=1e-6)
    assert (masks[0] != masks[1]).any()


@pytest.mark.slow
def test_bits_are_those_of_values_and_of_places_where_these_say_something(federate):
    def bytes_up(*stack):
        federation = federate(defenses=stack, **ONE_STEP)
        return federation.run(1, evaluate_every=0).records[0].bytes_up, federation.plan.spec.size

    plain, d = bytes_up()
    k = kept(0.1, d)
    assert plain == 5 * 4 * d
    assert bytes_up(TopK(fraction=0.1))[0] == -(-5 * k * (32 + int(np.ceil(np.log2(d)))) // 8)
    assert bytes_up(RandomK(fraction=0.1))[0] == 5 * 4 * k
    assert bytes_up(TopK(fraction=1.0))[0] == plain
    shared, masked = bytes_up(SecretSharing(range=1.0))[0], bytes_up(TopK(fraction=0.1), SecretSharing(range=1.0))[0]
    assert masked == shared  # the protocol sums every coordinate


def test_a_bound_is_kept_and_the_replay_is_exact_in_a_sum(federate):
    assert TopK(fraction=0.1).maps(Real(2.0), None) == Real(2.0)
    federation = federate(defenses=(TopK(fraction=0.1), SecretSharing(range=1.0)), **ONE_STEP)
    (seen,) = federation.run(1, taps=[Tap()], evaluate_every=0).observations
    simulated = seen.view.simulate(seen.truth.x, seen.truth.y).numpy()
    np.testing.assert_allclose(simulated, seen.view.observed, atol=1e-6)


def test_the_places_of_the_largest_tell_of_the_data_and_random_ones_do_not(federate):
    """In a softmax regression the bias of the client's only class moves the other way from all others."""

    def supports(defense):
        federation = federate(defenses=(defense,), **ONE_STEP)
        seen = federation.run(1, taps=[Tap()], evaluate_every=0).observations
        return {tuple(np.flatnonzero(o.view.observed)) for o in seen}

    assert len(supports(TopK(fraction=0.1))) == 5
    assert len(supports(RandomK(fraction=0.1))) == 1


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["top_k", "random_k", "dgc"])
@settings(max_examples=12)
@given(st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, 1e-40]), min_size=1, max_size=70), st.floats(0.01, 1))
def test_the_wire_gives_back_every_bit_whatever_is_tied_or_zero(name, dtype, values, fraction):
    """`bits` is the wire's length, and what the server makes of the wire is what `update` says it holds."""
    update = np.array(values, dtype)
    for defense in defenses.create(f"{name}(fraction={fraction})"), RandomK(fraction=fraction, unbiased=True):
        here = context(defense, update, state=4)
        message, _ = defense.compress(tf.constant(update), here.own if name == "dgc" else (), here)
        written = defense.to_wire(tuple(m.numpy() for m in message), here.plan.spec)
        out = defense.update(tf.constant(update), here)
        assert len(written) == int(out.bits) == int(defense.bits(message, here.plan.spec))
        read = defense.from_wire(written, here.plan.spec, here.state)
        for there, back in zip(message, read, strict=True):
            assert there.numpy().tobytes() == back.tobytes()
        assert defense.decompress(tuple(map(tf.constant, read)), here.plan.spec).numpy().tobytes() == (
            out.value.numpy().tobytes()
        )
        if name == "dgc":
            break


def test_without_the_rounds_state_random_places_are_not_guessed():
    defense, update = RandomK(fraction=0.5), np.arange(6, dtype=np.float32)
    here = context(defense, update)
    message, _ = defense.compress(tf.constant(update), (), here)
    written = defense.to_wire(tuple(m.numpy() for m in message), here.plan.spec)
    with pytest.raises(ParameterError, match="server state"):
        defense.from_wire(written, here.plan.spec)
    assert (defense.from_wire(written, here.plan.spec, tf.constant(1))[1] != message[1].numpy()).any()


@pytest.mark.parametrize("defense", [TopK(fraction=0.1), RandomK(fraction=0.1)])
def test_with_feedback_what_was_sent_and_what_is_kept_are_exactly_all_updates(defense):
    fed, rng, own = defense.with_(error_feedback=True), np.random.default_rng(0), None
    total, arrived = np.zeros(60), np.zeros(60)
    for number in range(30):
        update = rng.integers(-99, 100, 60).astype(np.float32)  # integers, whose float sums are exact
        out = sent(fed, update, own, number)
        own, total, arrived = out.state, total + update, arrived + out.value.numpy()
        assert np.count_nonzero(out.value) <= 6
        np.testing.assert_array_equal(arrived + own[0][0].numpy(), total)
    if defense.name == "top_k":  # a draw may leave a coordinate out for long
        assert np.all(arrived[total != 0] != 0)
    assert fed.maps(Real(1.0), None) == Real()


def test_what_is_kept_stays_bounded_for_what_contracts():
    """Stich, Cordonnier, Jaggi 2018, by their lemma: |e|^2 <= 4 (1 - k/d) / (k/d)^2 G^2 for updates of norm G."""
    fed, rng, own, share = TopK(fraction=0.25, error_feedback=True), np.random.default_rng(1), None, 0.25
    for _ in range(60):
        update = rng.normal(size=40).astype(np.float32)
        out = sent(fed, update / np.linalg.norm(update), own)
        own = out.state
        assert np.sum(own[0][0].numpy() ** 2) <= 4 * (1 - share) / share**2


def test_unbiased_has_the_update_as_its_mean_and_the_error_of_its_formula():
    """A mask has each of d coordinates with k / d, so |sent - update|^2 is (d / k - 1) |update|^2 in the mean."""
    defense, runs, d = RandomK(fraction=0.25, unbiased=True), 2000, 12
    update = np.random.default_rng(2).normal(size=d).astype(np.float32)
    given_ = tf.constant(update)

    def drawn(defense):
        def once(state):
            return defense.update(given_, context(defense, update, state=state)).value

        @tf.function(autograph=False)
        def all_of_them():
            return tf.map_fn(once, tf.range(runs), fn_output_signature=given_.dtype)

        return all_of_them().numpy().astype(float)

    masked = drawn(defense)
    inside = masked != 0
    assert set(inside.sum(1)) == {3}
    np.testing.assert_allclose(masked, inside * update * 4, rtol=1e-6)
    spread = np.abs(update) * np.sqrt((4 - 1) / runs)  # of the mean, a coordinate
    assert np.max(np.abs(masked.mean(0) - update) / spread) < 4
    errors = np.sum((masked - update) ** 2, 1)
    assert errors.mean() == pytest.approx(3 * np.sum(update**2), abs=4 * errors.std() / np.sqrt(runs))
    biased = np.mean(drawn(RandomK(fraction=0.25)), 0)
    assert np.linalg.norm(biased - update) > 0.5 * np.linalg.norm(update)


def test_unbiased_takes_a_bound_times_d_over_k_which_an_update_reaches():
    defense, update = RandomK(fraction=0.25, unbiased=True), np.zeros(8, np.float32)
    here = context(defense, update)
    update[np.flatnonzero(defense.mask(tf.constant(update), here.state))[0]] = 1.0
    (bound,) = [defense.maps(Real(1.0), here.plan).l2]
    assert bound == 4 == np.linalg.norm(sent(defense, update).value)
    assert defense.maps(Real(), here.plan) == Real()


@pytest.mark.parametrize("defense", [TopK(fraction=0.3), RandomK(fraction=0.3), RandomK(fraction=0.3, unbiased=True)])
def test_the_derivative_is_that_of_what_was_sent_not_straight_through(defense):
    update = tf.constant(np.random.default_rng(3).normal(size=10).astype(np.float32))
    for feedback in (False, True):
        fed = defense.with_(error_feedback=feedback and not getattr(defense, "unbiased", False))
        with tf.GradientTape() as tape:
            tape.watch(update)
            out = fed.update(update, context(fed, update.numpy())).value
        factor = 10 / 3 if getattr(defense, "unbiased", False) else 1
        slopes = tape.jacobian(out, update).numpy()
        np.testing.assert_allclose(slopes, np.diag(np.where(out.numpy() != 0, factor, 0)), rtol=1e-6)


def test_unbiased_with_feedback_is_refused_with_the_way_out():
    with pytest.raises(ParameterError, match="leave unbiased out"):
        defenses.create("random_k(fraction=0.1,unbiased=true,error_feedback=true)")


@pytest.mark.parametrize("text", ["top_k(fraction=0.1,error_feedback=true)", "random_k(fraction=0.1,unbiased=true)"])
def test_gossip_that_sends_what_is_left_out_later_refuses_what_need_not_shorten(text):
    with pytest.raises(ParameterError, match="choco sends what is left out later by itself"):
        Gossip(graph="ring", protocol=f"choco(compression={text})").wiring(6)


def test_results_from_before_keep_their_keys():
    assert TopK(fraction=0.1).config() == {"name": "top_k", "fraction": 0.1}
    assert RandomK(fraction=0.1).config() == {"name": "random_k", "fraction": 0.1, "seed": 0}
    assert TopK(fraction=0.1, error_feedback=True).config()["error_feedback"] is True
    assert RandomK(fraction=0.1, unbiased=True).config()["unbiased"] is True


BOTH = ["top_k(fraction=0.1,error_feedback=true)", "random_k(fraction=0.1,error_feedback=true)"]


@pytest.mark.slow
@pytest.mark.parametrize("text", [*BOTH, "random_k(fraction=0.1,unbiased=true)"])
def test_a_run_goes_on_with_what_was_kept_and_both_engines_agree(text, federate, tmp_path):
    """Between `clip` and `central_dp`, with clients that drop out."""
    options = {"attrition": BernoulliAttrition(rate=0.3), **ONE_STEP}
    stack = (*map(defenses.create, ("clip(norm=1)", text, "central_dp(clip=0.5,noise_multiplier=0.01)")),)
    whole = federate(defenses=stack, **options).run(4, evaluate_every=0)
    federate(defenses=stack, **options).run(2, evaluate_every=0, checkpoint=tmp_path / "run")
    resumed = federate(defenses=stack, **options).run(4, evaluate_every=0, checkpoint=tmp_path / "run")
    assert resumed.weights.tobytes() == whole.weights.tobytes()
    tff = federate(defenses=stack, engine="tff", **options)
    np.testing.assert_allclose(tff.run(4, evaluate_every=0).weights, whole.weights, atol=1e-5)
    tff.close()


@pytest.mark.parametrize("text", ["top_k(fraction=0)", "top_k(fraction=1.5)", "random_k(fraction=-1)"])
def test_impossible_fractions_are_refused(text):
    with pytest.raises(ParameterError, match="fraction"):
        defenses.create(text)
