"""Worker: TFF's C++ runtime behind a door that this process keeps.

The runtime itself listens on every network interface, has no password and no encryption, and cannot say which version
it is. So the worker moves into a network of its own, where only the runtime and the door are, and lets in through the
door, a socket opened before, on the address that was asked for. Who knocks with `HELLO` is told the versions; everybody
else is put through to the runtime.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from fedpriv.base.errors import EngineError

#: What a caller that wants the versions sends; the answer is one line of JSON.
HELLO = b"fedpriv-hello\n"
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_BLOCK = 1 << 18


def versions() -> dict[str, str]:
    """What two ends of a connection must share, and what helps to tell why they do not get on."""
    names = ("fedpriv", "tensorflow", "tensorflow-federated")
    return {name: version(name) for name in names} | {"python": sys.version.split()[0]}


def ask(address: str, seconds: float = 5.0) -> dict[str, str] | None:
    """A worker's versions; None if it is a bare TFF runtime, which cannot tell.

    Raises:
      OSError: nothing listens there.
    """
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=seconds) as connection:
        connection.sendall(HELLO)
        answer = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            while not answer.endswith(b"\n") and (more := connection.recv(4096)):
                answer += more
    try:
        found = json.loads(answer)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def listen(bind: str, port: int) -> socket.socket:
    """The door's socket.

    Raises:
      EngineError: the address cannot be bound.
    """
    try:
        family = socket.getaddrinfo(bind, port, type=socket.SOCK_STREAM)[0][0]
        door = socket.socket(family, socket.SOCK_STREAM)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind((bind, port))
        door.listen(64)
    except (OSError, OverflowError) as e:
        raise EngineError(
            f"cannot listen on {bind}:{port}: {e}; give another --port, or for --bind an address of this machine"
        ) from e
    return door


def isolate() -> str:
    """Moves this process into a network of its own that holds nothing but a loopback; why not, if that fails."""
    if not sys.platform.startswith("linux"):
        return "only Linux has network namespaces"
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
        return f"the kernel refuses a network namespace ({os.strerror(ctypes.get_errno())})"
    with contextlib.suppress(OSError):  # without these maps, files merely seem to be somebody else's
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh", b"lo", 0)
        flags = struct.unpack("16sh", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | _IFF_UP))
    return ""


def serve(door: socket.socket, runtime: Any, ready: Callable[[], None] = lambda: None) -> None:
    """Keeps the door until the runtime ends.

    Raises:
      EngineError: the runtime ended.
    """
    asyncio.run(_serve(door, runtime, ready))


async def _serve(door: socket.socket, runtime: Any, ready: Callable[[], None]) -> None:
    async def guest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            first = await reader.read(_BLOCK)
            if first.startswith(HELLO):
                writer.write(json.dumps(versions()).encode() + b"\n")
                await writer.drain()
            elif first:
                inner_reader, inner = await asyncio.open_connection("127.0.0.1", runtime.port, limit=_BLOCK)
                inner.write(first)
                await asyncio.gather(_pump(reader, inner), _pump(inner_reader, writer))
        writer.close()

    server = await asyncio.start_server(guest, sock=door, limit=_BLOCK)
    async with server:
        ready()
        while runtime.alive():
            await asyncio.sleep(0.2)
    raise EngineError(
        f"TFF's runtime ended (exit code {runtime.process.returncode}); it said: {runtime.last_words() or 'nothing'}"
    )


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while block := await reader.read(_BLOCK):
            writer.write(block)
            await writer.drain()
    with contextlib.suppress(ConnectionError, OSError):
        writer.close()


def main(arguments: list[str]) -> int:
    """Keeps the door whose file descriptor is given, and says so under the name that is given with it."""
    number, name = arguments
    door = socket.socket(fileno=int(number))
    refused = isolate()
    from fedpriv.engine.tff.runtime import Runtime

    try:
        runtime = Runtime()
        if refused:
            print(
                f"Warning: {refused}, so TFF's runtime itself also listens, on every interface, on port "
                f"{runtime.port}; close that port in the firewall.",
                file=sys.stderr,
            )
        try:
            serve(door, runtime, lambda: print(f"fedpriv worker on {name}", flush=True))
        finally:
            runtime.close()
    except EngineError as e:
        print(f"fedpriv: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
