"""Federation facts and contexts for defenses under test."""

from collections.abc import Callable

import pytest

from fedpriv.base.lazy import tf
from fedpriv.defense.stations import Context, Plan
from fedpriv.models.spec import Spec
from fedpriv.procedure.procedure import Sampling


@pytest.fixture
def make_plan() -> Callable[..., Plan]:
    def make(d=8, population=10, sampling=None, weighting="uniform", max_examples=600):
        sampling = sampling or Sampling.full()
        return Plan(
            spec=Spec(("w",), ((d,),)),
            population=population,
            cohort=sampling.largest(population),
            expected_cohort=sampling.expected(population),
            sampling=sampling,
            weighting=weighting,
            max_examples=max_examples,
        )

    return make


@pytest.fixture
def make_context(make_plan) -> Callable[..., Context]:
    def make(seed=(1, 2), **plan):
        return Context(plan=make_plan(**plan), seed=tf.constant(seed, tf.int64))

    return make
