from dataclasses import replace
from typing import ClassVar

import pytest
from fedpriv_defenses.central_dp import CentralDP
from fedpriv_defenses.clip import Clip
from fedpriv_defenses.local_dp import LocalDP
from fedpriv_defenses.secure_sum.secret_sharing import SecretSharing

from fedpriv.account.ledger import Ledger
from fedpriv.base import registry
from fedpriv.base.errors import LedgerError, ParameterError, StackError
from fedpriv.base.lazy import dp_accounting
from fedpriv.defense.claim import Claim
from fedpriv.defense.domain import Domain, Opaque, Real
from fedpriv.defense.line import Line
from fedpriv.defense.noise import Noise
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Defense, Plan, Station
from fedpriv.models.spec import Spec
from fedpriv.procedure.procedure import Sampling

CLIP, CENTRAL = Clip(norm=1.0), CentralDP(clip=1.0, noise_multiplier=1.0)
LOCAL, SHARING = LocalDP(clip=1.0, noise_multiplier=4.0), SecretSharing()


class ServerOnly(Defense):
    name: ClassVar[str] = "server_only"

    def aggregate(self, total, context):
        return total


class Adaptive(Defense):
    name: ClassVar[str] = "adaptive"

    def initial_state(self, plan):
        return (1.0,)

    def tallies(self, plan):
        return {"below": 1.0}

    def maps(self, given, plan):
        return given

    def update(self, update, context):
        return Passed(update, tally={"below": 1.0})

    def aggregate(self, total, context):
        return Passed(total, state=(context.tally["below"],))


class CoveredAdaptive(Adaptive):
    def noise(self, plan):
        return Noise("gaussian", 1.0, "update")

    def claims(self, plan, contribution):
        event = dp_accounting.GaussianDpEvent(1.0)
        return [
            Claim(
                event=event,
                unit="client",
                relation="add_or_remove_one",
                against="released",
                amplified=True,
                covers_tally=True,
            )
        ]


class Opener(Defense):
    name: ClassVar[str] = "opener"
    takes: ClassVar[Domain] = Opaque("paillier")

    def update(self, update, context):
        return update


class ForItsOwnClip(CentralDP):
    """States its claim for the clip, whatever rounding does to the update after it."""

    def claims(self, plan, contribution):
        return super().claims(plan, Real(self.clip))


def setup_of(population=10, sampling=None, weighting="uniform", d=100):
    sampling = sampling or Sampling.full()
    return Plan(
        spec=Spec(("w",), ((d,),)),
        population=population,
        cohort=sampling.largest(population),
        expected_cohort=sampling.expected(population),
        sampling=sampling,
        weighting=weighting,
        max_examples=100,
    )


def ledger_of(line):
    return Ledger(line.plan, line.claims(), "rdp", line.objections(), refusals=line.refusals())


def test_the_pieces_in_the_order_they_run():
    server = ServerOnly()
    stack = Line([server, CENTRAL, CLIP, SHARING], setup_of())
    assert [stack.links[i] for i in stack.at(Station.UPDATE)] == [CENTRAL, CLIP]
    assert [stack.links[i] for i in stack.at(Station.AGGREGATE)] == [CENTRAL, server]
    assert stack.links[3:] == SHARING.parts()
    assert stack.protocol == SHARING.parts()[1]
    assert stack.encodes
    assert stack.describe() == "server_only -> central_dp -> clip -> secret_sharing"
    empty = Line([], setup_of())
    assert (empty.links, empty.protocol, empty.claims(), empty.fixed_denominator) == ((), None, [], None)


@pytest.mark.parametrize("late", [CLIP, LOCAL, CENTRAL], ids=lambda d: d.name)
def test_real_vectors_cannot_be_worked_on_once_shared(late):
    with pytest.raises(StackError) as caught:
        Line([CLIP, SHARING, late], setup_of())
    text = str(caught.value)
    assert "secret_sharing (position 2) gives integers mod 2^32[d]" in text
    assert f"{late.name} (position 3) after it takes real[d]" in text
    assert f"the order that works is clip, {late.name}, secret_sharing" in text
    Line([CLIP, late, SHARING], setup_of())


def test_a_server_side_defense_may_stand_anywhere():
    assert Line([SHARING, ServerOnly()], setup_of()).at(Station.AGGREGATE)


def test_a_domain_nobody_gives():
    with pytest.raises(StackError, match=r"opener \(position 1\) takes opaque paillier, but .* is real\[d\]"):
        Line([Opener()], setup_of())


def test_one_protocol_at_most_and_only_defenses():
    with pytest.raises(StackError, match=r"position 1\) and secret_sharing \(position 2\) each replace"):
        Line([SHARING, SHARING], setup_of())
    with pytest.raises(StackError, match="item 2 of the stack is a str"):
        Line([CLIP, "clip"], setup_of())


def test_each_defense_is_checked_against_the_federation():
    with pytest.raises(StackError, match="use weighting='uniform'"):
        Line([CENTRAL], setup_of(weighting="examples"))
    with pytest.raises(ParameterError, match="bits >= 11"):
        Line([SecretSharing(bits=8)], setup_of(population=1000))


def test_noise_twice_at_the_server_is_refused():
    with pytest.raises(StackError, match=r"central_dp \(position 1\) and central_dp \(position 2\)"):
        Line([CENTRAL, CENTRAL], setup_of())


def test_nothing_may_undo_the_clip_that_central_noise_rests_on():
    with pytest.raises(StackError, match=r"local_dp \(position 2\) may lengthen .* put local_dp first"):
        Line([CENTRAL, LOCAL], setup_of())
    with pytest.raises(StackError, match=r"server_only \(position 2\) changes the sum before central_dp"):
        Line([CENTRAL, ServerOnly()], setup_of())
    Line([LOCAL, CENTRAL], setup_of())
    Line([CENTRAL, CLIP], setup_of())


def test_the_fixed_denominator_is_the_expected_cohort():
    assert Line([CENTRAL], setup_of(50, Sampling.poisson(0.1))).fixed_denominator == 5.0
    assert Line([CENTRAL], setup_of(50, Sampling.fixed(7))).fixed_denominator == 7.0
    assert Line([CLIP, LOCAL], setup_of()).fixed_denominator is None


def test_rounding_in_the_protocol_enters_the_sensitivity():
    coarse = SecretSharing(bits=12, range=1.0)
    plan = setup_of(10, Sampling.poisson(0.5))
    (plain,), (rounded,) = Line([CENTRAL], plan).claims(), Line([CENTRAL, coarse], plan).claims()
    error = coarse.parts()[0].l2_error(plan)
    assert error > 0.02
    assert rounded.sensitivity == pytest.approx(1.0 + error)
    assert rounded.event.noise_multiplier == pytest.approx(1.0 / (1.0 + error))
    assert any("rounding" in a for a in rounded.assumes)
    replaced = Line([CENTRAL, coarse], setup_of(10, Sampling.fixed(10))).claims()[0]
    assert replaced.event.noise_multiplier == pytest.approx(1.0 / (2.0 + 2 * error))
    ledgers = [ledger_of(Line(s, plan)) for s in ([CENTRAL], [CENTRAL, coarse])]
    assert ledgers[0].epsilon(1e-5, rounds=1).value < ledgers[1].epsilon(1e-5, rounds=1).value
    assert plain.event.noise_multiplier == 1.0


def test_a_sensitivity_stated_apart_from_the_clip_gives_no_number():
    odd, coarse = ForItsOwnClip(clip=1.0, noise_multiplier=1.0), SecretSharing(bits=12, range=1.0)
    plan = setup_of(10, Sampling.poisson(0.5))
    assert ledger_of(Line([odd], plan)).epsilon(1e-5, rounds=1).value > 0
    with pytest.raises(LedgerError, match=r"computed for a sensitivity of 1, but one client can move the sum by 1\.0"):
        ledger_of(Line([odd, coarse], plan)).epsilon(1e-5, rounds=1)


def test_the_sum_of_the_clients_noises_counts_only_while_it_is_that_sum():
    plan = setup_of(10)
    assert [c.against for c in Line([CLIP, LOCAL], plan).claims()] == ["server", "released"]
    assert [c.against for c in Line([LOCAL, CLIP], plan).claims()] == ["server"]
    assert [c.against for c in Line([LOCAL, SHARING], plan).claims()] == ["server"]
    sums, message = (ledger_of(Line(s, plan)).epsilon(1e-5, rounds=1) for s in ([LOCAL], [LOCAL, SHARING]))
    assert sums.value < message.value


def test_a_claim_about_a_sum_ends_at_whatever_is_no_sum():
    from fedpriv_defenses.tff_aggregators import TFFZeroing

    line = Line([LOCAL, TFFZeroing(norm=0.8)], setup_of(100))
    assert [c.against for c in line.claims()] == ["server"]
    assert "releases something else" in line.refusals()[0]
    message, total = ledger_of(line), ledger_of(Line([LOCAL], setup_of(100)))
    assert message.epsilon(1e-5, rounds=1).value > 5 * total.epsilon(1e-5, rounds=1).value


def test_a_claim_whose_assumption_the_run_broke_gives_no_number():
    ledger = ledger_of(Line([LOCAL], setup_of(10, Sampling.fixed(10))))
    ledger.spend()
    before = ledger.epsilon(1e-5).value
    ledger.spend(broken=frozenset({"everyone arrives"}))
    message = ledger_of(Line([LOCAL], setup_of(10, Sampling.poisson(0.5))))
    assert ledger.epsilon(1e-5).value == pytest.approx(message.epsilon(1e-5, rounds=2).value)
    assert ledger.epsilon(1e-5).value > before
    central = ledger_of(Line([CENTRAL], setup_of(10, Sampling.fixed(5))))
    central.spend(broken=frozenset({"cohorts are drawn"}))
    with pytest.raises(LedgerError, match="assumes that cohorts are drawn, which did not hold in round 0"):
        central.epsilon(1e-5)


class Amplify(Defense):
    name: ClassVar[str] = "amplify"

    def encode(self, contribution, context):
        return contribution * 100.0


class Measured(Amplify):
    """Says what it makes of a bound."""

    def decoded(self, given, plan):
        return Real(given.l2 * 100)


def test_whoever_encodes_and_says_nothing_loses_the_bound():
    with pytest.raises(StackError, match=r"amplify \(position 2\) may lengthen a contribution on its way there"):
        Line([CENTRAL, Amplify()], setup_of())
    line = Line([CENTRAL, Measured()], setup_of(10, Sampling.poisson(0.5)))
    assert line.claims()[0].event.noise_multiplier == pytest.approx(0.01)


class Counts(Defense):
    name: ClassVar[str] = "counts"

    def tallies(self, plan):
        return {"m": 1.0}

    def maps(self, given, plan):
        return given

    def update(self, update, context):
        return Passed(update, tally={"m": 1.0})

    def aggregate(self, total, context):
        return total + context.tally["m"]


class Smuggles(Defense):
    name: ClassVar[str] = "smuggles"

    def data(self, x, y, context):
        return x, y

    def update(self, update, context):
        return context.own[0]


class Boasts(Defense):
    name: ClassVar[str] = "boasts"
    scale: float | None = None

    def noise(self, plan):
        return None if self.scale is None else Noise("gaussian", self.scale, "aggregate")

    def aggregate(self, total, context):
        return total * 1.0001

    def claims(self, plan, contribution):
        event = dp_accounting.GaussianDpEvent(200.0)
        return [
            Claim(
                event=event,
                unit="client",
                relation="add_or_remove_one",
                against="released",
                amplified=True,
                sensitivity=1.0,
            )
        ]


def test_claims_that_something_else_undoes_give_no_number():
    plan = setup_of(10, Sampling.poisson(0.5))
    for stack in ([Counts(), CENTRAL], [LOCAL, Counts()]):
        with pytest.raises(LedgerError, match=r"counts \(position \d\) sums tallies beside the updates"):
            ledger_of(Line(stack, plan)).epsilon(1e-5, rounds=1)
    with pytest.raises(LedgerError, match=r"smuggles \(position 2\) acts before it as well as after it"):
        ledger_of(Line([LOCAL, Smuggles()], plan)).epsilon(1e-5, "server", rounds=1)
    for scale, why in ((None, r"declares no noise\(plan\)"), (0.01, "over a sensitivity of 1 is 0.01")):
        with pytest.raises(LedgerError, match=why):
            ledger_of(Line([CLIP, Boasts(scale=scale)], plan)).epsilon(1e-5, rounds=1)
    honest = ledger_of(Line([CLIP, Boasts(scale=200.0)], plan))
    assert honest.epsilon(1e-5, rounds=1).value < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    "careful",
    [
        SecretSharing(min_clients=3, range=1.0),
        SecretSharing(among="committee", committee=3, range=1.0),
        SecretSharing(among="clients", threshold=3, range=1.0, bits=24),
    ],
    ids=["min_clients", "committee", "threshold"],
)
def test_rounds_that_abort_by_who_came_give_no_number(careful):
    plan = setup_of(10, Sampling.poisson(0.5))
    with pytest.raises(LedgerError, match="whether a round is aborted depends on how many clients took part"):
        ledger_of(Line([CENTRAL, careful], plan)).epsilon(1e-5, rounds=1)
    free = ledger_of(Line([CENTRAL, SecretSharing(threshold=2, range=1.0)], plan))
    assert free.epsilon(1e-5, rounds=1).value > 0
    fixed = ledger_of(Line([CENTRAL, careful], setup_of(10, Sampling.fixed(5))))
    assert fixed.epsilon(1e-5, rounds=1).value > 0
    fixed.spend(broken=frozenset({"rounds are finished"}))
    with pytest.raises(LedgerError, match="rounds are finished, which did not hold in round 0"):
        fixed.epsilon(1e-5)


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan"), float("inf")])
def test_tallies_need_a_bound_that_is_one(bound):
    class Loose(Counts):
        def tallies(self, plan):
            return {"m": bound}

    with pytest.raises(StackError, match="tally 'counts/m' has the bound"):
        Line([Loose()], setup_of())


def test_states_fed_by_unprotected_metrics_are_objected_to():
    stack = Line([Adaptive(), CENTRAL], setup_of())
    with pytest.raises(LedgerError, match=r"adaptive \(position 1\) carries a state"):
        ledger_of(stack).epsilon(1e-5, rounds=1)
    assert Line([CoveredAdaptive(), CENTRAL], setup_of()).objections() == []


def test_no_defense_no_number():
    for defenses in ([], [CLIP], [SHARING], [CLIP, SHARING]):
        with pytest.raises(LedgerError, match="epsilon is unbounded"):
            ledger_of(Line(defenses, setup_of())).epsilon(1e-5, rounds=1)


@pytest.mark.parametrize(
    ("stack", "words"),
    [
        ("top_k(fraction=0.1) random_k(fraction=0.1)", r"top_k \(position 1\) and random_k .*compressed once"),
        ("qsgd clip(norm=1) sign_sgd", r"qsgd \(position 1\) and sign_sgd \(position 3\).*compressed once"),
        ("dgc low_precision", "compressed once"),
        ("mixup instahide", "each mix the examples of a batch; keep one"),
        ("mixup mixup(images=3)", "each mix the examples"),
        ("ats ats(policy=0-9)", r"ats \(position 1\) and ats \(position 2\) are the same defense"),
        ("soteria clip(norm=1) soteria", "the same defense, which a line may have once"),
        ("dp_sgd(clip=1,noise_multiplier=1) soteria", "they exclude each other"),
        ("soteria dp_sgd(clip=1,noise_multiplier=1)", "they exclude each other"),
        ("krum central_dp(clip=1,noise_multiplier=1)", "bounds nothing that this noise .*local_dp"),
        ("clip(norm=1) central_dp(clip=1,noise_multiplier=1) krum", "bounds nothing that this noise .*local_dp"),
        ("median adaptive_central_dp(noise_multiplier=1)", "bounds nothing that this noise .*local_dp"),
    ],
)
def test_what_excludes_each_other_is_said_with_a_way_out_in_every_order(stack, words):
    spec = Spec(("dense1/kernel", "dense/kernel", "dense/bias"), ((6, 4), (4, 3), (3,)))
    made = [registry.defenses.create(text) for text in stack.split()]
    with pytest.raises(StackError, match=words):
        Line(made, replace(setup_of(), spec=spec))


def test_a_note_says_that_two_ways_to_hide_examples_are_undone_one_at_a_time():
    made = [registry.defenses.create(text) for text in ("ats", "mixup")]
    said = Line(made, setup_of()).notes()
    assert any("'untransform' undoes ats alone and 'unmix' undoes mixup alone" in note for note in said)
    assert not any("no attack here" in note for note in Line(made[:1], setup_of()).notes())
