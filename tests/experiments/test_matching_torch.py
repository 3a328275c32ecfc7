import importlib.util

import numpy as np
import pytest

from experiments.benchmarks import matching_torch as benchmark
from experiments.benchmarks.matching import view
from fedpriv.base.errors import ParameterError

HERE = importlib.util.find_spec("torch") is not None


@pytest.mark.skipif(HERE, reason="PyTorch is installed")
def test_where_pytorch_is_missing_it_says_so(tmp_path):
    with pytest.raises(ParameterError, match="PyTorch is not installed; run this as `uv run --with torch"):
        benchmark.main(out=tmp_path / "x.json")


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="PyTorch is not installed")
@pytest.mark.parametrize("model", ["convnet(width=4)", "lenet"])
def test_both_minimize_the_same_function_the_same_way(model):
    seen, truth = view(model, "fashion_small", None, 0)
    result = benchmark.compared(seen, truth, 10, 1)
    mine, other = result["objective_at_start"]
    assert mine == pytest.approx(other, rel=1e-4)
    assert result["ours_psnr"] == pytest.approx(result["torch_psnr"], abs=0.2)
    assert np.isfinite(result["times_ours"])
