"""The tour of TFF: means are means, engines agree, and the server learns what it is said to learn."""

from __future__ import annotations

import numpy as np
import pytest
from fedpriv_experiments.tff_tour import federated_mean, image_classification, what_the_server_learns
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fedpriv.base.errors import DataError


def test_the_federated_mean_is_the_mean_of_all_readings():
    readings = federated_mean.synthetic(clients=7, seed=3)
    found = federated_mean.measured(readings)
    together = np.concatenate(readings).astype(np.float64)
    assert (found.count, found.total) == (len(together), pytest.approx(together.sum(), rel=1e-5))
    assert found.mean == pytest.approx(together.mean(), rel=1e-5)
    assert found.shared == pytest.approx(together.mean(), abs=1e-4)
    plain = [r.mean() for r in readings]
    assert abs(np.mean(plain) - together.mean()) > 0.1  # so that weighting matters here


def test_only_sums_and_counts_reach_the_server():
    signature = federated_mean.computation().type_signature
    assert str(signature.result) == "<float32@SERVER,int32@SERVER,float32@SERVER>"
    assert "CLIENTS" in str(signature.parameter)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.integers(-1000, 1000), min_size=1, max_size=5), min_size=1, max_size=6))
def test_secret_sharing_gives_the_mean_of_any_readings(tenths):
    readings = [np.asarray(own, np.float32) / 10 for own in tenths]
    mean, held = federated_mean.secretly(readings)
    assert mean == pytest.approx(np.concatenate(readings).mean(), abs=1e-3)
    assert set(held) == set(range(len(readings)))


def test_what_an_aggregator_holds_differs_from_run_to_run():
    readings = [np.array([20.0], np.float32)] * 2
    (a, one), (b, two) = federated_mean.secretly(readings), federated_mean.secretly(readings)
    assert a == b == 20
    assert not np.array_equal(one[0], two[0])
    assert not np.array_equal(one[0], one[1])


@pytest.mark.parametrize(
    ("text", "says"),
    [("1 2\n\n3", "line 2 has no readings"), ("1 warm", "line 1: could not"), ("1\n500", "line 2: 500 is beyond 100")],
)
def test_readings_that_are_wrong_are_named(tmp_path, text, says):
    file = tmp_path / "readings.txt"
    file.write_text(text)
    with pytest.raises(DataError, match=says):
        federated_mean.read(file)
    with pytest.raises(DataError, match="cannot be read"):
        federated_mean.read(tmp_path / "none")


def test_a_mistake_is_one_message_and_exit_code_2(tmp_path):
    import typer
    from fedpriv_experiments import script

    (tmp_path / "r").write_text("")
    app = typer.Typer()
    caught = []
    original, typer.run = typer.run, caught.append
    try:
        script.run(federated_mean.main)
    finally:
        typer.run = original
    app.command()(caught[0])
    done = CliRunner().invoke(app, ["--readings", str(tmp_path / "r")])
    assert done.exit_code == 2
    assert "is empty; write one client a line" in done.output


@pytest.mark.slow
def test_a_keras_model_learns_the_same_in_both_engines():
    found = image_classification.measured(rounds=3)
    graph, tff = found.histories["graph"], found.histories["tff"]
    assert found.apart < 1e-5
    assert [r.accuracy for r in tff.records] == pytest.approx([r.accuracy for r in graph.records], abs=2e-3)
    assert graph.records[-1].loss < graph.records[0].loss
    assert tff.weights.size == 16 * 8 * 25 + 8 * 25 + 8 + 16 + 784 * 10 + 10


@pytest.mark.slow
@pytest.mark.parametrize(
    "arm",
    [
        pytest.param(a, id=a.label, marks=[pytest.mark.slow] * (a.engine == "graph"))
        for a in what_the_server_learns.ARMS[:4]
    ],
)
def test_the_server_learns_the_same_in_both_engines(arm):
    found = what_the_server_learns.learned(arm, trials=1, seed=0, attack="dlg" if arm.defenses else "rgap")
    everyone = 5
    assert len(found.originals) == everyone
    if arm.defenses:
        assert [len(s.images) for s in found.scores] == [5]  # one sum
        assert np.mean([i.psnr for s in found.scores for i in s.images]) < 60
    else:
        assert [len(s.images) for s in found.scores] == [1] * 5
        assert min(i.psnr for s in found.scores for i in s.images) > 60


@pytest.mark.slow
def test_an_aggregator_of_tffs_that_only_zeroes_hides_nothing_and_clipping_confuses():
    zeroing, clipping = (what_the_server_learns.learned(a, trials=1, seed=0) for a in what_the_server_learns.ARMS[4:])

    def psnr(found):
        return np.median([i.psnr for s in found.scores for i in s.images])

    assert psnr(zeroing) > 30 > 15 > psnr(clipping)
