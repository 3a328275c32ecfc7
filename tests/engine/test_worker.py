"""`fedpriv worker`: a door that is shut to the network, tells its versions, and leaves nothing behind."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from fedpriv.base.errors import EngineError
from fedpriv.engine.tff import pool
from fedpriv.engine.tff.pool import Pool
from fedpriv.engine.tff.runtime import Runtime, free_port
from fedpriv.engine.tff.worker import ask, versions


@pytest.fixture
def start():
    made = []

    def start(*options):
        port = free_port()
        command = [sys.executable, "-m", "fedpriv", "worker", "--port", str(port), *options]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        made.append(process)
        return process, port

    yield start
    for process in made:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("how", "status"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_it_serves_a_run_from_a_network_of_its_own_and_ends_with_all_it_started(
    federate, start, runtimes_of, how, status
):
    process, port = start()
    assert process.stdout.readline() == f"fedpriv worker on 127.0.0.1:{port}\n"
    assert ask(f"localhost:{port}") == versions()
    (runtime,) = runtimes_of(process.pid)
    remote = federate(batch_size=4, engine="tff", engine_options={"workers": [f"localhost:{port}"]})
    np.testing.assert_allclose(remote.run(2).weights, federate(batch_size=4).run(2).weights, atol=1e-6)
    own, its = (Path(f"/proc/{who}/ns/net").readlink() for who in ("self", runtime))
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert not Path(f"/proc/{runtime}").exists()
    assert own != its or "also listens, on every interface" in err


def test_a_port_that_is_taken_and_an_address_that_is_not_ours(start):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "fedpriv", "worker", "--port", str(port)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr
    process, _ = start("--bind", "192.0.2.1")
    assert process.wait(timeout=60) == 2


@pytest.mark.slow
def test_other_addresses_than_the_loopback_are_warned_of(start):
    process, port = start("--bind", "0.0.0.0")
    assert process.stdout.readline() == f"fedpriv worker on 0.0.0.0:{port}\n"
    process.terminate()
    assert "neither encrypted nor authenticated" in process.communicate(timeout=60)[1]


@pytest.mark.slow
def test_when_the_runtime_ends_so_does_the_worker_and_says_so(start, runtimes_of):
    process, _ = start()
    process.stdout.readline()
    (runtime,) = runtimes_of(process.pid)
    subprocess.run(["kill", "-KILL", str(runtime)], check=True)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "TFF's runtime ended (exit code -9)" in err


def test_another_version_is_refused_with_both_named():
    door = socket.create_server(("127.0.0.1", 0))

    def answer():
        guest, _ = door.accept()
        guest.recv(100)
        guest.sendall(b'{"tensorflow-federated": "0.1.0"}\n')
        guest.close()

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    with pytest.raises(EngineError, match=r"runs tensorflow-federated 0\.1\.0, this machine 0\.87"):
        Pool([f"127.0.0.1:{door.getsockname()[1]}"])
    door.close()


def test_a_bare_runtime_tells_no_version_and_is_taken():
    runtime = Runtime()
    try:
        assert ask(runtime.address, seconds=1) is None
        time.sleep(0.2)
        assert runtime.alive()
        made = Pool([runtime.address])
        assert made.workers[0].answers()
        made.close()
    finally:
        runtime.close()
    assert not pool.Worker(runtime.address, runtime).runtime.alive()
