"""Extra metrics: columns a user adds to every score, such as LPIPS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from fedpriv.base.errors import ParameterError
from fedpriv.base.registry import load_dotted
from fedpriv.base.types import ArrayLike

#: `(reconstructions [m, *input_shape], originals [m, *input_shape]) -> [m]`, both float32 in [0, 1] and finite. Lower
#: is better, unless it has an attribute `higher_is_better` that is true.
Metric = Callable[[np.ndarray, np.ndarray], ArrayLike]


@lru_cache(maxsize=16)
def load_metric(where: str) -> Metric:
    """The metric at `package.module:function`, or LPIPS with the weights of an `.npz` file.

    Raises:
      FedprivError: there is none.
    """
    if where.endswith(".npz"):
        from fedpriv.metrics.lpips import LPIPS

        return LPIPS.load(where)
    found: Metric = load_dotted(where, "metric")
    if not callable(found):
        raise ParameterError(f"metric '{where}' is a {type(found).__name__}; it must be callable on two batches")
    return found


def measure(
    metrics: Mapping[str, Metric], found: np.ndarray, x: np.ndarray, matched: np.ndarray, finite: Sequence[bool]
) -> list[dict[str, float]]:
    """Each metric's value for each original.

    A reconstruction that is missing or not finite gets what a black, a grey, a white or a noise image would get,
    whichever is worst, so that diverging is no advantage: these metrics' worst possible values are not known.

    Args:
      metrics: by name.
      found: reconstructions `[m, ...]` in [0, 1].
      x: originals `[n, ...]` in [0, 1].
      matched: `[n]`, index of each original's reconstruction.
      finite: `[n]`, whether it has a finite one.

    Returns:
      One dict an original.

    Raises:
      ParameterError: a metric does not give one number a pair.
    """
    values: list[dict[str, float]] = [{} for _ in x]
    good = np.flatnonzero(finite)
    failed = np.flatnonzero(~np.asarray(finite))
    truth = x.astype(np.float32)
    for name, metric in metrics.items():
        if good.size:
            for i, v in zip(good, _measure(name, metric, found[matched[good]], truth[good]), strict=True):
                values[i][name] = v
        if failed.size:
            shape = x.shape[1:]
            blind = [np.full(shape, level) for level in (0.0, 0.5, 1.0)]
            blind.append(np.random.default_rng(0).random(shape))
            guesses = [_measure(name, metric, np.stack([b] * len(failed)), truth[failed]) for b in blind]
            worst = np.min(guesses, axis=0) if higher_is_better(metric) else np.max(guesses, axis=0)
            for i, v in zip(failed, worst, strict=True):
                values[i][name] = float(v)
    return values


def higher_is_better(metric: Metric) -> bool:
    """Whether larger values of a metric mean a better reconstruction; by default a metric is a distance."""
    return bool(getattr(metric, "higher_is_better", False))


def _measure(name: str, metric: Metric, found: np.ndarray, x: np.ndarray) -> list[float]:
    result = np.asarray(metric(found.astype(np.float32), x))
    if result.shape != (len(x),) or not np.issubdtype(result.dtype, np.number) or np.isnan(result).any():
        raise ParameterError(
            f"metric '{name}' gave {result.dtype} {list(result.shape)} for {len(x)} pairs of images"
            f"{' with not-a-number among them' if result.shape == (len(x),) else ''}; it must give one number each"
        )
    return [float(v) for v in result]
