"""The kit passes what we ship, and catches what does not keep its promises."""

from typing import ClassVar

import pytest
from fedpriv_defenses.clip import Clip

from fedpriv.base import registry
from fedpriv.base.errors import CheckError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.seeds import gaussian
from fedpriv.defense.domain import Real
from fedpriv.defense.noise import Noise
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Defense
from fedpriv.testing import check_defense

#: Every shipped defense that this engine runs; one that is registered and missing here fails the test below.
SHIPPED = {
    "clip": "clip(norm=0.05)",
    "central_dp": "central_dp(clip=0.05,noise_multiplier=0.1)",
    "per_layer_clip": "per_layer_clip(total=0.05)",
    "adaptive_central_dp": "adaptive_central_dp(noise_multiplier=0.1,initial_clip=0.05)",
    "dp_ftrl": "dp_ftrl(clip=0.05,noise_multiplier=0.1)",
    "dp_sgd": "dp_sgd(clip=0.05,noise_multiplier=0.1)",
    "local_dp": "local_dp(clip=0.05,noise_multiplier=0.1)",
    "top_k": "top_k(fraction=0.1)",
    "random_k": "random_k(fraction=0.1)",
    "low_precision": "low_precision(format=int8)",
    "sign_sgd": "sign_sgd(error_feedback=true)",
    "one_bit": "one_bit",
    "qsgd": "qsgd(levels=3)",
    "terngrad": "terngrad",
    "power_sgd": "power_sgd",
    "dgc": "dgc(fraction=0.1)",
    "additive_noise": "additive_noise(stddev=0.01)",
    "outpost": "outpost",
    "soteria": "soteria(rate=0.5)",
    "mixup": "mixup",
    "instahide": "instahide",
    "ats": "ats",
    "median": "median",
    "trimmed_mean": "trimmed_mean",
    "krum": "krum",
    "norm_bound": "norm_bound(norm=0.05)",
    "personal_layers": "personal_layers(layers=[dense/bias])",
    "freeze": "freeze(layers=[dense/bias])",
    "watch_gradients": "watch_gradients(answer=withhold,isolated=0.01)",
    "fixed_point": "fixed_point(bits=16,range=1)",
    "secret_sharing": "secret_sharing(aggregators=3,range=1)",
    "light_secagg": "light_secagg(range=1)",
    "secagg": "secagg(range=1)",
    "secagg_plus": "secagg_plus(range=1)",
    "ckks": "ckks(range=1,fraction=0.3)",
    "paillier": "paillier(range=1)",
}
#: Other ways in which a defense of several works.
WAYS = (
    "top_k(fraction=0.1,error_feedback=true)",
    "random_k(fraction=0.1,error_feedback=true)",
    "random_k(fraction=0.1,unbiased=true)",
    "ats(policy=fashion_resnet)",
    "fixed_point(bits=16,range=1,rounding=stochastic)",
    "fixed_point(bits=none,range=1,resolution=0.001)",
    "secret_sharing(among=clients,range=1)",
    "secret_sharing(among=committee,committee=4,threshold=3,range=1,rounding=stochastic)",
)
#: Work behind another, or on TFF's engine, where tests of their own run them.
ELSEWHERE = {
    "additive_sharing",
    "shamir_sharing",
    "coded_masking",
    "pairwise_masking",
    "neighbour_masking",
    "ckks_sum",
    "paillier_sum",
    "distributed_dp",
    "watch_weights",
    "broadcast_commitment",
} | {n for n in registry.defenses.names() if n.startswith("tff_")}


def test_every_shipped_defense_is_checked_somewhere():
    assert set(registry.defenses.names()) == set(SHIPPED) | ELSEWHERE


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_keeps_its_promises(name):
    checked = check_defense(SHIPPED[name])
    assert (checked.epsilon is not None) == name.endswith(("_dp", "_ftrl", "dp_sgd"))
    if name == "clip":
        assert checked.replayed < 1e-5
        assert checked.moved > 0.3


@pytest.mark.parametrize("way", WAYS)
def test_so_do_its_other_ways(way):
    assert check_defense(way).epsilon is None


class Lengthens(Clip):
    """States a clip's bound and doubles the update."""

    def update(self, update, context):
        out = super().update(update, context)
        return Passed(2 * out.value, log=out.log)


class Idle(Defense):
    """Does nothing."""

    def update(self, update, context):
        return update


class Nowhere(Defense):
    """Acts at no station."""


class Secretive(Defense):
    """Adds noise and says nothing of it."""

    def update(self, update, context):
        return update + 0.1 * gaussian(context.seed, tf.shape(update), update.dtype)


class Quiet(Secretive):
    """Declares a tenth of the noise it adds."""

    replayable: ClassVar[bool] = False

    def noise(self, plan):
        return Noise("gaussian", 0.01, "update")


class Moody(Defense):
    """Draws from outside."""

    replayable: ClassVar[bool] = False

    def update(self, update, context):
        return update + tf.random.normal(tf.shape(update))


class Boastful(Defense):
    """Reports a tally beyond its bound."""

    def tallies(self, plan):
        return {"many": 1.0}

    def update(self, update, context):
        return Passed(update, tally={"many": 7.0}, log={"many": 7.0})


class Mirror(Defense):
    """Replays something else than it does."""

    def update(self, update, context):
        return -update

    def replay(self):
        return Clip(norm=100.0)


class Steep(Defense):
    """Divides by the norm, which is zero where attacks start."""

    def maps(self, given, plan):
        return Real(1.0)

    def update(self, update, context):
        return tf.where(tf.norm(update) > 0, update / tf.norm(update), update)


@pytest.mark.parametrize(
    ("defense", "problem"),
    [
        (Lengthens(norm=0.05), "clip states that an update is no longer than 0.05"),
        (Lengthens(norm=5), "maps states a norm of at most 5, but an update of norm"),
        (Idle, "nothing differs from a federation without it"),
        (Nowhere, "acts at no station"),
        (Secretive, "declares no noise"),
        (Quiet, "declares normal noise of deviation 0.01 on updates, but adds 0.1"),
        (Moody, "the same seed gives other weights"),
        (Boastful, "tally 'many' is 7, beyond the bound 1"),
        (Mirror, "its replay at the truth is"),
        (Steep, "no finite derivative at an update of zeros"),
    ],
)
def test_what_breaks_a_promise_is_caught(defense, problem):
    with pytest.raises(CheckError, match=problem):
        check_defense(defense)


def test_what_is_no_defense_is_refused():
    with pytest.raises(ParameterError, match="takes a Defense, its class or its name, not 3"):
        check_defense(3)
    with pytest.raises(ParameterError, match="cannot be made without parameters"):
        check_defense(Clip)
