import numpy as np
import pytest
from fedpriv_defenses.central_dp import CentralDP

from fedpriv.base.errors import CheckpointError, DivergenceError
from fedpriv.procedure.procedure import Sampling
from fedpriv.rounds.checkpoint import Checkpoint
from fedpriv.rounds.server import ServerRounds


@pytest.fixture
def noisy(federate):
    """A federation with every kind of state: adaptive server, noise, sampling."""

    def make(server="adam", **options):
        return federate(
            **{
                "defenses": (CentralDP(clip=0.5, noise_multiplier=0.3),),
                "weighting": "uniform",
                "sampling": Sampling.poisson(0.6),
                "server": {"kind": server, "learning_rate": 0.1},
                "batch_size": 4,
                **options,
            }
        )

    return make


def comparable(history):
    return [{k: v for k, v in r.row().items() if k != "seconds"} for r in history.records]


def stop_after(rounds):
    def stop(record):
        if record.round + 1 == rounds:
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize("server", ["adam", pytest.param("momentum", marks=pytest.mark.slow)])
def test_an_interrupted_run_resumes_to_the_same_bits(noisy, tmp_path, server):
    path, whole = tmp_path / "run.ckpt", noisy(server).run(5)
    part = noisy(server).run(5, checkpoint=path, checkpoint_every=100, on_round=stop_after(3))
    assert part.interrupted
    assert len(part.records) == 3
    resumed = noisy(server).run(5, checkpoint=path)
    assert resumed.weights.tobytes() == whole.weights.tobytes()
    assert comparable(resumed) == comparable(whole)
    assert resumed.records[-1].epsilon is not None
    assert not resumed.interrupted


def test_an_interruption_inside_a_round_undoes_that_round(federate, tmp_path, monkeypatch):
    path, federation = tmp_path / "run.ckpt", federate()
    whole = federation.run(3)
    step = ServerRounds.step

    def interrupted(self, state, *rest, **options):
        if state.round == 2:
            raise KeyboardInterrupt
        return step(self, state, *rest, **options)

    monkeypatch.setattr(ServerRounds, "step", interrupted)
    part = federation.run(3, checkpoint=path, checkpoint_every=2)
    assert (part.interrupted, len(part.records)) == (True, 2)
    monkeypatch.undo()
    assert federation.run(3, checkpoint=path).weights.tobytes() == whole.weights.tobytes()


def test_a_run_that_fails_keeps_its_last_whole_round(federate, tmp_path):
    path, federation = tmp_path / "run.ckpt", federate()

    def fail(record):
        if record.round == 1:
            raise DivergenceError("made up")

    with pytest.raises(DivergenceError):
        federation.run(5, checkpoint=path, checkpoint_every=100, on_round=fail)
    assert Checkpoint.load(path).round == 2


def test_a_finished_run_is_not_run_again_and_a_longer_one_is_no_shorter_one(federate, tmp_path):
    path, federation = tmp_path / "run.ckpt", federate()
    whole = federation.run(3, checkpoint=path)
    again = federation.run(3, checkpoint=path, on_round=lambda r: pytest.fail("ran again"))
    assert again.weights.tobytes() == whole.weights.tobytes()
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="3 rounds already, more than the 2 asked for"):
        federation.run(2, checkpoint=path)
    assert path.read_bytes() == before
    assert len(federation.run(2, checkpoint=path, resume=False).records) == 2


def test_another_federation_is_refused_by_name(noisy, tmp_path):
    path = tmp_path / "run.ckpt"
    noisy().run(1, checkpoint=path)
    for options, setting in (
        ({"seed": 5}, "seed was 0, is 5"),
        ({"batch_size": 5}, "procedure.batch_size was 4, is 5"),
        ({"defenses": (CentralDP(clip=0.5, noise_multiplier=0.4),)}, "noise_multiplier was 0.3, is 0.4"),
    ):
        with pytest.raises(CheckpointError, match=setting):
            noisy(**options).run(2, checkpoint=path)
    with pytest.raises(CheckpointError, match="initial_weights"):
        noisy().run(2, checkpoint=path, weights=noisy().start().weights + 1)


@pytest.mark.slow
def test_damage_anywhere_is_found_or_harmless(federate, tmp_path):
    path, damaged = tmp_path / "run.ckpt", tmp_path / "damaged.ckpt"
    federate(server={"kind": "momentum"}).run(2, checkpoint=path)
    whole, good = path.read_bytes(), Checkpoint.load(path)
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        damaged.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="damaged"):
            Checkpoint.load(damaged)
    rng = np.random.default_rng(0)
    found = 0
    for position in rng.integers(0, len(whole), 300):
        changed = bytearray(whole)
        changed[position] ^= 1 << int(rng.integers(8))
        damaged.write_bytes(changed)
        try:
            survived = Checkpoint.load(damaged)
        except CheckpointError:
            found += 1
        else:  # the bit was one that says nothing, such as a time stamp
            np.testing.assert_array_equal(survived.weights, good.weights)
            np.testing.assert_array_equal(survived.server[0], good.server[0])
            assert (survived.round, survived.config) == (good.round, good.config)
    assert found > 150


def test_what_is_no_checkpoint_is_said_so(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        Checkpoint.load(tmp_path / "none")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Checkpoint.load(tmp_path)
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(CheckpointError, match="damaged"):
        Checkpoint.load(tmp_path / "array.npy")


@pytest.mark.slow
def test_a_failed_save_leaves_the_old_file_whole(federate, tmp_path, monkeypatch):
    import os

    path = tmp_path / "run.ckpt"
    federation = federate()
    federation.run(1, checkpoint=path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        federation.run(2, checkpoint=path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
