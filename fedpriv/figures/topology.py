"""Topology figure: who sends to whom, and with which spectral gap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedpriv.figures.style import NORMAL, PALETTE, QUIET, SMALL, WIDTH, add_axes, new_figure, styled, text_size, wrap
from fedpriv.topology.gossip import Wiring

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Peers up to which each has its number, and up to which it is a circle of full size.
_NUMBERED, _LARGE = 40, 120
#: Most phases of a graph that changes that are drawn beside each other, and how many stand in a row.
_PHASES, _IN_ROW = 6, 3


def topology_figure(wiring: Wiring) -> Figure:
    """Peers as circles, links as lines, as arrows where they go one way; one panel for each of a graph's phases.

    Args:
      wiring: the graph of so many peers, with its weights.
    """
    shown = wiring.links[:_PHASES]
    columns = min(len(shown), _IN_ROW)
    rows = -(-len(shown) // columns)
    side = min(4.4, (WIDTH - 0.3) / columns - 0.1)
    with styled():
        figure = new_figure(WIDTH, 1)
        words = wrap(_words(wiring, len(shown)), 92)
        heads = text_size(figure, words, NORMAL)[1]
        above = 0.24 if len(shown) > 1 else 0.0
        height = 0.2 + heads + rows * (side + above + 0.1)
        figure.set_size_inches(WIDTH, height)
        figure.text(0.12 / WIDTH, 1 - 0.1 / height, words, va="top", fontsize=NORMAL)
        places = _places(wiring)
        for phase, links in enumerate(shown):
            row, column = divmod(phase, columns)
            top = 0.2 + heads + row * (side + above + 0.1) + above
            left = (WIDTH - columns * side) / 2 + column * side
            axes = add_axes(figure, left, top, side, side)
            _draw(axes, places, links, wiring.graph.directed, side)
            if above:
                axes.set_title(f"round {phase}, {phase + len(wiring.links)}, ...", fontsize=SMALL + 0.5, color=QUIET)
    return figure


def _words(wiring: Wiring, shown: int) -> str:
    said = f"{wiring.gossip.graph}, {wiring.peers} peers"
    if wiring.gap is not None:
        said += f"; spectral gap {wiring.gap:.3g}"
    if shown < len(wiring.links):
        said += f"; the first {shown} of {len(wiring.links)} graphs in turn"
    return said


def _places(wiring: Wiring) -> np.ndarray:
    """Where each peer is drawn, `[n, 2]` in the unit square: in rows, around the middle, by springs, or in a circle."""
    import networkx as nx

    n, name = wiring.peers, wiring.graph.name
    if name in ("grid", "torus"):
        from fedpriv.topology.graph import shape_of

        _, columns = shape_of(wiring.graph, n)
        at = np.array([(i % columns, -(i // columns)) for i in range(n)], float)
        if name == "torus":  # links around the edge would lie on those between
            at = at + 0.18 * np.stack([np.sin(1.7 * at[:, 1]), np.sin(1.7 * at[:, 0])], 1)
    elif name == "star":
        turn = 2 * np.pi * np.arange(n - 1) / (n - 1)
        at = np.concatenate([[[0.0, 0.0]], np.stack([np.sin(turn), np.cos(turn)], 1)])
    elif name in ("erdos_renyi", "random_regular", "edges") and n <= 500:
        graph = nx.Graph(map(tuple, wiring.links[0].tolist()))
        graph.add_nodes_from(range(n))
        found = nx.spring_layout(graph, seed=0, iterations=200)
        at = np.array([found[i] for i in range(n)])
    else:
        turn = 2 * np.pi * np.arange(n) / n
        at = np.stack([np.sin(turn), np.cos(turn)], 1)
    low, high = at.min(0), at.max(0)
    middle, scale = (low + high) / 2, max((high - low).max(), 1e-9)
    return (at - middle) / scale * 0.86 + 0.5


def _draw(axes: Axes, places: np.ndarray, links: np.ndarray, directed: bool, side: float) -> None:
    from matplotlib.collections import LineCollection

    n = len(places)
    size = 150.0 if n <= _NUMBERED else 40 if n <= _LARGE else 6
    size *= min(1.0, side / 3.2)
    width, strength = (0.9, 0.75) if len(links) <= 400 else (0.4, 0.35)
    if directed and len(links) <= 400:
        for sender, receiver in links.tolist():
            axes.annotate(
                "",
                places[receiver],
                places[sender],
                arrowprops={
                    "arrowstyle": "-|>",
                    "color": QUIET,
                    "linewidth": width,
                    "alpha": strength,
                    "shrinkA": 4,
                    "shrinkB": size**0.5 / 2 + 1,
                    "mutation_scale": 7,
                    "connectionstyle": "arc3,rad=0.08",
                },
            )
    else:
        once = links[links[:, 0] < links[:, 1]] if not directed else links
        axes.add_collection(LineCollection(places[once], colors=QUIET, linewidths=width, alpha=strength, zorder=1))
    axes.scatter(places[:, 0], places[:, 1], s=size, color=PALETTE[0], zorder=2, edgecolors="w", linewidths=0.6)
    if n <= _NUMBERED and side > 1.6:
        for i, (x, y) in enumerate(places):
            axes.text(x, y, str(i), ha="center", va="center", fontsize=SMALL - 1, color="w", zorder=3)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    axes.axis("off")
