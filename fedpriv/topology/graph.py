"""Graph: which peers send to which, as plug-ins of the group `fedpriv.graphs`; made with networkx.

A graph may change from round to round with a period; it must be connected over one. Peers are numbered from 0.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import BeforeValidator, Field

from fedpriv.base.errors import DataError, ParameterError
from fedpriv.base.plugin import Plugin

if TYPE_CHECKING:
    import networkx as nx

#: Draws of a random graph before a connected one is given up.
TRIES = 100


class Graph(Plugin):
    """Base of all graphs."""

    #: Whether a link goes one way only; its weights are then one over the messages that arrive, one's own included.
    directed: ClassVar[bool] = False
    #: Least number of peers.
    least: ClassVar[int] = 2
    #: What to do where it is not connected.
    mend: ClassVar[str] = "add links between them"

    @abstractmethod
    def build(self, peers: int, phase: int) -> nx.Graph | nx.DiGraph:
        """The links in rounds of one phase, on nodes 0 to peers - 1; of a directed graph from sender to receiver.

        Raises:
          ParameterError: there is no such graph of that many peers.
        """

    def period(self, peers: int) -> int:
        """After how many rounds it repeats."""
        return 1

    def links(self, peers: int) -> list[np.ndarray]:
        """By phase, who sends to whom: int64 `[m, 2]` of (sender, receiver), both ways where links go both ways.

        Raises:
          ParameterError: it has too few peers, there is no such graph of that many, or it is not connected.
        """
        import networkx as nx

        if peers < self.least:
            raise ParameterError(f"graph '{self.name}' needs at least {self.least} peers, but there are {peers}")
        whole = nx.DiGraph()
        whole.add_nodes_from(range(peers))
        found = []
        for phase in range(self.period(peers)):
            made = self.build(peers, phase)
            made.remove_edges_from(list(nx.selfloop_edges(made)))
            edges = np.array(sorted(made.edges), np.int64).reshape(-1, 2)
            if not made.is_directed():
                edges = np.concatenate([edges, edges[:, ::-1]])
                edges = edges[np.lexsort(edges.T[::-1])]
            whole.add_edges_from(map(tuple, edges.tolist()))
            found.append(edges)
        parts = sorted(nx.strongly_connected_components(whole), key=min)
        if len(parts) > 1:
            some = sorted(parts[1])
            named = ", ".join(map(str, some[:5])) + (", ..." if len(some) > 5 else "")
            raise ParameterError(
                f"graph '{self.name}' of {peers} peers is not connected: nothing of peer {min(parts[0])} reaches peer"
                f"{'s' if len(some) > 1 else ''} {named}, or nothing of theirs reaches it ({len(parts)} parts); "
                f"{self.mend}"
            )
        return found


class Ring(Graph):
    """Every peer with the one before it and the one after it, in a circle."""

    name: ClassVar[str] = "ring"

    def build(self, peers: int, phase: int) -> nx.Graph:
        """A cycle; of two peers a single link."""
        import networkx as nx

        return nx.path_graph(2) if peers == 2 else nx.cycle_graph(peers)


def _squarest(peers: int, least: int) -> int:
    """The number of rows of the most nearly square arrangement; 0 where there is none."""
    return max((r for r in range(least, math.isqrt(peers) + 1) if peers % r == 0), default=0)


def _rows(name: str, peers: int, rows: int | None, least: int) -> tuple[int, int]:
    """Rows and columns, as square as they can be where no number of rows is given."""
    if rows is not None and (peers % rows or peers // rows < least):
        below = max(peers // rows, least)
        near = sorted({below * rows, (below + 1) * rows}, key=lambda n: abs(n - peers))
        raise ParameterError(
            f"{peers} peers make no {name} of {rows} rows and columns of at least {least} each; take a number of peers "
            f"such as {', '.join(map(str, near))}{', or leave rows out' if _squarest(peers, least) else ''}"
        )
    if rows is None:
        rows = _squarest(peers, least)
    if not rows:
        near = [n for n in range(max(least**2, peers - 8), peers + 9) if _squarest(n, least)]
        near.sort(key=lambda n: abs(n - peers))
        raise ParameterError(
            f"{peers} peers make no {name} of rows and columns of at least {least} "
            f"each; take a number of peers such as {', '.join(map(str, near[:3]))}"
        )
    return rows, peers // rows


def shape_of(graph: Graph, peers: int) -> tuple[int, int]:
    """Rows and columns of a grid or a torus of so many peers."""
    return _rows(graph.name, peers, getattr(graph, "rows", None), 3 if graph.name == "torus" else 2)


class Grid(Graph):
    """Rows and columns; every peer with those beside, above and below it."""

    name: ClassVar[str] = "grid"
    least: ClassVar[int] = 4

    rows: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="number of rows; none takes the most nearly square grid."
    )

    def build(self, peers: int, phase: int) -> nx.Graph:
        """A grid, numbered row by row."""
        import networkx as nx

        return nx.convert_node_labels_to_integers(
            nx.grid_2d_graph(*_rows("grid", peers, self.rows, 2)), ordering="sorted"
        )


class Torus(Graph):
    """A grid whose first and last row, and first and last column, are beside each other: four links a peer."""

    name: ClassVar[str] = "torus"
    least: ClassVar[int] = 9

    rows: Annotated[int, Field(ge=3)] | None = Field(
        default=None, description="number of rows; none takes the most nearly square torus."
    )

    def build(self, peers: int, phase: int) -> nx.Graph:
        """A periodic grid, numbered row by row."""
        import networkx as nx

        grid = nx.grid_2d_graph(*_rows("torus", peers, self.rows, 3), periodic=True)
        return nx.convert_node_labels_to_integers(grid, ordering="sorted")


class Complete(Graph):
    """Every peer with every other."""

    name: ClassVar[str] = "complete"

    def build(self, peers: int, phase: int) -> nx.Graph:
        """All pairs."""
        import networkx as nx

        return nx.complete_graph(peers)


class Star(Graph):
    """Peer 0 with every other; the others with it alone."""

    name: ClassVar[str] = "star"

    def build(self, peers: int, phase: int) -> nx.Graph:
        """A star around peer 0."""
        import networkx as nx

        return nx.star_graph(peers - 1)


class _Random(Graph):
    """Base of graphs that are drawn; drawn again, up to 100 times, until one is connected."""

    mend: ClassVar[str] = f"none of {TRIES} draws is; give more links, or another seed"

    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="of the graph, which is public.")

    @abstractmethod
    def draw(self, peers: int, seed: int) -> nx.Graph:
        """One draw."""

    def build(self, peers: int, phase: int) -> nx.Graph:
        """The first connected draw; the last one where none is."""
        import networkx as nx

        for attempt in range(TRIES):
            made = self.draw(peers, self.seed * TRIES + attempt)
            if nx.is_connected(made):
                break
        return made


class RandomRegular(_Random):
    """A random graph in which all peers have equally many links."""

    name: ClassVar[str] = "random_regular"

    degree: Annotated[int, Field(ge=1)] = Field(default=4, description="links a peer.")

    def draw(self, peers: int, seed: int) -> nx.Graph:
        """By networkx's pairing."""
        import networkx as nx

        if self.degree >= peers or self.degree * peers % 2:
            raise ParameterError(
                f"{peers} peers make no random_regular graph of degree={self.degree}: the degree must lie below the "
                "number of peers, and one of the two must be even"
            )
        return nx.random_regular_graph(self.degree, peers, seed=seed)


class SmallWorld(_Random):
    """A ring with links to the nearest peers, some of which lead to random ones instead.

    Watts, Strogatz 1998, "Collective dynamics of 'small-world' networks", Nature 393.
    """

    name: ClassVar[str] = "small_world"
    paper: ClassVar[str] = "Watts, Strogatz 1998, Nature 393"

    neighbours: Annotated[int, Field(ge=2)] = Field(
        default=4, description="nearest peers on the ring that each is linked to; an odd number counts one less."
    )
    rewire: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.1, description="probability that a link leads to a random peer instead."
    )

    def draw(self, peers: int, seed: int) -> nx.Graph:
        """By networkx."""
        import networkx as nx

        if self.neighbours >= peers:
            raise ParameterError(
                f"{peers} peers make no small_world graph of neighbours={self.neighbours}; give fewer than {peers}"
            )
        return nx.watts_strogatz_graph(peers, self.neighbours, self.rewire, seed=seed)


class ErdosRenyi(_Random):
    """Every pair of peers is linked with the same probability, independently of all others.

    Erdős, Rényi 1959, "On random graphs I", in Gilbert's form.
    """

    name: ClassVar[str] = "erdos_renyi"
    paper: ClassVar[str] = "Erdős, Rényi 1959"

    probability: Annotated[float, Field(gt=0, le=1)] = Field(default=0.3, description="of each link.")

    def draw(self, peers: int, seed: int) -> nx.Graph:
        """By networkx."""
        import networkx as nx

        return nx.gnp_random_graph(peers, self.probability, seed=seed)


def _jumps(peers: int) -> list[int]:
    return [2**k for k in range(math.ceil(math.log2(peers)))]


class Exponential(Graph):
    """Every peer sends to those 1, 2, 4, 8, ... places further in a circle: about log2 of their number, one way.

    Assran, Loizou, Ballas, Rabbat 2019, "Stochastic Gradient Push", arXiv 1811.10792.
    """

    name: ClassVar[str] = "exponential"
    paper: ClassVar[str] = "Assran, Loizou, Ballas, Rabbat 2019, arXiv 1811.10792"
    directed: ClassVar[bool] = True

    def build(self, peers: int, phase: int) -> nx.DiGraph:
        """A circulant graph."""
        import networkx as nx

        return nx.DiGraph((i, (i + jump) % peers) for i in range(peers) for jump in _jumps(peers))


class OnePeerExponential(Graph):
    """Every peer sends to one other a round: the one 1, then 2, then 4, ... places further, then 1 again.

    With 2^k peers, and equal weights, k rounds give everybody the exact mean. Assran, Loizou, Ballas, Rabbat 2019,
    arXiv 1811.10792; Ying, Yuan, Chen, Hu, Pan, Yin 2021, "Exponential Graph is Provably Efficient for Decentralized
    Deep Training", arXiv 2110.13363.
    """

    name: ClassVar[str] = "one_peer_exponential"
    paper: ClassVar[str] = "Ying et al. 2021, arXiv 2110.13363"
    directed: ClassVar[bool] = True

    def period(self, peers: int) -> int:
        """Rounds until the jumps begin anew, log2 of the number of peers, rounded up."""
        return len(_jumps(peers))

    def build(self, peers: int, phase: int) -> nx.DiGraph:
        """One jump for all."""
        import networkx as nx

        jump = _jumps(peers)[phase]
        return nx.DiGraph((i, (i + jump) % peers) for i in range(peers))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()  # isdigit alone takes a superscript for one


def _pairs(value: Any) -> Any:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple):
        return value
    found = []
    for pair in value:
        ends = pair.split("-") if isinstance(pair, str) else list(pair)
        if len(ends) != 2 or not all(_is_number(str(e).strip()) for e in ends):
            raise ValueError(f"{pair!r} is no link; write two peers' numbers, such as 0-1")
        found.append((int(ends[0]), int(ends[1])))
    return tuple(found)


class Edges(Graph):
    """The links of a list: of a file with two peers' numbers a line, or given as `[0-1,1-2]`."""

    name: ClassVar[str] = "edges"

    path: str | None = Field(
        default=None,
        description="text file with a link a line: two peers' numbers, apart by spaces or a comma; # begins a comment.",
    )
    pairs: Annotated[tuple[tuple[int, int], ...], BeforeValidator(_pairs)] | None = Field(
        default=None, description="the links themselves, such as `[0-1,1-2]`."
    )

    def build(self, peers: int, phase: int) -> nx.Graph:
        """The list's links.

        Raises:
          ParameterError: it names a peer that is not there, or neither or both of file and list are given.
          DataError: the file cannot be read.
        """
        import networkx as nx

        if (self.path is None) == (self.pairs is None):
            raise ParameterError("graph 'edges' needs either path=... or pairs=[0-1,1-2]; give one")
        listed = (
            self._read() if self.path is not None else [(f"pair {i + 1}", p) for i, p in enumerate(self.pairs or ())]
        )
        made = nx.empty_graph(peers)
        for where, (a, b) in listed:
            strange = next((e for e in (a, b) if not 0 <= e < peers), None)
            if strange is not None:
                raise ParameterError(
                    f"graph 'edges', {where}: there is no peer {strange}; there are {peers}, numbered from 0"
                )
            made.add_edge(a, b)
        return made

    def _read(self) -> list[tuple[str, tuple[int, int]]]:
        assert self.path is not None
        try:
            lines = Path(self.path).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as e:
            raise DataError(f"graph 'edges': {self.path} cannot be read: {e}; give a text file of links") from e
        found = []
        for number, line in enumerate(lines, 1):
            ends = line.partition("#")[0].replace(",", " ").split()
            if not ends:
                continue
            if len(ends) != 2 or not all(_is_number(e) for e in ends):
                raise DataError(
                    f"graph 'edges': {self.path}, line {number}: '{line.strip()[:40]}' is no link; write two peers' "
                    "numbers"
                )
            found.append((f"{Path(self.path).name}, line {number}", (int(ends[0]), int(ends[1]))))
        return found
