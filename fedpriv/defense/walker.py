"""Walker: carries a value through the links of one station. Engines, replays and TFF's aggregation all walk with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from fedpriv.base.errors import FedprivError, StackError, one_line
from fedpriv.base.lazy import tf
from fedpriv.base.types import Array, Flat, Nested, Scalar, Tensor
from fedpriv.defense.context import Context
from fedpriv.defense.passed import Passed, passed
from fedpriv.defense.plan import Plan
from fedpriv.defense.stations import Defense, Station, labels, state_array
from fedpriv.models.example_gradients import ExampleClip

_IN_REVERSE = (Station.AGGREGATE, Station.STEP)


@dataclass
class Walked:
    """A value after all links of a station.

    Attributes:
      value: what came out.
      tally, log: by `label/name`.
      states: next states, by the link's index, of those that gave one.
      bits: what the value takes on the wire, if a link said so.
      ok: whether it could be carried; None where no link asks.
    """

    value: Nested
    tally: dict[str, Scalar | float] = field(default_factory=dict)
    log: dict[str, Scalar | float] = field(default_factory=dict)
    states: dict[int, Nested] = field(default_factory=dict)
    bits: Scalar | int | None = None
    ok: Scalar | bool | None = None


def without(flat: Flat, places: np.ndarray) -> Flat:
    """`[d]` or `[b, d]` with zeros where `places [d]` is True, but for values that are not finite."""
    # Not a number in what is left out must still stop the client, not hide.
    return tf.where(tf.constant(~places) | ~tf.math.is_finite(flat), flat, tf.zeros_like(flat))


def _alike(value: Tensor | Array, given: Tensor, who: str, station: Station) -> Tensor:
    """`value` as a tensor, in the shape and type that was given; a codec may give integers."""
    value = tf.convert_to_tensor(value)
    if not value.shape.is_compatible_with(given.shape):
        raise StackError(
            f"{who} gives a value of shape {list(value.shape)} from its {station.value} station, where it was given "
            f"{list(given.shape)}; give the same shape"
        )
    allowed = {given.dtype} | ({tf.int64} if station is Station.ENCODE else set())
    if value.dtype not in allowed:
        raise StackError(
            f"{who} gives {value.dtype.name} from its {station.value} station, where it was given {given.dtype.name}; "
            "cast it back"
        )
    return value


class Walker:
    """Links in order, unchecked: what a replay walks; `Line` is the checked one.

    Attributes:
      links: the defenses' parts, in order.
      plan: public facts of the run.
      labels: what each link's reports are filed under.
    """

    def __init__(self, defenses: Sequence[Defense], plan: Plan) -> None:
        self.links: tuple[Defense, ...] = tuple(part for d in defenses for part in d.parts())
        self.plan = plan
        self.labels = labels(self.links)

    def at(self, station: Station) -> list[int]:
        """Indices of the links acting at `station`, in the order they run there."""
        acting = [i for i, d in enumerate(self.links) if d.acts_at(station)]
        return acting[::-1] if station in _IN_REVERSE else acting

    def acts(self, *stations: Station) -> bool:
        """Whether any link acts at one of the stations."""
        return any(self.at(s) for s in stations)

    @cached_property
    def example_clip(self) -> ExampleClip | None:
        """How examples' own gradients are clipped, where a link asks for it."""
        found = [link.example_clip(self.plan) for link in self.links]
        return next((clip for clip in found if clip is not None), None)

    @cached_property
    def tallies(self) -> dict[str, float]:
        """The tallies' bounds, by `label/name`, in the order they travel."""
        return {
            f"{label}/{name}": float(bound)
            for label, link in zip(self.labels, self.links, strict=True)
            for name, bound in link.tallies(self.plan).items()
        }

    def own_tallies(self, i: int, tallies: dict[str, Scalar]) -> dict[str, Scalar]:
        """Link `i`'s among tallies by `label/name`, by its own names."""
        prefix = f"{self.labels[i]}/"
        return {k.removeprefix(prefix): v for k, v in tallies.items() if k.startswith(prefix)}

    def initial_states(self) -> tuple[Nested, ...]:
        """The server's states before the first round, one a link, as arrays."""
        return tuple(tf.nest.map_structure(state_array, d.initial_state(self.plan)) for d in self.links)

    def broadcast_states(self, states: Sequence[Nested]) -> tuple[Nested, ...]:
        """What is told to clients of the server's states, one a link."""
        return tuple(d.broadcast_state(state) for d, state in zip(self.links, states, strict=True))

    def initial_client_states(self) -> tuple[Nested, ...]:
        """A client's own states before its first round, one a link, as arrays."""
        return tuple(tf.nest.map_structure(state_array, d.initial_client_state(self.plan)) for d in self.links)

    def walk(self, station: Station, value: Nested, context: Callable[[int], Context]) -> Walked:
        """`value` through the links at `station`.

        Args:
          station: where.
          value: as that station's method takes it; a pair (x, y) at data and batch.
          context: makes the context of the link at an index.

        Raises:
          StackError: a link returned something else than its station allows; names the defense.
        """
        out = Walked(value)
        withheld: np.ndarray | None = None
        for i in self.at(station):
            link, label = self.links[i], self.labels[i]
            if station is Station.GRADIENT and not link.per_example and len(out.value.shape) == 2:
                out.value = tf.reduce_mean(out.value, axis=0)
            given = self._called(i, station, out.value, context)
            out.value = given.value
            own = link.withheld(self.plan.spec) if station in (Station.UPDATE, Station.GRADIENT) else None
            if withheld is not None:
                out.value = without(out.value, withheld)
            if own is not None:
                withheld = own if withheld is None else withheld | own
            undeclared = sorted(set(given.tally) - set(link.tallies(self.plan)))
            if undeclared:
                raise StackError(
                    f"{label} reports tally '{undeclared[0]}' at its {station.value} station, which its tallies(plan) "
                    "does not declare; declare it with a bound on its absolute value"
                )
            out.tally |= {f"{label}/{k}": v for k, v in given.tally.items()}
            out.log |= {f"{label}/{k}": v for k, v in given.log.items()}
            if given.state is not None:
                out.states[i] = given.state
            # A compressor's message has all coordinates; leaving some out of what was made of it shortens no message.
            if given.bits is not None and (out.bits is None or own is None):
                out.bits = given.bits
            if given.ok is not None:
                out.ok = given.ok if out.ok is None else out.ok & given.ok
        if station is Station.GRADIENT and len(out.value.shape) == 2:
            out.value = tf.reduce_mean(out.value, axis=0)
        return out

    def _called(self, i: int, station: Station, value: Nested, context: Callable[[int], Context]) -> Passed:
        """What link `i` gives for `value`; whatever goes wrong in it is said in its name, in a line."""
        who, pair = self.labels[i], station in (Station.DATA, Station.BATCH)
        try:
            returned = getattr(self.links[i], station.value)(*(value if pair else (value,)), context(i))
            given = passed(returned, who, station.value)
            if not pair:
                given = replace(given, value=_alike(given.value, value, who, station))
            return given
        except FedprivError:
            raise
        except Exception as e:
            first = one_line(e)
            hint = "; use tf.where or tf.cond in place of Python's if" if "symbolic" in first else ""
            raise StackError(f"{who} fails at its {station.value} station: {type(e).__name__}: {first}{hint}") from e
