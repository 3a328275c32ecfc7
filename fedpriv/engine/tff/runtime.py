"""Runtime: TFF's C++ runtime as a child that this process owns.

TFF's own local runtime is started with the caller's standard output and stopped in a destructor. Where the destructor
does not run, it lives on and holds that output open, so that whoever reads it waits for ever. Here the child writes
to a file of its own, is asked whether it is well before it is used, and ends with the engine, with the interpreter,
and, by the kernel, with a parent that is killed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from pathlib import Path
from typing import IO

from fedpriv.base.errors import EngineError

#: Arguments: the parent's number, the program, its arguments. 1 is PR_SET_PDEATHSIG.
_LAUNCH = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
START_SECONDS = 180.0
_LAST_WORDS = 2000
_LISTENS = "listening on"


class Runtime:
    """One running C++ runtime.

    Attributes:
      process: the child.
      port: where it listens.
      log: what it printed: a file without a name, so that none is left behind however this process ends.
    """

    def __init__(self) -> None:
        """Starts it, and waits until it listens.

        Raises:
          EngineError: it did not come up; says what it printed.
        """
        found = importlib.util.find_spec("tensorflow_federated")  # not imported: that takes seconds
        binary = Path((found and found.origin) or "tensorflow_federated").parent / "data" / "worker_binary"
        if not binary.exists():
            raise EngineError(f"TFF's runtime is missing at {binary}; reinstall tensorflow-federated")
        self.port = free_port()
        self.log = tempfile.TemporaryFile(prefix="fedpriv-tff-")  # noqa: SIM115  it stays open as long as the runtime
        self.process = subprocess.Popen(
            [*_launcher(), str(binary), f"--port={self.port}"],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            close_fds=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "0"},  # or it does not say when it listens
        )
        self._end = weakref.finalize(self, _stop, self.process, self.log)
        _end_on_signals()
        self.wait()

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"localhost:{self.port}"

    def alive(self) -> bool:
        """Whether the child runs."""
        return self.process.poll() is None

    def listening(self) -> bool:
        """Whether it says that it listens. Not to be found out by knocking: a connection that comes and goes while it
        starts can end it."""
        return _LISTENS in self.last_words()

    def wait(self, seconds: float = START_SECONDS) -> None:
        """Waits until it listens.

        Raises:
          EngineError: it ends, or does not listen in time; says what it printed.
        """
        deadline = time.monotonic() + seconds
        while not self.listening():
            if not self.alive() or time.monotonic() > deadline:
                ended = f"ended (exit code {self.process.returncode})" if not self.alive() else "does not listen"
                said = self.last_words() or "nothing"
                self.close()
                raise EngineError(f"TFF's runtime {ended} while starting; it said: {said}")
            time.sleep(0.02)

    def last_words(self) -> str:
        """The end of what it printed."""
        with contextlib.suppress(OSError, ValueError):  # it may be closed
            number = self.log.fileno()
            start = max(0, os.fstat(number).st_size - _LAST_WORDS)
            return os.pread(number, _LAST_WORDS, start).decode(errors="replace")  # the child's place in it stays
        return ""

    def close(self) -> None:
        """Ends it; does nothing if it has ended."""
        self._end()


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])


def _launcher() -> list[str]:
    """What starts a program so that the kernel kills it along with this process.

    Not `preexec_fn`, for which Python forks: gRPC then revives its threads in the child, where they crash.
    """
    return [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid())] if sys.platform.startswith("linux") else []


def _stop(process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
    log.close()


def _end_on_signals() -> None:
    """SIGTERM and SIGHUP end the program as an exception, so that exit handlers run, unless it handles them itself."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda received, _: sys.exit(128 + received))
