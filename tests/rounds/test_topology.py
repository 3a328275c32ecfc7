"""How rounds are carried is a plug-in; the server's star is one of them."""

import numpy as np
import pytest

from fedpriv.base.errors import UnknownNameError


def test_a_topology_by_name_and_by_path(federate, monkeypatch, tmp_path):
    (tmp_path / "halved.py").write_text(
        "from fedpriv.rounds.server import ServerRounds\n"
        "class Halved(ServerRounds):\n"
        "    def step(self, state, *positional, **options):\n"
        "        after, record = super().step(state, *positional, **options)\n"
        "        after.weights = (after.weights + state.weights) / 2\n"
        "        return after, record\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    plain, halved = federate(batch_size=None), federate(batch_size=None, topology="halved:Halved")
    start = plain.start().weights
    np.testing.assert_allclose(halved.run(1).weights - start, (plain.run(1).weights - start) / 2, atol=1e-7)
    assert halved.config() != plain.config()
    with pytest.raises(UnknownNameError, match=r"no topology is named 'sever'.*'server'"):
        federate(topology="sever").start()
