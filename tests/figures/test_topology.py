"""The topology figure: everybody is drawn, links as often as there are, and what the graph is called."""

import pytest

from fedpriv.figures.topology import topology_figure
from fedpriv.topology.gossip import Gossip


@pytest.mark.parametrize(
    ("graph", "peers", "links"),
    [("ring", 8, 8), ("torus", 12, 24), ("star", 6, 5), ("edges(pairs=[0-1,1-2])", 3, 2), ("complete", 50, 1225)],
)
def test_peers_and_links_are_drawn(graph, peers, links):
    figure = topology_figure(Gossip(graph=graph).wiring(peers))
    (axes,) = figure.axes
    lines, circles = axes.collections
    assert len(lines.get_segments()) == links
    assert len(circles.get_offsets()) == peers
    assert figure.texts[0].get_text().replace("\n", " ").startswith(f"{graph}, {peers} peers; spectral gap")
    at = circles.get_offsets()
    assert len({tuple(p) for p in at.round(6).tolist()}) == peers
    assert at.min() > 0
    assert at.max() < 1


def test_links_that_go_one_way_are_arrows_and_graphs_in_turn_are_panels():
    figure = topology_figure(Gossip(graph="one_peer_exponential").wiring(8))
    assert len(figure.axes) == 3
    arrows = [t for t in figure.axes[0].texts if getattr(t, "arrow_patch", None) is not None]
    assert len(arrows) == 8
    assert figure.axes[1].get_title().startswith("round 1, 4")
    many = topology_figure(Gossip(graph="one_peer_exponential").wiring(200))
    assert "the first 6 of 8 graphs in turn" in many.texts[0].get_text()
