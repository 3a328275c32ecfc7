"""WeakLocalDP: local noise whose seed passes through one short word, as folding a seed on 32 bits does."""

from __future__ import annotations

from typing import Annotated, ClassVar

from fedpriv_defenses.local_dp import LocalDP
from pydantic import Field

from fedpriv.base.lazy import tf
from fedpriv.base.seeds import gaussian
from fedpriv.base.types import Flat
from fedpriv.defense.claim import Claim
from fedpriv.defense.domain import Real
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Context, Plan


class WeakLocalDP(LocalDP):
    """Clips an update and adds normal noise to it, whose generator is seeded with a short word.

    No formal guarantee: whoever tries all words finds the one that made the noise, and takes the noise off. Its
    adaptive attack is `SeedSearch`, beside it. `tf.random.experimental.stateless_fold_in` on int32 seeds keeps 32 bits,
    which is such a word.
    """

    name: ClassVar[str] = "weak_local_dp"
    paper: ClassVar[str] = ""
    adaptive_attack: ClassVar[str] = "seed_search"

    bits: Annotated[int, Field(ge=1, le=32)] = Field(default=20, description="length of the word that seeds the noise.")

    def update(self, update: Flat, context: Context) -> Passed:
        """Clips and noises one update `[d]`."""
        clipped = self.replay().update(update, context).value
        word = tf.bitwise.bitwise_and(context.seed[0], tf.constant((1 << self.bits) - 1, tf.int64))
        drawn = gaussian(tf.stack([word, tf.zeros([], tf.int64)]), tf.shape(update), update.dtype)
        return Passed(clipped + tf.cast(self.stddev, update.dtype) * drawn)

    def claims(self, plan: Plan, contribution: Real) -> list[Claim]:
        """None."""
        return []
