"""SeedSearch: finds the short seed that made a message's noise, takes the noise off, and attacks what is left."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, ClassVar

import numpy as np
from fedpriv_attacks.modern import AttackPart
from fedpriv_defenses.local_dp import LocalDP
from pydantic import Field

from fedpriv.base.errors import CapabilityError
from fedpriv.base.lazy import tf
from fedpriv.base.seeds import NORMAL_CHILD, gaussian
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.knowledge import Knowledge
from fedpriv.threat.view import View
from fedpriv_experiments.weak_noise.philox import block, normal_pair

#: Words tried at once.
CHUNK = 1 << 18


class SeedSearch(Attack):
    """Tries all words of so many bits as the seed of a client's noise.

    A message less the right noise is the clipped update, so no longer than the clip; less any other noise it is longer,
    on a few coordinates already. So the right word shows itself in the message alone. Works where one client's message
    is seen and noise outweighs the update, as noise that protects does; the adversary knows the defense, whose source
    is public. Finds nothing where seeds carry 128 bits, as those of `local_dp` do.
    """

    name: ClassVar[str] = "seed_search"
    paper: ClassVar[str] = "ours, against a generator that keeps few bits of its seed"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.REAL_UPDATE, Capability.NUM_EXAMPLES})
    goals: ClassVar[tuple[str, ...]] = ("reconstruction", "labels")

    bits: Annotated[int, Field(ge=1, le=32)] = Field(default=20, description="length of the words tried.")
    then: AttackPart = Field(default="modern", description="what attacks the message once the noise is off.")  # type: ignore[assignment]

    def requirements(self) -> frozenset[Capability]:
        """What it needs itself, and what the other attack does."""
        return self.needs | self.then.requirements()

    def brings(self) -> tuple[Knowledge, ...]:
        """What the other attack brings in."""
        return self.then.brings()

    def attack(self, view: View, seed: int) -> Finding:
        """The other attack's finding; `measures` has the seconds of the search and the words tried.

        Raises:
          CapabilityError: no client's noise is known to be in what was seen, or no word explains it.
        """
        noisy = [d for d in view.defenses if isinstance(d, LocalDP) and d.stddev]
        if view.kind != "update" or len(noisy) != 1:
            raise CapabilityError(
                f"seed_search takes the noise off one client's message, by a defense that it knows; this view is a "
                f"'{view.kind}' with {len(noisy)} such defenses"
            )
        began = time.perf_counter()
        clip, scale = noisy[0].clip, noisy[0].stddev
        observed = np.asarray(view.observed, np.float64)
        if scale * math.sqrt(2 * len(observed)) < 3 * clip:
            raise CapabilityError(
                f"noise of standard deviation {scale:g} on {len(observed)} coordinates is too little beside a clip of "
                f"{clip:g} to tell the right seed from others; attack the message as it is"
            )
        for word in self._candidates(observed, clip, scale):
            drawn = gaussian(tf.constant([word, 0], tf.int64), [len(observed)], view.model.spec.dtype).numpy()
            stripped = observed - scale * drawn.astype(np.float64)
            if np.linalg.norm(stripped) <= 1.001 * clip:
                break
        else:
            raise CapabilityError(
                f"none of the {1 << self.bits} seeds of {self.bits} bits explains this message's noise; its generator "
                "is seeded with more bits, or is another"
            )
        seconds = time.perf_counter() - began
        bare = replace(view, observed=stripped.astype(np.asarray(view.observed).dtype))
        found = self.then.run(bare, seed)
        measures = {**found.measures, "words_tried": word + 1.0, "search_seconds": seconds}
        return replace(found, seconds=found.seconds + seconds, measures=measures)

    def _candidates(self, observed: np.ndarray, clip: float, scale: float) -> Iterator[int]:
        """Words that a few coordinates do not rule out."""
        pairs = (len(observed) + 1) // 2
        # Of a wrong word's residual, m coordinates have squares of 2 scale^2 each on average.
        enough = min(pairs, 12 + math.ceil(6 * (clip / scale) ** 2))
        for start in range(0, 1 << self.bits, CHUNK):
            words = np.arange(start, min(start + CHUNK, 1 << self.bits), dtype=np.uint64)
            key, high = (half.view(np.uint64) for half in block(words, NORMAL_CHILD % (1 << 64), 0))
            rest = np.zeros(len(words))
            for j in range(enough):
                values = normal_pair(key, high, j, pairs)
                for place, value in zip((j, pairs + j), values, strict=True):
                    if place < len(observed):
                        rest += (observed[place] - scale * value) ** 2
                kept = rest <= (1.001 * clip) ** 2
                words, key, high, rest = words[kept], key[kept], high[kept], rest[kept]
                if not len(words):
                    break
            yield from map(int, words)
