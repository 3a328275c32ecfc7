"""Initializers: shapes and bits, the patterned tile, public images in every shape, another attack's findings."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pydantic
import pytest
from fedpriv_attacks.parts.initializers import Analytic, Constant, Image, Normal, Tiled, Uniform
from PIL import Image as Picture

from fedpriv.base.errors import CapabilityError, DataError, ParameterError
from fedpriv.threat.attack import Attack, Capability, Finding

SHAPES = [(8, 8, 3), (5, 9, 1), (1, 7, 2), (6,)]


@pytest.fixture(scope="module")
def view_of(helpers):
    def make(shape=(8, 8, 3), n=2, dtype="float32"):
        model = helpers.dense(shape, 4, 5, dtype=dtype)
        return helpers.make_view(model, np.full((n, *shape), 0.5, dtype), np.arange(n) % 4)

    return make


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("initializer", [Normal(), Uniform(), Constant(), Tiled()], ids=lambda i: i.kind)
def test_shape_precision_and_seed(view_of, initializer, shape, dtype):
    view = view_of(shape, 3, dtype)
    start = initializer(view, 7)
    assert (start.shape, start.dtype, type(start)) == ((3, *shape), dtype, np.ndarray)
    np.testing.assert_array_equal(start, initializer(view, 7))
    assert initializer.kind == "constant" or np.any(start != initializer(view, 8))


def test_their_distributions(view_of):
    view = view_of((32, 32, 3), 8)
    x = Normal(mean=0.4, spread=0.1)(view, 0)
    assert (x.mean(), x.std()) == (pytest.approx(0.4, abs=0.005), pytest.approx(0.1, rel=0.02))
    x = Uniform(low=-1.0, high=3.0)(view, 0)
    assert (x.mean(), x.std()) == (pytest.approx(1, abs=0.05), pytest.approx(4 / 12**0.5, rel=0.02))
    assert x.min() >= -1
    assert x.max() < 3
    assert np.all(Constant(value=0.25)(view, 0) == 0.25)
    for distribution in ("uniform", "normal"):
        x = Tiled(patch=32, distribution=distribution, mean=0.4, spread=0.1)(view, 0)
        assert (x.mean(), x.std()) == (pytest.approx(0.4, abs=0.005), pytest.approx(0.1, rel=0.02))
    x = Tiled(patch=32)(view, 0)
    assert 0 <= x.min() < 0.01 < 0.99 < x.max() <= 1


@pytest.mark.parametrize(("shape", "patch"), [((8, 8, 3), 4), ((7, 10, 1), 4), ((3, 9, 2), 5)])
def test_a_tile_repeats_and_is_cut_off_at_the_edge(view_of, shape, patch):
    x = Tiled(patch=patch)(view_of(shape), 1)
    np.testing.assert_array_equal(x[:, patch:], x[:, : max(0, shape[0] - patch)])
    np.testing.assert_array_equal(x[:, :, patch:], x[:, :, : max(0, shape[1] - patch)])
    corner = x[:, :patch, :patch]
    assert len(np.unique(corner)) == corner.size


def test_a_tile_of_features_repeats_too(view_of):
    x = Tiled(patch=4)(view_of((10,)), 1)
    np.testing.assert_array_equal(x[:, 4:], x[:, :6])
    assert len(np.unique(x)) == 8


def test_an_empty_range_is_refused(view_of):
    with pytest.raises(ParameterError, match="not below"):
        Uniform(low=1.0, high=0.0)(view_of(), 0)


@pytest.fixture
def public():
    return np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)


def rows(start, images):
    """Which of the images each example of the start is."""
    return [int(np.argmin([np.abs(x - i).max() for i in images])) for x in start]


@pytest.mark.parametrize("kind", ["npz", "npz, one array", "npy", "array", "floats"])
def test_images_from_files_and_arrays(view_of, public, tmp_path, kind):
    source = {
        "npz": tmp_path / "a.npz",
        "npz, one array": tmp_path / "b.npz",
        "npy": tmp_path / "c.npy",
        "array": public,
        "floats": public / 255,
    }[kind]
    np.savez(tmp_path / "a.npz", x=public, y=np.zeros(5))
    np.savez(tmp_path / "b.npz", pictures=public)
    np.save(tmp_path / "c.npy", public)
    initializer = Image(source=source)
    start = initializer(view_of(n=4), 3)
    assert start.dtype == np.float32
    assert len(set(rows(start, public / 255))) == 4
    np.testing.assert_allclose(start, (public / 255)[rows(start, public / 255)], atol=1e-7)
    assert len({tuple(rows(initializer(view_of(n=4), s), public / 255)) for s in range(6)}) > 1
    # More than there are: they begin anew.
    assert set(np.bincount(rows(initializer(view_of(n=12), 3), public / 255))) == {2, 3}


def test_a_picture_file_and_noise(view_of, public, tmp_path):
    Picture.fromarray(public[0]).save(tmp_path / "one.png")
    initializer = Image(source=str(tmp_path / "one.png"))
    np.testing.assert_allclose(initializer(view_of(n=2), 0), np.stack([public[0]] * 2) / 255, atol=1e-7)
    noisy = Image(source=tmp_path / "one.png", noise=0.1)
    first, second = noisy(view_of(n=1), 0), noisy(view_of(n=1), 1)
    assert np.std(first - public[0] / 255) == pytest.approx(0.1, rel=0.2)
    assert np.any(first != second)


def test_images_are_made_to_fit_only_when_told_to(view_of, public):
    grey, large = public[:, :, :, :1], np.kron(public, np.ones((1, 2, 3, 1), np.uint8))
    for source in (grey, large):
        with pytest.raises(DataError, match="fit=resize"):
            Image(source=source)(view_of(n=1), 0)
    cropped = Image(source=large[:1], fit="crop")(view_of(n=1), 0)[0]
    np.testing.assert_allclose(cropped, large[0, 4:12, 8:16] / 255, atol=1e-7)
    resized = Image(source=large[:1], fit="resize")(view_of(n=1), 0)[0]
    assert np.corrcoef(resized.ravel(), public[0].ravel())[0, 1] > 0.9
    coloured = Image(source=grey[:1], fit="crop")(view_of(n=1), 0)[0]
    np.testing.assert_allclose(coloured, np.repeat(grey[0] / 255, 3, -1), atol=1e-7)
    bleached = Image(source=public[:1], fit="resize")(view_of((8, 8, 1), 1), 0)[0]
    np.testing.assert_allclose(bleached[..., 0], public[0] / 255 @ [0.299, 0.587, 0.114], atol=1e-6)
    with pytest.raises(DataError, match="cannot be cropped"):
        Image(source=public, fit="crop")(view_of((9, 9, 3)), 0)
    with pytest.raises(DataError, match="grey and colour"):
        Image(source=public, fit="crop")(view_of((8, 8, 2)), 0)
    flat = public.reshape(5, -1)
    assert Image(source=flat)(view_of((192,)), 0).shape == (2, 192)
    with pytest.raises(DataError, match="takes"):
        Image(source=flat, fit="resize")(view_of((100,)), 0)


def test_what_is_no_image_is_refused_by_name(view_of, tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        Image(source=tmp_path / "nowhere.npz")(view_of(), 0)
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(DataError, match="cannot be read"):
        Image(source=tmp_path / "text.png")(view_of(), 0)
    np.savez(tmp_path / "two.npz", a=np.zeros(3), b=np.zeros(3))
    with pytest.raises(DataError, match="'a', 'b'"):
        Image(source=tmp_path / "two.npz")(view_of(), 0)
    with pytest.raises(DataError, match="finite"):
        Image(source=np.full((8, 8, 3), np.nan))(view_of(), 0)
    with pytest.raises(pydantic.ValidationError, match="neither a path"):
        Image(source=3)


def test_equal_arrays_make_equal_initializers(public):
    one, same, other = Image(source=public), Image(source=public.copy()), Image(source=public[:4])
    assert one == same != other
    assert hash(one) == hash(same)
    assert "sha256" in one.config()["source"]


class Told(Attack):
    """Finds what it is told to."""

    name: ClassVar[str] = "told"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.REAL_UPDATE})

    fill: float = 1.5
    missing: int = 0

    def attack(self, view, seed):
        if self.missing < 0:
            return Finding(None, np.zeros(1))
        shape = (view.total_examples - self.missing, *view.model.input_shape)
        return Finding(np.full(shape, self.fill, np.float32), None)


@pytest.fixture
def told(monkeypatch):
    from fedpriv.base import registry

    load = registry.Registry.load
    monkeypatch.setattr(registry.Registry, "load", lambda self, n: Told if n == "told" else load(self, n))


@pytest.mark.usefixtures("told")
def test_another_attack_s_findings_are_a_start(view_of):
    start = Analytic(attack="told(fill=1.5)", clip=False)(view_of(dtype="float64"), 0)
    assert (start.dtype, start.shape) == ("float64", (2, 8, 8, 3))
    assert np.all(start == 1.5)
    assert np.all(Analytic(attack="told")(view_of(), 0) == 1)
    assert Analytic(attack="told").requirements() == frozenset({Capability.REAL_UPDATE})


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize(
    ("attack", "said"),
    [
        ("told(missing=1)", r"shape \(1, 8, 8, 3\)"),
        ("told(missing=-1)", "no examples"),
        ("told(fill=nan)", "not finite"),
        ("no_such_attack", "no attack is named"),
    ],
)
def test_findings_that_are_no_start_are_refused_by_name(view_of, attack, said):
    with pytest.raises(CapabilityError, match=said) as e:
        Analytic(attack=attack)(view_of(), 0)
    assert "use another initializer" in str(e.value)
