"""Passed: what a station gives back besides the value; and the checks that name whoever gave something else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedpriv.base.errors import StackError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Nested, Scalar


@dataclass(frozen=True)
class Passed:
    """A station's outcome. A station with nothing to add returns the value alone.

    Attributes:
      value: what goes on to the next link.
      tally: small scalars that are summed over the cohort *with* the update: through the protocol, and under the noise
        of whoever noises sums. Only names that `Defense.tallies` declares; only they may feed a server's state.
      log: diagnostics for people, scalars by name. They travel in the clear and never feed a state.
      state: the next state, in the same structure: this client's own at a client's station, the server's at a
        server's. None leaves it as it is.
      bits: scalar, what the value takes on the wire from here on; None where its domain says it.
      ok: scalar bool, False where the value could not be carried (such as one beyond a fixed-point range); the
        engine then names the client and stops.
    """

    value: Nested
    tally: Mapping[str, Scalar | float] = field(default_factory=dict)
    log: Mapping[str, Scalar | float] = field(default_factory=dict)
    state: Nested = None
    bits: Scalar | int | None = None
    ok: Scalar | bool | None = None


def passed(returned: Any, who: str, station: str) -> Passed:
    """What `who` returned at `station`, as a Passed.

    Raises:
      StackError: it returned nothing, a pair as in (value, metrics), or a tally or log entry that is no scalar.
    """
    if isinstance(returned, Passed) and returned.value is None:
        returned = None
    if isinstance(returned, Passed):
        for kind in ("tally", "log"):
            for name, value in getattr(returned, kind).items():
                try:
                    made = tf.convert_to_tensor(value)
                except (TypeError, ValueError) as e:
                    raise StackError(
                        f"{who} reports {kind} '{name}' = {value!r}, which is no number; give a scalar"
                    ) from e
                if not (made.dtype.is_floating or made.dtype.is_integer or made.dtype.is_bool):
                    raise StackError(f"{who} reports {kind} '{name}' as {made.dtype.name}, no number; give a scalar")
                shape = made.shape
                if shape.rank != 0:
                    raise StackError(
                        f"{who} reports {kind} '{name}' of shape {list(shape)} at its {station} station; it must be a "
                        "scalar, so give its sum, mean or norm"
                    )
        return returned
    pairs = station in ("data", "batch")
    if returned is None or (isinstance(returned, tuple) and not pairs):
        what = "nothing" if returned is None else "a tuple"
        raise StackError(
            f"{who} returns {what} from its {station} station; return the value, or "
            "Passed(value, log={...}, tally={...}, state=...)"
        )
    if pairs and not (isinstance(returned, tuple) and len(returned) == 2):
        raise StackError(f"{who} returns a {type(returned).__name__} from its {station} station; return x and y")
    return Passed(returned)
