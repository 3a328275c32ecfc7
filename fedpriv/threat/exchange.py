"""Exchange: what passed among peers in one round, for positions to take from; Letter: what came with one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


def peer_name(number: int) -> str:
    """What peers call each other."""
    return f"peer {number}"


@dataclass(frozen=True, eq=False)
class Letter:
    """What a peer knows beside a model that it was sent.

    What a peer trains from in a round came of the models of the round before, by weights that follow from the graph.
    Whoever holds all of these models knows where the sender began, and so its local update.

    Attributes:
      sender: whose model it is.
      origin: by name, the weights with which the sender's model at the beginning of the round came of the models in the
        last messages of the round before; None where the adversary cannot know them.
      last: the sender's model as of its last message in this round, `[d]`.
      own: by name, the adversary's own models as of their last messages in this round.
      sent: bool `[d]`, the coordinates that the message had, where it was compressed; `last` is then the public copy of
        the sender's model, which has its values at these coordinates alone, and so do the models that `origin` weighs.
        None where messages are models.
    """

    sender: str
    origin: Mapping[str, float] | None
    last: np.ndarray
    own: Mapping[str, np.ndarray]
    sent: np.ndarray | None = None

    @property
    def whole(self) -> bool:
        """Whether what it was sent is the sender's model, not a compression of it."""
        return self.sent is None


@dataclass(frozen=True, eq=False, kw_only=True)
class Exchange:
    """One round's messages among peers.

    Attributes:
      number: rounds since the first of this run.
      clients: ids of the clients that are peer 0, 1, ...
      start: the model all began with, `[d]`, in the first round; else None.
      begun: the model that a peer began the round with, `[d]`.
      message: what the receivers of a peer's first message know of its model, `[d]`.
      last: the same of its last message in this round.
      links: who sent to whom, int `[m, 2]` of (sender, receiver).
      origin: by sender, as in Letter, for whoever knows all links; None where nobody does.
      public: whether peers know who exchanged with whom, so that they know it too.
      sent: by sender, the coordinates that its message had, bool `[d]`; None where messages are models, not
        compressions of them.
      sums: with masks, by receiver: the senders and the receiver's weights of them. None without masks.
    """

    number: int
    clients: tuple[int, ...]
    start: np.ndarray | None
    begun: Callable[[int], np.ndarray]
    message: Callable[[int], np.ndarray]
    last: Callable[[int], np.ndarray]
    links: np.ndarray
    origin: Callable[[int], Mapping[str, float] | None]
    public: bool
    sent: Callable[[int], np.ndarray] | None = None
    sums: Callable[[int], Mapping[int, float] | None]

    def senders_to(self, receivers: frozenset[int]) -> list[int]:
        """Those outside of `receivers` who sent one of them a message."""
        found = {int(i) for i, j in self.links if int(j) in receivers and int(i) not in receivers}
        return sorted(found)
