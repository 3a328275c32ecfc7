"""Central DP through our line is TFF's own, in distribution: the same values, other generators."""

import itertools

import numpy as np
import pytest
from fedpriv_defenses.adaptive_central_dp import AdaptiveCentralDP
from fedpriv_defenses.central_dp import CentralDP
from fedpriv_defenses.correlated.dp_ftrl import DPFTRL
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing
from scipy import stats

from fedpriv.base.lazy import tff
from fedpriv.engine.tff.aggregation import to_aggregation_factory
from fedpriv.engine.tff.pool import default_runtime

D, CLIENTS = 20_000, 20
NORMS = np.linspace(0.2, 3, CLIENTS)


@pytest.fixture(scope="module", autouse=True)
def runtime():
    with default_runtime() as made:
        yield made


@pytest.fixture(scope="module")
def values():
    drawn = np.random.default_rng(0).normal(size=(CLIENTS, D))
    return (drawn * (NORMS / np.linalg.norm(drawn, axis=1))[:, None]).astype(np.float32)


def run(factory, values, rounds, weighted):
    kind = tff.TensorType(np.float32, [D])
    process = factory.create(kind, tff.TensorType(np.float32)) if weighted else factory.create(kind)
    state, results, measured = process.initialize(), [], []
    given = [list(values), [np.float32(1)] * CLIENTS] if weighted else [list(values)]
    for _ in range(rounds):
        out = process.next(state, *given)
        state = out.state
        results.append(np.asarray(out.result, np.float64))
        measured.append(out.measurements)
    return results, measured


def ours(defense):
    return to_aggregation_factory([defense], population=CLIENTS, cohort=CLIENTS, weighting="uniform", seed=5)


def same_noise(theirs, mine, mean, deviation):
    """Both are that mean and normal noise of that deviation; Kolmogorov and Smirnov cannot tell them apart."""
    noises = [x - mean for x in (theirs, mine)]
    for noise in noises:
        # Moments of d values lie within 5 standard errors, but in one of a million draws.
        assert abs(noise.mean()) < 5 * deviation / np.sqrt(D)
        assert noise.std() == pytest.approx(deviation, rel=5 / np.sqrt(2 * D))
        assert stats.kstest(noise / deviation, "norm").pvalue > 1e-6
    assert stats.ks_2samp(*noises).pvalue > 1e-6


def test_a_fixed_clip(values):
    clip, z = 1.0, 2.0
    theirs, _ = run(tff.aggregators.DifferentiallyPrivateFactory.gaussian_fixed(z, CLIENTS, clip), values, 2, False)
    mine, _ = run(ours(CentralDP(clip=clip, noise_multiplier=z)), values, 2, True)
    mean = (values * np.minimum(1, clip / NORMS)[:, None]).astype(np.float64).mean(0)
    for a, b in zip(theirs, mine, strict=True):
        same_noise(a, b, mean, z * clip / CLIENTS)


@pytest.mark.slow
def test_an_adaptive_clip(values):
    z, rounds = 0.8, 12
    factory = tff.aggregators.DifferentiallyPrivateFactory.gaussian_adaptive(z, CLIENTS, initial_l2_norm_clip=1.0)
    theirs, told = run(factory, values, rounds, False)
    defense = AdaptiveCentralDP(noise_multiplier=z, initial_clip=1.0, count_stddev=0.05 * CLIENTS)
    mine, logged = run(ours(defense), values, rounds, True)
    their_clips = [float(_named(m, "clip")) for m in told]
    my_clips = [float(m["adaptive_central_dp/clip"]) for m in logged]
    # TFF reports the clip after the round, we the one of the round.
    assert my_clips[0] == 1.0
    scale = 1 / np.sqrt(z**-2 - (2 * 0.05 * CLIENTS) ** -2) / CLIENTS
    for number, clip in enumerate([1.0, *their_clips[:-1]]):
        noise = theirs[number] - (values * np.minimum(1, clip / NORMS)[:, None]).astype(np.float64).mean(0)
        own = mine[number] - (values * np.minimum(1, my_clips[number] / NORMS)[:, None]).astype(np.float64).mean(0)
        same_noise(noise / clip, own / my_clips[number], 0.0, scale)
    # One round's step of both follows from the count's noise, of 1 client's deviation: within 6 of it.
    for clips in ([1.0, *their_clips], my_clips):
        for before, after in itertools.pairwise(clips):
            within = (before >= NORMS).mean()
            assert abs(-np.log(after / before) / 0.2 + 0.5 - within) < 6 * 0.05
    assert np.mean(my_clips[-4:]) == pytest.approx(np.mean(their_clips[-4:]), rel=0.4)


@pytest.mark.slow
def test_a_tree(values):
    """Prefix sums of both carry a tree's noise: that of one node after rounds 1, 2 / 3 of one after 2, and so on."""
    z, clip, rounds = 2.0, 1.0, 4
    factory = tff.aggregators.DifferentiallyPrivateFactory.tree_aggregation(
        z, CLIENTS, clip, tff.types.type_to_tf_tensor_specs(tff.TensorType(np.float32, [D])), use_efficient=True
    )
    theirs, _ = run(factory, values, rounds, False)
    mine, _ = run(ours(DPFTRL(clip=clip, noise_multiplier=z)), values, rounds, True)
    mean = (values * np.minimum(1, clip / NORMS)[:, None]).astype(np.float64).mean(0)
    for number, variance in enumerate((1, 2 / 3, 5 / 3, 4 / 7), start=1):
        sums = [np.sum(x[:number], axis=0) for x in (theirs, mine)]
        same_noise(*sums, number * mean, z * clip * np.sqrt(variance) / CLIENTS)


def _named(measurements, name):
    found = [v for k, v in _flat(measurements) if k.endswith(name)]
    assert len(found) == 1, measurements
    return found[0]


def _flat(measurements, prefix=""):
    for key, value in measurements.items():
        if hasattr(value, "items"):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.slow
@pytest.mark.parametrize(
    "defenses",
    [
        (AdaptiveCentralDP(noise_multiplier=1.0, initial_clip=0.3), SecretSharing()),
        (DPFTRL(clip=0.3, noise_multiplier=1.0),),
    ],
    ids=["adaptive, secure sum", "dp_ftrl"],
)
def test_both_engines_make_the_same_of_it(federate, runtime, defenses):
    options = {"defenses": defenses, "weighting": "uniform", "rounds": 3, "batch_size": None}
    ours = federate(**options).run(3)
    theirs = federate(**options, engine="tff", engine_options={"workers": [runtime.address]}).run(3)
    np.testing.assert_allclose(ours.weights, theirs.weights, atol=1e-5)
    for a, b in zip(ours.records, theirs.records, strict=True):
        assert a.metrics == pytest.approx(b.metrics, rel=1e-4)
