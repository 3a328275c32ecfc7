"""Freeze: what is frozen neither moves nor is sent, and what is not frozen moves as ever."""

import numpy as np
import pytest
from fedpriv_defenses.additive_noise import AdditiveNoise
from fedpriv_defenses.compression.sign_sgd import SignSGD
from fedpriv_defenses.freeze import Freeze, places_of

from fedpriv.base.errors import ParameterError
from fedpriv.data.dataset import Dataset
from fedpriv.data.kinds.tokens import Tokens
from fedpriv.data.partition import Partition
from fedpriv.federation.federation import Federation
from fedpriv.models import load
from fedpriv.procedure.procedure import Procedure
from fedpriv.rounds.exposure import Exposure
from fedpriv.testing import check_defense


@pytest.fixture(scope="module")
def data():
    x = np.random.default_rng(0).integers(1, 30, (8, 5)).astype(np.int32)
    return Dataset("made", x, (x[:, 0] > 15).astype(np.int32), 2, kind=Tokens(length=5, vocabulary=30, padding=0))


@pytest.fixture(scope="module")
def model(data):
    return load("bag_of_embeddings(width=4,hidden=[6])", data)


def view_of(model, data, epochs, *defenses):
    procedure = Procedure(local_epochs=epochs, batch_size=4, client={"learning_rate": 0.5})
    return next(iter(Exposure(model, data, trials=1, batch=4, procedure=procedure, defenses=defenses))).view


def test_frozen_layers_stay_through_all_local_steps(model, data):
    place = np.zeros(model.spec.size, bool)
    for name, size, start in zip(model.spec.names, model.spec.sizes, np.cumsum((0, *model.spec.sizes))):
        place[start : start + size] = name == "embedding/table"
    several, moved = view_of(model, data, 3, Freeze(layers=("embedding/table",))), view_of(model, data, 3)
    assert not several.observed[place].any()
    assert np.abs(moved.observed[place]).max() > 1e-4
    # a table that moved between the steps changes what the others learn; one that is only left out would not
    assert np.abs(several.observed[~place] - moved.observed[~place]).max() > 1e-4


def test_it_is_replayed_by_who_knows_of_it(model, data):
    view = view_of(model, data, 3, Freeze(layers=("embedding", "dense1")))
    x, y = data.x[:4].astype(np.float32), data.y[:4]
    np.testing.assert_allclose(view.simulate(x, y).numpy(), view.observed, atol=1e-6)


@pytest.mark.parametrize("stack", [("freeze", "sign_sgd"), ("sign_sgd", "freeze"), ("freeze", "noise")])
def test_frozen_layers_stay_whatever_stands_before_or_after(stack, model, data):
    made = {"freeze": Freeze(layers=("dense1",)), "sign_sgd": SignSGD(), "noise": AdditiveNoise(stddev=0.1)}
    federation = Federation(
        model,
        data,
        Partition("p", (np.arange(4), np.arange(4, 8))),
        Procedure(batch_size=None, weighting="uniform"),
        tuple(made[name] for name in stack),
    )
    begun = federation.start()
    after, record = federation.step(begun, evaluate=False)
    frozen = places_of(made["freeze"].frozen(model.spec), model.spec)
    moved = after.weights - begun.weights
    assert not moved[frozen].any()
    assert moved[~frozen].any()
    if "sign_sgd" in stack:
        assert record.bytes_up == -(-2 * (model.spec.size + 32) // 8)


def test_layers_that_are_not_there_are_named(model, data):
    with pytest.raises(ParameterError, match=r"no layer 'embeding'.*Did you mean 'embedding'"):
        view_of(model, data, 1, Freeze(layers=("embeding",)))
    with pytest.raises(ParameterError, match="leave one to train"):
        view_of(model, data, 1, Freeze(layers=tuple(n.partition("/")[0] for n in model.spec.names)))
    with pytest.raises(ValueError, match="layers"):
        Freeze(layers=())


def test_it_keeps_the_contract_of_defenses():
    assert check_defense(Freeze(layers=("dense/bias",)))
