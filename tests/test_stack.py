from typing import ClassVar

import pytest
from fedpriv_defenses.central_dp import CentralDP
from fedpriv_defenses.clip import Clip
from fedpriv_defenses.local_dp import LocalDP
from fedpriv_defenses.secret_sharing import SecretSharing

from fedpriv.account.ledger import Claim
from fedpriv.base.errors import LedgerError, ParameterError, StackError
from fedpriv.base.lazy import dp_accounting
from fedpriv.defense.domain import Domain, Opaque
from fedpriv.defense.stack import Stack
from fedpriv.defense.stations import Defense, Plan
from fedpriv.models.spec import Spec
from fedpriv.procedure.procedure import Sampling

CLIP, CENTRAL = Clip(norm=1.0), CentralDP(clip=1.0, noise_multiplier=1.0)
LOCAL, SHARING = LocalDP(clip=1.0, noise_multiplier=4.0), SecretSharing()


class ServerOnly(Defense):
    name: ClassVar[str] = "server_only"

    def aggregate(self, total, context):
        return total, {}


class Adaptive(Defense):
    name: ClassVar[str] = "adaptive"
    contractive: ClassVar[bool] = True

    def update(self, update, context):
        return update, {}

    def next_state(self, state, metrics, context):
        return state


class CoveredAdaptive(Adaptive):
    private_state: ClassVar[bool] = True


class Opener(Defense):
    name: ClassVar[str] = "opener"
    takes: ClassVar[Domain] = Opaque("paillier")

    def update(self, update, context):
        return update, {}


class NotGaussian(CentralDP):
    def claims(self, plan):
        event = dp_accounting.LaplaceDpEvent(1.0)
        return [Claim(event, "client", "add_or_remove_one", "released", True, (), 1.0)]


def setup_of(population=10, sampling=None, weighting="uniform", d=100):
    sampling = sampling or Sampling.full()
    return Plan(
        Spec(("w",), ((d,),)), population, sampling.largest(population), sampling.expected(population), sampling,
        weighting, 100,
    )  # fmt: skip


def test_the_pieces_in_the_order_they_run():
    server = ServerOnly()
    stack = Stack([server, CENTRAL, CLIP, SHARING], setup_of())
    assert stack.client_defenses == (CENTRAL, CLIP)
    assert stack.server_defenses == (CENTRAL, server)
    assert stack.protocol is SHARING
    assert stack.describe() == "server_only -> central_dp -> clip -> secret_sharing"
    empty = Stack([], setup_of())
    assert (empty.client_defenses, empty.protocol, empty.claims(), empty.fixed_denominator) == ((), None, [], None)


@pytest.mark.parametrize("late", [CLIP, LOCAL, CENTRAL], ids=lambda d: d.name)
def test_real_vectors_cannot_be_worked_on_once_shared(late):
    with pytest.raises(StackError) as caught:
        Stack([CLIP, SHARING, late], setup_of())
    text = str(caught.value)
    assert "secret_sharing (position 2) gives integers mod 2^32[d]" in text
    assert f"{late.name} (position 3) after it takes real[d]" in text
    assert f"the order that works is clip, {late.name}, secret_sharing" in text
    Stack([CLIP, late, SHARING], setup_of())


def test_a_server_side_defense_may_stand_anywhere():
    assert Stack([SHARING, ServerOnly()], setup_of()).server_defenses


def test_a_domain_nobody_gives():
    with pytest.raises(StackError, match=r"opener \(position 1\) takes opaque paillier, but .* is real\[d\]"):
        Stack([Opener()], setup_of())


def test_one_protocol_at_most_and_only_defenses():
    with pytest.raises(StackError, match=r"position 1\) and secret_sharing \(position 2\) each replace"):
        Stack([SHARING, SHARING], setup_of())
    with pytest.raises(StackError, match="item 2 of the stack is a str"):
        Stack([CLIP, "clip"], setup_of())


def test_each_defense_is_checked_against_the_federation():
    with pytest.raises(StackError, match="use weighting='uniform'"):
        Stack([CENTRAL], setup_of(weighting="examples"))
    with pytest.raises(ParameterError, match="bits >= 11"):
        Stack([SecretSharing(bits=8)], setup_of(population=1000))


def test_noise_twice_at_the_server_is_refused():
    with pytest.raises(StackError, match=r"central_dp \(position 1\) and central_dp \(position 2\)"):
        Stack([CENTRAL, CENTRAL], setup_of())


def test_nothing_may_undo_the_clip_that_central_noise_rests_on():
    with pytest.raises(StackError, match=r"local_dp \(position 2\) may lengthen .* put local_dp first"):
        Stack([CENTRAL, LOCAL], setup_of())
    with pytest.raises(StackError, match=r"server_only \(position 2\) changes the sum before central_dp"):
        Stack([CENTRAL, ServerOnly()], setup_of())
    Stack([LOCAL, CENTRAL], setup_of())
    Stack([CENTRAL, CLIP], setup_of())


def test_the_fixed_denominator_is_the_expected_cohort():
    assert Stack([CENTRAL], setup_of(50, Sampling.poisson(0.1))).fixed_denominator == 5.0
    assert Stack([CENTRAL], setup_of(50, Sampling.fixed(7))).fixed_denominator == 7.0
    assert Stack([CLIP, LOCAL], setup_of()).fixed_denominator is None


def test_rounding_in_the_protocol_enters_the_sensitivity():
    coarse = SecretSharing(bits=12, range=1.0)
    plan = setup_of(10, Sampling.poisson(0.5))
    (plain,), (rounded,) = Stack([CENTRAL], plan).claims(), Stack([CENTRAL, coarse], plan).claims()
    error = coarse.l2_error(plan)
    assert error > 0.02
    assert rounded.sensitivity == pytest.approx(1.0 + error)
    assert rounded.event.noise_multiplier == pytest.approx(1.0 / (1.0 + error))
    assert any("rounding" in a for a in rounded.assumes)
    replaced = Stack([CENTRAL, coarse], setup_of(10, Sampling.fixed(10))).claims()[0]
    assert replaced.event.noise_multiplier == pytest.approx(1.0 / (2.0 + 2 * error))
    ledgers = [Stack(s, plan).ledger() for s in ([CENTRAL], [CENTRAL, coarse])]
    assert ledgers[0].epsilon(1e-5, rounds=1).value < ledgers[1].epsilon(1e-5, rounds=1).value
    assert plain.event.noise_multiplier == 1.0


def test_rounding_under_noise_that_cannot_be_rescaled_gives_no_number():
    odd = NotGaussian(clip=1.0, noise_multiplier=1.0)
    plan = setup_of(10, Sampling.poisson(0.5))
    with pytest.raises(LedgerError, match="cannot compose"):
        Stack([odd, SHARING], plan).ledger().epsilon(1e-5, rounds=1)


def test_the_sum_of_the_clients_noises_counts_only_while_it_is_that_sum():
    plan = setup_of(10)
    assert [c.against for c in Stack([CLIP, LOCAL], plan).claims()] == ["server", "released"]
    assert [c.against for c in Stack([LOCAL, CLIP], plan).claims()] == ["server"]
    assert [c.against for c in Stack([LOCAL, SHARING], plan).claims()] == ["server"]
    sums, message = (Stack(s, plan).ledger().epsilon(1e-5, rounds=1) for s in ([LOCAL], [LOCAL, SHARING]))
    assert sums.value < message.value


def test_states_fed_by_unprotected_metrics_are_objected_to():
    stack = Stack([Adaptive(), CENTRAL], setup_of())
    with pytest.raises(LedgerError, match=r"adaptive \(position 1\) carries a state"):
        stack.ledger().epsilon(1e-5, rounds=1)
    assert Stack([CoveredAdaptive(), CENTRAL], setup_of()).objections() == []


def test_no_defense_no_number():
    for defenses in ([], [CLIP], [SHARING], [CLIP, SHARING]):
        with pytest.raises(LedgerError, match="epsilon is unbounded"):
            Stack(defenses, setup_of()).ledger().epsilon(1e-5, rounds=1)
