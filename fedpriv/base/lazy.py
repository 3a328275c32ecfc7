"""TensorFlow and TFF, imported at first use rather than at start-up.

`fedpriv --help`, `fedpriv list` and every argument error must answer at once, and importing TensorFlow takes
seconds. Modules of this project write `from fedpriv.base.lazy import tf` and use `tf.` inside functions as usual;
the import happens at the first attribute. Modules must not touch `tf.` while they are being imported.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import logging
import os
import re
import sys
import types
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fedpriv.base.errors import ParameterError

_verbose = False


def set_verbose(verbose: bool) -> None:
    """Lets TensorFlow's and TFF's own log lines through (`-v`). Has no effect once TensorFlow is imported."""
    global _verbose
    _verbose = verbose


def default_threads() -> tuple[int, int]:
    """The (intra-op, inter-op) thread counts fedpriv asks TensorFlow for.

    The models attacked here are small: splitting one operation over threads costs more than it gains, while
    clients (and restarts) run side by side. So one thread an operation and as many operations at once as the
    process has cores. `FEDPRIV_INTRA_OP_THREADS` and `FEDPRIV_INTER_OP_THREADS` override.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return _threads("FEDPRIV_INTRA_OP_THREADS", 1), _threads("FEDPRIV_INTER_OP_THREADS", cores)


def _threads(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.strip().isdecimal() or int(text) < 1:
        raise ParameterError(f"environment variable {variable}='{text}' is no number of threads; give 1 or more")
    return int(text)


def _name_processor(described: str) -> None:
    """Chooses scipy's BLAS kernels where it would choose wrong ones; it looks once, when it is first imported.

    OpenBLAS 0.3.18, which scipy 1.9 brings, takes an AMD processor that is newer than itself (a family above 25) for a
    Barcelona of 2007, and crashes in a Cholesky factorization. A choice that somebody made stays.

    Args:
      described: the beginning of /proc/cpuinfo.
    """
    family = re.search(r"^cpu family\s*:\s*(\d+)", described, re.M)
    if "AuthenticAMD" in described and family and int(family[1]) > 25:
        os.environ.setdefault("OPENBLAS_CORETYPE", "Haswell")


with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as _processor:
    _name_processor(_processor.read(256))


def _before_tensorflow() -> None:
    # gRPC's own handlers at a fork revive its threads in the child, where they crash before anything can be said.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    quiet_tensorflow()


def quiet_tensorflow() -> None:
    """Silences TensorFlow's and TFF's logs, unless `-v` asks for them; before TensorFlow is imported, by whomever."""
    if not _verbose:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it reports its own shutdown at Ctrl-C
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
        logging.getLogger("absl").setLevel(logging.ERROR)
        for module in ("tensorflow", "tensorflow_federated", "tensorflow_privacy", "keras", "jax"):
            warnings.filterwarnings("ignore", module=module)


def _configure_tensorflow(module: Any) -> None:
    intra, inter = default_threads()
    try:
        module.config.threading.set_intra_op_parallelism_threads(intra)
        module.config.threading.set_inter_op_parallelism_threads(inter)
    except RuntimeError:  # the host program has already started TensorFlow: its choice stands
        pass


def _let_go_of_tff(module: Any) -> None:
    """TFF's own default context must go while Python still has its modules, or it complains when it is destroyed."""

    def go() -> None:
        with contextlib.suppress(Exception):
            stack = module.framework.get_context_stack()
            stack.set_default_context(_no_context(module))
            gc.collect()

    atexit.register(go)


def _no_context(module: Any) -> Any:
    class NoContext(module.framework.SyncContext):  # type: ignore[misc,name-defined]
        def invoke(self, comp: Any, arg: Any) -> Any:
            raise RuntimeError("TFF's context is gone, since Python is ending")

    return NoContext()


class _LazyModule(types.ModuleType):
    def __init__(
        self, name: str, before: Callable[[], None] | None = None, after: Callable[[Any], None] | None = None
    ) -> None:
        super().__init__(name)
        self._before, self._after = before, after

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__") and attribute not in ("__version__", "__file__"):
            raise AttributeError(attribute)
        first = self.__name__ not in sys.modules
        if first and self._before:
            self._before()
        module = importlib.import_module(self.__name__)
        if self._after:
            after, self._after = self._after, None
            after(module)
        value = getattr(module, attribute)
        self.__dict__[attribute] = value
        return value


if TYPE_CHECKING:
    import dp_accounting
    import tensorflow as tf
    import tensorflow_federated as tff
    import tensorflow_privacy as tfp
else:
    tf = _LazyModule("tensorflow", _before_tensorflow, _configure_tensorflow)
    tff = _LazyModule("tensorflow_federated", lambda: tf.version, _let_go_of_tff)
    tfp = _LazyModule("tensorflow_privacy", lambda: tf.version, None)
    dp_accounting = _LazyModule("dp_accounting")

__all__ = ["default_threads", "dp_accounting", "quiet_tensorflow", "set_verbose", "tf", "tff", "tfp"]
