"""Moves: changes of an attack's examples that no gradient leads to, such as other orders of a sentence's tokens."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from fedpriv.base.errors import CapabilityError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat, Scalar, Seed, Tensor
from fedpriv.data.kinds.tokens import Tokens
from fedpriv.threat.attack import Capability
from fedpriv.threat.knowledge import Auxiliary, Knowledge
from fedpriv_attacks.labels.auxiliary import brought, needed
from fedpriv_attacks.parts.component import HELD, Component
from fedpriv_attacks.parts.embedding import Embedding
from fedpriv_attacks.parts.language_model import NGrams, count, flat, nats, unflat

if TYPE_CHECKING:
    from fedpriv.threat.static import Static
    from fedpriv.threat.view import View
    from fedpriv_attacks.parts.coordinates import Coordinates

#: Smallest objective told from zero.
TINY = 1e-30

#: `[c, k]` variables to `[c]` objectives.
Scores = Callable[[Tensor], Tensor]


class Ground(NamedTuple):
    """What moves are made on; tensors but for the first two.

    Attributes:
      static: what the views of the graph share.
      coordinates: what the variables mean.
      shape: of all examples as they are decoded.
      weights: `[d]`, the broadcast model.
      tensors: the coordinates' own.
      own: the moves' own, as `Moves.tensors` gave them.
    """

    static: Static
    coordinates: Coordinates
    shape: tuple[int, ...]
    weights: Flat
    tensors: tuple[Tensor, ...]
    own: tuple[Tensor, ...]


class Moves(Component):
    """Base: every so many steps, the best of many changed examples, or the examples as they are."""

    every: Annotated[int, Field(ge=1)] = Field(default=75, description="steps of the optimizer from moves to moves.")
    candidates: Annotated[int, Field(ge=1)] = Field(default=50, description="changes tried each time.")
    burn_in: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1, description="share of the optimizer's steps before the first moves."
    )

    def check(self, view: View, coordinates: Coordinates) -> None:
        """Raises an error if there is nothing to move."""

    def tensors(self, view: View) -> tuple[np.ndarray, ...]:
        """Arrays that the graph gets as inputs, in `Ground.own`."""
        return ()

    @abstractmethod
    def moved(self, v: Flat, scores: Scores, ground: Ground, seed: Seed) -> tuple[Flat, Scalar]:
        """(The variables `[k]` after the moves, whether they are others); traceable.

        Args:
          v: `[k]`.
          scores: the objective of any number of variables.
          ground: see there.
          seed: int32 `[2]`.
        """


class Reorder(Moves):
    """Other orders of a sentence's points: two exchanged, one or a run moved elsewhere, a beginning put at the end.

    Balunovic, Dimitrov, Jovanovic, Vechev 2022, "LAMP: Extracting Text from Gradients with Language Model Priors",
    NeurIPS, arXiv 2202.08827. Gradients find which tokens there are before they find where. A candidate is one such
    move in one sentence, and counts by the objective and by how unlikely its tokens are in a language model. The
    paper's is GPT-2; here it is one of three tokens counted in the adversary's text (`language_model`), whose
    vocabulary must be the model's. Without text the objective alone decides.

    The paper adds the two. An objective falls by orders of magnitude as points settle, so that one weight is too little
    at first and, at the end, overrules an update that was matched exactly. Here a nat weighs against the objective's
    logarithm, which is the likelihood of an error whose size nobody knows.
    """

    kind: ClassVar[str] = "reorder"
    paper: ClassVar[str] = "Balunovic, Dimitrov, Jovanovic, Vechev 2022, arXiv 2202.08827"

    language: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.1,
        description="what a nat of a token's mean negative log-likelihood counts beside the objective's logarithm: a "
        "move that makes tokens a nat likelier may raise the objective by e to this.",
    )
    auxiliary: str | None = Field(
        default="auto",
        description="text that the language model is made from: a data set's name or path; `held` for what the "
        "adversary knows, `auto` for that if it knows any, or none.",
    )

    def requirements(self) -> frozenset[Capability]:
        """Auxiliary data, if they are to be the adversary's."""
        return self.needs | needed(self.auxiliary)

    def brings(self) -> tuple[Knowledge, ...]:
        """The text, unless it is the adversary's."""
        return () if self.auxiliary == "auto" else brought(self.auxiliary)

    def text(self, view: View) -> Auxiliary | None:
        """What the language model is made from, or None.

        Raises:
          CapabilityError: it is to be the adversary's, which knows several.
        """
        if self.auxiliary not in (HELD, "auto"):
            return None if self.auxiliary is None else Auxiliary(data=self.auxiliary)
        held = view.adversary.held(Auxiliary)
        if len(held) > 1 or (self.auxiliary == HELD and not held):
            raise CapabilityError(
                f"moves '{self.kind}' take the one text that the adversary knows, but '{view.adversary}' knows "
                f"{len(held)}; write which, as moves.auxiliary=..."
            )
        return held[0] if held else None

    def check(self, view: View, coordinates: Coordinates) -> None:
        """Raises a CapabilityError unless examples are sequences and coordinates their points."""
        if not isinstance(coordinates, Embedding):
            raise CapabilityError(
                f"moves '{self.kind}' change the order of tokens, which coordinates '{coordinates.kind}' have none of; "
                "use coordinates=embedding on text, or moves=none"
            )

    def tensors(self, view: View) -> tuple[np.ndarray, ...]:
        """The language model's counts, if there is text.

        Raises:
          CapabilityError: its tokens are not those of the clients.
        """
        text, kind = self.text(view), view.data_kind
        if text is None:
            return ()
        assert isinstance(kind, Tokens)
        theirs = text.kind()
        if not isinstance(theirs, Tokens) or _vocabulary(theirs, kind) != _vocabulary(kind, theirs):
            raise CapabilityError(
                f"moves '{self.kind}': the language model's text '{text.data}' consists of "
                f"{theirs.noun + 's' if not isinstance(theirs, Tokens) else _vocabulary(theirs, kind)}, but the "
                f"clients' of {_vocabulary(kind, theirs if isinstance(theirs, Tokens) else kind)}; give text cut by "
                "the same tokenizer, as text(path=...,tokenizer=tokenizer.json), or moves.auxiliary=none"
            )
        x, _ = text.load(view.model)
        return flat(_counted(_Rows(x), kind.vocabulary, kind.padding))

    def moved(self, v: Flat, scores: Scores, ground: Ground, seed: Seed) -> tuple[Flat, Scalar]:
        """The best candidate."""
        n, length = ground.shape[:2]
        size = int(np.prod(ground.shape))
        x, rest = tf.reshape(v[:size], ground.shape), v[size:]
        present = ground.tensors[1]
        places = orders(self.candidates, tf.cast(tf.reduce_sum(present, 1), tf.int32), length, seed)
        places = tf.concat([tf.broadcast_to(tf.range(length), [1, n, length]), places], 0)
        many = self.candidates + 1
        candidates = tf.gather(tf.repeat(x[None], many, 0), places, axis=2, batch_dims=2)
        rows = tf.concat([tf.reshape(candidates, [many, size]), tf.repeat(rest[None], many, 0)], 1)
        values = tf.cast(scores(rows), tf.float64)
        values = tf.where(tf.math.is_finite(values), values, tf.constant(np.inf, tf.float64))
        # Objectives that are logarithms already may be negative.
        values = tf.where(tf.reduce_all(values >= 0), tf.math.log(tf.maximum(values, TINY)), values)
        values += self.unlikely(candidates, ground)
        best = tf.argmin(values, output_type=tf.int32)
        return rows[best], best > 0

    def unlikely(self, candidates: Tensor, ground: Ground) -> Tensor:
        """`[c]` float64: the language model's share in the score of candidates `[c, n, length, width]`."""
        kind, coordinates = ground.static.data_kind, ground.coordinates
        if not ground.own or not self.language:
            return tf.zeros([candidates.shape[0]], tf.float64)
        assert isinstance(kind, Tokens)
        assert isinstance(coordinates, Embedding)
        c, n, length = candidates.shape[:3]
        points = tf.reshape(candidates, [c * n, length, candidates.shape[3]]) * ground.tensors[0]
        tokens = coordinates.nearest(points, ground.weights, ground.tensors, ground.static.model)
        present = tf.tile(ground.tensors[1], [c, 1])
        found = nats(unflat(ground.own), tokens, present, kind.vocabulary)
        return self.language * tf.reduce_mean(tf.reshape(found, [c, n]), 1)


def orders(many: int, lengths: Tensor, length: int, seed: Seed) -> Tensor:
    """`[many, n, length]` int32: in each row one sentence's places in another order, the others' as they are.

    Which kind of move it is, in which sentence and where, is drawn; nothing beyond a sentence's end moves.
    """
    n = lengths.shape[0]
    seeds = tf.random.experimental.stateless_split(seed, 3)
    draws = tf.random.stateless_uniform([5, many], seeds[0])
    which = tf.random.stateless_uniform([many], seeds[1], 0, n, tf.int32)
    kind = tf.random.stateless_uniform([many], seeds[2], 0, 4, tf.int32)
    own = tf.cast(tf.gather(lengths, which), tf.float32)
    first, second = (tf.minimum(tf.floor(draws[i] * own), own - 1) for i in (0, 1))
    start = tf.minimum(first, second)
    stop = tf.maximum(first, second)  # the run's last place
    outside = own - (stop - start + 1)
    after = tf.floor(draws[2] * (outside + 1))  # how many of the others stay before the run
    place = tf.broadcast_to(tf.range(length, dtype=tf.float32)[None], [many, length])
    a, b, s, e, own, after = (t[:, None] for t in (first, second, start, stop, own, after))
    exchanged = tf.where(place == a, b, tf.where(place == b, a, place))
    one = tf.where(place == a, b + tf.where(b > a, 0.5, -0.5), place)
    among = tf.where(place > e, place - (e - s + 1), place)  # the others, counted without the run
    run = tf.where((place >= s) & (place <= e), after - 1 + (place - s + 1) / (length + 1), among)
    turned = tf.where(place <= s, place + own, place)
    key = tf.stack([exchanged, one, run, turned])
    key = tf.gather(tf.transpose(key, [1, 0, 2]), kind, batch_dims=1)
    key = tf.where(place < own, key, place + 2.0 * length)
    permuted = tf.argsort(key, axis=1, stable=True)
    chosen = tf.range(n)[None, :, None] == which[:, None, None]
    return tf.where(chosen, permuted[:, None, :], tf.range(length)[None, None])


def shuffles(many: int, lengths: Tensor, length: int, seed: Seed) -> Tensor:
    """`[many, n, length]` int32: all sentences' places in orders drawn at random, but for those beyond their ends."""
    n = lengths.shape[0]
    place = tf.range(length)[None, None]
    drawn = tf.random.stateless_uniform([many, n, length], seed)
    inside = tf.broadcast_to(place < lengths[None, :, None], [many, n, length])
    return tf.argsort(tf.where(inside, drawn, tf.cast(place + 1, tf.float32)), axis=2, stable=True)


def _vocabulary(kind: Tokens, other: Tokens) -> str:
    """What the tokens of a kind are, as far as another can be compared with it: where both say their tokenizer."""
    tokens = f"{kind.vocabulary} tokens"
    if kind.tokenizer is None or other.tokenizer is None:
        return tokens
    return f"{tokens} of tokenizer '{kind.tokenizer.name}' ({kind.tokenizer.digest})"


class _Rows:
    """An array that a cache tells apart by what is in it."""

    def __init__(self, x: np.ndarray) -> None:
        self.x = x

    def __hash__(self) -> int:
        return hash((self.x.shape, self.x[:8].tobytes()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Rows) and (self.x is other.x or np.array_equal(self.x, other.x))


@functools.lru_cache(maxsize=4)
def _counted(rows: _Rows, vocabulary: int, padding: int | None) -> NGrams:
    return count(rows.x, vocabulary, padding)
