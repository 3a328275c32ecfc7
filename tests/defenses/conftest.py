"""Federation facts and contexts for defenses under test."""

from collections.abc import Callable

import pytest

from fedpriv.lazy import tf
from fedpriv.procedure import Sampling
from fedpriv.spec import Spec
from fedpriv.stations import Context, Setup


@pytest.fixture
def make_setup() -> Callable[..., Setup]:
    def make(d=8, population=10, sampling=None, weighting="uniform", max_examples=600):
        sampling = sampling or Sampling.full()
        return Setup(
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
def make_context(make_setup) -> Callable[..., Context]:
    def make(seed=(1, 2), **setup):
        return Context(make_setup(**setup), (), tf.constant(seed, tf.int32))

    return make
