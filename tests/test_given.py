"""Values from R, as what a Python function declares."""

from collections.abc import Mapping
from typing import Any

import pytest

from fedpriv.base.errors import ParameterError
from fedpriv.base.given import as_declared


class Wanted:
    def __init__(
        self,
        rounds: "int" = 1,
        rate: "float | None" = None,
        sure: "bool" = False,
        name: "str" = "",
        options: "Mapping[str, Any] | None" = None,
        who: "Wanted | None" = None,
        several: "Sequence[int]" = (),  # noqa: F821
    ) -> None: ...


def test_whole_numbers_are_whole_and_the_rest_is_as_it_came():
    given = {"rounds": 2.0, "rate": 2.0, "sure": True, "name": "a", "options": {"a": 1}, "several": [1, 2], "who": "me"}
    found = as_declared(Wanted, given)
    assert found == given
    assert type(found["rounds"]) is int
    assert type(found["rate"]) is float
    assert as_declared(Wanted, {"rate": None, "who": None}) == {"rate": None, "who": None}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rounds": 2.5}, "rounds = 2.5 is a number; give a whole number"),
        ({"rounds": True}, "rounds = True is a logical; give a whole number"),
        ({"rounds": float("inf")}, "rounds = inf is a number; give a whole number"),
        ({"rate": "fast"}, "rate = 'fast' is a text; give a number"),
        ({"sure": 1}, "sure = 1 is a number; give TRUE or FALSE"),
        ({"name": ["a", "b"]}, r"name = \['a', 'b'\] is several values; give a text"),
        ({"options": "fast"}, "options = 'fast' is a text; give a named list"),
        ({"who": 3.0}, "who = 3.0 is a number; give Wanted"),
    ],
)
def test_what_does_not_fit_is_named(given, said):
    with pytest.raises(ParameterError, match=said):
        as_declared(Wanted, given)
