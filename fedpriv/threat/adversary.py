"""Adversary: who attacks, and what it knows besides what passes its tap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedpriv.base.errors import ParameterError, did_you_mean

Position = Literal["server", "aggregators", "eavesdropper", "observer"]

#: Things an adversary may know beyond its position.
KNOWLEDGE = {
    "labels": "the labels of the examples behind the update",
    "num_examples": "how many examples each client trained on",
    "procedure": "local epochs, batch size, learning rate and client optimizer",
    "defense": "which defenses run, with their parameters (not their random draws)",
    "batch_statistics": "the batch-norm statistics of the client's batch, as clients that send their buffers give away",
}


@dataclass(frozen=True)
class Adversary:
    """A position on the line and a body of knowledge.

    Attributes:
      position: `server` (honest but curious: all messages that reach it), `aggregators` (a coalition of the
        secure-aggregation parties listed in `corrupted`), `eavesdropper` (the wire between client and server,
        when unencrypted), `observer` (anyone who sees only the models the server releases, such as another
        client or a later user).
      knows: subset of KNOWLEDGE.
      corrupted: party indices, for `aggregators`.
    """

    position: Position = "server"
    knows: frozenset[str] = frozenset({"num_examples", "procedure", "defense"})
    corrupted: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        positions = ("server", "aggregators", "eavesdropper", "observer")
        if self.position not in positions:
            raise ParameterError(
                f"adversary position '{self.position}' is unknown.{did_you_mean(self.position, positions)}"
            )
        object.__setattr__(self, "knows", frozenset(self.knows))
        for item in self.knows:
            if item not in KNOWLEDGE:
                raise ParameterError(f"an adversary cannot know '{item}'.{did_you_mean(item, KNOWLEDGE)}")
        if self.position == "aggregators" and not self.corrupted:
            raise ParameterError("an aggregator coalition needs its members; give corrupted=(0, ...)")
        if self.position != "aggregators" and self.corrupted:
            raise ParameterError(
                f"corrupted={self.corrupted} names aggregators, but the adversary is the {self.position}; "
                "use position 'aggregators', or leave it out"
            )

    def knowing(self, *items: str) -> Adversary:
        """The same adversary, knowing these too."""
        return Adversary(self.position, self.knows | set(items), self.corrupted)

    def describe(self) -> str:
        """One plain sentence for reports."""
        who = {
            "server": "An honest-but-curious server, which follows the protocol and keeps what it receives",
            "aggregators": f"A coalition of the aggregators {list(self.corrupted)}",
            "eavesdropper": "An eavesdropper on the unencrypted wire between client and server",
            "observer": "Anyone who sees only the models the server releases",
        }[self.position]
        known = "; ".join(KNOWLEDGE[k] for k in sorted(self.knows)) or "nothing else"
        return f"{who}. It also knows: {known}."


def honest_but_curious_server(*also_knows: str) -> Adversary:
    """The server of the gradient-inversion literature."""
    return Adversary().knowing(*also_knows)
