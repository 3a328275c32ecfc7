"""Party: one participant of a protocol, and Phase: one step of it, in which messages pass."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fedpriv.base.errors import ParameterError

_WRITTEN = re.compile(r"([a-z][a-z_]*)(?:[ :]*(\d+))?")


@dataclass(frozen=True, order=True)
class Party:
    """One participant of a protocol; prints as `aggregator 1`, and the server as `server`.

    Attributes:
      role: what it is there for: `client`, `server`, `aggregator`, `key_holder`, or a protocol's own word.
      index: its number among those of its role, from 0; a client's is its id in the federation.
    """

    role: str
    index: int = 0

    @staticmethod
    def parse(text: str) -> Party:
        """The party that prints as `text`; `aggregator:1` and `aggregator1` are understood too.

        Raises:
          ParameterError: it names no party.
        """
        found = _WRITTEN.fullmatch(text.strip())
        if not found or (found[2] is None and found[1] != SERVER.role):
            raise ParameterError(f"'{text}' names no party; write 'server', 'aggregator 1' or 'client 3'")
        return Party(found[1], int(found[2] or 0))

    def __str__(self) -> str:
        return self.role if self == SERVER else f"{self.role} {self.index}"


SERVER = Party("server")


def client(index: int) -> Party:
    """The client with that id."""
    return Party("client", int(index))


def aggregator(index: int) -> Party:
    """The aggregator with that number."""
    return Party("aggregator", int(index))


@dataclass(frozen=True)
class Phase:
    """One step of a protocol.

    Attributes:
      name: its name within the protocol.
      takes_input: whether the clients send their contributions in it.
    """

    name: str
    takes_input: bool = False

    def is_called(self, name: str) -> bool:
        """Whether `name` means this phase: its own name, or `input` for the one that takes the contributions."""
        return name == self.name or (self.takes_input and name == "input")

    def __str__(self) -> str:
        return self.name
