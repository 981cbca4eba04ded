"""Running a host as a process: in the background for the relays, or in the foreground with HTTP."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib.util
import os
import resource
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import uvicorn

from mlgym_mcp.catalog import Catalog
from mlgym_mcp.serving.auth import AdminToken, load_admin_token
from mlgym_mcp.serving.host import Host
from mlgym_mcp.serving.limits import impatient
from mlgym_mcp.serving.logs import set_up_logging
from mlgym_mcp.serving.relay import socket_path
from mlgym_mcp.serving.traces import set_up_traces
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
async def serve_http(
    host: Host,
    address: str,
    port: int,
    *,
    admin: AdminToken | None = None,
    public_url: str | None = None,
    behind_proxy: bool = False,
) -> AsyncIterator[str]:
    """Serve a running host over HTTP; yields the base URL (with the real port when ``port`` is 0).

    Args:
        host: what to serve.
        address: where to listen.
        port: where to listen; 0 for a free one.
        admin: the control API's token; default: this installation's.
        public_url: how clients reach the server, where that is not the address it listens on.
        behind_proxy: whether a reverse proxy on this machine says who the client is (X-Forwarded-For).

    Raises:
        OSError: the address cannot be listened on.
    """
    from mlgym_mcp.serving.app import HostApp  # the relays' host does without FastAPI

    listener = listen(address, port)
    config = uvicorn.Config(
        HostApp(host, (admin or load_admin_token()).value),
        http=impatient(host.limits.head_s),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=behind_proxy,
        limit_concurrency=host.limits.connections,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=_GRACE_S,
        h11_max_incomplete_event_size=65_536,
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
        host.base_url = (public_url or f"http://{shown}:{listener.getsockname()[1]}").rstrip("/")
        try:
            yield host.base_url
        finally:
            host.stopping.set()  # streams that never end by themselves end now
            server.should_exit = True
            with anyio.move_on_after(_GRACE_S + 5, shield=True):
                await stopped.wait()


async def until_signalled(host: Host) -> None:
    """Return when the host is told to stop: by SIGINT or SIGTERM, or over its socket.

    What becomes of the sessions is the host's to say for SIGTERM; otherwise they end.
    """
    async with anyio.create_task_group() as tasks:

        async def signals() -> None:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
                async for number in received:
                    if number == signal.SIGTERM:
                        host.registry.on_stop = host.on_sigterm
                    host.stopping.set()
                    return

        tasks.start_soon(signals)
        await host.stopping.wait()
        tasks.cancel_scope.cancel()


async def run_foreground(
    host: Host, address: str, port: int, ready: Callable[[str], Awaitable[None]], **options: Any
) -> None:
    """Run a host with HTTP until it is told to stop; ``ready`` is called with its base URL.

    The next server at the same address goes on with the sessions if this one dies. At a port that nobody chose
    there is no next one.

    Args:
        host: what to run.
        address: where to listen.
        port: where to listen.
        ready: called when requests are answered.
        options: as ``serve_http`` takes them.
    """
    allow_many_files()
    place = f"{address}:{port}" if port else None
    async with host.run(address=place), serve_http(host, address, port, **options) as url:
        await ready(url)
        await until_signalled(host)


def allow_many_files() -> None:
    """Raise this process's limit of open files as far as it may: a session holds several."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def run_background(idle_s: float) -> None:
    """Run the relays' host until it is told to stop or has had nothing to do for ``idle_s`` seconds."""
    allow_many_files()
    host = Host(SessionRegistry(Catalog.default(), sandbox="auto"))
    async with host.run(address="socket"), owned_tasks() as tasks:
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
    set_up_logging()
    if only_one(home("run")) is None:
        return
    set_up_traces()
    anyio.run(run_background, arguments.idle, backend_options=loop_options())


if __name__ == "__main__":
    main()
