"""Pool: the workers of the TFF engine, and how jobs get around those that fail."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedpriv.base.errors import EngineError, ParameterError
from fedpriv.base.lazy import tff
from fedpriv.engine.tff.runtime import START_SECONDS, Runtime
from fedpriv.engine.tff.worker import ask, versions

_MESSAGE_BYTES = 2**31 - 1
#: How often busy workers are looked at.
LOOK_SECONDS = 0.5
#: Most results a worker that wait for an earlier one.
AHEAD = 2


@dataclass(eq=False)
class Worker:
    """One TFF runtime that takes calls.

    Attributes:
      address: `host:port`.
      runtime: the child, if it is ours.
      failed: why it is not used any more, or "".
    """

    address: str
    runtime: Runtime | None = None
    failed: str = ""
    context: Any = field(default=None, repr=False)
    stub: Any = field(default=None, repr=False)
    channel: Any = field(default=None, repr=False)

    def connect(self, seconds: float) -> None:
        """Waits until it answers, and makes the context that computations run in.

        Raises:
          EngineError: it does not answer in time.
        """
        import grpc

        deadline = time.monotonic() + seconds
        if self.runtime is None:
            self._wait(deadline, self._is_of_our_version)
        options = [(f"grpc.max_{way}message_length", _MESSAGE_BYTES) for way in ("", "receive_", "send_")]
        options += [(f"grpc.{which}_reconnect_backoff_ms", 200) for which in ("initial", "min", "max")]
        options.append(("grpc.enable_http_proxy", 0))  # a worker is reached directly, whatever http_proxy says
        self.channel = grpc.insecure_channel(self.address, options)
        stub = self.stub = _make_stub(self.channel)
        self._wait(deadline, lambda: stub.is_ready)

        def executor(cardinalities: Any) -> Any:
            remote = tff.framework.RemoteExecutor(stub)
            remote.set_cardinalities({tff.CLIENTS: 0, **cardinalities})
            return remote

        self.context = tff.framework.SyncExecutionContext(
            executor_fn=tff.framework.ResourceManagingExecutorFactory(executor),
            compiler_fn=tff.backends.native.desugar_and_transform_to_native,
            **_transforms(),
        )

    def _wait(self, deadline: float, until: Callable[[], bool]) -> None:
        while not until():
            if self.runtime is not None and (time.monotonic() > deadline or not self.runtime.alive()):
                raise EngineError(
                    f"the TFF runtime started here ({self.address}) does not answer; where the machine is busy, try "
                    "again, or give workers that run already by --workers"
                )
            if time.monotonic() > deadline:
                raise EngineError(
                    f"worker {self.address} does not answer; start it there with `fedpriv worker --port "
                    f"{self.address.rpartition(':')[2]}`, check host and port, or leave it out of --workers"
                )
            time.sleep(0.05)

    def _is_of_our_version(self) -> bool:
        """False if it does not answer yet."""
        key = "tensorflow-federated"
        try:
            theirs = ask(self.address)
        except OSError:
            return False
        if theirs is not None and theirs.get(key) != (ours := versions()[key]):
            raise EngineError(
                f"worker {self.address} runs {key} {theirs.get(key, 'unknown')}, this machine {ours}, and TFF's "
                f"serialized computations are not kept compatible; install the same fedpriv and {key} on both"
            )
        return True

    def answers(self) -> bool:
        """Whether the connection stands. TFF itself would call again for ever where it does not."""
        return (self.runtime is None or self.runtime.alive()) and bool(self.stub.is_ready)

    def call(self, computation: Any, arguments: Sequence[Any]) -> Any:
        """The computation's result on this worker."""
        with tff.framework.get_context_stack().install(self.context):
            return computation(*arguments)

    def close(self) -> None:
        """Hangs up, so that nothing waits for it any more, and ends the runtime if it is ours."""
        if self.stub is not None:
            self.stub.closed = True
            self.channel.close()
        if self.runtime is not None:
            self.runtime.close()


def _make_stub(channel: Any) -> Any:
    """TFF's stub, but values are given back to a worker only as long as it is there to take them.

    TFF gives them back when Python collects them, in whichever thread does, and waits for the answer.
    """

    class Stub(tff.framework.RemoteExecutorGrpcStub):
        closed = False

        def dispose(self, request: Any) -> Any:
            with contextlib.suppress(Exception):
                return None if self.closed else super().dispose(request)

        def dispose_executor(self, request: Any) -> Any:
            with contextlib.suppress(Exception):
                return None if self.closed else super().dispose_executor(request)

    return Stub(channel)


def _transforms() -> dict[str, Any]:
    from tensorflow_federated.python.core.environments.tensorflow_frontend import tensorflow_computation as frontend

    return {"transform_args": frontend.transform_args, "transform_result": frontend.transform_result}


class Pool:
    """Workers that jobs are spread over.

    Args:
      workers: addresses `host:port`; none starts one runtime on this machine.
      timeout: seconds a job may take before its worker is given up.
      start_timeout: seconds a worker has to answer at the start.

    Raises:
      EngineError: a worker does not answer.
      ParameterError: an address is no `host:port`, or named twice.
    """

    def __init__(self, workers: Sequence[str] = (), timeout: float = 600.0, start_timeout: float = 15.0) -> None:
        for address in workers:
            host, _, port = str(address).rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ParameterError(f"worker '{address}' is no host:port, such as localhost:10000")
        if len(set(workers)) != len(workers):
            raise ParameterError(f"workers {list(workers)} names one twice; each takes one job at a time")
        self.timeout = timeout
        if workers:
            self.workers = [Worker(str(a)) for a in workers]
        else:
            own = Runtime()
            self.workers = [Worker(own.address, own)]
        try:
            for worker in self.workers:
                worker.connect(start_timeout if worker.runtime is None else START_SECONDS)
        except BaseException:
            self.close()
            raise

    def call(self, computation: Any, *arguments: Any) -> Any:
        """The computation's result on these arguments."""
        return next(self.map(computation, [arguments]))

    def map(self, computation: Any, jobs: Iterable[Sequence[Any]]) -> Iterator[Any]:
        """The computation's result on every job's arguments, in order.

        Jobs are taken as workers get free, so that what they hold need not exist all at once. A job whose worker fails
        goes to another; results do not depend on which did it.

        Raises:
          EngineError: no worker is left, or the computation itself fails on two of them.
        """
        source = enumerate(jobs)
        held: dict[int, Sequence[Any]] = {}  # arguments of what is not done
        again: list[int] = []
        ready: dict[int, Any] = {}
        done: queue.SimpleQueue[tuple[Worker, int, Any, BaseException | None]] = queue.SimpleQueue()
        busy: dict[Worker, tuple[int, float]] = {}
        failures: dict[int, list[str]] = {}
        following, exhausted = 0, False

        def begin(worker: Worker, number: int) -> None:
            def run() -> None:
                try:
                    done.put((worker, number, worker.call(computation, held[number]), None))
                except BaseException as e:
                    done.put((worker, number, None, e))

            busy[worker] = (number, time.monotonic() + self.timeout)
            threading.Thread(target=run, daemon=True, name=f"fedpriv {worker.address}").start()

        def fail(worker: Worker, number: int, reason: str) -> None:
            worker.failed = reason
            failures.setdefault(number, []).append(f"{worker.address}: {reason}")
            worker.close()
            again.append(number)

        def look() -> None:
            for worker, (number, deadline) in list(busy.items()):
                gone = not worker.answers()
                if gone or deadline <= time.monotonic():
                    del busy[worker]
                    fail(worker, number, "it is gone" if gone else f"no answer in {self.timeout:g} s")

        def finish() -> None:
            while busy:
                try:
                    busy.pop(done.get(timeout=LOOK_SECONDS)[0], None)
                except queue.Empty:
                    look()

        while True:
            for worker in self.workers:
                if worker.failed or worker in busy:
                    continue
                if not again and not exhausted and len(ready) < AHEAD * len(self.workers):
                    number, arguments = next(source, (-1, ()))
                    exhausted = number < 0
                    if not exhausted:
                        held[number] = arguments
                        again.append(number)
                if again:
                    begin(worker, again.pop())
            if not busy:
                if exhausted and not again:
                    return
                said = "; ".join(f"{w.address}: {w.failed}" for w in self.workers)
                raise EngineError(
                    f"no worker is left ({said}); restart them, and run the same command again to resume from the "
                    "last checkpoint"
                )
            try:
                worker, number, value, error = done.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                look()
                continue
            if worker not in busy or busy[worker][0] != number:
                continue  # given up before
            del busy[worker]
            if error is not None:
                fail(worker, number, _reason(error))
                if len(failures[number]) > 1 and len({f.split(": ", 1)[1] for f in failures[number]}) == 1:
                    raise EngineError(f"a call failed in the same way on two workers: {failures[number][0]}") from error
                continue
            del held[number]
            ready[number] = value
            while following in ready:
                try:
                    yield ready.pop(following)
                except GeneratorExit:  # who asked has seen enough: leave no worker busy
                    finish()
                    raise
                following += 1

    def close(self) -> None:
        """Hangs up on all, and ends the runtimes that are ours."""
        for worker in self.workers:
            worker.close()


def _reason(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[-1][:500]


@contextlib.contextmanager
def default_runtime() -> Iterator[Runtime]:
    """Makes a runtime of this process TFF's context while the block runs, for programs that call TFF themselves."""
    runtime = Runtime()
    worker = Worker(runtime.address, runtime)
    try:
        worker.connect(START_SECONDS)
        with tff.framework.get_context_stack().install(worker.context):
            yield runtime
    finally:
        worker.close()
