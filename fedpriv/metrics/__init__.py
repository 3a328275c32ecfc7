"""Metrics: what a reconstruction, and a federation, is worth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedpriv.metrics.cost import bytes_down, bytes_up, epsilon, gradient_evaluations, seconds
from fedpriv.metrics.identifiability import identifiability as identifiability_precision
from fedpriv.metrics.image import mse, psnr, ssim
from fedpriv.metrics.labels import label_count_accuracy, label_existence_accuracy
from fedpriv.metrics.lpips import lpips as lpips_distance
from fedpriv.metrics.matching import label_accuracy
from fedpriv.metrics.score import success_rate
from fedpriv.metrics.utility import accuracy, loss

#: Every metric by the name that tables, JSON and the command line use; its docstring says what it is.
METRICS: dict[str, Callable[..., Any]] = {
    "accuracy": accuracy,
    "bytes_down": bytes_down,
    "bytes_up": bytes_up,
    "epsilon": epsilon,
    "gradient_evaluations": gradient_evaluations,
    "identifiability": identifiability_precision,  # not the module's name, which must stay reachable
    "label_accuracy": label_accuracy,
    "label_count_accuracy": label_count_accuracy,
    "label_existence_accuracy": label_existence_accuracy,
    "loss": loss,
    "lpips": lpips_distance,
    "mse": mse,
    "psnr": psnr,
    "seconds": seconds,
    "ssim": ssim,
    "success_rate": success_rate,
}

__all__ = ["METRICS"]
