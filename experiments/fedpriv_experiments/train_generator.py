"""Trains a generator for the generative attacks: the decoder of a variational autoencoder on public images.

Kingma and Welling 2013 (arXiv 1312.6114), with the decoder's noise at its optimum, the mean squared error, as in
the sigma-VAE of Rybkin, Daniilidis and Levine 2021 (arXiv 2006.13202): nothing to tune, and latents end up about
standard normal. Images that occur in `--exclude` (training or test set) are left out, bit for bit, so that attacks
on those are no attacks on the generator's own training images.
`python -m fedpriv_experiments.train_generator attacks/data/fashion.npz`
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from fedpriv_attacks.parts.generator import Generator, Layer, chain, decode

from fedpriv.base.errors import DataError
from fedpriv.base.lazy import tf

_HIDDEN = 512  # the encoder's two layers; it is thrown away


def architecture(shape: tuple[int, ...], hidden: int, channels: int) -> tuple[Layer, ...]:
    """Two dense layers, two transposed convolutions that double the size, and a last convolution into [0, 1].

    Raises:
      DataError: not images whose sides are multiples of 4.
    """
    if len(shape) != 3 or shape[0] % 4 or shape[1] % 4:
        raise DataError(f"images of shape {shape}: a generator needs (height, width, channels), sides multiples of 4")
    small = (shape[0] // 4, shape[1] // 4, channels)
    return (
        Layer("dense", hidden, activation="swish"),
        Layer("dense", int(np.prod(small)), activation="swish"),
        Layer("reshape", shape=small),
        Layer("conv2d_transpose", channels, kernel=4, stride=2, activation="swish"),
        Layer("conv2d_transpose", channels // 2, kernel=4, stride=2, activation="swish"),
        Layer("conv2d", shape[2], kernel=3, activation="sigmoid"),
    )


def disjoint(images: np.ndarray, *others: np.ndarray) -> np.ndarray:
    """Indices of those of `images` (uint8 or float `[n, ...]`) that occur in none of `others`, bit for bit."""
    seen = {np.ascontiguousarray(image).tobytes() for other in others for image in other}
    return np.array([i for i, image in enumerate(images) if np.ascontiguousarray(image).tobytes() not in seen], int)


def train(
    x: np.ndarray, layers: tuple[Layer, ...], latent: int, epochs: int, batch: int, rate: float, seed: int
) -> tuple[list[np.ndarray], list[dict[str, float]]]:
    """The decoder's weights and one row of losses an epoch.

    Adam with a rate that falls to zero along a half cosine. The same seed gives the same weights on one machine.

    Args:
      x: `[n, height, width, channels]` uint8 or float in [0, 1].
      layers: the decoder.
      latent: length of the latent.
      epochs: passes over the data.
      batch: images a step; the rest of an epoch that fills no batch is left out.
      rate: largest learning rate.
      seed: of weights, order and noise.
    """
    rng = np.random.default_rng(seed)
    pixels = int(np.prod(x.shape[1:]))
    data = tf.constant(x)
    _, shapes = chain(layers, latent)
    sizes = [(pixels, _HIDDEN), (_HIDDEN,), (_HIDDEN, _HIDDEN), (_HIDDEN,), (_HIDDEN, 2 * latent), (2 * latent,)]
    variables = [tf.Variable(_initial(rng, s)) for s in (*sizes, *shapes)]
    steps = len(x) // batch
    optimizer = tf.keras.optimizers.Adam(tf.keras.optimizers.schedules.CosineDecay(rate, steps * epochs))
    optimizer.build(variables)

    def losses(images: Any, noise: Any) -> tuple[Any, Any]:
        h = tf.reshape(images, [batch, pixels]) - 0.5
        for i in (0, 2):
            h = h @ variables[i] + variables[i + 1]
            h *= tf.sigmoid(h)
        mean, log_deviation = tf.split(h @ variables[4] + variables[5], 2, axis=1)
        made = decode(layers, latent, mean + tf.exp(log_deviation) * noise, variables[len(sizes) :])
        error = tf.reduce_mean(tf.math.squared_difference(made, images))
        divergence = 0.5 * (tf.square(mean) + tf.exp(2 * log_deviation) - 1) - log_deviation
        return error, tf.reduce_mean(tf.reduce_sum(divergence, 1))

    @tf.function(autograph=False)
    def epoch(number: Any) -> Any:
        own = tf.random.experimental.stateless_fold_in(tf.constant([seed, 1]), number)
        order = tf.random.experimental.stateless_shuffle(tf.range(len(x)), seed=own)

        def body(i: Any, sums: Any) -> Any:
            raw = tf.gather(data, order[i * batch : (i + 1) * batch])
            images = tf.cast(raw, tf.float32) / (255.0 if raw.dtype == tf.uint8 else 1.0)
            drawn = tf.random.experimental.stateless_fold_in(own, i)
            noise = tf.random.stateless_normal([batch, latent], drawn)
            with tf.GradientTape() as tape:
                error, divergence = losses(images, noise)
                loss = 0.5 * pixels * tf.math.log(error) + divergence
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
            return i + 1, sums + tf.stack([error, divergence])

        return tf.while_loop(lambda i, _: i < steps, body, (tf.constant(0), tf.zeros([2])), parallel_iterations=1)[1]

    rows = []
    for number in range(epochs):
        error, divergence = (epoch(tf.constant(number)) / steps).numpy()
        rows.append({"epoch": number + 1, "squared_error": float(error), "divergence_nats": float(divergence)})
        print(f"epoch {number + 1:3}  squared error {error:.5f}  divergence {divergence:6.2f} nats", flush=True)
    return [v.numpy() for v in variables[len(sizes) :]], rows


def _initial(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) == 1:
        return np.zeros(shape, np.float32)
    spread = np.sqrt(2 / (np.prod(shape[:-1]) + shape[-1]))
    return rng.normal(0, spread, shape).astype(np.float32)


def main(
    out: Annotated[Path, typer.Argument(help="The .npz file to write.")],
    data: Annotated[str, typer.Option(help="Public images: a dataset's name or a path.")] = "fashion_mnist",
    data_dir: Annotated[str | None, typer.Option(help="Where a named dataset finds its files.")] = None,
    exclude: Annotated[list[str], typer.Option(help="Datasets whose images must not be used.")] = ["fashion_small"],  # noqa: B006
    latent: Annotated[int, typer.Option(min=1, help="Length of the latent.")] = 64,
    hidden: Annotated[int, typer.Option(min=1, help="Units of the decoder's first layer.")] = 256,
    channels: Annotated[int, typer.Option(min=2, help="Channels of the decoder's smallest images.")] = 32,
    epochs: Annotated[int, typer.Option(min=1)] = 25,
    batch: Annotated[int, typer.Option(min=1)] = 128,
    rate: Annotated[float, typer.Option(help="Largest learning rate.")] = 1e-3,
    limit: Annotated[int | None, typer.Option(help="Use only so many images.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Trains on `data` without what is in `exclude`, and writes the decoder with its recipe."""
    import sys

    from fedpriv.base.atomic import jsonable
    from fedpriv.base.provenance import provenance, shorten_paths
    from fedpriv.data import load

    source, _ = load(data, data_dir)
    others = [d.x for name in exclude for d in load(name) if d is not None]
    kept = disjoint(source.x, *others)[:limit]
    print(f"{len(kept)} of {len(source)} images of '{source.name}' occur in none of {exclude}")
    if len(kept) < batch:
        raise DataError(f"{len(kept)} images are left, fewer than a batch of {batch}; give more data")
    public = source.take(kept)
    layers = architecture(public.input_shape, hidden, channels)
    weights, rows = train(public.x, layers, latent, epochs, batch, rate, seed)
    settings = {"data": source.name, "exclude": exclude, "latent": latent, "hidden": hidden, "channels": channels}
    settings |= {"epochs": epochs, "batch": batch, "rate": rate, "limit": limit}
    record = provenance(sys.argv, settings, seed)
    training = {
        **{k: record[k] for k in ("command", "config", "seed", "versions")},
        "data": {
            "name": source.name,
            "fingerprint": source.contents,
            "used": len(kept),
            "used_fingerprint": public.contents,
            "excluded": {shorten_paths(name): [d.contents for d in load(name) if d is not None] for name in exclude},
        },
        "final": rows[-1],
    }
    generator = Generator(out.stem, latent, layers, tuple(weights), jsonable(training))
    generator.save(out)
    print(f"{out.name}: {generator.spec.size:,} weights, {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    typer.run(main)
