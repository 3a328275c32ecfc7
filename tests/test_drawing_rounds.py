"""Rounds of models that draw: every engine, resumed runs, peers, defenses, and replays with what was drawn."""

import numpy as np
import pytest
from fedpriv_defenses.dp_sgd.dp_sgd import DPSGD

from fedpriv.base.lazy import tf
from fedpriv.base.seeds import Purpose, child, secrets_of
from fedpriv.data.partition import Partition
from fedpriv.engine.tff.runtime import Runtime
from fedpriv.federation.client import _LINK_BITS, _MODEL, _STEP_BITS
from fedpriv.models import load as load_model
from fedpriv.models.draws import drawn
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.tap import Tap
from fedpriv.topology.gossip import Gossip

MODEL = "2nn(hidden=[6],dropout=0.5,precode=3)"


@pytest.fixture(scope="module")
def model():
    return load_model(MODEL, (4, 4, 1), 3)


def drawn_by(federation, client, round, steps, size):
    """What a client drew in each step, from the run's seed alone."""
    secret = tf.constant(secrets_of(federation.seed, Purpose.CLIENT, [round], [client])[0])
    place = (_MODEL << _LINK_BITS) << _STEP_BITS
    return [drawn(federation.model.draws, child(secret, place + i), size, "float32") for i in range(steps)]


def one_round(federation, client=0):
    start = federation.start()
    tap = Tap(Adversary.parse("server(knows=[labels])"), clients=(client,))
    state, record = federation.step(start, [tap], evaluate=False)
    (found,) = record.observations
    return state, found


@pytest.mark.slow
def test_a_replay_with_what_was_drawn_is_the_update(federate, model):
    """Full batches, three epochs: each pass has draws of its own."""
    federation = federate(model=model, local_epochs=3, batch_size=None, client={"learning_rate": 0.3})
    _, found = one_round(federation, 1)
    view, truth = found.view, found.truth
    steps = drawn_by(federation, 1, 0, 3, 12)
    draws = tuple(tf.stack(a) for a in zip(*steps))
    assert view.static.passes == 3
    given = (tf.constant(view.weights), tf.constant(view.client_rate, tf.float32), truth.x, truth.y, view.inputs())
    np.testing.assert_allclose(view.static.simulate(*given, draws=draws), view.observed, atol=2e-6)
    # Without them it is off, as is a replay with the passes exchanged.
    wrong = np.linalg.norm(view.simulate(truth.x, truth.y) - view.observed) / np.linalg.norm(view.observed)
    other = view.static.simulate(*given, draws=tuple(a[::-1] for a in draws))
    assert wrong > 0.05
    assert np.linalg.norm(other - view.observed) / np.linalg.norm(view.observed) > 0.05
    with pytest.raises(Exception, match=r"takes \[\[3, 12, 6\], \[3, 12, 3\]\]"):
        view.static.simulate(*given, draws=tuple(a[:1] for a in draws))


def test_clients_rounds_and_seeds_draw_apart(federate, model):
    federation = federate(model=model)
    first = drawn_by(federation, 0, 0, 2, 5)
    for other in (
        drawn_by(federation, 1, 0, 1, 5)[0],
        drawn_by(federation, 0, 1, 1, 5)[0],
        drawn_by(federate(model=model, seed=1), 0, 0, 1, 5)[0],
        first[1],
    ):
        assert not np.any(other[1].numpy() == first[0][1].numpy())


def test_evaluation_draws_nothing(federate, model, toy):
    federation = federate(model=model)
    _, record = federation.step(federation.start())
    weights = federation.step(federation.start(), evaluate=False)[0].weights
    parts = model.spec.unflatten_numpy(weights)
    outputs = model.apply(parts, toy.x, False).numpy()
    assert record.accuracy == pytest.approx(np.mean(outputs.argmax(1) == toy.y))


@pytest.mark.slow
def test_runs_repeat_and_resume_to_the_same_bits(federate, model, tmp_path):
    def stop(record):
        if record.round == 1:
            raise KeyboardInterrupt

    def fresh(seed=0):
        return federate(model=model, batch_size=3, local_epochs=2, seed=seed)

    whole, path = fresh().run(4), tmp_path / "run.ckpt"
    assert fresh().run(4, checkpoint=path, on_round=stop).interrupted
    assert fresh().run(4, checkpoint=path).weights.tobytes() == whole.weights.tobytes()
    assert fresh(1).run(4).weights.tobytes() != whole.weights.tobytes()


@pytest.mark.slow
def test_tff_trains_the_same(federate, model):
    runtime = Runtime()
    try:
        options = {"model": model, "batch_size": 3, "local_epochs": 2}
        ours = federate(**options).run(2)
        theirs = federate(**options, engine="tff", engine_options={"workers": [runtime.address]}).run(2)
    finally:
        runtime.close()
    np.testing.assert_allclose(theirs.weights, ours.weights, atol=1e-6)
    assert [r.loss for r in theirs.records] == pytest.approx([r.loss for r in ours.records], rel=1e-5)


@pytest.mark.slow
def test_peers_draw_too(federate, model):
    """On the complete graph gossip is FedAvg, with the same draws."""
    even = Partition("even", tuple(np.arange(30).reshape(6, 5)))
    options = {"model": model, "partition": even, "weighting": "uniform", "batch_size": 2}
    peers = federate(topology=Gossip(graph="complete", protocol="d_psgd", masks=False), **options).run(2)
    np.testing.assert_allclose(peers.weights, federate(**options).run(2).weights, atol=1e-6)


@pytest.mark.slow
def test_dp_sgd_clips_each_example_at_its_own_draws(federate, model):
    federation = federate(
        model=model,
        partition=Partition("one", (np.arange(30),)),
        weighting="uniform",
        batch_size=None,
        client={"learning_rate": 1.0},
        defenses=(DPSGD(clip=0.2, noise_multiplier=0.0),),
        rounds=1,
    )
    start = federation.start()
    state, _ = federation.step(start, evaluate=False)
    (draws,) = drawn_by(federation, 0, 0, 1, 30)
    weights = [tf.constant(w) for w in model.spec.unflatten_numpy(start.weights)]
    order, train = federation.partition.indices[0], federation.train
    rows = []
    for i in range(30):
        x, y = train.x[order[i : i + 1]], tf.constant(train.y[order[i : i + 1]])
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = model.example_losses(weights, x, y, True, [d[i : i + 1] for d in draws])
        rows.append(np.concatenate([np.ravel(g) for g in tape.gradient(loss, weights)]))
    clipped = rows * np.minimum(1, 0.2 / np.linalg.norm(rows, axis=1, keepdims=True))
    np.testing.assert_allclose(state.weights - start.weights, -clipped.mean(0), atol=1e-6)


@pytest.mark.slow
def test_training_with_both_still_learns(federate):
    model = load_model("2nn(hidden=[32],dropout=0.2,precode=16)", (4, 4, 1), 3)
    history = federate(model=model, batch_size=4, local_epochs=2, client={"learning_rate": 0.2}).run(15)
    assert history.records[-1].accuracy > 0.6 > history.records[0].accuracy - 0.2
