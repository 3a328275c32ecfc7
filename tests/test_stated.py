import math

import pytest

from fedpriv.account.gaussian import gaussian_epsilon
from fedpriv.account.stated import check_stated, make_stated
from fedpriv.base.errors import ParameterError


def verdict(**facts):
    return check_stated(make_stated(**facts))


def test_a_sensitivity_that_was_set_apart_from_the_clip():
    """Local noise with both as settings of their own: 500 times too little, in each of 100 rounds."""
    facts = {"epsilon": 10, "delta": 1e-5, "clip": 5, "added_to": "update", "rounds": 100, "against": "server"}
    found = verdict(sensitivity=0.01, **facts)
    assert not found.holds
    multiplier = 0.01 * math.sqrt(2 * math.log(1.25e5)) / 10 / 5
    assert found.readings[0][0].multiplier == pytest.approx(multiplier)
    assert found.epsilon == pytest.approx(gaussian_epsilon(10 / multiplier, 1e-5))
    assert found.epsilon > 1e7
    said = found.describe()
    assert "the noise is 500 times too small" in said
    assert "that of one round; 100 rounds are released" in said
    assert "holds for epsilon below 1 only" in said
    assert verdict(stddev=found.needed, **facts).holds
    assert not verdict(stddev=0.99 * found.needed, **facts).holds


def test_a_claim_that_holds():
    found = verdict(epsilon=1, delta=1e-5, clip=1, sensitivity=1, added_to="update", against="server")
    assert found.holds
    assert found.epsilon < 1
    assert "The stated number holds" in found.describe()
    replaced = verdict(
        epsilon=1, delta=1e-5, clip=1, sensitivity=1, added_to="update", against="server", relation="replace_one"
    )
    assert not replaced.holds
    assert replaced.epsilon == pytest.approx(1.61, abs=0.01)


@pytest.mark.slow
def test_published_noise_is_confirmed_and_less_is_not():
    facts = {"epsilon": 2.01, "delta": 1e-6, "clip": 0.5, "rate": 1e-3, "rounds": 1500}
    assert verdict(stddev=0.5 * 0.6162, **facts).holds
    less = verdict(stddev=0.5 * 0.5, **facts)
    assert less.epsilon == pytest.approx(4.469, abs=0.01)
    assert less.needed == pytest.approx(0.5 * 0.616, abs=1e-3)


def test_noise_on_a_mean_counts_as_often_as_the_mean_divides():
    on_mean = verdict(epsilon=5, delta=1e-6, clip=1, stddev=0.02, added_to="mean", cohort=100, sampling="full")
    on_sum = verdict(epsilon=5, delta=1e-6, clip=1, stddev=2.0, sampling="full")
    assert on_mean.epsilon == pytest.approx(on_sum.epsilon)


def test_sampling_does_not_amplify_against_the_server():
    facts = {
        "delta": 1e-5,
        "clip": 1,
        "stddev": 5,
        "added_to": "update",
        "cohort": 20,
        "population": 2000,
        "rounds": 50,
    }
    released = verdict(epsilon=0.2, sampling="fixed", **facts)
    assert released.holds
    server = verdict(epsilon=0.075, against="server", **facts)
    assert server.epsilon == pytest.approx(gaussian_epsilon(math.sqrt(50) / 5, 1e-5))
    assert any("does not see" in r or "do not see who takes part" in r for r in server.reasons)


@pytest.mark.slow
def test_sampling_is_counted_once():
    once = {"delta": 1e-5, "clip": 1, "stddev": 2, "rounds": 400}
    real = verdict(epsilon=0.01, rate=0.1, **once).epsilon
    twice = verdict(epsilon=0.01, rate=0.01, **once).epsilon
    found = verdict(epsilon=twice, rate=0.1, **once)
    assert found.epsilon == pytest.approx(real)
    assert any("counted twice" in r for r in found.reasons)


def test_example_level_is_not_client_level():
    facts = {"epsilon": 3, "delta": 1e-5, "clip": 1, "per": "example", "stddev": 1.1, "rate": 0.01, "rounds": 1000}
    assert verdict(unit="example", **facts).holds
    client = verdict(unit="client", examples=100, **facts)
    assert not client.holds
    assert client.epsilon > 1000
    untold = verdict(unit="client", **facts)
    assert untold.epsilon == math.inf
    assert "the claim is about a client" in untold.describe()


def test_laplace_noise_under_a_clip_of_the_l2_norm():
    found = verdict(
        epsilon=8,
        delta=1e-5,
        clip=1,
        noise="laplace",
        sensitivity=1,
        dimension=10_000,
        added_to="update",
        against="server",
    )
    assert found.epsilon == pytest.approx(800)
    assert any("sqrt(d) times the clip" in r for r in found.reasons)
    fitting = verdict(
        epsilon=8,
        delta=1e-5,
        clip=1,
        clip_norm="l1",
        noise="laplace",
        sensitivity=1,
        added_to="update",
        against="server",
    )
    assert fitting.holds
    assert fitting.epsilon == pytest.approx(8)


def test_what_nothing_bounds():
    unclipped = verdict(epsilon=8, delta=1e-5, stddev=100)
    assert (unclipped.holds, unclipped.epsilon, unclipped.needed) == (False, math.inf, None)
    assert "nothing clips" in unclipped.describe()
    silent = verdict(epsilon=8, delta=1e-5, clip=1, stddev=0)
    assert "no noise is added" in silent.describe()
    assert silent.needed > 0.5
    seen = verdict(epsilon=8, delta=1e-5, clip=1, stddev=3, against="server")
    assert not seen.holds
    assert "which sees every contribution before" in seen.describe()


def test_a_delta_that_is_no_promise():
    found = verdict(epsilon=8, delta=1e-2, clip=1, stddev=3, cohort=10, population=1000)
    assert any("above 1/1000" in r for r in found.reasons)


@pytest.mark.slow
def test_replacing_under_poisson_sampling_is_removing_and_adding():
    found = verdict(epsilon=2, delta=1e-6, clip=1, stddev=1.0, rate=0.01, rounds=100, relation="replace_one")
    added = verdict(epsilon=2, delta=1e-6, clip=1, stddev=1.0, rate=0.01, rounds=100)
    assert added.epsilon < found.epsilon < 10 * added.epsilon


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"clip": -1, "stddev": 1}, "clip=-1"),
        ({"delta": 1.0, "stddev": 1}, "delta=1.0"),
        ({"clip": 1}, "neither stddev nor sensitivity"),
        ({"clip": 1, "stddev": 1, "cohort": 20, "population": 10}, "is a rate above 1"),
        ({"clip": 1, "stddev": 1, "rate": 1.5}, "rate=1.5"),
        ({"clip": 1, "stddev": 1, "added_to": "mean"}, "needs cohort"),
        ({"clip": 1, "stddev": 1, "noise": "laplace"}, "needs dimension"),
        ({"clip": 1, "stddev": 1, "sampling": "fixed"}, "needs cohort and population"),
        ({"clip": 1, "stddev": 1, "drawn_by": "client"}, "give per=example and added_to=update"),
        ({"clip": 1, "stddev": 1, "local_steps": 2}, "local_steps=2 add noise at each client"),
    ],
)
def test_a_claim_that_cannot_be_read_is_named(facts, message):
    with pytest.raises(ParameterError, match=message):
        make_stated(**{"epsilon": 1, "delta": 1e-5, **facts})


def test_a_closed_form_is_rounded_by_the_digits_that_are_stated():
    facts = {"delta": 1e-5, "clip": 1, "stddev": 1}
    assert gaussian_epsilon(1.0, 1e-5) == pytest.approx(4.377178, abs=1e-6)
    expected = {4.38: (True, False), 4.4: (True, False), 4.377: (True, True), 4.3772: (True, False)}
    expected |= dict.fromkeys((4.374, 4.376, 4.3771, 4.37, 4), (False, False))
    found = {stated: verdict(epsilon=stated, **facts) for stated in expected}
    assert {stated: (one.holds, one.rounded) for stated, one in found.items()} == expected
    assert "The stated number holds, rounded: epsilon is 4.37718." in found[4.377].describe()
    assert "4.377, 1.00073 times as much" in found[4.374].describe()
    assert found[4.377].row()["rounded"] is True


def test_batches_that_a_client_draws_amplify_against_the_server_as_dp_sgd_claims():
    from fedpriv_defenses.dp_sgd.account import LocalSteps, amplified

    from fedpriv.account.composition import Composition

    facts = {"epsilon": 2, "delta": 1e-5, "clip": 0.5, "stddev": 1.0, "per": "example", "unit": "example"}
    facts |= {"added_to": "update", "against": "server", "rounds": 20, "local_steps": 5}
    event = amplified(LocalSteps("poisson", 1000, 10, 5, 1), 2.0)
    expected = Composition([(event, 20)], "add_or_remove_one", "pld").epsilon(1e-5)
    drawn = verdict(**facts, rate=0.01, drawn_by="client")
    assert drawn.epsilon == pytest.approx(expected, rel=5e-3)  # rounded up more coarsely
    assert drawn.holds
    assert "5 local steps each" in drawn.describe()
    fixed = verdict(**facts, cohort=10, population=1000, sampling="fixed", drawn_by="client")
    replaced = amplified(LocalSteps("fixed", 1000, 10, 5, 1), 2.0)
    expected = Composition([(replaced, 20)], "replace_one", "rdp").epsilon(1e-5)
    assert (fixed.readings[0][0].against, fixed.epsilon) == ("server", pytest.approx(expected, rel=1e-3))
    by_server = verdict(**facts, rate=0.01)
    assert by_server.epsilon == pytest.approx(gaussian_epsilon(math.sqrt(100) / 2, 1e-5))
    assert not by_server.holds
