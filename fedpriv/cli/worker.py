"""`fedpriv worker`: one machine's share of the TFF engine."""

from __future__ import annotations

import ipaddress
import os
import sys
from typing import Annotated

import typer


def worker(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where it listens.")] = 10000,
    bind: Annotated[str, typer.Option(help="On which address; the default is reachable from this machine only.")] = (
        "127.0.0.1"
    ),
) -> None:
    """Run a worker of the TFF engine until Ctrl-C; use it by `--engine tff --workers HOST:PORT,...`."""
    from fedpriv.engine.tff.worker import listen

    door = listen(bind, port)
    if not _loopback(bind):
        typer.echo(
            f"Warning: {bind}:{port} is open to the network, and TFF's connections are neither encrypted nor "
            "authenticated: whoever reaches the port can read what passes and run code. Bind to 127.0.0.1 and use an "
            "SSH tunnel or an encrypted mesh instead (docs/tff.md).",
            err=True,
        )
    sys.stdout.flush()
    door.set_inheritable(True)
    # A new program in this process: the kernel moves only those without threads into a network of their own, and
    # what the command line has imported has started some.
    os.execv(sys.executable, [sys.executable, "-m", "fedpriv.engine.tff.worker", str(door.fileno()), f"{bind}:{port}"])


def _loopback(bind: str) -> bool:
    try:
        return ipaddress.ip_address(bind).is_loopback
    except ValueError:
        return bind == "localhost"
