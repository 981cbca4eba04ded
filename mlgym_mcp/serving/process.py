"""Running a host as a process: until it is told to stop, or in the background for the relays."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib.util
import os
import resource
import signal
import time
from pathlib import Path

import anyio

from mlgym_mcp.catalog import Catalog
from mlgym_mcp.serving.host import Host
from mlgym_mcp.serving.logs import set_up_logging
from mlgym_mcp.serving.relay import socket_path
from mlgym_mcp.serving.traces import set_up_traces
from mlgym_mcp.session.owning import owned_tasks
from mlgym_mcp.session.registry import SessionRegistry
from mlgym_sandbox.home import home

_IDLE_S = 60.0


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
    """Run the background host (``python -m mlgym_mcp.serving``)."""
    parser = argparse.ArgumentParser(description="The background host of mlgym-mcp; relays start it by themselves.")
    parser.add_argument("--idle", type=float, default=_IDLE_S, help="end after so many idle seconds")
    arguments = parser.parse_args()
    set_up_logging()
    if only_one(home("run")) is None:
        return
    set_up_traces()
    anyio.run(run_background, arguments.idle, backend_options=loop_options())
