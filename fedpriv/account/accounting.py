"""Accounting: epsilon of a round's event under cohort sampling, composed over rounds, by dp-accounting.

Neighbouring relations and noise multipliers. The multiplier of a Gaussian event is sigma / sensitivity, with the
sensitivity under the relation that the epsilon is stated for: a sum of vectors of norm at most C has sensitivity C
when one vector is added or removed, and 2C when one is replaced. dp-accounting computes from that ratio alone and
does not rescale between relations, so a clipped sum's multiplier sigma / C must be halved for `replace_one`.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import numpy as np

from fedpriv.account.amplification import fixed_sampled, poisson_sampled
from fedpriv.account.search import FINE, smallest_multiplier
from fedpriv.base.errors import LedgerError, ParameterError
from fedpriv.base.lazy import dp_accounting
from fedpriv.defense.claim import Relation
from fedpriv.defense.event import RenyiEvent, in_words
from fedpriv.procedure.procedure import Sampling

AccountantName = Literal["rdp", "pld"]
Event: TypeAlias = "dp_accounting.DpEvent | RenyiEvent"

#: Smallest noise multiplier searched; below it the accountants' epsilons run into the hundreds.
SMALLEST_MULTIPLIER = 0.1
#: More noise than this counts as this much: Renyi divergences fall below what float64 tells from zero. Counting less
#: noise than there is gives a larger epsilon, which holds.
LARGEST_MULTIPLIER = 1e4
#: Less noise than this bounds epsilons in the millions, where the accountants overflow; PLDs grow with 1 / noise.
USEFUL_MULTIPLIER = {"rdp": 1e-3, "pld": 0.05}


def sampled(event: Event, relation: Relation, sampling: Sampling, population: int) -> Event:
    """One round's `event`, amplified by drawing the cohort from `population` clients.

    Poisson sampling amplifies under add_or_remove_one (Mironov, Talwar, Zhang 2019, arXiv 1908.10530); fixed-size
    sampling without replacement under replace_one (Wang, Balle, Kasiviswanathan 2019, arXiv 1808.00087, theorem
    27); full participation not at all. Mechanisms known by their Renyi divergence are amplified in the same cases, by
    bounds for any mechanism (`fedpriv.account.amplification`).

    Raises:
      LedgerError: no theorem covers this relation under this sampling.
    """
    if sampling.selection is not None:
        return sampling.selection.amplified(event, relation, population)
    if sampling.kind == "poisson" and sampling.rate is not None and sampling.rate < 1:
        if relation != "add_or_remove_one":
            raise LedgerError(
                f"Poisson sampling amplifies only guarantees stated for add_or_remove_one, this one is for {relation}; "
                "restate it, or claim it without amplification"
            )
        if isinstance(event, RenyiEvent):
            return poisson_sampled(event, float(sampling.rate))
        return dp_accounting.PoissonSampledDpEvent(float(sampling.rate), event)
    if sampling.kind == "fixed" and sampling.size is not None and sampling.size < population:
        if relation != "replace_one":
            raise LedgerError(
                f"fixed-size sampling ({sampling.size} of {population}) amplifies only guarantees stated for "
                f"replace_one, this one is for {relation}; restate it, use Poisson sampling, or claim it without "
                "amplification"
            )
        if isinstance(event, RenyiEvent):
            return fixed_sampled(event, int(sampling.size), population)
        return dp_accounting.SampledWithoutReplacementDpEvent(population, int(sampling.size), event)
    return event


def new_accountant(name: AccountantName, relation: Relation, interval: float = FINE) -> dp_accounting.PrivacyAccountant:
    """An empty dp-accounting accountant; a PLD's privacy losses are rounded up to multiples of `interval`."""
    neighbours = dp_accounting.NeighboringRelation[relation.upper()]
    if name == "pld":
        return dp_accounting.pld.PLDAccountant(neighbours, value_discretization_interval=interval)
    return dp_accounting.rdp.RdpAccountant(neighboring_relation=neighbours)


def round_rdp(event: Event, relation: Relation) -> tuple[np.ndarray, np.ndarray]:
    """(orders, Renyi divergence of one round at each); rounds add up, so n rounds are n times the second.

    Raises:
      LedgerError: none can be computed.
    """
    if isinstance(event, RenyiEvent):
        orders = dp_accounting.rdp.RdpAccountant().orders
        return np.asarray(orders), np.array([event.curve(float(order)) for order in orders])
    tried = event
    for _ in range(40):
        found = new_accountant("rdp", relation).compose(tried)
        # The divergence of much noise under rare sampling is a difference of numbers that are nearly alike, and can
        # come out negative. One for half the noise can be told from zero, and bounds it.
        if not (np.asarray(found.rdp) < 0).any():
            return found.orders, found.rdp
        tried = _halved(tried)
        if tried is None:
            break
    raise LedgerError(f"the Renyi divergence of {in_words(event)} cannot be told from zero; change noise or sampling")


def _halved(event: dp_accounting.DpEvent) -> dp_accounting.DpEvent | None:
    """The event with half the noise, None where it is of another kind."""
    if isinstance(event, dp_accounting.GaussianDpEvent):
        return dp_accounting.GaussianDpEvent(event.noise_multiplier / 2)
    if isinstance(event, dp_accounting.PoissonSampledDpEvent):
        inner = _halved(event.event)
        return None if inner is None else dp_accounting.PoissonSampledDpEvent(event.sampling_probability, inner)
    if isinstance(event, dp_accounting.SampledWithoutReplacementDpEvent):
        inner = _halved(event.event)
        sizes = event.source_dataset_size, event.sample_size
        return None if inner is None else dp_accounting.SampledWithoutReplacementDpEvent(*sizes, inner)
    return None


def counted(event: Event, name: AccountantName) -> Event:
    """`event` with no more noise than LARGEST_MULTIPLIER.

    Raises:
      LedgerError: it has so little noise that no useful number comes out.
    """
    if not isinstance(event, dp_accounting.GaussianDpEvent):
        return event
    least = USEFUL_MULTIPLIER[name]
    if event.noise_multiplier < least:
        raise LedgerError(
            f"a noise multiplier of {event.noise_multiplier:g} over the sensitivity bounds no useful epsilon "
            f"(the {name} accountant starts at {least:g}); add noise" + (", or use rdp" if name == "pld" else "")
        )
    return dp_accounting.GaussianDpEvent(min(event.noise_multiplier, LARGEST_MULTIPLIER))


def rdp_epsilon(orders: np.ndarray, rdp: np.ndarray, delta: float) -> float:
    """Epsilon at `delta` of composed Renyi divergences (Canonne, Kamath, Steinke 2020, arXiv 2004.00010)."""
    return float(dp_accounting.rdp.compute_epsilon(orders, rdp, delta)[0])


def composed_epsilon(event: Event, relation: Relation, accountant: AccountantName, rounds: int, delta: float) -> float:
    """Epsilon at `delta` after `rounds` rounds of `event`; infinite where nothing is bounded."""
    if rounds == 0:
        return 0.0
    if accountant == "rdp":
        orders, rdp = round_rdp(event, relation)
        return rdp_epsilon(orders, rounds * rdp, delta)
    return float(new_accountant(accountant, relation).compose(event, rounds).get_epsilon(delta))


def require_supported(event: Event, relation: Relation, accountant: AccountantName) -> None:
    """Raises LedgerError, with a way out, if that accountant cannot compose `event` under `relation`."""
    if isinstance(event, RenyiEvent):
        if accountant == "rdp":
            return
        raise LedgerError(
            f"no privacy loss distribution is known of {event.name}, only its Renyi divergence; use accountant='rdp'"
        )
    if new_accountant(accountant, relation).supports(event):
        return
    kind = in_words(event)
    if accountant == "pld" and new_accountant("rdp", relation).supports(event):
        raise LedgerError(
            f"dp-accounting's PLD accountant has no privacy loss distribution for {kind} under {relation}; use "
            "accountant='rdp'" + (", or Poisson sampling" if "without replacement" in kind else "")
        )
    raise LedgerError(
        f"dp-accounting's {accountant} accountant cannot compose {kind} under {relation}, so no epsilon can be "
        "justified; claim a Gaussian or another supported event"
    )


def checked_delta(delta: float) -> float:
    """`delta` as a float, or ParameterError."""
    if not isinstance(delta, int | float | np.number) or not 0 < delta < 1:
        raise ParameterError(f"delta={delta} must lie strictly between 0 and 1; well below 1/clients, such as 1e-5")
    return float(delta)


def checked_rounds(rounds: float, least: int) -> int:
    """`rounds` as an int, or ParameterError."""
    if not float(rounds).is_integer() or rounds < least:
        raise ParameterError(f"rounds={rounds} must be a whole number, {least} or more")
    return int(rounds)


def checked_accountant(name: str) -> AccountantName:
    """`name` if it is an accountant's, else ParameterError."""
    if name not in ("rdp", "pld"):
        raise ParameterError(f"accountant '{name}' is unknown. Known: pld, rdp.")
    return name  # type: ignore[return-value]


def _cohorts(
    rate: float | None, cohort: int | None, population: int | None, kind: Literal["poisson", "fixed"]
) -> tuple[Sampling, int]:
    if kind not in ("poisson", "fixed"):
        raise ParameterError(f"sampling='{kind}' is unknown. Known: fixed, poisson.")
    if cohort is not None or population is not None:
        if cohort is None or population is None or rate is not None or not 0 < cohort <= population:
            raise ParameterError(
                f"give either rate, or cohort and population with 0 < cohort <= population; got rate={rate}, "
                f"cohort={cohort}, population={population}"
            )
        return (Sampling.fixed(cohort) if kind == "fixed" else Sampling.poisson(cohort / population)), population
    if kind == "fixed":
        raise ParameterError("fixed-size sampling needs cohort and population; give both")
    if rate is None or not 0 < rate <= 1:
        raise ParameterError(f"rate={rate} must lie in (0, 1]; or give cohort and population")
    return Sampling.poisson(rate), 1


def central_event(
    noise_multiplier: float, sampling: Sampling, population: int
) -> tuple[dp_accounting.DpEvent, Relation]:
    """One round's event, before sampling, of a clipped sum with noise of `noise_multiplier` times the clip.

    Returns:
      (event, relation): where cohorts have a fixed size one client replaces another, so the sensitivity is twice the
      clip and the multiplier half; otherwise one client is added or removed.
    """
    if sampling.replaces:
        return dp_accounting.GaussianDpEvent(noise_multiplier / 2), "replace_one"
    return dp_accounting.GaussianDpEvent(float(noise_multiplier)), "add_or_remove_one"


def central_epsilon(
    noise_multiplier: float,
    *,
    rounds: int,
    delta: float,
    rate: float | None = None,
    cohort: int | None = None,
    population: int | None = None,
    accountant: str = "rdp",
    sampling: Literal["poisson", "fixed"] = "poisson",
) -> float:
    """Client-level epsilon of `rounds` rounds of DP-FedAvg, against whoever sees the released models.

    The mechanism is a sum of clipped updates with Gaussian noise added by the server (McMahan, Ramage, Talwar,
    Zhang 2018, arXiv 1710.06963), divided by a public constant.

    Args:
      noise_multiplier: noise standard deviation over the clipping norm.
      rounds: rounds released.
      delta: in (0, 1).
      rate: inclusion probability; or give the (expected) `cohort` and the `population`.
      cohort: clients a round.
      population: clients in all.
      accountant: `rdp` or `pld`.
      sampling: `poisson` (neighbours: one client added or removed) or `fixed` (one client replaced by another).

    Raises:
      LedgerError: the accountant has no support for that sampling, or there is no noise.
    """
    if not 0 < noise_multiplier < math.inf:
        raise LedgerError(f"noise_multiplier={noise_multiplier} bounds no epsilon; give a number above 0")
    rounds = checked_rounds(rounds, 0)
    name, delta = checked_accountant(accountant), checked_delta(delta)
    how, clients = _cohorts(rate, cohort, population, sampling)
    event, relation = central_event(noise_multiplier, how, clients)
    event = counted(event, name)
    drawn = sampled(event, relation, how, clients)
    require_supported(drawn, relation, name)
    value = composed_epsilon(drawn, relation, name, rounds, delta)
    if how.kind == "fixed":  # the theorem for fixed cohorts is loose for large ones; without it the bound holds as well
        value = min(value, composed_epsilon(event, relation, name, rounds, delta))
    return value


def noise_for(
    epsilon: float,
    *,
    rounds: int,
    delta: float,
    rate: float | None = None,
    cohort: int | None = None,
    population: int | None = None,
    accountant: str = "rdp",
    sampling: Literal["poisson", "fixed"] = "poisson",
) -> float:
    """The smallest noise multiplier (within 1e-4) whose `central_epsilon` is at most `epsilon`.

    Never smaller than SMALLEST_MULTIPLIER, however large the epsilon.

    Raises:
      LedgerError: as for `central_epsilon`, or no multiplier in reach gives that epsilon.
    """
    if not 0 < epsilon < math.inf:
        raise ParameterError(f"epsilon={epsilon} must be a number above 0; no finite noise gives 0, and none infinity")
    rounds = checked_rounds(rounds, 1)
    name, delta = checked_accountant(accountant), checked_delta(delta)
    how, clients = _cohorts(rate, cohort, population, sampling)
    relation = central_event(1.0, how, clients)[1]

    def event(multiplier: float) -> Event:
        return sampled(central_event(multiplier, how, clients)[0], relation, how, clients)

    require_supported(event(1.0), relation, name)

    def spent(multiplier: float, by: AccountantName, interval: float) -> float:
        if by == "rdp":
            return composed_epsilon(event(multiplier), relation, by, rounds, delta)
        made = new_accountant(by, relation, interval).compose(event(multiplier), rounds)
        return float(made.get_epsilon(delta))

    if spent(SMALLEST_MULTIPLIER, "rdp", FINE) <= epsilon:
        return SMALLEST_MULTIPLIER
    said = f"epsilon {epsilon:g} at delta {delta:g}"
    return max(SMALLEST_MULTIPLIER, smallest_multiplier(spent, epsilon, name, budget=said, rounds=rounds))
