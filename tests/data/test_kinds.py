"""Kinds: what is valid, how two examples are compared, and what a failure is worth."""

import numpy as np
import pytest

from fedpriv.base import registry
from fedpriv.base.errors import DataError
from fedpriv.base.lazy import tf
from fedpriv.data.kinds.columns import TOLERANCE, Categorical, Columns, Numeric
from fedpriv.data.kinds.default import kind_of
from fedpriv.data.kinds.features import Features
from fedpriv.data.kinds.image import Image
from fedpriv.data.kinds.tokens import Tokens
from fedpriv.metrics.image import psnr, ssim
from fedpriv.metrics.matching import match

ROWS = Columns(
    fields=(
        Numeric(name="age", mean=50, spread=10, low=20, high=90, integer=True),
        Categorical(name="colour", values=("red", "green", "blue")),
        Numeric(name="Height (cm)", mean=170, spread=8, low=150, high=200),
    )
)
KINDS = [Image(shape=(6, 6, 3)), Features(shape=(5,), low=-2, high=6), ROWS, Tokens(length=4, vocabulary=11)]
RNG = np.random.default_rng(5)


def examples(kind, n=6):
    u = RNG.random((n, *kind.shape)).astype(np.float32)
    return kind.settle(np.asarray(kind.from_unit(u), np.float32)).astype(np.float32)


def test_every_registered_kind_is_tested_here():
    assert {k.name for k in KINDS} == set(registry.kinds.names())


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_valid_examples_stay_as_they_are(kind):
    x = examples(kind)
    np.testing.assert_allclose(kind.settle(x), x, atol=1e-5)
    np.testing.assert_allclose(kind.project(tf.constant(x)), x, atol=1e-5)
    np.testing.assert_allclose(kind.from_unit(kind.to_unit(x)), x, atol=1e-4)
    kept = x.astype(np.int32) if kind.dtype == "int32" else x
    np.testing.assert_allclose(kind.checked(kept, "here"), x, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_projection_is_traceable_and_leads_to_what_is_valid(kind):
    far = tf.constant(RNG.normal(0, 30, (6, *kind.shape)), tf.float32)
    once = tf.function(kind.project, autograph=False)(far)
    np.testing.assert_allclose(kind.project(once), once, atol=1e-4)
    settled = kind.settle(far.numpy())
    np.testing.assert_allclose(kind.settle(settled), settled, atol=1e-4)
    with tf.GradientTape() as tape:
        tape.watch(far)
        value = tf.reduce_sum(kind.project(far) ** 2)
    assert np.isfinite(tape.gradient(value, far)).all()


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_nothing_scores_better_than_the_original_or_worse_than_nothing(kind):
    x, other = examples(kind), examples(kind)
    assert np.argmin(kind.costs(x, x), axis=1).tolist() == list(range(6))
    assert np.allclose(np.diag(kind.costs(x, x)), 0)
    for original, found in zip(x, other, strict=True):
        best, some, worst = kind.score(original, original), kind.score(original, found), kind.missing(original)
        assert set(best) == set(some) == set(worst) == {c.name for c in kind.columns}
        assert kind.success(best, 30.0)
        assert not kind.success(worst, 30.0)
        for column in kind.columns:
            if column.name == "ssim":  # of noise it can be a little below the 0 of what is missing
                continue
            sign = 1 if column.better == "higher" else -1
            assert sign * best[column.name] >= sign * some[column.name] >= sign * worst[column.name] - 1e-9


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_a_shuffled_batch_is_put_in_order(kind):
    x, order = examples(kind), RNG.permutation(6)
    np.testing.assert_array_equal(match(x[order], x, kind), np.argsort(order))


@pytest.mark.parametrize("kind", KINDS[:3], ids=lambda k: k.name)
def test_what_is_not_finite_stays_so_and_spoils_no_other(kind):
    x = examples(kind)
    broken = x.copy()
    broken[2].flat[0] = np.nan
    settled = kind.settle(broken)
    assert np.isnan(settled[2]).any()
    np.testing.assert_allclose(settled[[0, 1, 3]], x[[0, 1, 3]], atol=1e-5)


def test_images_are_scored_as_ever():
    kind = kind_of((12, 12, 1))
    assert kind == Image(shape=(12, 12, 1))
    a, b = RNG.random((2, 12, 12, 1))
    assert kind.score(a, b) == {"psnr": psnr(b, a), "ssim": ssim(b, a), "mse": float(np.mean((a - b) ** 2))}


def test_features_are_scored_as_a_share_of_their_range():
    wide, unit = Features(shape=(4,), low=-10, high=30), Features(shape=(4,))
    a, b = RNG.random((2, 4))
    assert wide.score(wide.from_unit(a), wide.from_unit(b))["psnr"] == pytest.approx(unit.score(a, b)["psnr"])


def test_the_nearest_probabilities_by_search():
    kind = Columns(fields=(Categorical(name="c", values=tuple("abcd")),))
    points = RNG.dirichlet(np.ones(4), 100_000)
    for v in RNG.normal(0.2, 1, (20, 4)):
        found = kind.project(tf.constant(v[None], tf.float64)).numpy()[0]
        assert found.min() >= 0
        assert found.sum() == pytest.approx(1)
        assert np.linalg.norm(found - v) <= np.linalg.norm(points - v, axis=1).min() + 1e-9


def test_a_row_is_read_in_its_own_units():
    x = np.array([[0.52, 0.2, 0.7, 0.1, 30.0]])  # 55.2 years, mostly green, far too tall
    row = ROWS.decode(x).iloc[0]
    assert (row["age"], row["colour"], row["Height (cm)"]) == (55, "green", 200)
    assert ROWS.text(x[0]) == "age=55, colour=green, Height (cm)=200"
    np.testing.assert_allclose(ROWS.settle(x), [[0.5, 0, 1, 0, 30 / 8]])


def test_a_row_s_score_by_hand():
    original = np.array([0.0, 1, 0, 0, 1.0])
    found = np.array([0.3, 0, 1, 0, 1.5])  # 3 years off, another colour, 4 cm off
    score = ROWS.score(original, found)
    assert score == pytest.approx(
        {
            "row_accuracy": 1 / 3,  # the age alone: 0.3 is within the tolerance, 0.5 is not
            "numeric_error": (0.3 + 0.5) / 2,
            "categorical_hits": 0.0,
            "error_age": 3.0,
            "hit_colour": 0.0,
            "error_height_cm": 4.0,
        }
    )
    assert 0.3 <= TOLERANCE < 0.5
    assert ROWS.costs(found[None], original[None])[0, 0] == pytest.approx((0.09 + 1 + 0.25) / 3)
    assert ROWS.missing(original)["error_age"] == pytest.approx(40)  # from 50, the farther end is 90


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ([9.0, 1, 0, 0, 0], "column 'age' of example 0 is out of range; expected 20 to 90"),
        ([0.0, 1, 1, 0, 0], "column 'colour'.*one 1 among zeros"),
        ([0.0, 0.5, 0.5, 0, 0], "column 'colour'"),
        ([0.0, 1, 0, 0, np.inf], "NaN or infinite"),
        ([0.0, 1, 0, 0], r"shape \(4,\)"),
    ],
)
def test_rows_out_of_range_are_refused(row, says):
    with pytest.raises(DataError, match=says):
        ROWS.checked(np.array([row], np.float32), "rows")


def test_categories_that_are_none_and_names_that_repeat_are_refused():
    with pytest.raises(DataError, match="'pink', which is none of its values red, green, blue"):
        ROWS.fields[1].encode(np.array(["pink"]))
    with pytest.raises(ValueError, match="nearly so"):
        Columns(fields=(Categorical(name="A b", values=("x",)), Categorical(name="a_b", values=("x",))))


def test_kinds_are_values():
    again = Columns(**{k: v for k, v in ROWS.config().items() if k != "name"})
    assert again == ROWS
    assert hash(again) == hash(ROWS)
    assert Image(shape=(2, 2, 1)) != Image(shape=(2, 2, 3))
