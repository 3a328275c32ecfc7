import numpy as np
import pytest

from experiments.benchmarks import defense_costs as benchmark
from fedpriv.base.errors import ParameterError
from fedpriv.base.registry import defenses
from fedpriv.models import load


def test_ratios_are_to_the_undefended_round_beside_it():
    rows = benchmark.summary({benchmark.PLAIN: [1.0, 2.0, 4.0], "clip": [2.0, 4.0, 16.0]})
    assert rows[benchmark.PLAIN]["over_none"] == 1
    assert rows["clip"]["over_none"] == 2
    assert rows["clip"]["quartiles"] == (2, 3)
    assert rows["clip"]["cpu_seconds"] == 4


def test_it_times_every_empirical_defense():
    made = {defenses.create(text.format(head="dense")).name for text in benchmark.DEFENSES}
    empirical = {n for n in defenses.names() if defenses.load(n).__module__.startswith("fedpriv_defenses.compression")}
    assert empirical | {"outpost", "soteria", "mixup", "instahide", "ats", "additive_noise", "freeze"} <= made


@pytest.mark.parametrize("model", ["2nn", "lenet(init=uniform)"])
def test_layers_that_draw_are_options_of_the_models_it_times(model):
    for option in benchmark.LAYERS:
        assert load(benchmark._with(model, option), input_shape=(28, 28, 1), num_classes=10).draws


def test_nothing_to_time_is_said(tmp_path):
    with pytest.raises(ParameterError, match="--only 'nothing' and --skip 'None' leave none"):
        benchmark.main(rounds=3, model="2nn", only="nothing", skip=None, out=tmp_path / "x.json")


@pytest.mark.slow
def test_defended_rounds_are_timed_in_turns():
    seconds = benchmark.timed(3, "logistic", ["clip(norm=1)", "freeze(layers=[{head}/bias])"])
    assert list(seconds) == [benchmark.PLAIN, "clip(norm=1)", "freeze(layers=[dense/bias])"]
    assert list(benchmark.timed(3, "2nn", ["dropout=0.25"])) == [benchmark.PLAIN, "dropout=0.25"]
    assert all(np.min(times) > 0 and len(times) == 3 for times in seconds.values())
