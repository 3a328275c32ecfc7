"""Events that dp-accounting 0.4 lacks, and all of them in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fedpriv.base.lazy import dp_accounting


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


def in_words(event: Any) -> str:
    """An event as people read it, such as `Gaussian noise of multiplier 0.5`; an unknown kind by its type's name."""
    if isinstance(event, RenyiEvent):
        about = ", ".join(f"{name} {value:.6g}" for name, value in event.parameters)
        return f"{event.name} ({about})" if about else event.name
    if isinstance(event, dp_accounting.NoOpDpEvent):
        return "nothing released"
    if isinstance(event, dp_accounting.NonPrivateDpEvent):
        return "a release that is not private"
    if isinstance(event, dp_accounting.GaussianDpEvent):
        return f"Gaussian noise of multiplier {event.noise_multiplier:.6g}"
    if isinstance(event, dp_accounting.LaplaceDpEvent):
        return f"Laplace noise of multiplier {event.noise_multiplier:.6g}"
    if isinstance(event, dp_accounting.PoissonSampledDpEvent):
        return f"{in_words(event.event)}, Poisson-sampled with probability {event.sampling_probability:.6g}"
    if isinstance(event, dp_accounting.SampledWithoutReplacementDpEvent):
        sizes = f"{event.sample_size} of {event.source_dataset_size}"
        return f"{in_words(event.event)}, {sizes} sampled without replacement"
    if isinstance(event, dp_accounting.SelfComposedDpEvent):
        inner = in_words(event.event)
        return inner if event.count == 1 else f"{event.count} times {inner}"
    if isinstance(event, dp_accounting.ComposedDpEvent):
        return " and ".join(map(in_words, event.events))
    return str(type(event).__name__)
