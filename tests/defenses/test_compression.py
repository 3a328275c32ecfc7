"""Compressed updates: what is sent, what it takes on the wire, what feedback keeps."""

import math

import numpy as np
import pytest
from fedpriv_defenses.additive_noise import AdditiveNoise
from fedpriv_defenses.compression import bits
from fedpriv_defenses.compression.dgc import DGC
from fedpriv_defenses.compression.low_precision import LowPrecision
from fedpriv_defenses.compression.one_bit import OneBit
from fedpriv_defenses.compression.power_sgd import PowerSGD
from fedpriv_defenses.compression.qsgd import QSGD
from fedpriv_defenses.compression.sign_sgd import SignSGD
from fedpriv_defenses.compression.terngrad import TernGrad
from fedpriv_defenses.sparse import RandomK, TopK
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.registry import defenses
from fedpriv.defense.domain import Real
from fedpriv.defense.plan import Plan
from fedpriv.defense.stations import Context
from fedpriv.models.spec import Spec
from fedpriv.threat.tap import Tap

SPEC = Spec(("conv/kernel", "conv/bias", "dense/kernel"), ((3, 3, 2, 6), (6,), (12, 10)))
ONE_STEP = {"batch_size": None, "weighting": "uniform"}
ALL = (
    LowPrecision(),
    LowPrecision(format="bfloat16"),
    LowPrecision(format="int8"),
    SignSGD(),
    SignSGD(scale="none", length=0.3),
    OneBit(error_feedback=False),
    QSGD(levels=3, bucket=50),
    QSGD(levels=1, bucket=None, norm="max"),
    TernGrad(),
    TernGrad(clip=None),
    PowerSGD(error_feedback=False),
    TopK(fraction=0.2),
    RandomK(fraction=0.2),
)
NAMES = [f"{d.name}-{i}" for i, d in enumerate(ALL)]


class Public:
    """The facts of a run that compressors read."""

    spec, expected_cohort = SPEC, 4


def contextualized(defense, own=None, seed=0, number=0):
    plan: Plan = Public()  # type: ignore[assignment]
    own = defense.initial_client_state(plan) if own is None else own
    own = tf.nest.map_structure(tf.convert_to_tensor, own)
    given_seed = tf.constant([seed, 7], tf.int64) if isinstance(seed, int) else seed
    state = tf.nest.map_structure(tf.convert_to_tensor, defense.initial_state(plan))
    return Context(plan=plan, seed=given_seed, state=state, own=own, round=tf.constant(number))


def drawn(seed=0, size=SPEC.size):
    return np.random.default_rng(seed).standard_t(3, size).astype(np.float32)


@pytest.mark.parametrize("defense", ALL, ids=NAMES)
@pytest.mark.parametrize("scale", [0.0, 1.0, 3e-4])
def test_the_wire_gives_back_every_bit_and_takes_as_many_as_are_said(defense, scale):
    context = contextualized(defense)
    message, _ = defense.compress(tf.constant(drawn() * np.float32(scale)), context.own[1], context)
    written = defense.to_wire(tuple(m.numpy() for m in message), SPEC)
    assert set(np.unique(written)) <= {0, 1}
    assert len(written) == int(defense.bits(message, SPEC))
    read = defense.from_wire(written, SPEC, context.state)
    for there, back in zip(message, read, strict=True):
        assert there.numpy().tobytes() == np.asarray(back).tobytes()
    again = defense.decompress(tuple(tf.constant(m) for m in read), SPEC).numpy()
    sent = defense.update(tf.constant(drawn() * np.float32(scale)), context).value.numpy()
    assert again.tobytes() == sent.tobytes()
    assert len(written) < 32 * SPEC.size


@given(st.lists(st.integers(1, 2**40), min_size=1, max_size=20))
def test_gamma_codes_read_back(values):
    code, at = bits.gamma(values), 0
    assert len(code) == sum(2 * int(math.log2(v)) + 1 for v in values)
    for value in values:
        found, at = bits.read_gamma(code, at)
        assert found == value
    assert at == len(code)


def repeated(defense, update, runs):
    """What is sent under `runs` seeds, `[runs, d]`."""
    given = tf.constant(update)

    @tf.function(autograph=False)
    def once(seed):
        return defense.update(given, contextualized(defense, seed=seed)).value

    return np.stack([once(tf.constant([s, 7], tf.int64)).numpy() for s in range(runs)]).astype(float)


@pytest.mark.parametrize("defense", [QSGD(levels=2, bucket=64), QSGD(levels=4, norm="max"), TernGrad(clip=None)])
def test_random_rounding_has_the_value_as_its_mean(defense):
    update, runs = drawn(1), 200
    sent = repeated(defense, update, runs)
    if isinstance(defense, TernGrad):
        step = np.concatenate([np.full(p.size, np.abs(p).max()) for p in SPEC.unflatten_numpy(update)])
    else:
        rows = np.pad(update, (0, -SPEC.size % (defense.bucket if defense.bucket < SPEC.size else SPEC.size)))
        rows = rows.reshape(-1, min(defense.bucket, SPEC.size))
        norms = np.abs(rows).max(1) if defense.norm == "max" else np.linalg.norm(rows, axis=1)
        step = np.repeat(norms / defense.levels, rows.shape[1])[: SPEC.size]
    np.testing.assert_allclose(sent / step, np.round(sent / step), atol=1e-4)
    part = np.abs(update) / step % 1
    variance = step**2 * part * (1 - part)  # of one draw between the two levels around the value
    sure = variance > 1e-6 * step**2
    surprise = np.sum((sent.mean(0) - update)[sure] ** 2 / variance[sure] * runs) / sure.sum()
    assert surprise == pytest.approx(1, abs=5 * math.sqrt(2 / sure.sum()))


def test_qsgd_varies_no_more_than_its_lemma_says():
    update, levels = drawn(2), 4
    defense = QSGD(levels=levels, bucket=None)
    errors = np.sum((repeated(defense, update, 60) - update) ** 2, axis=1)
    n = SPEC.size
    assert 0 < np.mean(errors) <= min(n / levels**2, math.sqrt(n) / levels) * np.sum(update**2)


def test_terngrad_without_clipping_keeps_a_value_with_its_share_of_the_largest():
    update = np.zeros(SPEC.size, np.float32)
    update[:108] = 0.25
    update[0] = -1.0
    counts = repeated(TernGrad(clip=None), update, 40)[:, 1:108].sum(axis=1)
    assert np.mean(counts) == pytest.approx(107 * 0.25, abs=4 * math.sqrt(107 * 0.25 * 0.75 / 40))


def test_half_precision_and_integers_round_to_the_nearest():
    update = drawn(3)
    half = LowPrecision().update(tf.constant(update), contextualized(LowPrecision())).value.numpy()
    np.testing.assert_array_equal(half, update.astype(np.float16).astype(np.float32))
    defense = LowPrecision(format="int8")
    sent = defense.update(tf.constant(update), contextualized(defense)).value.numpy()
    for before, after in zip(SPEC.unflatten_numpy(update), SPEC.unflatten_numpy(sent), strict=True):
        step = np.abs(before).max() / 127
        assert np.abs(before - after).max() <= step / 2 * (1 + 1e-5)
        np.testing.assert_allclose(after / step, np.round(after / step), atol=1e-4)


def test_one_bit_sends_the_means_of_both_sides_of_each_column():
    defense, update = OneBit(error_feedback=False), drawn(4)
    sent = defense.update(tf.constant(update), contextualized(defense)).value.numpy()
    before, after = (SPEC.unflatten_numpy(v)[2] for v in (update, sent))
    for column in range(10):
        for side in (before[:, column] >= 0, before[:, column] < 0):
            np.testing.assert_allclose(after[side, column], before[side, column].mean(), rtol=1e-5)


def test_power_sgd_is_exact_where_the_rank_suffices_and_projects_where_not():
    rng = np.random.default_rng(5)
    conv = rng.normal(size=(18, 2)) @ rng.normal(size=(2, 6))
    update = np.concatenate([conv.reshape(-1), rng.normal(size=6), rng.normal(size=120)]).astype(np.float32)
    defense = PowerSGD(rank=2, error_feedback=False)
    out = defense.update(tf.constant(update), contextualized(defense))
    sent = out.value.numpy()
    np.testing.assert_allclose(sent[:114], update[:114], atol=1e-5)
    whole, dense = SPEC.unflatten_numpy(update)[2], SPEC.unflatten_numpy(sent)[2]
    assert np.linalg.matrix_rank(dense, tol=1e-4) == 2
    assert np.abs((whole - dense).T @ dense).max() < 1e-3
    own = out.state[1]
    for _ in range(20):  # the warm start goes to the best approximation there is
        own = defense.update(tf.constant(update), contextualized(defense, ((), own))).state[1]
    found = defense.update(tf.constant(update), contextualized(defense, ((), own))).value.numpy()
    values = np.linalg.svd(whole, compute_uv=False)
    assert np.linalg.norm(whole - SPEC.unflatten_numpy(found)[2]) == pytest.approx(np.linalg.norm(values[2:]), rel=0.02)


@pytest.mark.parametrize("defense", ALL, ids=NAMES)
def test_with_feedback_what_was_sent_and_what_is_kept_are_all_updates(defense):
    defense = defense.with_(error_feedback=True)
    own, sent, given_ = None, np.zeros(SPEC.size), np.zeros(SPEC.size)
    for number in range(4):
        update = drawn(10 + number)
        out = defense.update(tf.constant(update), contextualized(defense, own, seed=number))
        own, sent, given_ = out.state, sent + out.value.numpy(), given_ + update
    np.testing.assert_allclose(sent + own[0][0].numpy(), given_, atol=2e-4)


@pytest.mark.parametrize("defense", [SignSGD(), OneBit(error_feedback=False), PowerSGD(error_feedback=False)])
def test_what_contracts_keeps_a_bound_and_loses_it_with_feedback(defense):
    update = drawn(6)
    sent = defense.update(tf.constant(update), contextualized(defense)).value.numpy()
    assert np.linalg.norm(sent) <= np.linalg.norm(update) * (1 + 1e-6)
    assert np.linalg.norm(update - sent) < np.linalg.norm(update)
    assert defense.maps(Real(1.0), Public()) == Real(1.0)
    assert defense.with_(error_feedback=True).maps(Real(1.0), Public()) == Real()


def test_signs_alone_say_nothing_of_the_length():
    defense = SignSGD(scale="none", length=0.5)
    sent = [defense.update(tf.constant(drawn(7) * s), contextualized(defense)).value.numpy() for s in (1, 100)]
    np.testing.assert_array_equal(*sent)
    assert set(np.unique(sent[0])) == {-0.5, 0.5}
    assert defense.maps(Real(), Public()).l2 == pytest.approx(np.linalg.norm(sent[0]))


@pytest.mark.parametrize("defense", [*ALL, DGC(fraction=0.1)], ids=[*NAMES, "dgc"])
def test_an_update_that_is_not_finite_is_not_hidden(defense):
    update = drawn(8)
    update[5] = np.nan
    assert not np.isfinite(defense.update(tf.constant(update), contextualized(defense)).value.numpy()).all()


def test_dgc_follows_its_recursion():
    defense, momentum, k = DGC(fraction=0.1, momentum=0.8), 0.8, round(0.1 * SPEC.size)
    u, v, own = np.zeros(SPEC.size), np.zeros(SPEC.size), None
    for number in range(5):
        update = drawn(20 + number)
        out = defense.update(tf.constant(update), contextualized(defense, own, number=number))
        own = out.state
        u = momentum * u + update
        v = v + u
        places = np.argsort(-np.abs(v), kind="stable")[:k]
        wanted = np.zeros(SPEC.size)
        wanted[places] = v[places]
        np.testing.assert_allclose(out.value.numpy(), wanted, rtol=1e-4, atol=1e-6)
        u[places] = v[places] = 0
        np.testing.assert_allclose(own[0].numpy(), u, rtol=1e-4, atol=1e-5)


def test_dgc_sends_fewer_round_by_round_in_its_warmup_and_clips():
    defense = DGC(fraction=0.01, warmup=True)
    counts = [
        np.count_nonzero(defense.update(tf.constant(drawn(9)), contextualized(defense, number=n)).value.numpy())
        for n in range(5)
    ]
    assert counts == [round(max(0.01, 0.25 ** (n + 1)) * SPEC.size) for n in range(5)]
    clipped = DGC(fraction=1, momentum=0, clip=0.4)
    sent = clipped.update(tf.constant(drawn(9)), contextualized(clipped)).value.numpy()
    assert np.linalg.norm(sent) == pytest.approx(0.4 / 2, rel=1e-5)


@pytest.mark.parametrize("defense", [d for d in ALL if d.cells(tf.ones([SPEC.size]), SPEC) is not None])
def test_an_update_lies_in_the_cell_that_its_message_leaves(defense):
    for seed in range(5):
        update = drawn(30 + seed)
        sent = defense.update(tf.constant(update), contextualized(defense, seed=seed)).value
        low, high = (b.numpy() for b in defense.cells(sent, SPEC))
        slack = 1e-6 + 1e-5 * np.abs(update)
        assert np.all((low - slack <= update) & (update <= high + slack))
        three = defense.cells(3 * sent, SPEC)
        np.testing.assert_allclose(three[0], 3 * low, rtol=1e-5)
        np.testing.assert_allclose(three[1], 3 * high, rtol=1e-5)


@pytest.mark.parametrize("distribution", ["gaussian", "laplace"])
def test_noise_has_the_deviation_and_the_shape_that_are_asked_for(distribution):
    defense = AdditiveNoise(stddev=0.3, distribution=distribution)
    plan: Plan = Public()  # type: ignore[assignment]
    context = Context(plan=plan, seed=tf.constant([1, 2], tf.int64))
    noise = defense.update(tf.zeros([200_000]), context).value.numpy() / 0.3
    assert np.mean(noise) == pytest.approx(0, abs=0.01)
    assert np.std(noise) == pytest.approx(1, abs=0.015)
    kurtosis = np.mean(noise**4) / np.mean(noise**2) ** 2
    assert kurtosis == pytest.approx({"gaussian": 3, "laplace": 6}[distribution], rel=0.08)
    assert defense.claims(plan, Real()) == []
    assert "no epsilon" in defense.notes(plan)[0]


@pytest.mark.slow
def test_a_federation_counts_their_bytes_and_goes_on_from_a_checkpoint_with_what_was_kept(federate, tmp_path):
    federation = federate(defenses=(SignSGD(error_feedback=True),), **ONE_STEP)
    history = federation.run(4, evaluate_every=0)
    d = federation.plan.spec.size
    assert [r.bytes_up for r in history.records] == [-(-5 * (d + 32) // 8)] * 4
    again = federate(defenses=(SignSGD(error_feedback=True),), **ONE_STEP)
    again.run(2, evaluate_every=0, checkpoint=tmp_path / "run")
    went_on = federate(defenses=(SignSGD(error_feedback=True),), **ONE_STEP)
    resumed = went_on.run(4, evaluate_every=0, checkpoint=tmp_path / "run")
    assert resumed.weights.tobytes() == history.weights.tobytes()
    plain = federate(defenses=(SignSGD(),), **ONE_STEP).run(4, evaluate_every=0)
    assert np.abs(plain.weights - history.weights).max() > 0


def test_a_replay_is_exact_and_has_a_derivative(federate):
    federation = federate(defenses=(OneBit(),), **ONE_STEP)
    (seen, *_) = federation.run(1, taps=[Tap()], evaluate_every=0).observations
    x, y = tf.constant(seen.truth.x), tf.constant(seen.truth.y)
    np.testing.assert_allclose(seen.view.simulate(x, y), seen.view.observed, atol=1e-6)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reduce_sum(tf.square(seen.view.simulate(x, y)))
    assert np.abs(tape.gradient(value, x).numpy()).max() > 0


@pytest.mark.parametrize(
    "text",
    [
        "qsgd(levels=0)",
        "qsgd(bucket=0)",
        "terngrad(clip=0)",
        "power_sgd(rank=0)",
        "dgc(fraction=0)",
        "dgc(fraction=1.5)",
        "dgc(momentum=1)",
        "low_precision(format=int4)",
        "sign_sgd(scale=max)",
        "sign_sgd(length=inf)",
        "sign_sgd(scale=none,length=1e30)",
        "mixup(alpha=1e-310)",
        "additive_noise(stddev=0)",
        "additive_noise(stddev=1,distribution=cauchy)",
    ],
)
def test_impossible_parameters_are_refused_by_name(text):
    name = text.partition("(")[2].split(",")[-1].partition("=")[0]
    with pytest.raises(ParameterError, match=name):
        defenses.create(text)
