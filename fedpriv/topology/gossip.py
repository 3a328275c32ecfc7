"""Gossip: what is fixed of rounds without a server: graph, protocol and weights. `Wiring` is that for so many peers."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, ClassVar

import numpy as np
import scipy.sparse as sp
from pydantic import AfterValidator, Field, ValidationError

from fedpriv.base import registry
from fedpriv.base.errors import FedprivError, ParameterError
from fedpriv.base.plugin import Plugin
from fedpriv.base.types import Config
from fedpriv.topology.graph import Graph
from fedpriv.topology.mixing import (
    DENSE,
    check_doubly_stochastic,
    check_follows,
    check_mixes,
    contraction,
    equal,
    given,
    growth,
    metropolis,
)
from fedpriv.topology.protocol import Protocol


def _made(kind: registry.Registry) -> AfterValidator:
    def check(value: str) -> str:
        try:
            kind.create(value)
        except FedprivError as e:
            raise ValueError(str(e)) from e
        return value

    return AfterValidator(check)


class Gossip(Plugin):
    """Peers that train models of their own and exchange them with their neighbours, without a server."""

    name: ClassVar[str] = "gossip"
    serverless: ClassVar[bool] = True

    graph: Annotated[str, _made(registry.graphs)] = Field(
        default="ring", description="who exchanges with whom, such as `torus(rows=4)`; `fedpriv list graphs`."
    )
    protocol: Annotated[str, _made(registry.gossip)] = Field(
        default="d_psgd", description="how, such as `push_sum` or `choco(gamma=0.2)`; `fedpriv list protocols`."
    )
    mixing: str = Field(
        default="metropolis",
        description=(
            "weights for d_psgd and choco: `metropolis`; `equal`, one over the models that a peer has then; or a file "
            "(.npy or text) of a doubly stochastic [n, n] matrix. Links that go one way always have equal ones."
        ),
    )
    masks: bool = Field(
        default=False,
        description=(
            "whether senders put pairwise masks on, that cancel in each receiver's weighted sum, so that it learns the "
            "sum alone; for d_psgd with one exchange a round."
        ),
    )
    tested: Annotated[int, Field(ge=1)] = Field(
        default=8, description="peers whose own models are tested, evenly chosen; all where there are no more."
    )
    peers: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="number of peers; none is all clients. Rounds that are run to be attacked set it."
    )

    def __init__(self, **settings: Any) -> None:
        """Raises ParameterError for a setting that is not there, or an impossible value."""
        try:
            super().__init__(**settings)
        except ValidationError as e:
            raise ParameterError(registry.explain(e, f"topology '{self.name}'")) from e

    def made_graph(self) -> Graph:
        """The graph, built."""
        made: Graph = registry.graphs.create(self.graph)
        return made

    def made_protocol(self) -> Protocol:
        """The protocol, built."""
        made: Protocol = registry.gossip.create(self.protocol)
        return made

    def config(self) -> Config:
        """What results depend on, however it was written."""
        written: Config = {
            "name": self.name,
            "graph": self.made_graph().config(),
            "protocol": self.made_protocol().config(),
            "mixing": self.mixing,
            "tested": self.tested,
        }
        if self.masks:
            written["masks"] = True
        return written | ({} if self.peers is None else {"peers": self.peers})

    def wiring(self, peers: int) -> Wiring:
        """It for so many peers, checked.

        Raises:
          ParameterError: there is no such graph of that many, it is not connected, or the weights do not fit.
          DataError: a file cannot be read.
        """
        return Wiring(self, peers)


def receives_from_one(matrix: sp.csr_matrix) -> list[int]:
    """Peers that weigh one other peer's model alone, so that masks have nothing to cancel with."""
    entries = matrix.tocoo()
    others = (entries.row != entries.col) & (entries.data != 0)
    return np.flatnonzero(np.bincount(entries.row[others], minlength=matrix.shape[0]) == 1).tolist()


class Wiring:
    """A graph of so many peers, with its weights.

    Attributes:
      gossip: the settings.
      peers: n.
      links: by phase, int `[m, 2]` of (sender, receiver).
      matrices: by phase, `[n, n]` weights; none where the protocol takes none.
    """

    def __init__(self, gossip: Gossip, peers: int) -> None:
        self.gossip, self.peers = gossip, peers
        self.protocol, self.graph = gossip.made_protocol(), gossip.made_graph()
        self.links = self.graph.links(peers)
        self._check_masks()
        self.matrices: list[sp.csr_matrix] = []
        if self.protocol.mixes:
            self.matrices = self._matrices()
        elif gossip.mixing != "metropolis":
            raise ParameterError(
                f"mixing={gossip.mixing} is for protocols that average by a matrix, not for "
                f"'{self.protocol.name}', which divides its mass equally; leave it out, or use protocol=d_psgd"
            )

    def _check_masks(self) -> None:
        protocol = self.protocol
        if not self.gossip.masks:
            return
        if not protocol.sums or protocol.late or protocol.steps_a_round() > 1:
            raise ParameterError(
                f"masks=true needs a protocol whose receivers take one weighted sum a round of messages that arrive in "
                f"time, but this is {self.gossip.protocol}; use d_psgd with steps=1 and delay=0"
            )

    def _matrices(self) -> list[sp.csr_matrix]:
        how, name = self.gossip.mixing, f"mixing={self.gossip.mixing}"
        if how not in ("metropolis", "equal"):
            if len(self.links) > 1:
                raise ParameterError(f"{name} is one matrix, but graph '{self.graph.name}' changes; use another graph")
            found = [given(how, self.peers)]
            check_doubly_stochastic(found[0], name)
            check_follows(found[0], self.links[0], name)
            check_mixes(found[0], name)
            return found
        if self.graph.directed and how == "metropolis":
            name = f"graph '{self.graph.name}' with equal weights"
        alike = equal if self.graph.directed or how == "equal" else metropolis
        found = [alike(links, self.peers) for links in self.links]
        for matrix in found:
            check_doubly_stochastic(matrix, name)
        return found

    def at(self, number: int) -> tuple[np.ndarray, sp.csr_matrix | None]:
        """Links and weights of round `number`, counted from the first."""
        phase = number % len(self.links)
        return self.links[phase], self.matrices[phase] if self.matrices else None

    def among(self, number: int, present: np.ndarray) -> tuple[np.ndarray, sp.csr_matrix | None]:
        """As `at`, without links to or from peers that are missing; the weights of those go to the two peers' own.

        Raises:
          ParameterError: links go one way, so that no weights are left that keep the mean.
        """
        links, matrix = self.at(number)
        if present.all():
            return links, matrix
        links = links[present[links].all(1)]
        if matrix is None:
            return links, None
        if self.graph.directed:
            raise ParameterError(
                f"peers {np.flatnonzero(~present).tolist()[:5]} are missing from round {number}, and the weights of "
                f"graph '{self.graph.name}', whose links go one way, are then not doubly stochastic; use "
                "protocol=push_sum, or a graph whose links go both ways"
            )
        entries = matrix.tocoo()
        kept = (entries.row == entries.col) | (present[entries.row] & present[entries.col])
        parts = entries.data[kept], (entries.row[kept], entries.col[kept])
        left = sp.csr_matrix(parts, matrix.shape)
        return links, (left + sp.diags(1.0 - np.asarray(left.sum(1)).ravel())).tocsr()

    @cached_property
    def contraction(self) -> float | None:
        """By which factor an exchange shrinks the consensus distance at least; None where weights are drawn."""
        return contraction(self.matrices) if self.matrices else None

    @property
    def gap(self) -> float | None:
        """The spectral gap, 1 minus the contraction."""
        return None if self.contraction is None else 1 - self.contraction

    @cached_property
    def degrees(self) -> np.ndarray:
        """By peer, to how many it sends in a round at most, int `[n]`."""
        return np.max([np.bincount(links[:, 0], minlength=self.peers) for links in self.links], 0)

    def notes(self) -> list[str]:
        """What a user should know of it beforehand, as sentences without a full stop."""
        low, high = int(self.degrees.min()), int(self.degrees.max())
        each = f"{low}" if low == high else f"{low} to {high}"
        period = f", of {len(self.links)} graphs in turn" if len(self.links) > 1 else ""
        said = f"{self.gossip.graph} of {self.peers} peers{period}: connected, each sends to {each} a round"
        if self.contraction is not None:
            exact = not self.protocol.late and not hasattr(self.protocol, "compression")
            exchange = "an exchange" if exact else "an exchange of whole models in time would shrink"
            said += (
                f"; spectral gap {1 - self.contraction:.3g} ({exchange}{' shrinks' if exact else ''} the consensus "
                f"distance at least by the factor {self.contraction:.6g}{', on average over these' if period else ''})"
            )
        found = [said, *self._parting()]
        if self.gossip.masks and (bare := self.unmasked()):
            found.append(
                f"masks hide nothing at the {len(bare)} peers that receive from one peer alone in a round (such as "
                f"peer {bare[0]}): a sum over one model is that model"
            )
        return found

    def _parting(self) -> list[str]:
        """That CHOCO's step is too large for the coordinates that are sent, where that is known beforehand."""
        written = getattr(self.protocol, "compression", None)
        made = None if written is None else registry.defenses.create(written)
        if made is None or not made.draws_coordinates or len(self.matrices) != 1 or self.peers > DENSE:
            return []
        gamma = self.protocol.gamma  # type: ignore[attr-defined]
        factor = growth(self.matrices[0], made.fraction, gamma)
        if factor < 1:
            return []
        fits = gamma
        while growth(self.matrices[0], made.fraction, fits) > 0.999 and fits > gamma / 1000:
            fits /= 2
        return [
            f"gamma={gamma:g} is too large for '{written}': copies are old, and models move by them in every round, so "
            f"that the consensus distance grows by the factor {factor:.4g} a round; give gamma={fits:.2g} or so"
        ]

    def unmasked(self) -> list[int]:
        """Peers at which masks have nothing to cancel with, since they receive from one peer alone in some phase."""
        return sorted({peer for matrix in self.matrices for peer in receives_from_one(matrix)})
