"""Protocol: how peers exchange their models after local training; plug-ins of the group `fedpriv.gossip`.

Two families. Where the weights are doubly stochastic, every peer takes a weighted mean of what it receives. Where they
are not, peers pass on parts of a mass: a model times a sum-weight, beside the sum-weight itself; what a peer trains and
is tested with is its mass over its sum-weight, and no exchange changes the sums over all peers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
import scipy.sparse as sp
from pydantic import BeforeValidator, Field

from fedpriv.base import registry
from fedpriv.base.errors import FedprivError
from fedpriv.base.plugin import Plugin
from fedpriv.topology.average import mix, mix_and_measure, pull

#: Bits of a sum-weight beside a model.
WEIGHT_BITS = 32

Own = dict[str, np.ndarray]
#: Models `[c, d]` to what is sent of them, `[c, d]`, and the bits of each, int `[c]`.
Compress = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(kw_only=True)
class Moment:
    """All peers when they begin to exchange.

    Attributes:
      models: `[n, d]` after local training, times their sum-weights; overwritten unless `kept`.
      masses: sum-weights, float64 `[n]`; ones where a protocol has none.
      own: what the protocol keeps.
      links: who can send to whom in this round, int `[m, 2]` of (sender, receiver), both of them there.
      matrix: this round's weights `[n, n]`, doubly stochastic, where the protocol takes such.
      number: rounds since the first.
      rng: of this round's draws.
      compress: where the protocol compresses.
      mix: weights `[n, n]` times models, into a third array; with masks, by masked messages.
      kept: whether somebody reads the messages afterwards.
      room: an array for models.
    """

    models: np.ndarray
    masses: np.ndarray
    own: Own
    links: np.ndarray
    matrix: sp.csr_matrix | None
    number: int
    rng: np.random.Generator
    compress: Compress | None = None
    mix: Callable[[sp.csr_matrix, np.ndarray, np.ndarray], np.ndarray] = mix
    kept: bool = True
    room: Callable[[], np.ndarray] | None = None

    def place(self) -> np.ndarray:
        """Where mixed models go: over the old ones, unless these are kept."""
        if not self.kept:
            return self.models
        return np.empty_like(self.models) if self.room is None else self.room()


@dataclass(kw_only=True)
class Exchanged:
    """All peers after an exchange.

    Attributes:
      models, masses, own: as in Moment.
      links: who sent to whom, int `[m, 2]`.
      message: what the receivers of peer i's first message know of its model then, `[d]`.
      last: the same of its last message of the round.
      sent: by sender, the coordinates that its message had, bool `[d]`; None where messages are not compressed.
      bits: of all messages.
      log: numbers for the round's record.
      summary: the models' mean, float64 `[d]`, and their root mean square distance from it, where that is known
        already.
    """

    models: np.ndarray
    masses: np.ndarray
    own: Own
    links: np.ndarray
    message: Callable[[int], np.ndarray]
    last: Callable[[int], np.ndarray]
    sent: Callable[[int], np.ndarray] | None = None
    bits: int = 0
    log: dict[str, float] = field(default_factory=dict)
    summary: tuple[np.ndarray, float] | None = None


class Protocol(Plugin):
    """Base of all protocols."""

    #: Whether it takes doubly stochastic weights.
    mixes: ClassVar[bool] = False
    #: Whether a local update is multiplied with its peer's sum-weight, for a mass that is the model times it.
    weighs_updates: ClassVar[bool] = False
    #: Whether it works where peers are missing from a round.
    bears_absence: ClassVar[bool] = True
    #: Whether what a receiver needs is a weighted sum of models, so that masks can cancel in it.
    sums: ClassVar[bool] = False
    #: Whether peers know who exchanges with whom.
    public: ClassVar[bool] = True

    def rows(self, moment: Moment) -> sp.csr_matrix | None:
        """`[n, n]`: how each peer's model after an exchange comes of the models in its last messages.

        Of compressed messages this holds at the coordinates that the peer sent. None where it does not come of them, or
        where nobody can say. `moment.models` are not read.
        """
        return None

    def begin(self, models: np.ndarray) -> Own:
        """What it keeps before the first round, by name; shapes never change."""
        return {}

    @abstractmethod
    def exchange(self, moment: Moment) -> Exchanged:
        """One round's exchange; a pure function of its argument."""

    def steps_a_round(self) -> int:
        """Exchanges a round."""
        return 1

    @property
    def late(self) -> int:
        """Rounds by which a message may be late."""
        return int(getattr(self, "delay", 0))


_DELAY: Any = Field(
    default=0,
    description="messages arrive up to so many rounds late, each by a number of rounds drawn uniformly; 0 is in time.",
)


def _size(models: np.ndarray) -> int:
    return 8 * models.itemsize * models.shape[1]


class DPSGD(Protocol):
    """D-PSGD: every peer takes a weighted mean of its own model and its neighbours', all at once.

    Lian, Zhang, Zhang, Hsieh, Zhang, Liu 2017, "Can Decentralized Algorithms Outperform Centralized Algorithms?", arXiv
    1705.09056, with local steps before the exchange. The weights are doubly stochastic, so the mean of all models is
    kept. With `delay`, neighbours' models are old, as in Lian, Zhang, Zhang, Liu 2018, "Asynchronous Decentralized
    Parallel Stochastic Gradient Descent", arXiv 1710.06952 (there a pair at a time), and the mean is kept no longer.
    """

    name: ClassVar[str] = "d_psgd"
    paper: ClassVar[str] = "Lian et al. 2017, arXiv 1705.09056"
    mixes: ClassVar[bool] = True
    sums: ClassVar[bool] = True

    steps: Annotated[int, Field(ge=1)] = Field(default=1, description="exchanges a round, one after the other.")
    delay: Annotated[int, Field(ge=0)] = _DELAY

    def begin(self, models: np.ndarray) -> Own:
        """The last `delay` rounds' models, the newest first."""
        return {"past": np.repeat(models[None], self.delay, 0)} if self.delay else {}

    def steps_a_round(self) -> int:
        """As told."""
        return self.steps

    def rows(self, moment: Moment) -> sp.csr_matrix | None:
        """The weights, unless models are late."""
        return None if self.delay else moment.matrix

    def exchange(self, moment: Moment) -> Exchanged:
        """`W` times the models, `steps` times."""
        matrix, models = moment.matrix, moment.models
        assert matrix is not None
        first = last = models
        own, summary = dict(moment.own), None
        if self.delay:
            mixed, own = self._late(moment), {"past": np.concatenate([models[None], moment.own["past"][:-1]])}
        else:
            if moment.mix is not mix or self.steps > 1:
                mixed = moment.mix(matrix, models, moment.place())
            else:
                mixed, summary = mix_and_measure(matrix, models, moment.place())
        for _ in range(self.steps - 1):
            last = mixed
            mixed = mix(matrix, mixed, None if moment.kept else mixed)
        return Exchanged(
            models=mixed,
            masses=moment.masses,
            own=own,
            links=moment.links,
            message=lambda i: first[i],
            last=lambda i: last[i],
            bits=self.steps * len(moment.links) * _size(models),
            summary=summary,
        )

    def _late(self, moment: Moment) -> np.ndarray:
        """The mean with each neighbour's model as of a round that is drawn, and one's own as of now."""
        matrix = moment.matrix.tocoo()  # type: ignore[union-attr]
        newest = min(self.delay, moment.number)
        lags = np.where(matrix.row == matrix.col, 0, moment.rng.integers(0, newest + 1, len(matrix.data)))
        mixed = np.zeros_like(moment.models)
        for lag in range(newest + 1):
            part = np.where(lags == lag, matrix.data, 0.0)
            chosen = sp.csr_matrix((part, (matrix.row, matrix.col)), matrix.shape)
            chosen.eliminate_zeros()
            if chosen.nnz:
                mixed += mix(chosen, moment.models if lag == 0 else moment.own["past"][lag - 1])
        return mixed


class _Masses(Protocol):
    """Base of protocols that pass on parts of a mass; nothing is lost, but what is late is nobody's for a while."""

    sums: ClassVar[bool] = False

    delay: Annotated[int, Field(ge=0)] = _DELAY

    def begin(self, models: np.ndarray) -> Own:
        """What is on its way, by the rounds until it arrives."""
        if not self.delay:
            return {}
        return {
            "flying": np.zeros((self.delay, *models.shape), models.dtype),
            "flying_mass": np.zeros((self.delay, len(models))),
        }

    @abstractmethod
    def shares(self, moment: Moment) -> sp.csr_matrix:
        """`[n, n]`: column j says which part of its mass peer j keeps and sends to whom; columns sum to 1."""

    def rows(self, moment: Moment) -> sp.csr_matrix | None:
        """Shares of masses, over the masses that they make, unless some are late."""
        if self.delay:
            return None
        shares = self.shares(moment)
        return (sp.diags(1 / (shares @ moment.masses)) @ shares @ sp.diags(moment.masses)).tocsr()

    def exchange(self, moment: Moment) -> Exchanged:
        """Shares of every mass to where they go."""
        models, masses, own = moment.models, moment.masses, dict(moment.own)
        shares = self.shares(moment)
        entries = shares.tocoo()
        lags = np.zeros(len(entries.data), np.int64)
        if self.delay:
            drawn = moment.rng.integers(0, self.delay + 1, len(entries.data))
            lags = np.where(entries.row == entries.col, 0, drawn)
        arrived, weights = None, np.zeros(len(masses))
        for lag in range(self.delay + 1):
            part = np.where(lags == lag, entries.data, 0.0)
            chosen = sp.csr_matrix((part, (entries.row, entries.col)), entries.shape)
            chosen.eliminate_zeros()
            if lag == 0:
                place = np.empty_like(models) if self.delay else moment.place()
                arrived, weights = mix(chosen, models, place), chosen @ masses
            elif chosen.nnz:
                flying, mass = own["flying"].copy(), own["flying_mass"].copy()
                flying[lag - 1] += mix(chosen, models)
                mass[lag - 1] += chosen @ masses
                own = {"flying": flying, "flying_mass": mass}
        assert arrived is not None
        if self.delay:  # what was to arrive after one more round is there at the next one's beginning
            arrived += own["flying"][0]
            weights = weights + own["flying_mass"][0]
            own = {name: np.concatenate([a[1:], np.zeros_like(a[:1])]) for name, a in own.items()}
        links = np.stack([entries.col, entries.row], 1)[(entries.row != entries.col) & (entries.data > 0)]

        def message(i: int) -> np.ndarray:
            return (models[i] / masses[i]).astype(models.dtype)

        return Exchanged(
            models=arrived,
            masses=weights,
            own=own,
            links=links.astype(np.int64),
            message=message,
            last=message,
            bits=len(links) * (_size(models) + WEIGHT_BITS),
            log={"least_mass": float(weights.min()), "largest_mass": float(weights.max())},
        )


class PushSum(_Masses):
    """Push-sum: every peer divides its mass equally among itself and those it sends to.

    Kempe, Dobra, Gehrke 2003, "Gossip-Based Computation of Aggregate Information", FOCS; for learning, as Stochastic
    Gradient Push, Assran, Loizou, Ballas, Rabbat 2019, arXiv 1811.10792. Links may go one way only.
    """

    name: ClassVar[str] = "push_sum"
    paper: ClassVar[str] = "Assran, Loizou, Ballas, Rabbat 2019, arXiv 1811.10792"

    def shares(self, moment: Moment) -> sp.csr_matrix:
        """Equal parts."""
        n, links = len(moment.masses), moment.links
        part = 1.0 / (1.0 + np.bincount(links[:, 0], minlength=n))
        senders = np.concatenate([links[:, 0], np.arange(n)])
        receivers = np.concatenate([links[:, 1], np.arange(n)])
        return sp.csr_matrix((part[senders], (receivers, senders)), (n, n))


class GoSGD(_Masses):
    """GoSGD: now and then a peer sends half of its mass to a random neighbour, and waits for nobody.

    Blot, Picard, Cord, Thome 2016, "Gossip training for deep learning", arXiv 1611.09726. A round is the local steps
    after which each peer draws whether to send; what is sent in a round is taken in at its end.
    """

    name: ClassVar[str] = "gosgd"
    paper: ClassVar[str] = "Blot, Picard, Cord, Thome 2016, arXiv 1611.09726"
    weighs_updates: ClassVar[bool] = True
    public: ClassVar[bool] = False

    probability: Annotated[float, Field(gt=0, le=1)] = Field(default=0.5, description="that a peer sends in a round.")

    def shares(self, moment: Moment) -> sp.csr_matrix:
        """A half kept and a half sent, or all kept."""
        n, links = len(moment.masses), moment.links
        order = np.argsort(links[:, 0], kind="stable")
        starts = np.searchsorted(links[order, 0], np.arange(n + 1))
        counts = np.diff(starts)
        sends = (moment.rng.random(n) < self.probability) & (counts > 0)
        drawn = np.floor(moment.rng.random(n) * np.maximum(counts, 1)).astype(np.int64)
        senders = np.flatnonzero(sends)
        receivers = links[order[starts[senders] + drawn[senders]], 1] if len(senders) else senders
        kept = np.where(sends, 0.5, 1.0)
        return sp.csr_matrix(
            (
                np.concatenate([kept, np.full(len(senders), 0.5)]),
                (np.concatenate([np.arange(n), receivers]), np.concatenate([np.arange(n), senders])),
            ),
            (n, n),
        )


def _compression_exists(value: Any) -> Any:
    try:
        made = registry.defenses.create(value)
    except FedprivError as e:
        raise ValueError(str(e)) from e
    if not made.sparsifies or [s.value for s in made.stations if s.value != "step"] != ["update"]:
        raise ValueError(
            f"'{value}' compresses no update by leaving coordinates out, without which copies need not come nearer to "
            "the models; give top_k(fraction=...) or random_k(fraction=...)"
        )
    if not made.shortens():
        raise ValueError(
            f"what '{value}' leaves out may be longer than what it is given, so that copies need not come nearer to "
            "the models; choco sends what is left out later by itself, so leave error_feedback and unbiased out"
        )
    return value


class Choco(Protocol):
    """CHOCO-SGD: compressed differences to public copies of the models, with a correction towards the neighbours'.

    Koloskova, Stich, Jaggi 2019, "Decentralized Stochastic Optimization and Gossip Algorithms with Compressed
    Communication", arXiv 1902.00340. Every peer keeps a copy of its neighbours' models that it updates by what they
    send, and sends what its own copy at theirs lacks, compressed. What is left out is sent later, not lost. The copies
    begin with the common initial model.
    """

    name: ClassVar[str] = "choco"
    paper: ClassVar[str] = "Koloskova, Stich, Jaggi 2019, arXiv 1902.00340"
    mixes: ClassVar[bool] = True
    bears_absence: ClassVar[bool] = False

    compression: Annotated[str, BeforeValidator(_compression_exists)] = Field(
        default="top_k(fraction=0.1)", description="a sparsifier among the defenses, `top_k` or `random_k`."
    )
    gamma: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.3, description="step towards the neighbours' copies; the more is left out, the smaller it must be."
    )

    def begin(self, models: np.ndarray) -> Own:
        """The public copies, one a peer, since all of its neighbours hold the same."""
        return {"public": models.copy()}

    def rows(self, moment: Moment) -> sp.csr_matrix | None:
        """`(1 - gamma) I + gamma W`, of the public copies.

        At the coordinates that a peer has just sent, its public copy is its model.
        """
        assert moment.matrix is not None
        return ((1 - self.gamma) * sp.identity(len(moment.masses)) + self.gamma * moment.matrix).tocsr()

    def exchange(self, moment: Moment) -> Exchanged:
        """Compressed differences, then a step of `gamma`."""
        models, before, matrix = moment.models, moment.own["public"], moment.matrix
        assert matrix is not None
        assert moment.compress is not None
        public = np.empty_like(models) if moment.room is None else moment.room()
        bits, kept, whole = np.zeros(len(models), np.int64), 0.0, 0.0
        for first in range(0, len(models), 32):
            rows = slice(first, first + 32)
            lacking = models[rows] - before[rows]
            sent, bits[rows] = moment.compress(lacking)
            kept, whole = kept + float(np.vdot(sent, sent)), whole + float(np.vdot(lacking, lacking))
            np.add(before[rows], sent, out=public[rows])
        moved = pull(matrix, public, models, self.gamma, moment.place())

        def message(i: int) -> np.ndarray:
            return public[i]

        sends = np.bincount(moment.links[:, 0], minlength=len(models))
        return Exchanged(
            models=moved,
            masses=moment.masses,
            own={"public": public},
            links=moment.links,
            message=message,
            last=message,
            sent=lambda i: public[i] != before[i],
            bits=int(bits @ sends),
            log={"energy": kept / whole if whole else 1.0},
        )
