"""iDLG: the label first, then the example."""

from __future__ import annotations

import pytest
from fedpriv_attacks.inversion.idlg import IDLG

from fedpriv.base.errors import CapabilityError, DivergenceError
from fedpriv.metrics.image import psnr

SHAPE = (8, 8, 1)


@pytest.mark.parametrize("bias", [True, False])
def test_label_and_image(helpers, bias):
    model = helpers.dense(SHAPE, bias=bias)
    x, y = helpers.smooth_images(1, SHAPE, 1), [3]
    finding = IDLG().run(helpers.make_view(model, x, y))
    assert list(finding.y) == y
    assert finding.extra["label_source"] == ("idlg, bias" if bias else "idlg, kernel")
    assert float(psnr(finding.x[0], x[0])) > 40


@pytest.mark.slow
def test_after_local_steps(helpers):
    x, y = helpers.smooth_images(1, SHAPE, 2), [9]
    finding = IDLG().run(helpers.make_view(helpers.dense(SHAPE), x, y, helpers.local_steps(5)))
    assert list(finding.y) == y
    assert float(psnr(finding.x[0], x[0])) > 30


def test_two_examples_need_their_labels(helpers):
    model, x, y = helpers.dense(SHAPE), helpers.smooth_images(2, SHAPE, 2), [9, 0]
    with pytest.raises(CapabilityError, match="2 examples"):
        IDLG().run(helpers.make_view(model, x, y))
    finding = IDLG(labels="known").run(helpers.make_view(model, x, y, knows=("labels",)))
    assert list(finding.y) == y
    assert min(float(psnr(a, b)) for a, b in zip(finding.x, x, strict=True)) > 25


def test_an_update_that_is_not_finite_is_refused_before_the_label_is_read(helpers):
    import numpy as np

    model, x = helpers.dense(SHAPE), helpers.smooth_images(1, SHAPE)
    observed = np.full(model.spec.size, np.nan, np.float32)
    with pytest.raises(DivergenceError, match="nothing can be matched"):
        IDLG().run(helpers.make_view(model, x, [0], observed=observed))
