import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments.benchmarks import fedavg_vs_tff as benchmark
from experiments.benchmarks import workload


def test_rounds_alternate_and_warm_up_is_not_timed():
    calls = []
    first, times = benchmark.interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, 2)
    assert calls == ["a", "b"] * 5
    assert set(first) == {"a", "b"}
    assert {name: len(t) for name, t in times.items()} == {"a": 3, "b": 3}


def test_ratio_is_of_paired_rounds():
    found = benchmark.compared({"slow": [4.0, 9.0, 100.0], "fast": [2.0, 3.0, 10.0]}, "slow", "fast")
    assert found["ratio"]["median"] == 3
    assert found["rounds_per_second"] == {"slow": 1 / 9, "fast": 1 / 3}


@pytest.mark.parametrize(
    ("ours", "theirs", "same"), [(0.5, 0.55, True), (0.5, 1.0, False), (2.2, 2.2, False), (float("nan"), 0.5, False)]
)
def test_losses_are_similar_only_if_both_learned(ours, theirs, same):
    assert benchmark.similar({"before": 2.3, "fedpriv": ours, "tff": theirs}) is same


def test_the_workload_is_what_it_says():
    made = workload.federation()
    assert made.model.spec.shapes == ((784, 200), (200,), (200, 200), (200,), (200, 10), (10,))
    assert made.partition.sizes.tolist() == [600] * 10
    assert made.procedure.local_steps(600) == 60
    assert made.train.x.dtype == np.float32


@pytest.mark.slow
def test_both_sides_learn_the_same_and_leave_no_process():
    found = benchmark.against_tff(2, 1, "keras", "reduce")
    assert found["similar_loss"]
    children = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "comm="], capture_output=True, text=True)
    assert "worker_binary" not in children.stdout


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_the_runtime_dies_with_its_parent(end):
    program = (
        "import time\nfrom fedpriv.engine.tff.pool import default_runtime\n"
        "with default_runtime() as p:\n    print(p.process.pid, flush=True)\n    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.send_signal(end)
    assert parent.stdout.read() == ""  # ends only if nobody holds the pipe any more
    parent.wait()
    for _ in range(100):
        if not os.path.exists(f"/proc/{child}"):
            break
        time.sleep(0.1)
    else:
        pytest.fail("the runtime outlived its parent")
