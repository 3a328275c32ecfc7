"""Adversary: who attacks: a position on the line, what it knows besides, and what it changes if it is malicious.

It is written one way everywhere: `server`, `aggregators(0,1)`, `server(knows=[labels,auxiliary(data=mnist)],
blind=[defense])`, `server(acts=[plant(weights=trap.npy)])`. `knows` adds to what every adversary knows (USUAL), `blind`
takes from it. `Adversary.parse` reads that text, `str` prints it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fedpriv.base import registry
from fedpriv.base.errors import ParameterError
from fedpriv.threat.acts import Act
from fedpriv.threat.knowledge import Knowledge, KnownDefense, KnownProcedure, NumExamples
from fedpriv.threat.position import Aggregators, Position
from fedpriv.threat.written import call, checked, construct, items, made, parse

#: What an adversary knows unless it is said to be blind to it.
USUAL: frozenset[Knowledge] = frozenset({NumExamples(), KnownProcedure(), KnownDefense()})

#: The threat models of Carletti et al. 2025, by what the adversary has.
FIELD_NAMES = {
    "A": "eavesdropper",
    "B": "informed eavesdropper",
    "C": "parameter-aware eavesdropper",
    "D": "data-enhanced eavesdropper",
    "E": "statistical-informed eavesdropper",
    "F": "active manipulator",
    "G": "data-enhanced manipulator",
    "H": "active client manipulator",
}

K = TypeVar("K", bound=Knowledge)


@dataclass(frozen=True, init=False, repr=False)
class Adversary:
    """A position, a body of knowledge, and acts.

    Attributes:
      at: the position.
      knowledge: all that it knows, USUAL included.
      acts: what it changes, in order; none if it is honest but curious.
    """

    at: Position
    knowledge: frozenset[Knowledge]
    acts: tuple[Act, ...]

    def __init__(
        self,
        position: str | Position = "server",
        knows: Iterable[str | Knowledge] | None = None,
        corrupted: Sequence[int] = (),
        acts: Iterable[str | Act] = (),
    ) -> None:
        """An adversary.

        Args:
          position: `server`, `aggregators`, `eavesdropper`, `observer`, `client(3)` or another plug-in's name, or one.
          knows: all it knows, by name, as `auxiliary(data=mnist)`, or as objects; None is USUAL.
          corrupted: the members of a coalition of `aggregators`.
          acts: what it changes.

        Raises:
          ParameterError: something unknown or impossible among these.
        """
        object.__setattr__(self, "at", _position(position, corrupted))
        known = USUAL if knows is None else frozenset(_known(k) for k in _several(knows))
        object.__setattr__(self, "knowledge", known)
        object.__setattr__(self, "acts", tuple(_act(a) for a in _several(acts)))
        for act in self.acts:
            if act.changes not in self.at.can_change:
                can = ", ".join(sorted(self.at.can_change)) or "nothing"
                raise ParameterError(
                    f"the {self.position} cannot do '{act}', which changes the {act.changes}: it can change {can}; "
                    "let the adversary be a 'server', or leave the act out"
                )

    @property
    def position(self) -> str:
        """The position's name."""
        return str(self.at.config()["name"])

    @property
    def knows(self) -> frozenset[str]:
        """Names of what it knows."""
        return frozenset(str(k.config()["name"]) for k in self.knowledge)

    @property
    def corrupted(self) -> tuple[int, ...]:
        """The members of a coalition of aggregators; none for other positions."""
        return self.at.members if isinstance(self.at, Aggregators) else ()

    def held(self, kind: type[K]) -> tuple[K, ...]:
        """What it knows of that kind, in the order of their text."""
        return tuple(sorted((k for k in self.knowledge if isinstance(k, kind)), key=str))

    def knowing(self, *items: str | Knowledge) -> Adversary:
        """The same adversary, knowing these too."""
        return Adversary(self.at, self.knowledge | {_known(i) for i in items}, acts=self.acts)

    def without(self, *names: str) -> Adversary:
        """The same adversary, not knowing these.

        Raises:
          ParameterError: nothing that can be known is called so.
        """
        for name in names:
            if name not in registry.knowledge.names() and name not in self.knows:
                _known(name)
        return Adversary(self.at, {k for k in self.knowledge if k.config()["name"] not in names}, acts=self.acts)

    def acting(self, *acts: str | Act) -> Adversary:
        """The same adversary, doing these too."""
        return Adversary(self.at, self.knowledge, acts=(*self.acts, *(_act(a) for a in acts)))

    @classmethod
    def parse(
        cls,
        text: str,
        *,
        knows: Iterable[str] = (),
        blind: Iterable[str] = (),
        corrupted: Sequence[int] = (),
    ) -> Adversary:
        """The adversary that a user wrote; see the module for how.

        Args:
          text: `position(values of its own, knows=[...], blind=[...], acts=[...])`.
          knows, blind, corrupted: the same from elsewhere, added to what the text says.

        Raises:
          ParameterError: it says what is wrong in the text, and what is near.
        """
        name, bare, named = parse(text, "adversary")
        known = [*items(named.pop("knows", "none")), *knows]
        unknown = [*items(named.pop("blind", "none")), *blind]
        acts = items(named.pop("acts", "none"))
        both = sorted({parse(k, "knowledge")[0] for k in known} & set(unknown))
        if both:
            raise ParameterError(f"the adversary '{name}' is to know '{both[0]}' and be blind to it; leave one out")
        if bare and corrupted:
            raise ParameterError(f"corrupted={list(corrupted)} and '{text}' both name members; give one")
        at = _position(name, corrupted, bare, named)
        return cls(at).knowing(*known).without(*unknown).acting(*acts)

    def __str__(self) -> str:
        """As a user writes it; `parse` reads it back."""
        more = sorted(map(str, self.knowledge - USUAL))
        less = sorted(str(k.config()["name"]) for k in USUAL - self.knowledge)
        parts = {"knows": more, "blind": less, "acts": [str(a) for a in self.acts]}
        lists = [f"{key}=[{','.join(values)}]" for key, values in parts.items() if values]
        return call(self.position, [*self.at.arguments(), *lists])

    def __repr__(self) -> str:
        return f"Adversary({str(self)!r})"

    def describe(self, brought: Collection[Knowledge] = ()) -> str:
        """The threat line: a few plain sentences for reports.

        Args:
          brought: what an attack brings in through its parameters (`Attack.brings`).
        """
        known = "; ".join(k.describe() for k in sorted(self.knowledge, key=str)) or "nothing else"
        said = f"{self.at.who(bool(self.acts))}. It also knows: {known}."
        if self.acts:
            said += f" It changes: {'; '.join(a.describe() for a in self.acts)}."
        more = sorted(set(brought) - self.knowledge, key=str)
        if more:
            said += f" The attack brings in: {'; '.join(k.describe() for k in more)}."
        letter = self.knowing(*more).letter()
        return f"{said} {_in_the_field(letter)}" if letter else said

    def letter(self) -> str | None:
        """The threat model A to H of the field's systematization that has what this one has, and least besides.

        Carletti, Foggia, Mazzocca, Parrella, Vento 2025, "SoK: Gradient Inversion Attacks in Federated Learning",
        USENIX Security. Its models are those of an adversary that sees model updates, so there is none for positions
        that see something else. Labels, example counts and defenses make no difference there.
        """
        if not self.at.sees_messages:
            return None
        surrogate = bool(self.knows & {"auxiliary", "generator"})
        if self.acts:
            return "H" if any(a.selects_clients for a in self.acts) else "G" if surrogate else "F"
        if "batch_statistics" in self.knows:
            return "E"
        if surrogate:
            return "D"
        if "procedure" in self.knows:
            return "C"
        return "B" if "statistics" in self.knows else "A"


def _in_the_field(letter: str) -> str:
    return f"Threat model {letter} ({FIELD_NAMES[letter]}) of Carletti et al. 2025."


def _several(value: Any) -> list[Any]:
    return [value] if isinstance(value, str | Knowledge | Act) else list(value)


def _position(
    value: str | Position, corrupted: Sequence[int], bare: Sequence[str] = (), named: dict[str, str] | None = None
) -> Position:
    if not isinstance(value, str):
        found = checked(registry.positions, value, str(value))
        name = found.name
    else:
        name, own, given = parse(value, "adversary")
        bare, named = [*own, *bare], {**given, **(named or {})}
        if name == "aggregators" and corrupted and not bare:
            bare = [str(c) for c in corrupted]
        if name == "aggregators" and not bare and not named.get("members"):
            raise ParameterError("an aggregator coalition needs its members; write aggregators(0,1)")
        found = construct(registry.positions, name, bare, named, "adversary position '{name}' is unknown.")
    if corrupted and not (isinstance(found, Aggregators) and found.members == tuple(int(c) for c in corrupted)):
        raise ParameterError(
            f"corrupted={tuple(corrupted)} names aggregators, but the adversary is the {name}; "
            "use position 'aggregators', or leave it out"
        )
    return found


def _known(value: str | Knowledge) -> Knowledge:
    return made(registry.knowledge, value, "an adversary cannot know '{name}'.")


def _act(value: str | Act) -> Act:
    return made(registry.acts, value, "an adversary cannot do '{name}'.")


def honest_but_curious_server(*also_knows: str) -> Adversary:
    """The server of the gradient-inversion literature."""
    return Adversary().knowing(*also_knows)
