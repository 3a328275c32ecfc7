"""ATS: clients train on images that a searched policy of transforms has changed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np
import pydantic
from pydantic import Field

from fedpriv.base.errors import StackError
from fedpriv.base.lazy import tf
from fedpriv.base.seeds import child, uniform
from fedpriv.base.types import Examples, Labels, Tensor
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Context, Defense, Plan
from fedpriv.defense.transformation import Transformation
from fedpriv.models.model import Model
from fedpriv_defenses.ats.policies import LIBRARY, Policy, parse

#: Streams of a context's seed.
_POLICY, _DIRECTIONS = range(2)


class ATS(Defense):
    """Each image goes through a policy of up to three transforms before the client trains on it.

    Gao, Guo, Zhang, Qiu, Wen, Liu 2021, "Privacy-preserving Collaborative Learning with Automatic Transformation
    Search", CVPR, arXiv 2011.12505. A policy names transforms of their library of 50 by number: `3-1-7` is a
    translation, a contrast and another translation. Of several (`3-1-7+43-18-18`, their hybrid) each image gets one at
    random; as in their code the direction of a shift, a shear or a blend is drawn for each image. `cifar100_resnet`,
    `cifar100_convnet`, `fashion_resnet` and `fashion_convnet` are the hybrids that they found for that data and
    network. `fedpriv policies` searches for others.

    A client draws once a round and keeps the transformed images through all of its local steps; the paper's loader
    draws at every epoch. Images have 1 or 3 channels of values in [0, 1], and nothing is rounded to bytes on the way.

    Formal guarantee: none. What a transform keeps can be read from the update of the transformed image, and undone:
    attack `untransform`. Shifts alone take something away, the part of the image that leaves the frame. Balunović et
    al. 2022 (arXiv 2111.04706) reconstruct through it early in training, Warmerdam et al. 2022 (ReScience C 8(2)) late,
    by fitting the shift. Where a policy draws nothing, such as `0-9`, every attack that knows it replays it; else a
    replay leaves it out. Log: `changed`, the mean absolute difference that it made to a pixel.
    """

    name: ClassVar[str] = "ats"
    paper: ClassVar[str] = "Gao et al. 2021, arXiv 2011.12505"
    replayable: ClassVar[bool] = False
    only_once: ClassVar[bool] = True
    adaptive_attack: ClassVar[str] = "untransform"

    policy: str = Field(
        default="3-1-7",
        description="numbers of transforms in the paper's library, such as `3-1-7`; several policies with `+` between "
        "them, such as `3-1-7+43-18-18`, or a published pair's name, such as `fashion_resnet`.",
    )

    @pydantic.field_validator("policy", mode="before")
    @classmethod
    def _known_transforms(cls, value: object) -> object:
        text = str(value)  # one transform alone reads as a number
        parse(text)
        return text

    @cached_property
    def policies(self) -> tuple[Policy, ...]:
        """The policies, as places in the library."""
        return parse(self.policy)

    @cached_property
    def ways(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """All that an image may go through: (which policy, the direction of each of its transforms)."""
        return tuple(
            (i, directions)
            for i, policy in enumerate(self.policies)
            for directions in itertools.product(*((1, -1) if LIBRARY[place].directed else (1,) for place in policy))
        )

    def model(self, model: Model, plan: Plan | None) -> Model:
        """The model as it is, if it takes images.

        Raises:
          StackError: it takes anything else.
        """
        shape = tuple(model.input_shape)
        if model.embedding is not None or len(shape) != 3 or shape[-1] not in (1, 3) or min(shape[:2]) < 3:
            raise StackError(
                f"{self.name} transforms images [height, width, channels] of 1 or 3 channels and at least 3 x 3 "
                f"pixels, but model '{model.name}' takes {list(shape)}; use a model and data of images"
            )
        return model

    def notes(self, plan: Plan) -> Sequence[str]:
        """What it does not do."""
        return [f"{self.name} gives no formal guarantee; attack untransform undoes what its transforms keep"]

    def data(self, x: Examples, y: Labels, context: Context) -> Passed:
        """`x [m, h, w, c]` to transformed images; targets as they are."""
        made = self.applied(x, self._drawn(context, tf.shape(x)[0]))
        return Passed((made, y), log={"changed": tf.reduce_mean(tf.abs(made - x))})

    def _drawn(self, context: Context, rows: Tensor) -> Tensor:
        """Which way each image goes, int32 `[rows]`: a policy, then a direction of each transform, all alike likely."""
        counts = np.bincount([i for i, _ in self.ways])
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        first, second = (uniform(child(context.seed, stream), rows[None]) for stream in (_POLICY, _DIRECTIONS))
        policy = tf.cast(first * len(counts), tf.int32)
        inside = tf.cast(second * tf.cast(tf.gather(tf.constant(counts), policy), tf.float64), tf.int32)
        return tf.gather(tf.constant(starts, tf.int32), policy) + inside

    def applied(self, x: Examples, ways: Tensor) -> Examples:
        """Images `[n, h, w, c]`, each the way of that number; traceable, differentiable."""
        policy = tf.gather(tf.constant([i for i, _ in self.ways], tf.int32), ways)
        longest = max(len(places) for places in self.policies)
        table = np.array([[*directions, *[1] * (longest - len(directions))] for _, directions in self.ways], np.int32)
        positive = tf.gather(tf.constant(table), ways) > 0
        x = tf.convert_to_tensor(x)
        made = x
        for i, places in enumerate(self.policies):
            out = x
            for j, place in enumerate(places):
                transform = LIBRARY[place]
                there = transform(out)
                if transform.directed:
                    there = tf.where(positive[:, j, None, None, None], there, transform(out, -1))
                out = there
            made = out if len(self.policies) == 1 else tf.where(tf.equal(policy, i)[:, None, None, None], out, made)
        return made

    def transformation(self) -> Transformation:
        """All of its ways."""
        return Transformation(len(self.ways), self.applied, lambda ways: _Known(policy=self.policy, taken=ways))

    def replay(self) -> Defense | None:
        """Itself with its one way, where nothing is drawn."""
        return _Known(policy=self.policy, taken=()) if len(self.ways) == 1 else None


class _Known(ATS):
    """`ATS` whose draws are known: what a replay runs."""

    name: ClassVar[str] = "ats"
    replayable: ClassVar[bool] = True

    taken: tuple[int, ...] = Field(default=(), description="which way each image went; empty where there is one alone.")

    def _drawn(self, context: Context, rows: Tensor) -> Tensor:
        return tf.constant(self.taken, tf.int32) if self.taken else tf.zeros(rows[None], tf.int32)

    def replay(self) -> Defense:
        """Itself."""
        return self
