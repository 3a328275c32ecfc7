"""Bounds: what differential privacy leaves any attack: membership told, and examples reconstructed.

A mechanism's trade-off function says how well its outputs on two neighbours can be told apart: the largest true
positive rate at each false positive rate (Dong, Roth, Su 2019, arXiv 1905.02383). Two bounds follow from it, whatever
the attack and however much it computes:

- Membership. Whoever decides by the output which of two neighbours went in has at most that true positive rate
  (Kairouz, Oh, Viswanath 2015, arXiv 1311.0776). The advantage, true minus false positive rate (Yeom, Giacomelli,
  Fredrikson, Jha 2018, arXiv 1709.01604), is at most the total variation distance; of (epsilon, delta) alone that is
  (e^epsilon - 1 + 2 delta) / (e^epsilon + 1) (Humphries et al. 2020, arXiv 2010.12112).
- Reconstruction. What the output is compared with must not depend on what is reconstructed: the unit removed, zeros, or
  any fixed other in its place, each of which is one step of its relation. Let kappa be the chance that the best guess
  made without the output counts as a reconstruction. With the output it does with a chance of at most the blow-up
  function at kappa, which is the true positive rate at the false positive rate kappa (Balle, Cherubin, Hayes 2022,
  arXiv 2201.04845; Hayes, Mahloujifar, Balle 2023, arXiv 2302.07225; that the two are one: Kaissis, Hayes, Ziller,
  Rueckert 2023, arXiv 2307.03928).

Where they hold: for what the claim's unit is, against the claim's adversary, who may know everything else. An adversary
who sees messages before noise is added to their sum is bounded by nothing here. kappa must be that of the prior which
the attacked examples were drawn from, independently of all others.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from fedpriv.account.accounting import Event, checked_delta, round_rdp
from fedpriv.base.errors import LedgerError, ParameterError
from fedpriv.base.lazy import dp_accounting
from fedpriv.base.types import ArrayLike
from fedpriv.defense.claim import Claim, Relation
from fedpriv.defense.event import RenyiEvent

#: Hockey-stick divergences are taken at these epsilons.
_EPSILONS = np.concatenate([np.linspace(0, 2, 201), np.geomspace(2.02, 200, 600)])
#: Standard deviations of noise beyond which a privacy loss distribution is not computed: too little, its table is huge.
_LEAST_NOISE = 0.05


class TradeOff(ABC):
    """How well two neighbours can be told apart by what an adversary sees. The same for both, whichever is the yes."""

    @abstractmethod
    def tpr(self, fpr: ArrayLike) -> np.ndarray:
        """The largest true positive rate at each false positive rate, float64 of the same shape.

        Raises:
          ParameterError: a rate outside [0, 1].
        """

    @property
    @abstractmethod
    def advantage(self) -> float:
        """The largest difference of true and false positive rate; the total variation distance."""

    def grouped(self, size: int) -> TradeOff:
        """That of neighbours that are `size` steps apart (Dong, Roth, Su 2019, theorem 2.14).

        Raises:
          ParameterError: less than one step.
        """
        if size < 1:
            raise ParameterError(f"a group of {size} is none; give 1 or more")
        return self if size == 1 else Grouped(self, size)

    def reconstruction(self, prior: float) -> float:
        """The largest chance of a reconstruction where guessing without the output has the chance `prior`.

        Args:
          prior: kappa, in [0, 1]; 1/N for one of N equally likely candidates. See `prior_success`.
        """
        return float(self.tpr(np.asarray(prior)))


@dataclass(frozen=True)
class GaussianTradeOff(TradeOff):
    """Of N(0, 1) and N(mu, 1): Gaussian mechanisms, alone or composed, exactly.

    Attributes:
      mu: sensitivity over standard deviation; the root of the sum of squares where several are composed.
    """

    mu: float

    def __post_init__(self) -> None:
        if not self.mu >= 0:
            raise ParameterError(f"mu={self.mu} must be 0 or more")

    def tpr(self, fpr: ArrayLike) -> np.ndarray:
        """Phi(Phi^-1(fpr) + mu)."""
        from scipy.special import ndtr, ndtri

        return np.asarray(ndtr(ndtri(_rates(fpr)) + self.mu))

    @property
    def advantage(self) -> float:
        """2 Phi(mu / 2) - 1."""
        return math.erf(self.mu / (2 * math.sqrt(2)))

    def grouped(self, size: int) -> TradeOff:
        """`size` times mu."""
        super().grouped(size)
        return GaussianTradeOff(size * self.mu)

    def epsilon(self, delta: float) -> float:
        """The epsilon at `delta` (Balle, Wang 2018, arXiv 1805.06530)."""
        delta = checked_delta(delta)
        return math.inf if math.isinf(self.mu) else _gaussian_epsilon(self.mu, delta)


@dataclass(frozen=True, eq=False)
class HockeyStick(TradeOff):
    """From (epsilon, delta) pairs that all hold: one, or the curve of a privacy loss distribution.

    Attributes:
      epsilons: `[k]`, 0 or more.
      deltas: `[k]` in [0, 1].
    """

    epsilons: np.ndarray
    deltas: np.ndarray

    def __post_init__(self) -> None:
        epsilons, deltas = (np.atleast_1d(np.asarray(a, np.float64)) for a in (self.epsilons, self.deltas))
        if epsilons.shape != deltas.shape or epsilons.ndim != 1 or not len(epsilons):
            raise ParameterError(f"{epsilons.shape} epsilons and {deltas.shape} deltas: give one delta an epsilon")
        if not (epsilons >= 0).all() or not ((deltas >= 0) & (deltas <= 1)).all():
            raise ParameterError("epsilons must be 0 or more, and deltas in [0, 1]")
        object.__setattr__(self, "epsilons", epsilons)
        object.__setattr__(self, "deltas", deltas)

    def tpr(self, fpr: ArrayLike) -> np.ndarray:
        """The least over the pairs of e^epsilon fpr + delta and 1 - e^-epsilon (1 - delta - fpr)."""
        rates = _rates(fpr)
        flat = rates.reshape(-1, 1)
        with np.errstate(over="ignore"):
            low = np.where(flat > 0, np.exp(self.epsilons) * flat, 0.0) + self.deltas
        high = 1 - np.exp(-self.epsilons) * np.maximum(1 - self.deltas - flat, 0)
        return np.clip(np.minimum(low, high).min(1), 0, 1).reshape(rates.shape)

    @property
    def advantage(self) -> float:
        """The least over the pairs of (e^epsilon - 1 + 2 delta) / (e^epsilon + 1)."""
        t = np.tanh(self.epsilons / 2)
        return float(np.clip(t + self.deltas * (1 - t), 0, 1).min())


@dataclass(frozen=True)
class Grouped(TradeOff):
    """Several steps from neighbour to neighbour.

    Attributes:
      one: of a single step.
      size: how many.
    """

    one: TradeOff
    size: int

    def tpr(self, fpr: ArrayLike) -> np.ndarray:
        """`one` applied to itself."""
        found = _rates(fpr)
        for _ in range(self.size):
            found = self.one.tpr(found)
        return found

    @property
    def advantage(self) -> float:
        """The largest distance from the diagonal, on a grid of rates."""
        rates = np.concatenate([np.geomspace(1e-9, 1e-3, 200), np.linspace(1e-3, 1, 2000)])
        return float((self.tpr(rates) - rates).max())


@dataclass(frozen=True, eq=False)
class Least(TradeOff):
    """Of a mechanism for which several hold: the least at each rate.

    Attributes:
      parts: at least one.
    """

    parts: tuple[TradeOff, ...]

    def tpr(self, fpr: ArrayLike) -> np.ndarray:
        """The least of the parts'."""
        return np.asarray(np.min([part.tpr(fpr) for part in self.parts], axis=0))

    @property
    def advantage(self) -> float:
        """Of the part with the least."""
        return min(part.advantage for part in self.parts)


def trade_off(event: Event, relation: Relation, rounds: int = 1) -> TradeOff:
    """Of `rounds` rounds of an event, the tightest that is computed.

    Gaussian events are exact; Poisson-sampled ones go by their privacy loss distribution, rounded up so that it holds;
    what is known by its Renyi divergence alone goes by the conversion to (epsilon, delta), which is looser.

    Args:
      event: of one round, sampling included; its multipliers are over the sensitivity under `relation`.
      relation: the neighbours that are told apart.
      rounds: how many are composed.

    Raises:
      LedgerError: nothing is known of such an event.
    """
    if rounds < 0:
        raise ParameterError(f"rounds={rounds} must be 0 or more")
    if rounds == 0:
        return GaussianTradeOff(0.0)
    mu = _gaussian(event)
    if mu is not None:
        return GaussianTradeOff(mu * math.sqrt(rounds))
    if not isinstance(event, RenyiEvent) and relation == "add_or_remove_one":
        found = _distribution(event)
        if found is not None:
            composed = found.self_compose(rounds) if rounds > 1 else found
            return HockeyStick(_EPSILONS, np.clip(composed.get_delta_for_epsilon(_EPSILONS), 0, 1))
    orders, rdp = round_rdp(event, relation)
    return renyi_trade_off(orders, rounds * rdp)


def renyi_trade_off(orders: np.ndarray, rdp: np.ndarray) -> HockeyStick:
    """By the conversion of Renyi divergences to (epsilon, delta), at deltas from 1e-12 to 1 (see `rdp_epsilon`)."""
    from fedpriv.account.accounting import rdp_epsilon

    deltas = np.concatenate([np.geomspace(1e-12, 1e-3, 37), np.geomspace(1.2e-3, 0.99, 60)])
    epsilons = np.array([rdp_epsilon(orders, rdp, float(delta)) for delta in deltas])
    kept = np.isfinite(epsilons)
    if not kept.any():
        raise LedgerError("these Renyi divergences bound no epsilon at any delta; add noise")
    return HockeyStick(np.maximum(epsilons[kept], 0), deltas[kept])


def claimed(claim: Claim, event: Event, rounds: int) -> TradeOff:
    """What a claim leaves of telling neighbours apart after some rounds.

    Args:
      claim: the claim; where it is about the whole run, `event` is not used.
      event: one round's, with the sampling that amplifies it, if it does (`accounting.sampled`).
      rounds: rounds seen.
    """
    if claim.run is not None:
        return trade_off(claim.run(rounds), claim.relation) if rounds else GaussianTradeOff(0.0)
    return trade_off(event, claim.relation, rounds)


def of_replacing(claim: Claim, one: TradeOff) -> TradeOff:
    """Of one candidate in another's place, which is what asking for a member among others amounts to.

    A unit changes into another in one step under replace_one. Under add_or_remove_one it is removed and the other
    added, and under replace_special it becomes zeros and these the other: two steps. A candidate is an example: an
    example-level claim's unit, or part of one client, which changes. But the two candidates may be different users',
    both of whom then change, one to have an example less and one to have one more.
    """
    steps = 1 if claim.relation == "replace_one" else 2
    return one.grouped(2 * steps if claim.unit == "user" else steps)


def renyi_reconstruction(orders: np.ndarray, rdp: np.ndarray, prior: float) -> float:
    """The largest chance of a reconstruction by Renyi divergences: min (kappa e^rho(alpha))^((alpha - 1) / alpha).

    Balle, Cherubin, Hayes 2022, arXiv 2201.04845. Looser than `TradeOff.reconstruction` of the mechanism itself.

    Args:
      orders: `[k]` above 1.
      rdp: `[k]` Renyi divergence at each, in nats.
      prior: kappa.
    """
    _rates(prior)
    if prior == 0:
        return 0.0
    orders, rdp = np.asarray(orders, np.float64), np.asarray(rdp, np.float64)
    return float(np.exp(np.minimum(((math.log(prior) + rdp) * (orders - 1) / orders).min(), 0.0)))


def sampled_reconstruction(
    noise_multiplier: float, *, rate: float, rounds: int, prior: float, samples: int = 100_000, seed: int = 0
) -> tuple[float, float]:
    """The blow-up function of composed Poisson-sampled Gaussians, by sampling.

    Hayes, Mahloujifar, Balle 2023, arXiv 2302.07225, section 3: the reference is noise alone in every round, the other
    has the example in each round with chance `rate`. The event of chance kappa under the reference that the other makes
    most of is where the likelihood ratio is largest; its place is read off samples of the reference, its chance off
    samples of the other, so that a large ratio costs no variance.

    Args:
      noise_multiplier: standard deviation over the clip.
      rate: chance of being in a round.
      rounds: how many.
      prior: kappa; `samples` should be many times 1 / kappa.
      samples: draws of each.
      seed: of these.

    Returns:
      The estimate and its standard error, that of the threshold's place included by the delta method.
    """
    _rates(prior)
    if not noise_multiplier > 0 or not 0 <= rate <= 1 or samples * prior < 10:
        raise ParameterError(
            f"noise_multiplier={noise_multiplier} must be above 0, rate={rate} in [0, 1], and samples={samples} at "
            f"least ten times 1 / prior={prior}"
        )
    rng = np.random.default_rng(seed)

    def ratios(present: bool) -> np.ndarray:
        total = np.zeros(samples)
        for _ in range(rounds):
            drawn = rng.normal(0, noise_multiplier, samples)
            if present:
                drawn += rng.random(samples) < rate
            total += np.logaddexp(
                math.log1p(-rate) if rate < 1 else -np.inf,
                (math.log(rate) if rate else -np.inf) + (2 * drawn - 1) / (2 * noise_multiplier**2),
            )
        return total

    reference, other = np.sort(ratios(False)), ratios(True)
    place = samples - round(prior * samples)
    threshold = reference[min(place, samples - 1)]
    found = float(np.mean(other > threshold))
    # At the threshold the other's density is e^threshold times the reference's.
    slack = math.exp(min(threshold, 50.0)) * math.sqrt(prior * (1 - prior) / samples)
    return found, math.hypot(math.sqrt(found * (1 - found) / samples), slack)


def prior_success(candidates: np.ndarray, within: float, *, exact: bool = False, chunk: int = 256) -> float:
    """kappa of a prior that gives each of some candidates the same chance: the best guess's chance without any output.

    A guess counts where it is no further than `within` from the truth, in root mean square. The best guess need not be
    a candidate; but all candidates within that distance of any point lie within twice the distance of each other, so
    the largest share of candidates near one of them, at twice the distance, is never less.

    Args:
      candidates: `[n, ...]` float.
      within: root mean square distance, such as 0.1 for a PSNR of 20 dB of examples in [0, 1].
      exact: the guess must be one of the candidates, so that its distance counts once.
      chunk: candidates compared at once.

    Raises:
      ParameterError: no candidates, or a negative distance.
    """
    if not len(candidates) or within < 0:
        raise ParameterError(
            f"{len(candidates)} candidates within {within}: give at least one, and a distance of 0 or more"
        )
    flat = np.asarray(candidates, np.float64).reshape(len(candidates), -1)
    squares = (flat**2).sum(1)
    bound = (within * (1 if exact else 2)) ** 2 * flat.shape[1]
    most = 0
    for start in range(0, len(flat), chunk):
        part = slice(start, start + chunk)
        apart = squares[part, None] + squares - 2 * flat[part] @ flat.T
        most = max(most, int((apart <= bound + 1e-9).sum(1).max()))
    return most / len(flat)


def _rates(fpr: ArrayLike) -> np.ndarray:
    rates = np.asarray(fpr, np.float64)
    if not ((rates >= 0) & (rates <= 1)).all():
        raise ParameterError(f"{fpr!r} is no rate; give numbers in [0, 1]")
    return rates


def _gaussian(event: Event) -> float | None:
    """mu where the event is made of Gaussians alone."""
    if isinstance(event, dp_accounting.NoOpDpEvent):
        return 0.0
    if isinstance(event, dp_accounting.GaussianDpEvent):
        return 1 / event.noise_multiplier if event.noise_multiplier > 0 else math.inf
    if isinstance(event, dp_accounting.PoissonSampledDpEvent):
        return _gaussian(event.event) if event.sampling_probability == 1 else None
    if isinstance(event, dp_accounting.SelfComposedDpEvent):
        one = _gaussian(event.event)
        return None if one is None else one * math.sqrt(event.count)
    if isinstance(event, dp_accounting.ComposedDpEvent):
        parts = [_gaussian(e) for e in event.events]
        return None if any(p is None for p in parts) else math.sqrt(sum((p or 0.0) ** 2 for p in parts))
    return None


def _distribution(event: dp_accounting.DpEvent) -> dp_accounting.pld.privacy_loss_distribution.PrivacyLossDistribution:
    """The privacy loss distribution under add_or_remove_one; None where dp-accounting has none."""
    plds = dp_accounting.pld.privacy_loss_distribution
    rate, inner = 1.0, event
    if isinstance(event, dp_accounting.PoissonSampledDpEvent):
        rate, inner = float(event.sampling_probability), event.event
    if isinstance(inner, dp_accounting.GaussianDpEvent):
        if inner.noise_multiplier < _LEAST_NOISE:
            return None
        return plds.from_gaussian_mechanism(inner.noise_multiplier, sampling_prob=rate)
    if isinstance(inner, dp_accounting.LaplaceDpEvent):
        return plds.from_laplace_mechanism(inner.noise_multiplier, sampling_prob=rate)
    if isinstance(event, dp_accounting.SelfComposedDpEvent):
        one = _distribution(event.event)
        return None if one is None else one.self_compose(event.count)
    if isinstance(event, dp_accounting.ComposedDpEvent):
        parts = [_distribution(e) for e in event.events]
        if any(p is None for p in parts) or not parts:
            return None
        whole = parts[0]
        for part in parts[1:]:
            whole = whole.compose(part)
        return whole
    return None


def _gaussian_epsilon(mu: float, delta: float) -> float:
    from scipy.optimize import brentq
    from scipy.special import log_ndtr, ndtr

    if mu == 0:
        return 0.0

    def excess(epsilon: float) -> float:
        lost = math.exp(min(epsilon + float(log_ndtr(-epsilon / mu - mu / 2)), 0.0))
        return float(ndtr(-epsilon / mu + mu / 2)) - lost - delta

    if excess(0.0) <= 0:
        return 0.0
    high = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1
    return float(brentq(excess, 0.0, high, xtol=1e-10))
