"""Context: what a station may use, inside the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedpriv.base.errors import ContextError
from fedpriv.base.seeds import child, gaussian, words
from fedpriv.base.types import Examples, Flat, Labels, Nested, Scalar, Seed, Shape, Tensor
from fedpriv.defense.plan import Plan
from fedpriv.models.model import Model


class _Absent:
    def __repr__(self) -> str:
        return "absent"


ABSENT: Any = _Absent()

#: Where each of a context's parts exists; what is not listed exists everywhere.
WHERE = {
    "slot": "the client's stations",
    "own": "the client's stations",
    "away": "the client's stations",
    "num_examples": "the client's stations",
    "model": "the client's stations",
    "weights": "the client's stations, aggregate and step",
    "x": "gradient (data and batch get them as arguments)",
    "y": "gradient (data and batch get them as arguments)",
    "count": "aggregate and step",
    "tally": "aggregate and step",
}


@dataclass(frozen=True, kw_only=True, repr=False)
class Context:
    """What a station's function may use. Reading a part where it does not exist raises ContextError.

    | part | broadcast | data | batch | gradient | update | encode | aggregate | step |
    |---|---|---|---|---|---|---|---|---|
    | plan, round, seed, state | yes | yes | yes | yes | yes | yes | yes | yes |
    | slot, own, away, num_examples, model | | yes | yes | yes | yes | yes | | |
    | weights | | sent | local | local | sent | sent | server's | server's |
    | x, y | | argument | argument | yes | | | | |
    | count, tally | | | | | | | yes | yes |

    Attributes:
      plan: public facts of the run.
      seed: int64 `[2]`, 128 bits unique to (run, round, client, station, defense, local step), for `normal`, `words`
        and what `fedpriv.base.seeds` makes of it. Where noise is drawn securely (`plan.secure_rng`), int64 `[4]`: a key
        of ChaCha20, from entropy of the operating system, which TensorFlow's own random operations refuse.
      state: this defense's server state (tensors), as broadcast.
      round: int32 scalar, from 0.
      slot: int32 scalar, the client's place in the cohort.
      own: this client's own state for this defense, kept between the rounds it takes part in.
      away: int32 scalar, rounds since this client last took part (1: in the round before); -1 if it never did, when
        `own` is the initial state. Kept only where some defense keeps a client state; else -1.
      num_examples: int32 scalar.
      model: the model's pure functions.
      weights: `[d]`: those sent, at a local step those of the step, at the server those before its step.
      x, y: the step's batch.
      count: int32 scalar, clients in the sum.
      tally: the cohort's sums of this defense's tallies, by its own names.
    """

    plan: Plan
    seed: Seed
    state: Nested = ()
    round: Scalar | int = 0
    slot: Scalar = ABSENT
    own: Nested = ABSENT
    away: Scalar = ABSENT
    num_examples: Scalar = ABSENT
    model: Model = ABSENT
    weights: Flat = ABSENT
    x: Examples = ABSENT
    y: Labels = ABSENT
    count: Scalar = ABSENT
    tally: Mapping[str, Scalar] = ABSENT
    #: Where the names of parts that are read are put, if anywhere.
    read: set[str] | None = None

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        noted = object.__getattribute__(self, "read")
        if noted is not None and name in WHERE:
            noted.add(name)
        if value is ABSENT:
            raise ContextError(f"context.{name} does not exist at this station; it exists at {WHERE[name]}")
        return value

    def normal(self, shape: Shape | Tensor, dtype: Any = "float32", stream: int = 0) -> Tensor:
        """Standard normal noise of `shape` for this very station, client, round and step.

        Args:
          shape: of the values.
          dtype: of the values.
          stream: 0 or more; values of different streams are independent, the same stream gives the same values again.
        """
        return gaussian(child(self.seed, stream), shape, dtype)

    def words(self, count: Scalar | int, stream: int = 0) -> Tensor:
        """Uniformly random int64 `[count]`, all 64 bits of them, for discrete noise; streams as in `normal`."""
        return words(child(self.seed, stream), count)
