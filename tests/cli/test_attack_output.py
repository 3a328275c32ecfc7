"""Whatever an attack claims about examples of whatever shape, its rows, summary and figures are written."""

import json

import numpy as np
import pytest

from fedpriv.base.column import Column
from fedpriv.cli.attack_output import Gathered, show_row
from fedpriv.metrics.goals.reconstruction import Reconstruction
from fedpriv.metrics.score import score
from fedpriv.rounds.trial import Trial
from fedpriv.threat.attack import Finding
from fedpriv.threat.truth import Truth

FIGURES = {"reconstructions", "psnr_ssim", "psnr_curve", "film_strip"}


def truth(shape, n=2):
    return Truth(np.random.default_rng(0).random((n, *shape)).astype(np.float32), np.arange(n), (0,))


def claim(t, path=True, spoil=False):
    x = np.clip(t.x + 0.05, 0, 1)
    if spoil:
        x[0] = np.nan
    if not path:
        return Finding(x, t.y)
    return Finding(x, t.y, history=np.array([[1, 1.0], [10, 0.1]]), path=np.stack([x * 0.5, x]))


def written(out, t, *findings, repeats=1):
    gathered = Gathered("attack", Reconstruction())
    for run in range(repeats):
        for k, finding in enumerate(findings):
            gathered.add(Trial(finding, score(finding, t)), t, run, {"trial": k})
    gathered.write(out, {"attack": "attack"}, 0)
    names = {p.stem for p in out.iterdir() if p.suffix == ".png"}
    assert json.loads((out / "summary.json").read_text())["images"]
    assert len((out / "images.csv").read_text().splitlines()) == 1 + len(gathered.rows)
    return names, gathered


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((8, 8, 1), FIGURES),
        ((6, 9, 3), FIGURES),
        ((6, 1, 1), FIGURES - {"psnr_ssim"}),
        ((5,), {"psnr_curve"}),
        ((4, 4, 2), {"psnr_curve", "psnr_ssim"}),
    ],
)
def test_what_can_be_drawn_is(tmp_path, shape, expected):
    t = truth(shape)
    assert written(tmp_path, t, claim(t), claim(t, spoil=True))[0] == expected


def test_without_a_way_there_is_no_film(tmp_path):
    t = truth((8, 8, 1))
    assert written(tmp_path, t, claim(t, path=False))[0] == {"reconstructions", "psnr_ssim"}


def test_labels_alone_have_no_figure(tmp_path):
    t = truth((8, 8, 1))
    assert written(tmp_path, t, Finding(None, t.y))[0] == set()


@pytest.mark.slow
def test_the_grid_shows_the_first_images_of_the_first_run(tmp_path):
    t = truth((4, 4, 1), n=5)
    _, gathered = written(tmp_path, t, *[claim(t, path=False)] * 4, repeats=2)
    assert sum(len(x) for x, _, _ in gathered.pictures) == 15
    assert len(gathered.scores) == 8


def test_a_row_of_blanks_and_infinities_can_be_shown(capsys):
    t = truth((5,))
    exact, labels = (score(f, t) for f in (Finding(t.x, None), Finding(None, t.y)))
    columns = Reconstruction().row_columns()
    show_row(exact.rows()[0], 1, "image", columns, False)
    more = (*columns[:3], Column(name="lpips", label="lpips"), *columns[3:])
    show_row({**labels.rows()[0], "lpips": None}, 2, "image", more, False)
    _, first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["1", "inf", "-", "0.0e+00", "-", "0.00", "0"]
    assert second.split() == ["2", "-", "-", "-", "-", "right", "0.00", "0"]
