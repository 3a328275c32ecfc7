"""TFF worker: TensorFlow Federated's C++ runtime as a child that never outlives its parent.

TFF starts that runtime with the caller's standard output and stops it in a destructor. Where the destructor does not
run, the child lives on and holds the output open, so that whoever reads it waits for ever. Here the child has no
output of the caller's, and is killed when the block ends, when the interpreter does, and by the kernel when the
parent is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedpriv._lazy import tff
from fedpriv.errors import FedprivError

_PR_SET_PDEATHSIG = 1
_START_SECONDS = 60.0


@contextlib.contextmanager
def tff_runtime() -> Iterator[subprocess.Popen[bytes]]:
    """Makes a local C++ runtime TFF's default context while the block runs; gives its process.

    SIGTERM ends the program as an exception within the block, so that the child goes first.

    Raises:
      FedprivError: the runtime did not start.
    """
    binary = Path(tff.__file__).parent / "data" / "worker_binary"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [str(binary), f"--port={port}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=_die_with_parent(),
    )
    atexit.register(_stop, process)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        _use(process, port)
        yield process
    finally:
        signal.signal(signal.SIGTERM, before)
        _stop(process)
        atexit.unregister(_stop)


def _use(process: subprocess.Popen[bytes], port: int) -> None:
    import grpc
    from tensorflow_federated.python.core.backends.native import compiler
    from tensorflow_federated.python.core.environments.tensorflow_frontend import tensorflow_computation
    from tensorflow_federated.python.core.impl.context_stack import context_stack_impl
    from tensorflow_federated.python.core.impl.execution_contexts import sync_execution_context
    from tensorflow_federated.python.core.impl.executor_stacks import python_executor_stacks
    from tensorflow_federated.python.core.impl.executors import remote_executor, remote_executor_grpc_stub
    from tensorflow_federated.python.core.impl.types import placements

    unlimited = [(f"grpc.max_{way}message_length", 2**31 - 1) for way in ("", "receive_", "send_")]
    stub = remote_executor_grpc_stub.RemoteExecutorGrpcStub(grpc.insecure_channel(f"localhost:{port}", unlimited))
    deadline = time.monotonic() + _START_SECONDS
    while not stub.is_ready:
        if process.poll() is not None or time.monotonic() > deadline:
            raise FedprivError(
                f"TFF's runtime did not start (exit code {process.poll()}); reinstall tensorflow-federated"
            )
        time.sleep(0.1)

    def executor(cardinalities: Any) -> Any:
        cardinalities.setdefault(placements.CLIENTS, 0)
        remote = remote_executor.RemoteExecutor(stub)
        remote.set_cardinalities(cardinalities)
        return remote

    context_stack_impl.context_stack.set_default_context(
        sync_execution_context.SyncExecutionContext(
            executor_fn=python_executor_stacks.ResourceManagingExecutorFactory(executor),
            compiler_fn=compiler.desugar_and_transform_to_native,
            transform_args=tensorflow_computation.transform_args,
            transform_result=tensorflow_computation.transform_result,
        )
    )


def _die_with_parent() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up here: after the fork only the call itself is safe
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
