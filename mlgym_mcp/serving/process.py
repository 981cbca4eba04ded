"""Running a host as a process: in the background for the relays, or in the foreground with HTTP."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib.util
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import anyio.abc
import uvicorn

from mlgym_mcp.catalog import Catalog
from mlgym_mcp.serving.app import HostApp, admin_token
from mlgym_mcp.serving.host import Host
from mlgym_mcp.serving.relay import socket_path
from mlgym_mcp.session.owning import owned_tasks
from mlgym_mcp.session.registry import SessionRegistry
from mlgym_sandbox.home import home

_IDLE_S = 60.0
_GRACE_S = 5


class HttpServer(uvicorn.Server):
    """uvicorn without signal handlers of its own: the host decides when to stop."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # noqa: ANN201 - as the base class has it
        """Leave signals alone."""
        yield


def listen(address: str, port: int) -> socket.socket:
    """Return a listening TCP socket.

    Raises:
        OSError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # asyncio turns Nagle's algorithm off only for sockets that name their protocol: without it every reply
    # would wait 40 ms for an acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(2048)
    except OSError as exc:
        listener.close()
        raise OSError(f"cannot listen on {address}:{port}: {exc.strerror or exc}; choose another port") from exc
    return listener


@contextlib.asynccontextmanager
async def serve_http(host: Host, address: str, port: int) -> AsyncIterator[str]:
    """Serve a running host over HTTP; yields the base URL (with the real port when ``port`` is 0).

    Raises:
        OSError: the address cannot be listened on.
    """
    listener = listen(address, port)
    config = uvicorn.Config(
        HostApp(host, admin_token()),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_GRACE_S,
        lifespan="off",
    )
    server = HttpServer(config)
    stopped = anyio.Event()

    async def run() -> None:
        try:
            await server.serve([listener])
        finally:
            stopped.set()

    async with owned_tasks() as tasks:
        tasks.start_soon(run)
        with anyio.fail_after(20):
            while not server.started:
                await anyio.sleep(0.005)
        shown = f"[{address}]" if ":" in address else address
        host.base_url = f"http://{shown}:{listener.getsockname()[1]}"
        try:
            yield host.base_url
        finally:
            server.should_exit = True
            with anyio.move_on_after(_GRACE_S + 5, shield=True):
                await stopped.wait()


async def until_signalled(host: Host) -> None:
    """Return when the host is told to stop: by SIGINT or SIGTERM, or over its socket."""
    async with anyio.create_task_group() as tasks:

        async def signals() -> None:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
                async for _ in received:
                    host.stopping.set()
                    return

        tasks.start_soon(signals)
        await host.stopping.wait()
        tasks.cancel_scope.cancel()


async def run_foreground(host: Host, address: str, port: int, ready: Callable[[str], Awaitable[None]]) -> None:
    """Run a host with HTTP until it is told to stop; ``ready`` is called with its base URL."""
    async with host.run(), serve_http(host, address, port) as url:
        await ready(url)
        await until_signalled(host)


async def run_background(idle_s: float) -> None:
    """Run the relays' host until it is told to stop or has had nothing to do for ``idle_s`` seconds."""
    host = Host(SessionRegistry(Catalog.default(), sandbox="auto"))
    async with host.run(), owned_tasks() as tasks:
        tasks.start_soon(host.serve_socket, socket_path())

        async def idle() -> None:
            while host.registry.live or host.connections or time.monotonic() - host.last_busy < idle_s:
                await anyio.sleep(min(1.0, idle_s / 4))
            host.stopping.set()

        tasks.start_soon(idle)
        await until_signalled(host)


def loop_options() -> dict[str, bool]:
    """Return anyio's options for the quickest event loop that is installed (the extra ``fast`` brings uvloop)."""
    return {"use_uvloop": importlib.util.find_spec("uvloop") is not None}


def only_one(folder: Path) -> int | None:
    """Take the lock of the user's one background host; ``None`` if another holds it. Released by the kernel."""
    descriptor = os.open(folder / "host.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def main() -> None:
    """Entry point of the background host (``python -m mlgym_mcp.serving.process``)."""
    parser = argparse.ArgumentParser(description="The background host of mlgym-mcp; relays start it by themselves.")
    parser.add_argument("--idle", type=float, default=_IDLE_S, help="end after so many idle seconds")
    arguments = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("mcp").setLevel(logging.WARNING)
    if only_one(home("run")) is None:
        return
    anyio.run(run_background, arguments.idle, backend_options=loop_options())


if __name__ == "__main__":
    main()
