"""Events that dp-accounting 0.4 lacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RenyiEvent:
    """A mechanism known by a bound on its Renyi divergence alone, such as the sum of discrete noises.

    Composed by the `rdp` accountant, and amplified by sampling with the bounds that hold for any mechanism
    (`fedpriv.account.amplification`); no privacy loss distribution is known of it.

    Attributes:
      name: of the mechanism, as in `skellam`.
      parameters: all that the curve depends on besides the name, as (name, value) pairs. Events are equal where name
        and parameters are, and saved ledgers are told apart by them.
      curve: order alpha > 1 to a bound on the Renyi divergence of that order, in nats.
    """

    name: str
    parameters: tuple[tuple[str, float], ...]
    curve: Callable[[float], float] = field(repr=False, compare=False)
