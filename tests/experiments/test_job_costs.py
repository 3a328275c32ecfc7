"""Job costs: times of finished cells renew the shipped file; a folder without cells changes nothing."""

from __future__ import annotations

import json
import shutil

import pytest

from experiments.benchmarks.job_costs import main
from fedpriv.base.errors import ExperimentError
from tests.experiment.conftest import SMALL, finish


@pytest.mark.slow
def test_what_is_measured_anew_renews_the_file_and_the_rest_stays(tmp_path):
    path, out, results = tmp_path / "small.yaml", tmp_path / "costs.json", tmp_path / "results"
    path.write_text(json.dumps(SMALL))
    finish(path, results / "small")
    out.write_text('{"attack": [1e9], "somebody\'s attack": [7.0]}')
    main(results, None, out)
    costs = json.loads(out.read_text())
    assert costs["somebody's attack"] == [7.0]
    assert costs["attack"][0] < 1e6
    assert list(costs) == sorted(costs)
    before = out.read_bytes()
    for part in ("cells", "trainings"):
        shutil.rmtree(results / "small" / part)
    with pytest.raises(ExperimentError, match="no finished cells"):
        main(results, None, out)
    assert out.read_bytes() == before
