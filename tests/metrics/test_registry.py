import inspect
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from fedpriv.base.errors import ParameterError
from fedpriv.metrics import METRICS
from fedpriv.threat.attack import Finding


def test_every_metric_is_callable_and_explains_itself():
    assert set(METRICS) >= {
        "mse", "psnr", "ssim", "label_accuracy", "success_rate", "gradient_evaluations", "seconds",
        "accuracy", "loss", "bytes_up", "bytes_down", "epsilon", "lpips", "identifiability",
    }  # fmt: skip
    for name, metric in METRICS.items():
        assert callable(metric), name
        assert len(inspect.getdoc(metric)) > 30, name
        assert "read off" not in inspect.getdoc(metric).splitlines()[0], name


def test_listing_imports_nothing_heavy():
    code = (
        "import sys, fedpriv.metrics; "
        "sys.exit(any(m in sys.modules for m in ('tensorflow', 'scipy', 'skimage', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_modules_are_not_hidden_behind_functions_of_their_name():
    import fedpriv.metrics.identifiability
    import fedpriv.metrics.lpips

    assert callable(fedpriv.metrics.lpips.LPIPS)
    assert callable(fedpriv.metrics.identifiability.identifiability)


def test_accuracy_and_loss_have_their_closed_forms():
    logits, labels = np.log([[0.7, 0.3], [0.2, 0.8], [0.9, 0.1]]), np.array([0, 1, 1])
    assert METRICS["accuracy"](logits, labels) == pytest.approx(2 / 3)
    assert METRICS["loss"](logits, labels) == pytest.approx(-np.mean(np.log([0.7, 0.8, 0.1])))
    assert METRICS["loss"](np.array([[1e4, 0.0]]), np.array([1])) == pytest.approx(1e4)
    assert METRICS["loss"](np.zeros((5, 10)), np.arange(5)) == pytest.approx(np.log(10))


def test_loss_refuses_a_label_without_a_logit():
    with pytest.raises(ParameterError, match="3 logits"):
        METRICS["loss"](np.zeros((1, 3)), np.array([3]))
    with pytest.raises(ParameterError, match=r"\[n, classes\]"):
        METRICS["accuracy"](np.zeros(3), np.array([1]))


def test_costs_add_up_over_findings():
    findings = [Finding(None, None, evaluations=e, seconds=s) for e, s in ((10, 0.1), (5, 0.2))]
    assert METRICS["gradient_evaluations"](findings) == 15
    assert METRICS["seconds"](findings) == pytest.approx(0.3)


def test_measured_quantities_are_read_off_round_records():
    rounds = [{"bytes_up": 10}, {"metrics": {"bytes_up": 20}}, SimpleNamespace(bytes_up=None)]
    np.testing.assert_array_equal(METRICS["bytes_up"](rounds), [10, 20, np.nan])
    with pytest.raises(ParameterError, match="Did you mean 'epsilon_'"):
        METRICS["epsilon"]([{"epsilon_": 1}])
