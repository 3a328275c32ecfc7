import hashlib

import numpy as np
import pytest
from fedpriv_attacks.parts.generator import Generator, Layer, chain, load_generator, packaged, parse_generator

from fedpriv.base.errors import DataError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.data import load
from fedpriv.metrics.image import psnr

TINY = (
    Layer("dense", 6, activation="relu"),
    Layer("dense", 12, activation="elu"),
    Layer("reshape", shape=(2, 2, 3)),
    Layer("conv2d_transpose", 4, kernel=4, stride=2, activation="swish"),
    Layer("conv2d_transpose", 3, kernel=3, stride=1, activation="tanh"),
    Layer("conv2d", 2, kernel=3, stride=1, activation="sigmoid"),
)


def tiny(latent=5, seed=0):
    rng = np.random.default_rng(seed)
    weights = tuple(rng.normal(0, 0.3, s).astype(np.float32) for s in chain(TINY, latent)[1])
    return Generator("tiny", latent, TINY, weights, {"seed": seed})


def as_keras(generator):
    """The same decoder out of Keras's own layers."""
    kl = tf.keras.layers
    layers = [tf.keras.Input((generator.latent,))]
    for layer in generator.layers:
        if layer.kind == "reshape":
            layers.append(kl.Reshape(layer.shape))
        elif layer.kind == "dense":
            layers.append(kl.Dense(layer.units, layer.activation))
        else:
            kind = {"conv2d": kl.Conv2D, "conv2d_transpose": kl.Conv2DTranspose}[layer.kind]
            layers.append(kind(layer.units, layer.kernel, layer.stride, "same", activation=layer.activation))
    model = tf.keras.Sequential(layers)
    model.set_weights(generator.weights)
    return model


@pytest.mark.parametrize("make", [tiny, lambda: load_generator("fashion")])
def test_it_computes_what_keras_does(make):
    generator = make()
    z = np.random.default_rng(1).normal(size=(3, generator.latent)).astype(np.float32)
    np.testing.assert_allclose(generator.decode(z), as_keras(generator)(z), atol=2e-6)
    assert generator.decode(z).shape == (3, *generator.shape)
    double = generator.decode(z.astype(np.float64))
    assert double.dtype == tf.float64
    np.testing.assert_allclose(double, generator.decode(z), atol=1e-5)


def test_its_gradient_is_right():
    generator, rng = tiny(), np.random.default_rng(2)
    z, direction = rng.normal(size=(2, 2, 5))

    def value(z):
        return tf.reduce_sum(tf.sin(3 * generator.decode(z)))

    with tf.GradientTape() as tape:
        at = tf.constant(z)
        tape.watch(at)
        out = value(at)
    numeric = float(value(z + 1e-6 * direction) - value(z - 1e-6 * direction)) / 2e-6
    assert np.sum(tape.gradient(out, at) * direction) == pytest.approx(numeric, rel=1e-6)


def test_a_file_brings_it_back(tmp_path):
    generator = tiny()
    path = generator.save(tmp_path / "own.npz")
    again = load_generator(str(path))
    assert (again.latent, again.layers, again.training) == (generator.latent, generator.layers, generator.training)
    for a, b in zip(again.weights, generator.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)  # half precision
    assert path.read_bytes() == generator.save(tmp_path / "twin.npz").read_bytes()
    with np.load(path, allow_pickle=False) as z:
        assert all(z[name].dtype != object for name in z.files)


def test_what_is_no_generator_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="Did you mean 'fashion'"):
        load_generator("fashoin")
    with pytest.raises(DataError, match="cannot be read"):
        load_generator(str(tmp_path / "none.npz"))
    whole = tiny().save(tmp_path / "g.npz").read_bytes()
    for damaged in (b"", b"text", whole[: len(whole) // 2], whole[:-100]):
        with pytest.raises(DataError, match="'g' is no generator file"):
            parse_generator(damaged, "g")
    pickled = tmp_path / "p.npz"
    np.savez(pickled, metadata=np.array({"a": 1}, object), allow_pickle=True)
    with pytest.raises(DataError, match="no generator file"):
        parse_generator(pickled.read_bytes(), "p")


def test_layers_and_weights_that_do_not_fit_are_refused():
    good = tiny()
    with pytest.raises(DataError, match="weights of shapes"):
        Generator("g", 6, TINY, good.weights)
    with pytest.raises(DataError, match=r"layer 1: \(5,\) cannot be reshaped"):
        chain((Layer("dense", 5), Layer("reshape", shape=(2, 2, 1))), 3, "g")
    with pytest.raises(DataError, match="cannot take"):
        chain((Layer("conv2d", 5, kernel=3),), 3, "g")
    with pytest.raises(DataError, match="activation 'gelu'"):
        chain((Layer("dense", 5, activation="gelu"),), 3, "g")
    with pytest.raises(DataError, match="not finite"):
        Generator("g", 5, TINY, (np.full_like(good.weights[0], np.nan), *good.weights[1:]))


def test_other_shapes_are_refused_by_name():
    with pytest.raises(ParameterError, match=r"'fashion' makes examples of shape \(28, 28, 1\), but the model takes"):
        load_generator("fashion").require((32, 32, 3))
    load_generator("fashion").require((28, 28, 1))


def test_the_packaged_generator_was_trained_on_none_of_the_images_it_is_tried_on():
    """Its file records the data; what it left out is fashion_small, by fingerprint."""
    assert packaged() == ["fashion"]
    generator = load_generator("fashion")
    data = generator.training["data"]
    sets = load("fashion_small")
    assert data["excluded"]["fashion_small"] == [s.contents for s in sets]
    assert data["used"] == 50_000
    ours = {hashlib.sha256(image.tobytes()).digest() for s in sets for image in s.x}
    try:
        public, _ = load("fashion_mnist", data_dir="/usr/share/datasets/fashion-mnist")
    except DataError:
        pytest.skip("the full Fashion-MNIST is not installed")
    from fedpriv_experiments.train_generator import disjoint

    kept = disjoint(public.x, *(s.x for s in sets))
    assert public.take(kept).fingerprint == data["used_fingerprint"]
    assert not any(hashlib.sha256(public.x[i].tobytes()).digest() in ours for i in kept)


@pytest.mark.slow
def test_the_packaged_generator_makes_images_like_those_it_has_not_seen():
    """The nearest image in its range, by L-BFGS in latent space: 20 dB at least on average, 13 at random."""
    from fedpriv_attacks.parts.optimizers.lbfgs import LBFGS

    generator, (_, test) = load_generator("fashion"), load("fashion_small")
    x, k = test.floats(slice(0, 8)), generator.latent

    @tf.function(autograph=False)
    def distance(v):
        with tf.GradientTape() as tape:
            tape.watch(v)
            value = tf.reduce_sum(tf.square(generator.decode(tf.reshape(v, [8, k])) - x))
        return value, tape.gradient(value, v)

    found = LBFGS(max_evaluations=80).minimize(distance, tf.zeros([8 * k])).position
    made = generator.decode(tf.reshape(found, [8, k])).numpy()
    assert np.mean([psnr(a, b) for a, b in zip(made, x)]) > 22
    drawn = generator.decode(np.random.default_rng(0).normal(size=(8, k)).astype(np.float32)).numpy()
    assert np.mean([psnr(a, b) for a, b in zip(drawn, x)]) < 15
