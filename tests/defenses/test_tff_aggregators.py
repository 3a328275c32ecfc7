"""TFF's aggregators as defenses: what they do to known updates, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from fedpriv_defenses.additive_noise import AdditiveNoise
from fedpriv_defenses.central_claim import CHECKS
from fedpriv_defenses.central_dp import CentralDP
from fedpriv_defenses.clip import Clip
from fedpriv_defenses.freeze import Freeze
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing
from fedpriv_defenses.tff_aggregators import TFFDP, TFFClipping, TFFCompression, TFFRobust, TFFZeroing

from fedpriv.base import registry
from fedpriv.base.errors import CapabilityError, EngineError, LedgerError, ParameterError, StackError, UnknownNameError
from fedpriv.engine.result import CohortTask
from fedpriv.engine.tff.runtime import Runtime
from fedpriv.federation.federation import Federation
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.tap import Tap

SIZES = np.array([5, 12, 1, 8, 4])


@pytest.fixture(scope="module")
def address():
    runtime = Runtime()
    yield runtime.address
    runtime.close()


@pytest.fixture
def on_tff(federate, address):
    def make(*defenses, chunk=None, **options):
        options = {"batch_size": 4, **options}
        made = federate(defenses=defenses, engine="tff", engine_options={"workers": [address]}, **options)
        if chunk:
            made._engine.chunk_clients = chunk
        return made

    return make


@pytest.fixture
def updates(federate):
    """Every client's update of round 0, `[5, d]`."""
    federation = federate(batch_size=4)
    start = federation.start()
    everyone = frozenset(range(5))
    task = CohortTask(weights=start.weights, clients=list(range(5)), round=0, rate=0.1, states=(), wanted=everyone)
    got = federation._engine.cohort(task).updates
    return np.stack([got[c] for c in range(5)]).astype(np.float64)


def moved(federation):
    """What one round adds to the weights."""
    return federation.run(1).weights.astype(np.float64) - federation.start().weights


def clipped(updates, norm):
    return updates * np.minimum(1, norm / np.linalg.norm(updates, axis=1))[:, None]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chunk", "weighting"),
    [
        (1, "examples"),
        (2, "uniform"),
        (32, "examples"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, "uniform"), (2, "examples"), (32, "uniform"))),
    ],
)
def test_clipping_is_the_clipped_mean(on_tff, updates, weighting, chunk):
    norm = np.median(np.linalg.norm(updates, axis=1))
    shares = SIZES / SIZES.sum() if weighting == "examples" else np.full(5, 0.2)
    federation = on_tff(TFFClipping(norm=norm), chunk=chunk, weighting=weighting)
    np.testing.assert_allclose(moved(federation), shares @ clipped(updates, norm), atol=1e-6)
    assert federation.run(1).records[0].metrics["tff_clipping/clipped_count"] == 2


@pytest.mark.slow
def test_zeroing_leaves_extreme_updates_out(on_tff, updates):
    largest = np.abs(updates).max(1)
    norm = np.sort(largest)[3] * 1.001  # one is beyond
    kept = np.where((largest <= norm)[:, None], updates, 0)
    federation = on_tff(TFFZeroing(norm=norm))
    np.testing.assert_allclose(moved(federation), SIZES / SIZES.sum() @ kept, atol=1e-6)
    assert federation.run(1).records[0].metrics["tff_zeroing/zeroed_count"] == 1


@pytest.mark.slow
def test_a_client_beyond_reason_does_not_move_the_robust_mean(on_tff, toy):
    """One client sends a thousandfold: the plain mean follows it, the zeroing one does not, after a few rounds."""
    from fedpriv.data.dataset import Dataset

    x = toy.x.copy()
    x[5:17] *= 1000  # client 1
    spoiled = Dataset("spoiled", x, toy.y, toy.num_classes)
    plain = on_tff(train=spoiled, test=None).run(4)
    robust = on_tff(TFFRobust(), train=spoiled, test=None).run(4)
    assert np.abs(robust.weights).max() < 0.05 * np.abs(plain.weights).max()


@pytest.mark.slow
def test_adapted_norms_are_carried_from_round_to_round_and_through_a_checkpoint(on_tff, tmp_path):
    whole = on_tff(TFFRobust()).run(4)
    norms = [r.metrics["tff_robust/zeroing.clipping_norm"] for r in whole.records]
    assert len(set(norms)) > 2
    on_tff(TFFRobust(), chunk=2).run(2, checkpoint=tmp_path / "c")
    resumed = on_tff(TFFRobust()).run(4, checkpoint=tmp_path / "c")
    np.testing.assert_allclose(resumed.weights, whole.weights, atol=1e-6)
    assert resumed.records[3].metrics == pytest.approx(whole.records[3].metrics)


def test_dp_without_noise_is_the_clipped_mean(on_tff, updates):
    norm = np.median(np.linalg.norm(updates, axis=1))
    federation = on_tff(TFFDP(noise_multiplier=0, clip=norm), weighting="uniform")
    np.testing.assert_allclose(moved(federation), clipped(updates, norm).mean(0), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("cohort", ["everyone", "nobody"])
def test_dp_noise_has_the_stated_deviation(on_tff, updates, cohort):
    """noise_multiplier * clip over the expected cohort, whoever comes."""
    sampling = {"kind": "full"} if cohort == "everyone" else {"kind": "poisson", "rate": 1e-9}
    expected = 5 if cohort == "everyone" else 5e-9
    clip, noise = 0.01, 3.0
    federation = on_tff(TFFDP(noise_multiplier=noise, clip=clip), weighting="uniform", sampling=sampling)
    start, draws = federation.start(), []
    for _ in range(20):
        after, _ = federation.step(start, evaluate=False)
        draws.append((after.weights - start.weights) * expected)
    rest = np.array(draws, np.float64) - (clipped(updates, clip).sum(0) if cohort == "everyone" else 0)
    assert rest.std() == pytest.approx(clip * noise, rel=4 / np.sqrt(2 * rest.size))
    assert abs(rest.mean()) < 4 * clip * noise / np.sqrt(rest.size)


@pytest.mark.parametrize("sampling", [{"kind": "poisson", "rate": 0.5}, {"kind": "fixed", "size": 3}, {"kind": "full"}])
def test_dp_claims_what_central_dp_claims(on_tff, federate, sampling):
    theirs = on_tff(TFFDP(noise_multiplier=1.1, clip=0.5), weighting="uniform", sampling=sampling)
    ours = federate(defenses=(CentralDP(clip=0.5, noise_multiplier=1.1),), weighting="uniform", sampling=sampling)
    spent = []
    for federation in (theirs, ours):
        ledger = federation.ledger()
        ledger.spend(10)
        spent.append(ledger.epsilon(1e-5).value)
    assert spent[0] == spent[1]


@pytest.mark.parametrize("broken", sorted(CHECKS))
def test_dp_gives_no_number_where_central_dp_gives_none(on_tff, federate, broken):
    sampling = {"kind": "poisson", "rate": 0.5}
    theirs = on_tff(TFFDP(noise_multiplier=1.1, clip=0.5), weighting="uniform", sampling=sampling)
    ours = federate(defenses=(CentralDP(clip=0.5, noise_multiplier=1.1),), weighting="uniform", sampling=sampling)
    for federation in (theirs, ours):
        ledger = federation.ledger()
        ledger.spend(1)
        assert ledger.epsilon(1e-5).value > 0
        ledger.spend(1, broken=frozenset({broken}))
        with pytest.raises(LedgerError, match=f"{broken}, which did not hold in round 1"):
            ledger.epsilon(1e-5)


@pytest.mark.slow
def test_an_adaptive_clip_goes_to_the_median_norm(on_tff, updates):
    federation = on_tff(TFFDP(noise_multiplier=0), weighting="uniform", client={"learning_rate": 1e-4})
    federation.run(1)
    clips = [r.metrics["tff_dp/dp_query_metrics.clip"] for r in federation.run(40).records]
    assert clips[0] == pytest.approx(0.1, rel=0.2)
    assert clips[-1] < 0.01  # updates at this rate have norms near 1e-3


@pytest.mark.slow
def test_compression_rounds_large_tensors_and_no_others(address, federate):
    from tests.engine.test_tff import zoo

    fields = zoo("2nn")  # the first kernel has 51,200 elements, the last 800
    plain = Federation(**fields)
    off = Federation(
        **fields,
        defenses=(TFFCompression(zeroing=False, clipping=False),),
        engine="tff",
        engine_options={"workers": [address]},
    )
    a, b = moved(plain), moved(off)
    spec = plain.model.spec
    kernel, last = (spec.slice_of(n) for n in (spec.names[0], spec.names[-2]))
    step = np.abs(a[kernel]).max()
    assert 0 < np.abs(a[kernel] - b[kernel]).max() < 0.2 * step
    np.testing.assert_allclose(b[last], a[last], atol=1e-7)


@pytest.mark.slow
def test_any_factory_by_its_name(on_tff, updates):
    norm = float(np.sort(np.abs(updates).max(1))[3]) * 1.001
    text = f"tff_aggregator(factory=zeroing_factory,zeroing_norm={norm},inner_agg_factory=MeanFactory)"
    named, generic = on_tff(TFFZeroing(norm=norm)), on_tff(registry.defenses.create(text))
    np.testing.assert_array_equal(moved(generic), moved(named))
    assert generic.config()["defenses"][0]["inner_agg_factory"] == "MeanFactory"
    rotated = (
        "tff_aggregator(factory=MeanFactory,value_sum_factory=HadamardTransformFactory(inner_agg_factory=SumFactory))"
    )
    np.testing.assert_allclose(
        moved(on_tff(registry.defenses.create(rotated))), SIZES / SIZES.sum() @ updates, atol=1e-6
    )
    fixed = "tff_aggregator(factory=DifferentiallyPrivateFactory.gaussian_fixed,noise_multiplier=0,clip=1)"
    np.testing.assert_allclose(
        moved(on_tff(registry.defenses.create(fixed), weighting="uniform")), clipped(updates, 1).mean(0), atol=1e-6
    )


def make(text):
    return registry.defenses.create(text)


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("tff_aggregator(factory=robust_agregator)", UnknownNameError, "Did you mean 'robust_aggregator'"),
        ("tff_aggregator(factory=robust_aggregator,zeroin=1)", ParameterError, "no argument 'zeroin'.*'zeroing'"),
        ("tff_aggregator(factory=clipping_factory)", ParameterError, "needs a value for clipping_norm"),
        (
            "tff_aggregator(factory=clipping_factory,clipping_norm=x,inner_agg_factory=MeanFactory)",
            ParameterError,
            "ref",
        ),
        ("tff_aggregator(factory=secure_aggregator)", ParameterError, "secret_sharing"),
        ("tff_aggregator(factory=SecureSumFactory)", ParameterError, "secret_sharing"),
        ("tff_aggregator(factory=builtins:dict)", ParameterError, "named values"),
        ("tff_aggregator(factory=collections:Counter)", ParameterError, "no aggregation factory"),
        ("tff_dp(noise_multiplier=5)", ParameterError, "give a clip"),
    ],
)
def test_names_and_arguments_that_are_wrong(on_tff, text, error, says):
    with pytest.raises(error, match=says):
        on_tff(make(text), weighting="uniform")


@pytest.mark.slow
def test_what_does_not_go_together(federate, on_tff):
    with pytest.raises(StackError, match="tff_robust is an aggregator of TFF's, which engine='graph' lacks"):
        federate(defenses=(TFFRobust(),))
    with pytest.raises(StackError, match="on_nonfinite='stop'"):
        on_tff(TFFRobust(), on_nonfinite="drop")
    with pytest.raises(StackError, match=r"tff_dp counts every client once.*weighting='uniform'"):
        on_tff(TFFDP(noise_multiplier=1, clip=1))
    with pytest.raises(StackError, match="each replace the client's message"):
        on_tff(SecretSharing(), TFFRobust())
    with pytest.raises(StackError, match="order that works is clip, tff_robust"):
        on_tff(TFFRobust(), Clip(norm=1))
    with pytest.raises(StackError, match="gives their mean alone"):
        on_tff(CentralDP(clip=1, noise_multiplier=1), TFFRobust(), weighting="uniform")
    with pytest.raises(StackError, match="TFF cannot aggregate this model's updates with it"):
        on_tff(make("tff_aggregator(factory=tests.defenses.test_tff_aggregators:no_sum_of_ours)")).run(1)
    reservoir = make("tff_aggregator(factory=UnweightedReservoirSamplingFactory,sample_size=3)")
    with pytest.raises(EngineError, match="not those of an update"):
        on_tff(reservoir, weighting="uniform").run(1)


def no_sum_of_ours():
    """A secure sum by another name."""
    from fedpriv.base.lazy import tff

    return tff.learning.secure_aggregator()


def test_only_the_released_result_can_be_tapped(on_tff):
    federation = on_tff(TFFClipping(norm=0.01))
    for position in ("server", "eavesdropper"):
        with pytest.raises(CapabilityError, match="observer"):
            federation.run(1, taps=[Tap(Adversary(position))])
    (seen,) = federation.run(1, taps=[Tap(Adversary("observer"))]).records[0].observations
    np.testing.assert_allclose(seen.view.observed, moved(federation), atol=1e-7)
    assert seen.view.kind == "released"


def test_layers_that_are_frozen_stay_under_the_noise_of_clients_here_too(on_tff):
    federation = on_tff(Freeze(layers=("dense/bias",)), AdditiveNoise(stddev=0.1), weighting="uniform")
    change = federation.model.spec.unflatten_numpy(moved(federation))
    assert change[0].all()
    assert not change[1].any()
