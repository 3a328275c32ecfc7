"""Gaussian: privacy of a mechanism known by one number, its zCDP rho or its GDP mu, in closed form.

A Gaussian mechanism of noise multiplier z is exactly mu-GDP with mu = 1 / z, and rho-zCDP with rho = mu^2 / 2 (Dong,
Roth, Su 2019, arXiv 1905.02383; Bun, Steinke 2016, arXiv 1605.02065). Over rounds mu^2 and rho add up.
"""

from __future__ import annotations

import math

from fedpriv.base.errors import ParameterError


def gaussian_delta(mu: float, epsilon: float) -> float:
    """The smallest delta at which mu-GDP is (epsilon, delta)-DP (Balle, Wang 2018, arXiv 1805.06530)."""
    from scipy.special import log_ndtr

    if mu == 0:
        return max(0.0, -math.expm1(epsilon))
    here, there = mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu
    logs = log_ndtr([here, there])
    first, second = float(logs[0]), epsilon + float(logs[1])
    return 0.0 if second >= first else math.exp(first) * -math.expm1(second - first)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The smallest epsilon at which mu-GDP is (epsilon, delta)-DP."""
    from scipy.optimize import brentq

    mu, delta = _checked("mu", mu), _delta(delta)
    if mu == 0 or gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    most = 1.0
    while gaussian_delta(mu, most) > delta:
        most *= 2
    found = float(brentq(lambda e: gaussian_delta(mu, e) - delta, 0.0, most, xtol=1e-12, rtol=1e-12))
    return found * (1 + 1e-9)


def zcdp_epsilon(rho: float, delta: float) -> float:
    """An epsilon at which every rho-zCDP mechanism is (epsilon, delta)-DP.

    The smallest over all orders of the conversion of Canonne, Kamath, Steinke 2020, arXiv 2004.00010, proposition 12.
    A Gaussian mechanism gives less: `gaussian_epsilon(sqrt(2 rho), delta)`.
    """
    from scipy.optimize import minimize_scalar

    rho, delta = _checked("rho", rho), _delta(delta)
    if rho == 0:
        return 0.0

    def at(log_excess: float) -> float:
        excess = math.exp(log_excess)  # order - 1
        order = 1 + excess
        return order * rho + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / excess

    guess = math.log(math.sqrt(math.log(1 / delta) / rho))
    found = minimize_scalar(at, bounds=(guess - 6, guess + 6), method="bounded", options={"xatol": 1e-9})
    return max(0.0, float(found.fun))


def _checked(name: str, value: float) -> float:
    if not 0 <= value < math.inf:
        raise ParameterError(f"{name}={value} must be a number, 0 or more")
    return float(value)


def _delta(delta: float) -> float:
    if not 0 < delta < 1:
        raise ParameterError(f"delta={delta} must lie strictly between 0 and 1; well below 1/clients, such as 1e-5")
    return float(delta)
