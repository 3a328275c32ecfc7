"""Untransform: images that were transformed before training, reconstructed and turned back."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
from pydantic import AfterValidator, Field

from fedpriv.base.errors import CapabilityError
from fedpriv.base.lazy import tf
from fedpriv.base.seeds import Purpose, integer_seed
from fedpriv.base.types import Examples, Tensor
from fedpriv.defense.stations import Defense, labels
from fedpriv.defense.transformation import Transformation
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.knowledge import Auxiliary, Knowledge
from fedpriv.threat.view import View
from fedpriv_attacks.inversion.inversion import by_optimization
from fedpriv_attacks.modern import AttackPart

#: Weight of an image's total variation against the squared misfit of a pixel: enough to fill what left the frame, too
#: little to change what is seen.
_SMOOTHNESS = 1e-4
#: A way fits as well as the best where its misfit is below this many times the best's, or below the second number, the
#: square of about one level of a byte.
_AS_GOOD = (1.5, 2e-5)
#: Auxiliary images whose mean is taken, from the first on.
_MOST_IMAGES = 2000


def _inner(value: Attack) -> Attack:
    return by_optimization(value, "dlg or inverting_gradients")


class Untransform(Attack):
    """Undoes a known transform of the training images (`ats`), though not which of its ways each image went.

    First an inner attack finds the images that were trained on, which are the transformed ones. For each of them and
    each way that the defense may have gone, the image is fitted whose transform is nearest, under a slight total
    variation. The way whose fit is best was taken: a border that a shift left black, or values that no blend gives,
    tell it. Where several fit alike, the adversary's auxiliary images decide (the nearest to the mean of its class), or
    without any the fit of the largest contrast that still lies in [0, 1]. With these ways the inner attack is run
    again, now through the transform in the replay, and its images are fitted once more: what leaves the frame is in no
    update, and is filled smoothly from what is beside it.

    That a known transform is no protection is shown by Balunović et al. 2022, arXiv 2111.04706, who have it in the
    simulated client, and by Warmerdam, Loerakker, Meijer, Nissen 2022, "[Re] Privacy-preserving collaborative learning
    with automatic transformation search", ReScience C 8(2), who fit the shift along with the image. The fits of each
    way, and how ways are told apart, are ours.

    It fails where the inner attack does. It needs one client's update; ways are one an image. `measures`: `misfit`, the
    root mean square of what the last fits leave, in pixel values, and `open_ways`, how many ways fitted an image alike
    (the mean).
    """

    name: ClassVar[str] = "untransform"
    paper: ClassVar[str] = "after Balunović et al. 2022, arXiv 2111.04706"
    needs: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.REAL_UPDATE, Capability.PROCEDURE, Capability.NUM_EXAMPLES, Capability.SINGLE_CLIENT}
    )

    inner: Annotated[AttackPart, AfterValidator(_inner)] = Field(
        default="dlg",  # type: ignore[assignment]
        description="the optimization attack that finds the images trained on, such as `dlg` or `inverting_gradients`.",
        validate_default=True,
    )
    replay: bool = Field(
        default=True,
        description="run the inner attack again through the transform, once the ways are told; without, what it found "
        "at first is turned back.",
    )
    steps: Annotated[int, Field(ge=1)] = Field(default=400, description="steps of Adam in the fits of images to ways.")

    def requirements(self) -> frozenset[Capability]:
        """The inner attack's too."""
        return self.needs | self.inner.requirements()

    def brings(self) -> tuple[Knowledge, ...]:
        """What the inner attack brings in."""
        return self.inner.brings()

    def attack(self, view: View, seed: int) -> Finding:
        """The images before their transforms.

        Raises:
          CapabilityError: no transformation is known.
        """
        began = time.perf_counter()
        known = known_transformation(view)
        found = self.inner.run(known.without, integer_seed(seed, Purpose.ATTACK, 0))
        assert found.x is not None
        runs = [found]
        n, many = len(found.x), known.transformation.ways
        every = fitted(
            np.tile(found.x, (many, 1, 1, 1)), np.repeat(np.arange(many), n), known.transformation, self.steps
        )
        x, misfit = every.x.reshape(many, n, *found.x.shape[1:]), every.misfit.reshape(many, n)
        alike = misfit <= np.maximum(_AS_GOOD[0] * misfit.min(0), _AS_GOOD[1])
        ways = np.argmax(np.where(alike, self._likely(x, found.y, view), -np.inf), axis=0)
        rows = np.arange(n)
        image, left = x[ways, rows], misfit[ways, rows]
        if self.replay:
            through = self.inner.run(known.taking(ways), integer_seed(seed, Purpose.ATTACK, 1))
            runs.append(through)
            assert through.x is not None
            seen = known.transformation.apply(tf.constant(through.x), tf.constant(ways, tf.int32)).numpy()
            last = fitted(seen, ways, known.transformation, self.steps)
            image, left, found = last.x, last.misfit, through
        compiled = sum(r.compile_seconds for r in runs)
        extra: dict[str, Any] = {**found.extra, "transformed": runs[0].x, "ways": ways}
        return replace(
            found,
            x=view.data_kind.settle(image).astype(np.float32),
            evaluations=sum(r.evaluations for r in runs),
            seconds=time.perf_counter() - began - compiled,
            compile_seconds=compiled,
            measures={"misfit": float(np.sqrt(left.mean())), "open_ways": float(alike.sum(0).mean())},
            extra=extra,
        )

    def _likely(self, x: np.ndarray, y: np.ndarray | None, view: View) -> np.ndarray:
        """How likely fits `[ways, n, ...]` are as images, `[ways, n]`, higher is likelier."""
        axes = tuple(range(2, x.ndim))
        held = view.adversary.held(Auxiliary)
        if not held:
            return np.asarray(x.var(axis=axes))
        images, classes = (a[:_MOST_IMAGES] for a in held[0].load(view.model))
        means = np.repeat(images.mean(0)[None], x.shape[1], 0)
        for i, label in enumerate([] if y is None else y):
            if (classes == label).any():
                means[i] = images[classes == label].mean(0)
        return np.asarray(-np.square(x - means).mean(axis=axes))


class Known(NamedTuple):
    """A transformation that an adversary knows of.

    Attributes:
      transformation: what may have been done to each image.
      view: the view.
      place: of the defense among the view's.
    """

    transformation: Transformation
    view: View
    place: int

    @property
    def without(self) -> View:
        """The view of somebody who does not know it."""
        return self._with(())

    def taking(self, ways: np.ndarray) -> View:
        """The view of somebody who knows which way each image went."""
        return self._with((self.transformation.known(tuple(int(w) for w in ways)),))

    def _with(self, instead: tuple[Defense, ...]) -> View:
        before = sum(len(d.parts()) for d in self.view.defenses[: self.place])
        states = self.view.states
        return replace(
            self.view,
            defenses=(*self.view.defenses[: self.place], *instead, *self.view.defenses[self.place + 1 :]),
            states=(*states[:before], *(states[before : before + 1] if instead else ()), *states[before + 1 :]),
        )


def known_transformation(view: View) -> Known:
    """How the images behind a view were transformed.

    Raises:
      CapabilityError: the adversary knows no defense that transforms.
    """
    for place, defense in enumerate(view.defenses):
        found = defense.transformation()
        if found is not None:
            return Known(found, view, place)
    there = ", ".join(labels(view.defenses)) or "none"
    raise CapabilityError(
        f"attack 'untransform' undoes a transform that it knows, and knows of none here (defenses known: {there}); "
        "give it a run with ats and an adversary that knows 'defense', or use its inner attack alone. "
        f"{view.describe()}"
    )


class Fit(NamedTuple):
    """Images whose transforms are nearest to given ones.

    Attributes:
      x: `[n, h, w, c]`.
      misfit: mean squared difference of each one's transform, `[n]`.
    """

    x: np.ndarray
    misfit: np.ndarray


def fitted(seen: np.ndarray, ways: np.ndarray, transformation: Transformation, steps: int) -> Fit:
    """For each image `[n, h, w, c]` that is seen and its way `[n]`, the image in [0, 1] that goes there.

    Least squares with a slight total variation, by Adam on pixels that are clipped after every step.
    """
    target, taken = tf.constant(np.clip(seen, 0, 1)), tf.constant(ways, tf.int32)
    axes = list(range(1, len(target.shape)))

    def misfits(x: Examples) -> Tensor:
        return tf.reduce_mean(tf.square(transformation.apply(x, taken) - target), axes)

    @tf.function(autograph=False)
    def descend() -> tuple[Tensor, Tensor]:
        def body(t: Tensor, x: Examples, mean: Tensor, square: Tensor) -> tuple[Tensor, ...]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(x)
                rough = sum(
                    tf.reduce_mean(tf.sqrt(tf.square(step) + 1e-8), axes)
                    for step in (x[:, 1:] - x[:, :-1], x[:, :, 1:] - x[:, :, :-1])
                )
                loss = tf.reduce_sum(misfits(x) + _SMOOTHNESS * rough) * tf.cast(tf.size(x[0]), x.dtype)
            slope = tape.gradient(loss, x)
            mean, square = 0.9 * mean + 0.1 * slope, 0.99 * square + 0.01 * tf.square(slope)
            now = tf.cast(t + 1, x.dtype)
            rate = 0.05 * (1 - now / (steps + 1))
            change = (mean / (1 - 0.9**now)) / (tf.sqrt(square / (1 - 0.99**now)) + 1e-6)
            return t + 1, tf.clip_by_value(x - rate * change, 0, 1), mean, square

        start = tf.fill(tf.shape(target), tf.cast(0.5, target.dtype))
        blank = tf.zeros_like(target)
        x = tf.while_loop(lambda t, *_: t < steps, body, (tf.constant(0), start, blank, blank))[1]
        return x, misfits(x)

    return Fit(*(a.numpy() for a in descend()))
