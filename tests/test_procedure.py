import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.base.errors import ParameterError
from fedpriv.procedure.procedure import Procedure, Sampling, Schedule, make_procedure


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (Schedule(), {0: 1, 1000: 1}),
        (Schedule(kind="step", decay=0.5, every=20), {0: 1, 19: 1, 20: 0.5, 59: 0.25}),
        (Schedule(kind="exponential", decay=0.9), {0: 1, 1: 0.9, 10: 0.9**10}),
        (Schedule(kind="cosine", over=100), {0: 1, 50: 0.5, 25: 0.5 + math.sqrt(0.125), 100: 0, 500: 0}),
        (Schedule(kind="warmup", over=4), {0: 0.25, 1: 0.5, 3: 1, 9: 1}),
    ],
)
def test_schedules(schedule, factors):
    for round_number, factor in factors.items():
        assert schedule.factor(round_number) == pytest.approx(factor, abs=1e-12)


@given(
    st.integers(1, 5),
    st.one_of(st.none(), st.integers(1, 12)),
    st.one_of(st.none(), st.integers(1, 9)),
    st.integers(1, 50),
)
def test_steps_are_those_of_the_plain_loop(epochs, batch_size, most, n):
    procedure = Procedure(local_epochs=epochs, batch_size=batch_size, max_local_steps=most)
    steps = sum(1 for _ in range(epochs) for _ in range(0, n, batch_size or n))
    assert procedure.local_steps(n) == min(steps, most or steps)
    assert procedure.steps_per_epoch(n) == steps // epochs


def test_fedsgd_is_one_full_batch_at_rate_one():
    procedure = Procedure.fedsgd(0.3)
    assert (procedure.local_epochs, procedure.batch_size, procedure.client.learning_rate) == (1, None, 1.0)
    assert procedure.server.learning_rate == 0.3
    assert procedure.local_steps(1000) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"local_epochs": 0}, "local_epochs=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"proximal": -1}, "proximal=-1"),
        ({"proximal": math.inf}, "proximal=inf"),
        ({"client": {"learning_rate": 0}}, "client.learning_rate=0"),
        ({"client": {"learning_rate": math.nan}}, "client.learning_rate=nan"),
        ({"client": {"kind": "lion"}}, "client.kind='lion'"),
        ({"client": {"momentum": 1.0}}, "client.momentum=1.0"),
        ({"weighting": "equal"}, "weighting='equal'"),
        ({"epochs": 3}, "epochs=3"),
        ({"sampling": {"kind": "fixed"}}, "fixed sampling needs size"),
        ({"sampling": {"kind": "fixed", "size": 0}}, "sampling.size=0"),
        ({"sampling": {"kind": "full", "size": 3}}, "full sampling takes no size"),
        ({"sampling": {"kind": "poisson", "rate": 0.1, "size": 3}}, "poisson sampling takes no size"),
        ({"sampling": {"kind": "poisson", "rate": 1.1}}, "sampling.rate=1.1"),
        ({"server": {"schedule": {"kind": "step", "decay": 2}}}, "server.schedule.decay=2"),
    ],
)
def test_impossible_values_are_named(fields, message):
    with pytest.raises(ParameterError, match=message.replace(".", r"\.")):
        make_procedure(**fields)


def test_a_dump_makes_the_same_procedure():
    procedure = make_procedure(
        local_epochs=3, client={"kind": "adam", "schedule": {"kind": "cosine", "over": 9}}, sampling=Sampling.fixed(4)
    )
    assert Procedure(**procedure.model_dump(mode="json")) == procedure
    assert hash(procedure) == hash(procedure.model_copy())


def test_cohort_sizes():
    assert (Sampling.fixed(4).expected(10), Sampling.fixed(4).largest(10)) == (4, 4)
    assert (Sampling.poisson(0.25).expected(10), Sampling.poisson(0.25).largest(10)) == (2.5, 10)
    assert (Sampling.full().expected(10), Sampling.full().largest(10)) == (10, 10)


def test_without_decay_nothing_of_it_is_written_so_that_old_identities_stay():
    plain = Procedure().model_dump(mode="json")
    assert "weight_decay" not in plain["client"]
    decaying = make_procedure(client={"weight_decay": 0.01}).model_dump(mode="json")
    assert decaying["client"]["weight_decay"] == 0.01
    assert Procedure.model_validate(decaying).client.weight_decay == 0.01
    with pytest.raises(ParameterError, match="only clients decay weights"):
        make_procedure(server={"weight_decay": 0.01})
    with pytest.raises(ParameterError, match="weight_decay"):
        make_procedure(client={"weight_decay": -1})
