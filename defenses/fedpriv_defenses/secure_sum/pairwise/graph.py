"""Graph: who shares keys with whom, and how many neighbours make that safe (Bell et al., 2020)."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from fedpriv.base.errors import StackError
from fedpriv_defenses.secure_sum.counting import exact


@dataclass(frozen=True)
class Degree:
    """How many neighbours each client has, and how many of them recover its secrets.

    Attributes:
      neighbours: k, even unless everybody is everybody's neighbour.
      threshold: t, of the k neighbours and the client itself.
      exposed: bound on the probability that corrupted clients and the server learn more than the sum: t corrupted
        neighbours of one honest client, or honest survivors whose graph falls apart.
      stuck: bound on the probability that a round cannot be finished: fewer than t survivors around some client.
    """

    neighbours: int
    threshold: int
    exposed: float
    stuck: float

    def describe(self, clients: int) -> str:
        """One sentence for people."""
        if self.neighbours >= clients - 1 and not self.exposed and not self.stuck:
            return (
                f"{clients} clients, each sharing keys with all others, and {self.threshold} recover a client's "
                f"secrets: up to {self.threshold - 1} may work with the server, and up to {clients - self.threshold} "
                "may go"
            )
        who = "all others" if self.neighbours >= clients - 1 else f"{self.neighbours} others on a random graph"
        return (
            f"{clients} clients, each sharing keys with {who}, and {self.threshold} recover a client's secrets: "
            f"more than the sum is revealed with probability at most {_power(self.exposed)}, and the round cannot be "
            f"finished with probability at most {_power(self.stuck)}"
        )


def _power(p: float) -> str:
    return "0" if p <= 0 else "1" if p >= 1 else f"2^{math.log2(p):.1f}"


@functools.lru_cache(maxsize=256)
def degree_for(clients: int, corrupted: float, dropout: float, security_bits: float, correctness_bits: float) -> Degree:
    """The fewest neighbours that suffice for a number of clients.

    Args:
      clients: n.
      corrupted: share of them that may work with the server.
      dropout: share of them that may go.
      security_bits: `exposed` is at most 2^-this.
      correctness_bits: `stuck` is at most 2^-this.

    Raises:
      StackError: not even everybody suffices.
    """
    bad, gone = most_of(corrupted, clients), most_of(dropout, clients)
    for k in range(2, clients - 1, 2):
        found = _with_degree(clients, k, bad, gone, 2.0**-security_bits, 2.0**-correctness_bits)
        if found is not None:
            return found
    gone = math.floor(exact(dropout) * clients)
    lowest, highest = bad + 1, clients - gone
    if highest < lowest:
        raise StackError(
            f"with corrupted={corrupted:g} and dropout={dropout:g}, {bad} of {clients} clients may be corrupted and "
            f"{gone} may go: the {clients - gone} left cannot outnumber the corrupted; lower one of the two"
        )
    return Degree(clients - 1, (lowest + highest + 1) // 2, 0.0, 0.0)


def most_of(share: float, clients: int) -> int:
    """How many clients a share of them is, rounded up, exactly as the share is written; one at least stays."""
    return min(math.ceil(exact(share) * clients), clients - 1)


def bounds(clients: int, neighbours: int, threshold: int, corrupted: float, dropout: float) -> Degree:
    """What a degree and a threshold that somebody chose are worth; see `degree_for`.

    Raises:
      StackError: an odd degree, or a threshold above the number of holders.
    """
    k = min(neighbours, clients - 1)
    if k < clients - 1 and k % 2:
        raise StackError(f"neighbours={neighbours} is odd; a ring of {clients} clients takes an even number")
    if threshold > k + 1:
        raise StackError(
            f"threshold={threshold} is above the {k} neighbours and the client itself, who hold its shares; lower it"
        )
    bad, gone = most_of(corrupted, clients), most_of(dropout, clients)
    exposed = clients * float(at_least(clients - 1, bad, k)[threshold])
    needed_gone = k - threshold + 1
    stuck = clients * float(at_least(clients - 1, gone, k)[needed_gone]) if needed_gone else float(gone > 0)
    apart = 0.0 if k == clients - 1 else _apart(clients, k, bad + gone)
    return Degree(k, threshold, min(1.0, exposed + apart), min(1.0, stuck))


def _with_degree(n: int, k: int, bad: int, gone: int, exposed: float, stuck: float) -> Degree | None:
    """A threshold for k neighbours that keeps both bounds: hypergeometric tails over a random place in the graph."""
    apart = _apart(n, k, bad + gone)
    if apart > exposed:
        return None
    thresholds = np.arange(1, k + 1)
    opened = n * at_least(n - 1, bad, k)[thresholds]
    lost = n * at_least(n - 1, gone, k)[k - thresholds + 1]
    fine = np.flatnonzero((opened + apart <= exposed) & (lost <= stuck))
    if not len(fine):
        return None
    worst = np.maximum(opened[fine] / exposed, lost[fine] / stuck)
    tied = fine[worst == worst.min()]
    best = tied[len(tied) // 2]
    return Degree(k, int(thresholds[best]), float(opened[best] + apart), float(lost[best]))


def at_least(others: int, marked: int, drawn: int) -> np.ndarray:
    """P(at least i of `drawn` are marked) for i = 0 to drawn + 1, drawn without replacement from `others`.

    Summed from the far end over `drawn` + 1 terms, so that tails of 1e-40 come out right, for a billion clients too.
    """
    i = np.arange(drawn + 1)
    possible = (i <= marked) & (drawn - i <= others - marked)
    j = i[possible]
    logs = _choose(marked, j) + _choose(others - marked, drawn - j) - _choose(others, np.array(drawn))
    mass = np.zeros(drawn + 2)
    mass[:-1][possible] = np.exp(logs)
    return np.minimum(np.cumsum(mass[::-1])[::-1], 1.0)


def _choose(n: int, k: np.ndarray) -> np.ndarray:
    """The logarithm of the binomial coefficient."""
    return -special.betaln(n - k + 1, k + 1) - np.log(n + 1)


def _apart(n: int, k: int, missing: int) -> float:
    """Bound on the probability that the honest survivors' ring falls apart: k / 2 places in a row are missing."""
    run = k // 2
    if missing < run:
        return 0.0
    logs = [math.log((missing - i) / (n - i)) for i in range(run)]
    return min(1.0, n * math.exp(math.fsum(logs)))


def neighbours_of(clients: Sequence[int], degree: int, seed: bytes) -> dict[int, tuple[int, ...]]:
    """Each client's neighbours, ascending: a ring in random order where each knows `degree` / 2 to either side.

    This is the Harary graph of Bell et al. (2020) with its vertices permuted at random. With `degree` at least n - 1
    everybody is everybody's neighbour.

    Args:
      clients: ids.
      degree: even where it is below n - 1.
      seed: for the order; the server's draw.
    """
    if degree >= len(clients) - 1:
        return {c: tuple(o for o in sorted(clients) if o != c) for c in clients}
    order = sorted(clients)
    random.Random(seed).shuffle(order)
    n, half = len(order), degree // 2
    return {
        c: tuple(sorted(order[(i + step) % n] for step in range(-half, half + 1) if step)) for i, c in enumerate(order)
    }


def components(members: Sequence[int], edges: dict[int, set[int]]) -> list[tuple[int, ...]]:
    """The connected parts of a graph on `members`, each ascending, in order of their smallest."""
    left, found = set(members), []
    while left:
        start = min(left)
        part, frontier = {start}, [start]
        while frontier:
            for other in edges[frontier.pop()] & left - part:
                part.add(other)
                frontier.append(other)
        left -= part
        found.append(tuple(sorted(part)))
    return found
