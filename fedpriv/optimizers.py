"""Client and server optimizers: TFF's functional optimizers, with the rate passed in each round."""

from __future__ import annotations

from typing import Any

from fedpriv._lazy import tff
from fedpriv.procedure import Optimizer


def build(optimizer: Optimizer) -> Any:
    """The `tff.learning.optimizers.Optimizer` for a parameter set.

    The adaptive ones follow Reddi et al. (2021, arXiv 2003.00295) with TFF's bias correction in Adam; their
    epsilon is that paper's tau, and preconditioners start at tau squared, as the paper recommends.
    """
    o = tff.learning.optimizers
    rate = optimizer.learning_rate
    if optimizer.kind == "sgd":
        return o.build_sgdm(rate)
    if optimizer.kind == "momentum":
        return o.build_sgdm(rate, momentum=optimizer.momentum)
    if optimizer.kind == "adam":
        return o.build_adam(rate, beta_1=optimizer.beta_1, beta_2=optimizer.beta_2, epsilon=optimizer.epsilon)
    if optimizer.kind == "yogi":
        return o.build_yogi(
            rate,
            beta_1=optimizer.beta_1,
            beta_2=optimizer.beta_2,
            epsilon=optimizer.epsilon,
            initial_preconditioner_value=optimizer.epsilon**2,
        )
    return o.build_adagrad(rate, initial_preconditioner_value=optimizer.epsilon**2, epsilon=optimizer.epsilon)


def with_rate(optimizer: Any, state: Any, rate: Any) -> Any:
    """The optimizer state with its learning rate replaced by the scalar `rate`."""
    return optimizer.set_hparams(state, {**optimizer.get_hparams(state), "learning_rate": rate})
