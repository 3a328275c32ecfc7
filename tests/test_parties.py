import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.base.errors import ParameterError
from fedpriv.defense.parties import SERVER, Party, Phase, aggregator, client


@given(st.sampled_from(["client", "aggregator", "key_holder"]), st.integers(0, 10**6))
def test_what_is_printed_is_understood(role, index):
    party = Party(role, index)
    assert str(party) == f"{role} {index}"
    assert Party.parse(str(party)) == Party.parse(f"{role}:{index}") == Party.parse(f" {role}{index}") == party


def test_the_server_needs_no_number():
    assert str(SERVER) == "server"
    assert Party.parse("server") == SERVER == Party("server", 0)
    assert (str(aggregator(1)), str(client(3))) == ("aggregator 1", "client 3")


@pytest.mark.parametrize("text", ["", "aggregator", "1", "aggregator -1", "Aggregator 1", "client 1 2"])
def test_what_names_no_party_is_refused(text):
    with pytest.raises(ParameterError, match="names no party; write 'server', 'aggregator 1'"):
        Party.parse(text)


def test_the_input_phase_has_two_names():
    assert [Phase("share", True).is_called(n) for n in ("share", "input", "publish")] == [True, True, False]
    assert [Phase("publish").is_called(n) for n in ("share", "input", "publish")] == [False, False, True]
