"""Training a generator, small: it learns, repeats itself bit for bit, and leaves out what it must."""

import numpy as np
import pytest
from fedpriv_attacks.parts.generator import load_generator
from fedpriv_experiments.train_generator import architecture, disjoint, main, train

from fedpriv.base.errors import DataError


def images(n, seed=0):
    """Bright squares at random places, 8x8."""
    rng = np.random.default_rng(seed)
    x = np.zeros((n, 8, 8, 1), np.uint8)
    for image, (i, j) in zip(x, rng.integers(0, 5, (n, 2))):
        image[i : i + 4, j : j + 4] = rng.integers(100, 255)
    return x


@pytest.mark.slow
def test_it_learns_and_repeats_itself():
    layers = architecture((8, 8, 1), 16, 4)
    runs = [train(images(256), layers, 3, 12, 32, 3e-3, seed) for seed in (0, 0, 1)]
    first, again, other = ([w.tobytes() for w in weights] for weights, _ in runs)
    assert first == again != other
    rows = runs[0][1]
    assert rows[-1]["squared_error"] < 0.8 * rows[0]["squared_error"]


def test_images_in_common_are_left_out():
    x = images(40)
    distinct = np.unique(x.reshape(40, -1), axis=0).reshape(-1, 8, 8, 1)
    np.testing.assert_array_equal(
        disjoint(distinct, distinct[[3, 5]]), [i for i in range(len(distinct)) if i not in (3, 5)]
    )
    assert len(disjoint(x, x)) == 0


def test_sides_must_be_multiples_of_four():
    with pytest.raises(DataError, match="multiples of 4"):
        architecture((30, 32, 3), 8, 4)
    assert architecture((32, 32, 3), 8, 4)[-1].units == 3


def test_the_file_says_how_it_was_made(tmp_path):
    path = tmp_path / "data.npz"
    x = images(300)
    np.savez(path, x=x, y=np.arange(300) % 2)
    excluded = tmp_path / "private.npz"
    np.savez(excluded, x=x[:40], y=np.arange(40) % 2)
    out = tmp_path / "made.npz"
    main(out, str(path), None, [str(excluded)], 2, 8, 2, epochs=1, batch=16, rate=1e-3, limit=None, seed=4)
    generator = load_generator(str(out))
    assert (generator.shape, generator.latent) == ((8, 8, 1), 2)
    assert generator.training["seed"] == 4
    assert generator.training["config"]["epochs"] == 1
    data = generator.training["data"]
    assert data["used"] == len(disjoint(x, x[:40]))
    assert str(tmp_path) not in str(generator.training)
    with pytest.raises(DataError, match="fewer than a batch"):
        main(out, str(path), None, [str(path)], 2, 8, 2, 1, 16, 1e-3, None, 0)
