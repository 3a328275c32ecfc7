"""Attrition: who is still there in which phase of a protocol's round.

Whether a party is gone is a pure function of the run's seed, the round, the phase and the party. The draws are keyed
BLAKE2b digests (RFC 7693) of these, so that they depend neither on the order nor on the number of the parties.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field

from fedpriv.base.errors import ParameterError, did_you_mean
from fedpriv.base.plugin import Plugin
from fedpriv.defense.parties import Party, Phase


class Attrition(Plugin):
    """Base of all rules by which parties drop out; registered in the entry-point group `fedpriv.attrition`."""

    #: Whether all clients of a round drop out alike: whichever of them are swapped, the probabilities stay the same.
    alike: ClassVar[bool] = False

    @abstractmethod
    def alive(self, phase: Phase, parties: Sequence[Party], round: int, seed: int) -> Sequence[Party]:
        """Those of `parties` that are there in `phase`; a pure function of its arguments.

        Args:
          phase: the phase that begins.
          parties: those that were there until now, clients and others. Nobody comes back, so what is returned must
            be among them.
          round: the round's number, from 0.
          seed: the run's seed.
        """

    def check(self, phases: Sequence[Phase], parties: Sequence[Party]) -> None:
        """Raises ParameterError if this rule names something that a protocol does not have.

        Args:
          phases: the protocol's phases, in order.
          parties: its parties but for the clients, which differ from round to round.
        """

    def check_population(self, population: int) -> None:
        """Raises ParameterError if this rule names a client beyond the population."""


class NoAttrition(Attrition):
    """Everybody stays to the end."""

    name: ClassVar[str] = "none"
    alike: ClassVar[bool] = True

    def alive(self, phase: Phase, parties: Sequence[Party], round: int, seed: int) -> Sequence[Party]:
        """All of them."""
        return parties


class BernoulliAttrition(Attrition):
    """Every client drops out on its own, with the same probability in each phase."""

    name: ClassVar[str] = "bernoulli"
    alike: ClassVar[bool] = True

    rate: Annotated[float, Field(ge=0, le=1)] = Field(
        description="probability of dropping out when a phase begins, from 0 to 1."
    )
    phases: tuple[str, ...] | None = Field(
        default=None,
        description=(
            "names of the phases in which clients drop out (`input` is the one in which they contribute); none "
            "means every phase."
        ),
    )

    def alive(self, phase: Phase, parties: Sequence[Party], round: int, seed: int) -> Sequence[Party]:
        """Each client stays with probability 1 - rate, independently of all others, phases and rounds."""
        if self.phases is not None and not any(map(phase.is_called, self.phases)):
            return parties
        below = self.rate * 2.0**64
        return [p for p in parties if p.role != "client" or draw(seed, self.name, round, phase, p) >= below]

    def check(self, phases: Sequence[Phase], parties: Sequence[Party]) -> None:
        """See Attrition."""
        for name in self.phases or ():
            _known_phase(self, name, phases)


class FixedAttrition(Attrition):
    """A fixed number of clients drops out, every set of that many with the same probability."""

    name: ClassVar[str] = "fixed"
    alike: ClassVar[bool] = True

    count: Annotated[int, Field(ge=0)] = Field(description="how many; where fewer are left, all of them.")
    phase: str = Field(
        default="input",
        description="name of the phase when they are gone (`input` is the one in which clients contribute).",
    )

    def alive(self, phase: Phase, parties: Sequence[Party], round: int, seed: int) -> Sequence[Party]:
        """All but the `count` clients with the smallest draws."""
        if not phase.is_called(self.phase):
            return parties
        clients = [p for p in parties if p.role == "client"]
        gone = set(sorted(clients, key=lambda p: (draw(seed, self.name, round, phase, p), p))[: self.count])
        return [p for p in parties if p not in gone]

    def check(self, phases: Sequence[Phase], parties: Sequence[Party]) -> None:
        """See Attrition."""
        _known_phase(self, self.phase, phases)


def _as_names(value: Any) -> Any:
    if isinstance(value, str | Party):
        return (str(value),)
    return [str(v) for v in value] if isinstance(value, list | tuple) else value


def _as_printed(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(str(Party.parse(n)) for n in names)


class PartiesAttrition(Attrition):
    """Parties that are named are gone, in every round: clients, aggregators, the server or others."""

    name: ClassVar[str] = "parties"

    gone: Annotated[tuple[str, ...], BeforeValidator(_as_names), AfterValidator(_as_printed)] = Field(
        description="their names, such as `aggregator 1`."
    )
    phase: str = Field(
        default="input",
        description="name of the phase from which on they are (`input` is the one in which clients contribute).",
    )

    def alive(self, phase: Phase, parties: Sequence[Party], round: int, seed: int) -> Sequence[Party]:
        """All but those named."""
        if not phase.is_called(self.phase):
            return parties
        gone = {Party.parse(name) for name in self.gone}
        return [p for p in parties if p not in gone]

    def check(self, phases: Sequence[Phase], parties: Sequence[Party]) -> None:
        """See Attrition."""
        _known_phase(self, self.phase, phases)
        for name in self.gone:
            if Party.parse(name) not in parties and Party.parse(name).role != "client":
                known = [*map(str, parties), "client 0"]
                raise ParameterError(f"attrition '{self.name}': there is no {name}.{did_you_mean(name, known)}")

    def check_population(self, population: int) -> None:
        """See Attrition."""
        for party in map(Party.parse, self.gone):
            if party.role == "client" and party.index >= population:
                raise ParameterError(
                    f"attrition '{self.name}': there is no {party}; there are {population} clients, numbered from 0"
                )


def draw(seed: int, purpose: str, round: int, phase: Phase, party: Party) -> int:
    """An integer, uniform on [0, 2^64): the BLAKE2b digest of the coordinates, keyed by the run's seed."""
    seed = int(seed)
    key = seed.to_bytes(max(8, seed.bit_length() // 8 + 1), "little", signed=True)
    if len(key) > hashlib.blake2b.MAX_KEY_SIZE:
        raise ParameterError(f"seed={seed} has {seed.bit_length()} bits; a run's seed has at most 511")
    what = repr((purpose, int(round), phase.name, party.role, party.index)).encode()
    return int.from_bytes(hashlib.blake2b(what, digest_size=8, key=key).digest(), "little")


def _known_phase(attrition: Attrition, name: str, phases: Sequence[Phase]) -> None:
    if not any(phase.is_called(name) for phase in phases):
        known = [*(p.name for p in phases), "input"]
        raise ParameterError(f"attrition '{attrition.name}': there is no phase '{name}'.{did_you_mean(name, known)}")
