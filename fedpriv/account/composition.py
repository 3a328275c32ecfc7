"""Composition: what several mechanisms, each run so often, give together; also for groups, and as rho and mu."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from fedpriv.account.accounting import (
    FINE,
    AccountantName,
    Event,
    new_accountant,
    rdp_epsilon,
    require_supported,
    round_rdp,
)
from fedpriv.account.gaussian import gaussian_epsilon
from fedpriv.base.errors import LedgerError
from fedpriv.base.lazy import dp_accounting
from fedpriv.defense.claim import Relation

#: What a trade-off curve may lie above that of a mu, in probability: what float64 leaves of a convolution's tails.
SLACK = 1e-12
#: Epsilons at which two privacy curves are compared.
_CURVE = 2000


@dataclass(frozen=True)
class Concentrated:
    """zCDP's rho and Gaussian DP's mu of everything composed, where they hold.

    Attributes:
      rho: None where none holds.
      mu: None where none holds.
      exact: whether the privacy is that of one Gaussian mechanism, so that both are exact.
      why: of what is None, and what else to know.
      relation: the neighbouring relation that they are for; None where it is not known.
    """

    rho: float | None
    mu: float | None
    exact: bool
    why: str = ""
    relation: Relation | None = None

    def __str__(self) -> str:
        said = [f"zCDP rho {self.rho:.4g}"] if self.rho is not None else []
        said += [f"GDP mu {self.mu:.4g}"] if self.mu is not None else []
        if not said:
            return self.why
        about = "; ".join(filter(None, (self.relation, self.why)))
        return ", ".join(said) + (f" ({about})" if about else "")


def gaussian_multiplier(event: Event) -> float | None:
    """The noise multiplier of the Gaussian mechanism that `event` amounts to; None where it is none."""
    if isinstance(event, dp_accounting.NoOpDpEvent):
        return math.inf
    if isinstance(event, dp_accounting.GaussianDpEvent):
        return float(event.noise_multiplier)
    if isinstance(event, dp_accounting.SelfComposedDpEvent):
        one = gaussian_multiplier(event.event)
        return None if one is None else one / math.sqrt(event.count)
    if isinstance(event, dp_accounting.ComposedDpEvent):
        squares = 0.0
        for part in event.events:
            one = gaussian_multiplier(part)
            if not one:
                return one
            squares += one**-2
        return squares**-0.5 if squares else math.inf
    return None


@lru_cache(maxsize=256)
def _round_rdp(keyed: Keyed, relation: Relation) -> tuple[np.ndarray, np.ndarray]:
    orders, rdp = round_rdp(keyed.event, relation)
    return np.asarray(orders, float), np.asarray(rdp, float)


class Keyed:
    """An event as a key: with a hash, which those that hold lists lack, and told from others by all that it holds.

    Of a mechanism known by its Renyi divergence that includes the very function: two are alike only where they are
    one, whatever their names and parameters say.
    """

    def __init__(self, event: Event) -> None:
        self.event = event

    def __hash__(self) -> int:
        return hash(repr(self.event))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Keyed) or self.event != other.event:
            return False
        return getattr(self.event, "curve", None) == getattr(other.event, "curve", None)


class Composition:
    """Mechanisms under one neighbouring relation, composed.

    Args:
      parts: (event, times) of each.
      relation: that all are stated for.
      accountant: `rdp` or `pld`.
      interval: what privacy losses are rounded up to in PLDs.

    Raises:
      LedgerError: the accountant cannot compose one of them.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Event, int]],
        relation: Relation,
        accountant: AccountantName,
        interval: float = FINE,
    ) -> None:
        self.parts = tuple((event, times) for event, times in parts if times)
        self.relation, self.accountant, self.interval = relation, accountant, interval
        for event, _ in self.parts:
            require_supported(event, relation, accountant)

    @property
    def mu(self) -> float | None:
        """mu of the Gaussian mechanism that everything amounts to; None where it is none."""
        squares = 0.0
        for event, times in self.parts:
            one = gaussian_multiplier(event)
            if one is None:
                return None
            squares += math.inf if one == 0 else times / one**2
        return math.sqrt(squares)

    @cached_property
    def rdp(self) -> tuple[np.ndarray, np.ndarray]:
        """(orders, Renyi divergence at each)."""
        orders = np.asarray(dp_accounting.rdp.RdpAccountant().orders, float)
        total = np.zeros(len(orders))
        for event, times in self.parts:
            total = total + times * _round_rdp(Keyed(event), self.relation)[1]
        return orders, total

    @cached_property
    def pld(self) -> Any:
        """dp-accounting's accountant with everything composed."""
        made = new_accountant("pld", self.relation, self.interval)
        for event, times in self.parts:
            made.compose(event, times)
        return made

    def epsilon(self, delta: float) -> float:
        """The smallest epsilon the accountant knows; infinite where nothing is bounded."""
        if not self.parts:
            return 0.0
        if self.accountant == "rdp":
            return rdp_epsilon(*self.rdp, delta)
        mu = self.mu
        if mu is not None:
            return gaussian_epsilon(mu, delta) if math.isfinite(mu) else math.inf
        return float(self.pld.get_epsilon(delta))

    def deltas(self, epsilons: np.ndarray) -> np.ndarray:
        """The smallest delta the accountant knows at each of ascending epsilons."""
        if not self.parts:
            return np.zeros(len(epsilons))
        if self.accountant == "rdp":
            orders, rdp = self.rdp
            # Canonne, Kamath, Steinke 2020, arXiv 2004.00010, proposition 12, the other way round.
            logs = (orders - 1) * (rdp - epsilons[:, None] + np.log1p(-1 / orders)) - np.log(orders)
            return np.minimum(np.exp(np.minimum(logs, 0.0)).min(axis=1), 1.0)
        mu = self.mu
        if mu is not None:
            return _gaussian_deltas(np.full(len(epsilons), mu), epsilons)
        found = self.pld._pld.get_delta_for_epsilon([float(e) for e in epsilons])
        return np.maximum(np.asarray(found, float), 0.0)

    def group_epsilon(self, delta: float, size: int) -> tuple[float, str]:
        """(epsilon, by which theorem) for groups of `size` units that are neighbours together.

        The smallest of what holds: a Gaussian mechanism is moved `size` times as far (exact); Renyi divergences of
        groups of 2^c (Mironov 2017, arXiv 1702.07476, proposition 2); and any (epsilon, delta) of one unit, chained
        `size` times (Vadhan 2017, "The Complexity of Differential Privacy", lemma 2.2), at the epsilon where that
        is least.
        """
        if size == 1 or not self.parts:
            return self.epsilon(delta), ""
        mu = self.mu
        if mu is not None and math.isfinite(mu):
            if self.accountant == "pld":
                return gaussian_epsilon(size * mu, delta), f"the sum moves {size} times as far"
            orders = self.rdp[0]
            return rdp_epsilon(orders, orders * (size * mu) ** 2 / 2, delta), f"the sum moves {size} times as far"
        routes = [(self._chained_epsilon(delta, size), f"the guarantee of one, chained {size} times")]
        if self.accountant == "rdp":
            orders, rdp = self.rdp
            power = (size - 1).bit_length()
            allowed = orders >= 2 ** (power + 1)
            if allowed.any():
                grouped = rdp_epsilon(orders[allowed] / 2**power, 3.0**power * rdp[allowed], delta)
                routes.append((grouped, f"Renyi divergences of groups of {2**power}"))
        value, route = min(routes)
        return value, route if math.isfinite(value) else "no theorem bounds it"

    def _chained_epsilon(self, delta: float, size: int) -> float:
        low, high = 1e-3, 300.0
        for _ in range(3):  # each time between the last epsilon of one unit that does not do and the first that does
            epsilons = np.geomspace(low, high, 60)
            with np.errstate(over="ignore", divide="ignore"):
                chain = np.log(np.expm1(np.minimum(size * epsilons, 700))) - np.log(np.expm1(epsilons))
                holds = (size * epsilons < 700) & (np.log(self.deltas(epsilons)) + chain <= math.log(delta))
            if not holds.any():
                return math.inf
            first = int(np.argmax(holds))
            if first == 0:
                break
            low, high = float(epsilons[first - 1]), float(epsilons[first])
        return float(size * epsilons[first])

    def concentrated(self) -> Concentrated:
        """rho and mu. Where rounds are sampled mu comes from the whole privacy curve, which takes seconds."""
        mu = self.mu
        if mu is not None:
            return Concentrated(mu**2 / 2, mu, exact=True)
        try:
            curve = Composition(self.parts, self.relation, "pld", self.interval)
        except LedgerError as e:
            return Concentrated(None, None, exact=False, why=f"no rho and no mu: {e}")
        found = curve._dominating_mu()
        if found is None:
            return Concentrated(None, None, exact=False, why="no mu below 100 lies above the whole privacy curve")
        why = f"its curve lies above the whole privacy curve, up to {SLACK:g} of probability; sampling amplifies no rho"
        return Concentrated(None, found, exact=False, why=why)

    def _dominating_mu(self) -> float | None:
        """The smallest mu whose delta is at least ours, less SLACK, at every epsilon >= 0; None above 100.

        Between two epsilons our delta is at most that at the lower one, and mu's at least that at the upper one.
        Adding and removing are each other's reverse, so the curve at epsilons >= 0 tells all of it.
        """
        last = 1.0
        while self.deltas(np.array([last]))[0] > SLACK and last < 1e4:
            last *= 1.5
        epsilons = np.concatenate([[0.0], np.geomspace(last * 1e-4, last, _CURVE)])
        ours = self.deltas(epsilons)[:-1] - SLACK
        high, low = np.full(len(ours), 100.0), np.zeros(len(ours))
        if (_gaussian_deltas(high, epsilons[1:]) < ours).any():
            return None
        for _ in range(50):
            middle = (low + high) / 2
            above = _gaussian_deltas(np.maximum(middle, 1e-9), epsilons[1:]) >= ours
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        return float(high.max())


def _gaussian_deltas(mus: np.ndarray, epsilons: np.ndarray) -> np.ndarray:
    """As `gaussian_delta`, of many."""
    from scipy.special import log_ndtr

    first = log_ndtr(mus / 2 - epsilons / mus)
    second = epsilons + log_ndtr(-mus / 2 - epsilons / mus)
    return np.where(second < first, -np.exp(first) * np.expm1(np.minimum(second - first, 0.0)), 0.0)
