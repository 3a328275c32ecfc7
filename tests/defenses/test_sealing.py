"""What clients send each other through the server."""

import pytest
from fedpriv_defenses.secure_sum.sealing import TAG_BYTES, KeyPair


def test_each_of_two_opens_what_the_other_sealed_and_nobody_else_does():
    alice, bob, eve = KeyPair(), KeyPair(), KeyPair()
    to_bob, to_alice = alice.agree(bob.public, b"round 3"), bob.agree(alice.public, b"round 3")
    sealed = to_bob.seal(b"a piece")
    assert len(sealed) == len(b"a piece") + TAG_BYTES
    assert to_alice.open(sealed) == b"a piece"
    assert to_bob.open(to_alice.seal(b"back")) == b"back"
    assert to_bob.open(sealed) is None  # its own message, sent back to it
    assert eve.agree(alice.public, b"round 3").open(sealed) is None
    assert bob.agree(alice.public, b"round 4").open(sealed) is None
    for place in (0, 6, -1):
        changed = bytearray(sealed)
        changed[place] ^= 1
        assert to_alice.open(bytes(changed)) is None
    assert to_alice.open(sealed[:-1]) is None
    assert to_alice.open(b"") is None


@pytest.mark.parametrize("public", [bytes(32), (1).to_bytes(32, "little"), bytes(31)])
def test_keys_that_agree_on_nothing_secret_are_none(public):
    assert KeyPair().agree(public, b"") is None
