"""ATS: its transforms against Pillow's, its policies, what a client trains on, and what is refused."""

import numpy as np
import pytest
from fedpriv_defenses.ats.ats import ATS
from fedpriv_defenses.ats.policies import LIBRARY, PUBLISHED, describe, parse, written
from fedpriv_defenses.ats.transforms import Transform

from fedpriv.base.errors import ParameterError, StackError
from fedpriv.base.lazy import tf
from fedpriv.base.registry import defenses
from fedpriv.data.embedded import fashion_small
from fedpriv.defense.plan import Plan
from fedpriv.defense.stations import Context
from fedpriv.models.zoo import logistic
from fedpriv.procedure.procedure import Procedure, make_procedure
from fedpriv.rounds.exposure import Exposure


@pytest.fixture(scope="module")
def data():
    return fashion_small()[1]


@pytest.fixture(scope="module")
def model():
    return logistic((28, 28, 1), 10)


@pytest.fixture(scope="module")
def colour():
    """Bytes of one smooth colour image, [24, 28, 3]."""
    image = pytest.importorskip("PIL.Image")
    coarse = np.random.default_rng(0).integers(0, 256, (6, 7, 3)).astype(np.uint8)
    return np.asarray(image.fromarray(coarse).resize((28, 24), image.Resampling.BICUBIC))


def by_pillow(name, magnitude, direction, pixels):
    """What Pillow makes of an image."""
    from PIL import Image, ImageEnhance, ImageOps

    image, m = Image.fromarray(pixels), magnitude * direction
    w, h = image.size
    blends = {"color": "Color", "contrast": "Contrast", "sharpness": "Sharpness", "brightness": "Brightness"}
    if name in blends:
        return getattr(ImageEnhance, blends[name])(image).enhance(1 + m)
    if name == "rotate":
        turned = image.convert("RGBA").rotate(magnitude)
        return Image.composite(turned, Image.new("RGBA", image.size, (128,) * 4), turned).convert("RGB")
    moves = {
        "shear_x": (1, m, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, m, 1, 0),
        "translate_x": (1, 0, m * w, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, m * h),
    }
    if name in moves:
        how = Image.Resampling.BICUBIC if "shear" in name else Image.Resampling.NEAREST
        return image.transform(image.size, Image.Transform.AFFINE, moves[name], how, fillcolor=(0, 0, 0))
    if name == "posterize":
        return ImageOps.posterize(image, int(m))
    return ImageOps.solarize(image, m) if name == "solarize" else getattr(ImageOps, name)(image)


@pytest.mark.parametrize("name", sorted({t.name for t in LIBRARY} | {"shear_x"}))
def test_transforms_are_pillows_up_to_its_rounding(name, colour):
    for level in (3, 9):
        for direction in (1, -1):
            made = Transform(name, level)
            found = 255 * made(tf.constant(colour[None] / 255), direction).numpy()[0]
            expected = np.asarray(by_pillow(name, made.magnitude, direction if made.directed else 1, colour), float)
            assert np.abs(found - expected).max() < 1.2


def test_a_shift_leaves_black_and_moves_by_its_share():
    x = np.arange(1, 101, dtype=np.float32).reshape(1, 10, 10, 1) / 100
    right = Transform("translate_x", 9)(tf.constant(x)).numpy()  # 150 / 331 of 10 pixels
    np.testing.assert_array_equal(right[:, :, :5], x[:, :, 5:])
    assert not right[:, :, 6:].any()
    down = Transform("translate_y", 2)(tf.constant(x), -1).numpy()
    np.testing.assert_array_equal(down[:, 1:], x[:, :-1])
    assert not down[:, 0].any()


def test_the_librarys_numbers_are_the_papers():
    assert len(LIBRARY) == 50
    assert [LIBRARY[i].name for i in (3, 1, 7)] == ["translate_x", "contrast", "translate_y"]
    assert [LIBRARY[i].name for i in (43, 18)] == ["translate_y", "contrast"]
    assert describe((3, 1)) == "translate_x 0.453, contrast 0.333"
    assert parse("fashion_resnet") == ((19, 15, 45), (2, 43, 21))
    assert all(written(parse(text)) == text for text in PUBLISHED.values())


def drawn(defense, x, seed=(1, 2)):
    context = Context(plan=Plan.everybody(1, 1), seed=tf.constant(seed, tf.int64))
    return defense.data(tf.constant(x), tf.zeros([len(x)], tf.int32), context).value[0].numpy()


def test_each_image_goes_one_of_the_ways_and_all_alike_often(data):
    x = np.repeat(data.floats(np.arange(1)), 600, 0)
    defense = ATS(policy="43-1+42")
    assert len(defense.ways) == 6
    ways = defense.applied(tf.constant(x[:6]), tf.range(6)).numpy()
    made = drawn(defense, x)
    which = np.argmin(np.abs(made[:, None] - ways[None]).sum((2, 3, 4)), 1)
    np.testing.assert_allclose(made, ways[which], atol=1e-6)
    counts = np.bincount(which, minlength=6)
    # Policies are alike likely, whatever the number of their ways; 150 of 600 have a deviation of 11.
    assert np.abs(counts[:4] - 75).max() < 36
    assert np.abs(counts[4:] - 150).max() < 44
    assert np.mean(drawn(defense, x, (1, 3)) == made) < 0.95


def test_known_ways_are_a_policy_that_draws_nothing(data):
    x = data.floats(np.arange(3))
    made = ATS(policy="3-1-7").transformation()
    fixed = made.known((5, 0, 2))
    expected = made.apply(tf.constant(x), tf.constant([5, 0, 2]))
    np.testing.assert_array_equal(drawn(fixed, x), expected)
    np.testing.assert_array_equal(drawn(fixed, x, (3, 4)), expected)


def seen(model, data, *stack, batch=3, procedure=None):
    made = Procedure.fedsgd(weighting="uniform") if procedure is None else procedure
    return next(iter(Exposure(model, data, 1, batch, defenses=stack, procedure=made)))


def test_a_client_trains_on_the_transformed_images_in_all_its_steps(model, data):
    procedure = make_procedure(local_epochs=3, batch_size=None, client={"learning_rate": 0.1})
    plain, defended = (seen(model, data, *stack, procedure=procedure) for stack in ((), (ATS(policy="9-0"),)))
    x = ATS(policy="9-0").applied(tf.constant(plain.truth.x), tf.zeros([3], tf.int32))
    expected = plain.view.simulate(x, tf.constant(plain.truth.y)).numpy()
    np.testing.assert_allclose(defended.view.observed, expected, atol=1e-6)
    # It draws nothing, so whoever knows it replays it; the truth are the images as they were.
    np.testing.assert_array_equal(defended.truth.x, plain.truth.x)
    again = defended.view.simulate(tf.constant(defended.truth.x), tf.constant(defended.truth.y)).numpy()
    np.testing.assert_allclose(again, defended.view.observed, atol=1e-6)
    assert np.linalg.norm(plain.view.observed - defended.view.observed) > 0.1 * np.linalg.norm(plain.view.observed)


def test_a_policy_that_changes_nothing_is_no_defense(model, data):
    plain, idle = (seen(model, data, *stack).view.observed for stack in ((), (ATS(policy="28-39"),)))
    np.testing.assert_allclose(idle, plain, atol=1e-7)


def test_derivatives_go_through_every_transform(data):
    x = tf.constant(data.floats(np.arange(2)))
    for transform in set(LIBRARY):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(transform(x) ** 2)
        slope = tape.gradient(value, x).numpy()
        assert np.isfinite(slope).all(), transform
        assert slope.any(), transform


@pytest.mark.parametrize("text", ["ats(policy=50)", "ats(policy=3-1-7-8)", "ats(policy=a-b)", "ats(policy=3-1+)"])
def test_no_policies_are_refused(text):
    with pytest.raises(ParameterError, match="policy"):
        defenses.create(text)


def test_what_is_no_image_is_refused(data):
    with pytest.raises(StackError, match=r"transforms images .* takes \[784\]"):
        ATS().model(logistic((784,), 10), None)
