"""Film strips and curves in a grid: what an attack held along its way is kept where that is asked for."""

import numpy as np
import pytest

from fedpriv.experiment.arm import arms
from fedpriv.experiment.drawings import drawings
from fedpriv.experiment.experiment import load
from fedpriv.experiment.store import attack_job
from fedpriv.experiment.table import gather
from tests.experiment.conftest import DLG, finish

FILM = {
    "setting": {
        "data": "tests.experiment.toys:toy",
        "model": "logistic",
        "exposure": {"images": 2},
        "film": True,
    },
    "grid": {"attack": {"first layer": "first_layer", "DLG": DLG, "Adam": "inverting_gradients(optimizer.steps=30)"}},
    "seeds": 2,
}


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    import yaml

    folder = tmp_path_factory.mktemp("film")
    (folder / "e.yaml").write_text(yaml.safe_dump({"name": "film", **FILM}, sort_keys=False))
    return finish(folder / "e.yaml", folder / "r")


@pytest.mark.slow
def test_attacks_that_go_a_way_have_strips_and_curves(filmed):
    experiment, store = filmed
    made = drawings(experiment, arms(gather(experiment, store)))
    assert [d.heading for d in made if d.stem.startswith("film_strip")] == ["Film strip: DLG", "Film strip: Adam"]
    assert [d.stem for d in made if d.stem.startswith("psnr_curve")] == ["psnr_curve"]
    curve, strip = (next(d for d in made if d.stem.startswith(stem)) for stem in ("psnr_curve", "film_strip"))
    words = " ".join(t.get_text() for t in curve.draw().findobj(lambda o: hasattr(o, "get_text")))
    assert "DLG" in words
    assert "first layer" not in words
    drawn = [t.get_text() for t in strip.draw().findobj(lambda o: hasattr(o, "get_text"))]
    assert "Original" in drawn


@pytest.mark.slow
def test_a_way_ends_where_the_score_is(filmed):
    for result in gather(*filmed):
        for view in result.views:
            if view.way is None:
                assert result.cell.labels["attack"] == "first layer"
                continue
            ends = [float(value) for value in view.way["psnr"][-1]]
            np.testing.assert_allclose(ends, [image.psnr for image in view.score.images], atol=0.011)
            assert np.all(np.diff(view.way["evaluations"]) > 0)
        arrays = result.attacked.arrays
        if "strip_x" in arrays:
            np.testing.assert_allclose(arrays["strip_originals"], arrays["originals"][:1])
            np.testing.assert_allclose(arrays["strip_x"][-1], arrays["found"][:1], atol=1e-3)


@pytest.mark.slow
def test_nothing_is_kept_where_it_is_not_asked_for(filmed, tmp_path):
    experiment, store = filmed
    bare = load(store.folder.parent / "e.yaml", ["film=false"])
    keys = [[attack_job(c).key for c in e.cells if c.labels["attack"] != "first layer"] for e in (experiment, bare)]
    assert not set(keys[0]) & set(keys[1])
    alone = finish(store.folder.parent / "e.yaml", tmp_path / "r", "film=false", "seeds=1")
    assert all("strip_x" not in r.attacked.arrays for r in gather(*alone))
    assert not any(d.stem.startswith(("film", "psnr_curve")) for d in drawings(alone[0], arms(gather(*alone))))
