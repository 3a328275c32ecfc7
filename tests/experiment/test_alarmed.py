"""What clients' checks saw stands beside what the attack got."""

import csv

import numpy as np
import pytest

from fedpriv.base.registry import defenses
from fedpriv.cli import main
from fedpriv.data.dataset import Dataset
from fedpriv.models import load
from fedpriv.rounds.exposure import Exposure
from fedpriv.threat.acts import Plant
from fedpriv.threat.adversary import Adversary


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("quick") / "malicious"
    with pytest.raises(SystemExit) as done:
        main(["run", "malicious_servers", "--quick", "--out", str(out)])
    assert done.value.code == 0
    return out


def test_detection_stands_beside_success(made):
    with (made / "arms.csv").open() as file:
        unchecked, checked = csv.DictReader(file)
    assert float(unchecked["success_rate"]) > 0.5
    assert unchecked["alarmed"] == ""
    assert checked["success_rate"] == ""  # every client sent zeros
    assert float(checked["alarmed"]) == 1
    page = (made / "report.html").read_text()
    assert "Alarmed is the share of clients" in page
    assert "check what they are sent (1), all of them alarmed or refused in 1, and none did in 0." in page


@pytest.mark.parametrize(("clients", "share"), [((), 0.0), ((1,), 1 / 3), (None, 1.0)])
def test_shares_are_of_clients_and_of_each_check(clients, share):
    rng = np.random.default_rng(0)
    data = Dataset("made", rng.uniform(size=(12, 6, 6, 1)).astype(np.float32), np.arange(12, dtype=np.int32) % 4, 4)
    model = load("2nn(hidden=[20,20])", data)

    def alike(weights, occasion):
        weights[model.spec.slice_of(model.spec.names[0])] = 0.01
        return weights

    act = Plant(weights=alike, clients=clients)
    checks = tuple(map(defenses.create, ["watch_weights", "broadcast_commitment"]))
    exposure = Exposure(model, data, 2, 2, 3, defenses=checks, adversary=Adversary().acting(act))
    exposure.observe(0)
    differ = clients == (1,)
    seen = exposure.alarms(0)
    # who refuses looks at nothing further
    assert seen == {"watch_weights": pytest.approx(0.0 if differ else share), "broadcast_commitment": float(differ)}
    assert exposure.alarms(1) == {}
