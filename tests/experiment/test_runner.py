"""Running: what is done is not done again, what is shared is done once, and nothing finished is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedpriv.base.errors import DataError, ExperimentError, FedprivError
from fedpriv.experiment import runner
from fedpriv.experiment.experiment import load
from fedpriv.experiment.store import Store, attack_job, training_job
from tests.experiment.conftest import SMALL


def run(path, folder, *overrides, retry_failed=False, any_code=False, **options):
    """Runs what is to be done; the kinds of jobs that ran, in order."""
    experiment, store = load(path, overrides), Store(folder)
    store.claim(experiment)
    steps = []
    todo = runner.survey(experiment, store, retry_failed, any_code)
    runner.run(experiment, store, todo, on_step=steps.append, **options)
    return steps


def kinds(steps):
    return [s.job.kind for s in steps]


def found(path, folder, *overrides):
    """Every job's outcome by key."""
    experiment, store = load(path, overrides), Store(folder)
    jobs = {j.key: j for c in experiment.cells for j in (training_job(c), attack_job(c)) if j is not None}
    return {key: store.read(job) for key, job in jobs.items()}


@pytest.mark.slow
def test_each_training_is_done_once_and_nothing_twice(write, tmp_path):
    path, folder = write(seeds=1), tmp_path / "r"
    first = run(path, folder)
    assert kinds(first) == ["train", "attack", "attack"] * 2  # two defenses, two attacks on each
    assert all(s.outcome is not None for s in first)
    assert run(path, folder) == []
    assert kinds(run(path, folder, "seeds=2")) == ["train", "attack", "attack"] * 2
    more = run(path, folder, "grid.attack=[labels]", "seeds=1")
    assert kinds(more) == ["attack"] * 2
    exact = [
        i["psnr"]
        for s in first
        if s.job.cell.labels["attack"] == "first layer"
        for t in s.outcome.scores
        for i in t["images"]
    ]
    assert min(map(float, exact)) > 60


@pytest.mark.slow
def test_attacks_meet_the_trained_weights(write, tmp_path):
    path = write(grid={"attack": ["first_layer"]}, seeds=1)
    trained, attacked = run(path, tmp_path / "r")
    assert trained.outcome.facts["rounds_done"] == 2
    assert len(trained.outcome.rounds) == 2
    again = runner.run_job(attacked.job, trained.outcome.arrays["weights"], 8)
    assert again.outcome.scores[0]["images"] == attacked.outcome.scores[0]["images"]
    fresh = runner.run_job(attacked.job, None, 8)
    assert fresh.outcome.scores[0]["images"] != attacked.outcome.scores[0]["images"]
    assert attacked.outcome.arrays["originals"].shape == (2, 4, 4, 1)
    np.testing.assert_allclose(attacked.outcome.arrays["found"], attacked.outcome.arrays["originals"], atol=1e-3)
    kept = [s.outcome.arrays for s in found(path, tmp_path / "r").values()]
    assert kept[0]["weights"].dtype == np.float32
    assert kept[1]["found"].dtype == np.float16  # for figures; the scores are made
    np.testing.assert_allclose(kept[1]["found"], attacked.outcome.arrays["found"], atol=5e-4)


@pytest.mark.slow
def test_weights_are_kept_where_something_attacks_them(write, tmp_path):
    """Without an attack they are left out; one that comes later trains once more, and then they stay."""
    path, folder = write(grid={}, seeds=1), tmp_path / "r"
    assert kinds(run(path, folder)) == ["train"]
    (alone,) = found(path, folder).values()
    assert alone.outcome.arrays == {}
    assert run(path, folder) == []
    assert kinds(run(path, folder, "attack=first_layer")) == ["train", "attack"]
    trained, _ = found(path, folder, "attack=first_layer").values()
    assert trained.outcome.arrays["weights"].ndim == 1
    assert kinds(run(path, folder, "attack=labels")) == ["attack"]
    assert run(path, folder) == []


@pytest.mark.slow
def test_a_cell_that_is_lost_or_damaged_is_run_again_alone(write, tmp_path):
    path, folder = write(seeds=1), tmp_path / "r"
    run(path, folder)
    files = sorted((folder / "cells").glob("*.json"))
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-10])
    assert kinds(run(path, folder)) == ["attack", "attack"]
    assert run(path, folder) == []


def test_failures_are_kept_and_tried_again_on_request(write, tmp_path, monkeypatch):
    path, folder = write(grid={"attack": ["first_layer", "labels"]}, seeds=1), tmp_path / "r"
    real, broken = runner.attack, ZeroDivisionError("by zero")

    def attack(setting, *rest):
        if setting.attack == "labels" and broken:
            raise broken
        return real(setting, *rest)

    monkeypatch.setattr(runner, "attack", attack)
    steps = run(path, folder)
    assert [s.error for s in steps] == ["", "", "ZeroDivisionError: by zero"]
    assert "Traceback" in steps[-1].details
    assert run(path, folder) == []
    broken = SystemExit(3)
    assert [s.error for s in run(path, folder, retry_failed=True)] == ["SystemExit: 3"]
    broken = None
    assert kinds(run(path, folder, retry_failed=True)) == ["attack"]
    assert run(path, folder, retry_failed=True) == []


def test_a_mistake_in_a_setting_is_a_failed_cell_not_the_end(write, tmp_path):
    """A cohort beyond the population is known only once the data are there."""
    path = write(
        grid={"training.cohort": [3, 60]}, seeds=1, setting={**load(write()).source["setting"], "attack": "first_layer"}
    )
    steps = run(path, tmp_path / "r")
    errors = [s.error for s in steps]
    assert errors[2:] == ["", ""]
    assert "cohort size 60 exceeds the population of 6" in errors[0]  # before the others run
    assert errors[1] == f"its training failed: {errors[0]}"
    assert steps[0].details == ""  # the user's mistake needs no traceback


def test_what_cannot_run_is_known_before_anything_does(write, tmp_path, monkeypatch):
    """Parts that do not fit, each looked at once for all attacks and seeds; what is done already is not looked at."""
    grid = {
        "how": {
            "two": {"defense": ["top_k(fraction=0.5)", "sign_sgd"]},
            "layer": {"defense": "freeze(layers=[nope])"},
            "peers": {
                "defense": "secret_sharing(aggregators=3,range=8)",
                "training.topology": "gossip(graph=ring)",
                "exposure.topology": "server",
                "exposure.cohort": 2,
            },
            "fine": {"defense": "none"},
        },
        "attack": ["first_layer", "labels"],
    }
    path = write(grid=grid, seeds=2)
    todo = runner.survey(load(path), Store(tmp_path / "r"))
    looked, real = [], runner._refusal
    monkeypatch.setattr(runner, "_refusal", lambda job, trained: looked.append(job) or real(job, trained))
    refused = runner.refusals(todo)
    jobs = [*todo.trainings, *(job for job, _ in todo.attacks)]
    for job in jobs:
        said = refused.get(job.key, "")
        how = job.cell.labels["how"]
        why = {"two": "one message is compressed once", "layer": "no layer 'nope'", "peers": "which needs a server"}
        assert why.get(how, "") in said
        assert bool(said) == (how in why)
    assert 4 <= len(looked) < len(jobs)
    # What one seed or question forbids, another may allow.
    monkeypatch.setattr(runner, "_refusal", lambda job, trained: "no" if job.cell.seed == 0 else "")
    refused = runner.refusals(todo)
    assert all((job.key in refused) == (job.cell.seed == 0) for job in jobs)
    monkeypatch.setattr(
        runner,
        "_refusal",
        lambda job, trained: "no" if job.kind == "attack" and job.cell.setting.attack == "labels" else "",
    )
    refused = runner.refusals(todo)
    assert all((job.key in refused) == (job.kind == "attack" and job.cell.setting.attack == "labels") for job in jobs)
    monkeypatch.setattr(runner, "PATIENCE", 0.0)
    assert runner.refusals(todo) == {}


@pytest.mark.slow
def test_what_other_code_made_is_run_again_unless_wanted(write, tmp_path, monkeypatch):
    path, folder = write(grid={"attack": ["first_layer"]}, seeds=1), tmp_path / "r"
    run(path, folder)
    monkeypatch.setattr(runner, "code_version", lambda setting, attacked: "other")
    assert run(path, folder, any_code=True) == []
    assert kinds(run(path, folder)) == ["train", "attack"]
    assert run(path, folder) == []


@pytest.mark.slow
def test_a_plugin_that_changed_is_run_again(write, tmp_path, monkeypatch):
    """The code of someone's attack counts for its own cells, not for the trainings, nor for other attacks."""
    from fedpriv.experiment import code

    home = tmp_path / "home"
    home.mkdir()
    plugin = home / "somebodys_attack.py"
    plugin.write_text(
        "from fedpriv_attacks.exact.first_layer import FirstLayer\nclass Mine(FirstLayer):\n    name = 'mine'\n"
    )
    monkeypatch.syspath_prepend(str(home))
    path, folder = write(grid={"attack": ["somebodys_attack:Mine", "labels"]}, seeds=1), tmp_path / "r"
    assert kinds(run(path, folder)) == ["train", "attack", "attack"]
    assert run(path, folder) == []
    plugin.write_text(plugin.read_text() + "# changed\n")
    code._sources.cache_clear()  # as in a new process
    again = run(path, folder)
    assert [s.job.cell.setting.attack for s in again] == ["somebodys_attack:Mine"]
    assert all(s.error == "" for s in again)
    assert run(path, folder) == []


@pytest.mark.slow
def test_a_worker_with_other_code_is_told(write, tmp_path, monkeypatch):
    real = runner.run_job

    def elsewhere(*job):
        return replace(real(*job), code="other")

    path, folder = write(grid={"attack": ["first_layer"]}, seeds=1), tmp_path / "r"
    monkeypatch.setattr(runner, "run_job", elsewhere)
    steps = run(path, folder)
    assert all("its worker runs other code (version other, here " in s.error for s in steps)
    monkeypatch.undo()
    assert kinds(run(path, folder, retry_failed=True)) == ["train", "attack"]


PROGRAM = """
import os, sys, time
from fedpriv.experiment import runner
real = runner.attack
def attack(*a):
    print("attack", flush=True)
    if os.environ.get("SLOW") and os.path.isdir(sys.argv[2] + "/cells"):  # one is done
        time.sleep(60)
    return real(*a)
runner.attack = attack
from fedpriv.cli import main
main(["run", sys.argv[1], "--out", sys.argv[2]])
"""


@pytest.mark.slow
def test_a_kill_loses_no_more_than_the_running_cell(write, tmp_path, monkeypatch):
    path, folder = write(seeds=1, draw=["costs"]), tmp_path / "r"
    program = [sys.executable, "-c", PROGRAM, str(path), str(folder)]
    monkeypatch.setenv("SLOW", "1")
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    process.stdout.readline()
    for line in process.stdout:
        if line == "attack\n" and (folder / "cells").is_dir():
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {k for k, s in found(path, folder).items() if s is not None}
    assert len(kept) == 2  # one training, one attack
    monkeypatch.delenv("SLOW")
    done = subprocess.run(program, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 done already" in done.stdout
    assert done.stdout.count("attack\n") == 3
    assert all(s.outcome is not None for s in found(path, folder).values())
    assert (folder / "report.html").exists()


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        one, other = a[key].outcome, b[key].outcome
        assert [s["images"] for s in one.scores] == [s["images"] for s in other.scores]
        for name in one.arrays:
            np.testing.assert_allclose(one.arrays[name], other.arrays[name], atol=1e-6)


@pytest.mark.slow
def test_two_processes_find_what_one_does(write, tmp_path):
    path = write(seeds=1, grid={**SMALL["grid"], "attack": ["first_layer"]})
    run(path, tmp_path / "one")
    steps = run(path, tmp_path / "two", jobs=2)
    assert sorted(kinds(steps)) == ["attack"] * 2 + ["train"] * 2
    same(found(path, tmp_path / "one"), found(path, tmp_path / "two"))


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_runs_its_cells_again(write, tmp_path):
    from distributed import LocalCluster

    path = write(seeds=3)
    run(path, tmp_path / "one")
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        struck = []

        def strike(step):
            if not struck:
                struck.append(step)
                nanny = next(iter(cluster.workers.values()))
                import os

                os.kill(nanny.pid, signal.SIGKILL)

        experiment, store = load(path), Store(tmp_path / "two")
        store.claim(experiment)
        todo = runner.survey(experiment, store)
        runner.run(experiment, store, todo, scheduler=cluster.scheduler_address, on_step=strike)
    assert struck
    same(found(path, tmp_path / "one"), found(path, tmp_path / "two"))


@pytest.mark.slow
def test_a_scheduler_that_goes_away_fails_no_job(write, tmp_path):
    """What it took with it is neither done nor failed; the same command goes on."""
    path, address = write(seeds=3), "tcp://127.0.0.1:18799"
    python = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "18799"]
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = subprocess.Popen([*python, "--no-dashboard"], **options)
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
    helper = subprocess.Popen(worker, **options)
    try:
        experiment, store = load(path), Store(tmp_path / "r")
        store.claim(experiment)
        steps = []

        def on_step(step):
            steps.append(step)
            scheduler.kill()

        todo = runner.survey(experiment, store)
        with pytest.raises(ExperimentError, match=f"the Dask scheduler at '{address}' went away"):
            runner.run(experiment, store, todo, scheduler=address, on_step=on_step)
    finally:
        for process in (scheduler, helper):
            process.kill()
            process.wait()
    assert steps
    assert all(s.error == "" for s in steps)
    rest = runner.survey(experiment, store)
    assert rest.failed == []
    assert len(rest.done) == len(steps)
    assert rest.jobs == todo.jobs - len(steps)


def test_a_scheduler_that_does_not_answer_is_named(write, tmp_path, monkeypatch):
    import distributed

    def refuse(*_, **__):
        raise OSError("Timed out")

    monkeypatch.setattr(distributed, "Client", refuse)
    with pytest.raises(ExperimentError, match="no Dask scheduler answers at 'tcp://localhost:1'"):
        run(write(seeds=1), tmp_path / "r", scheduler="tcp://localhost:1")


@pytest.mark.slow
def test_the_tff_engine_and_its_workers_from_the_file(write, content, tmp_path):
    from fedpriv.engine.tff.runtime import Runtime

    setting = {**content["setting"], "attack": "first_layer"}
    graph = run(write(setting=setting, grid={}, seeds=1), tmp_path / "graph")
    runtime = Runtime()
    try:
        setting |= {"engine": "tff", "workers": [runtime.address]}
        steps = run(write("tff.yaml", setting=setting, grid={}, seeds=1), tmp_path / "tff")
    finally:
        runtime.close()
    assert kinds(steps) == ["train", "attack"]
    for step, other in zip(steps, graph, strict=True):
        assert step.error == ""
        for name, array in step.outcome.arrays.items():
            np.testing.assert_allclose(array, other.outcome.arrays[name], atol=1e-4)
    gone = run(write("tff.yaml", setting=setting, grid={}, seeds=[1]), tmp_path / "tff")
    assert f"worker {runtime.address} does not answer" in gone[0].error


def test_missing_data_are_named_as_written_and_where_they_were_looked_for(write, monkeypatch):
    path = write(setting={**SMALL["setting"], "data": "no/such.npz"})
    monkeypatch.chdir(path.parent.parent)
    written = Path(path.parent.name) / path.name
    beside = f"looked for 'no/such.npz' here and, beside the experiment's file, '{path.parent.name}/no/such.npz'"
    with pytest.raises(DataError, match=f"^no/such.npz is missing; .*{beside}$"):
        runner.load_data_once(load(written))
    with pytest.raises(DataError, match=r"data_dir nope is missing; .*beside the experiment's file, '"):
        runner.load_data_once(load(written, ["data=mnist", "data_dir=nope"]))
    monkeypatch.chdir(path.parent)
    for given in ([], ["data=/no/such.npz"], ["data=mnits"]):  # one place only
        with pytest.raises(FedprivError, match=r"missing; |no dataset or path") as refused:
            runner.load_data_once(load(path.name, given))
        assert "looked for" not in str(refused.value)


@pytest.mark.slow
def test_data_beside_the_file_are_found_and_a_report_needs_none(write, tmp_path, monkeypatch, capsys):
    """The file names its data by a path relative to itself; results can be shown where the data are not."""
    from fedpriv.cli import main
    from tests.experiment.toys import toy

    train, _ = toy()
    home, elsewhere, results = tmp_path, tmp_path / "elsewhere", tmp_path / "results"
    np.savez(home / "mine.npz", x=train.x, y=train.y)
    path = write(setting={**SMALL["setting"], "data": "mine.npz"}, grid={"attack": ["first_layer"]}, seeds=1)
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for arguments in (["run", str(path), "--out", str(results)], ["report", str(results)]):
        with pytest.raises(SystemExit) as done:
            main(arguments)
        assert done.value.code == 0, capsys.readouterr().err
        (home / "mine.npz").unlink(missing_ok=True)
    assert "data: mine.npz" in (results / "experiment.yaml").read_text()
    assert str(home) not in (results / "experiment.yaml").read_text() + (results / "report.html").read_text()
