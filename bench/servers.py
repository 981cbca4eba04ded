"""Servers that benchmarks measure: in this process over HTTP, or behind the stdio relay."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import uvicorn

from mlgym_mcp.catalog import Catalog
from mlgym_mcp.serving.host import Host
from mlgym_mcp.serving.process import HttpServer, serve_http
from mlgym_mcp.session.registry import SessionRegistry

TASK = "house_price"
UNLIMITED = {"calls": 10_000_000, "wall_s": 36_000.0}


@contextlib.contextmanager
def bench_home() -> Iterator[None]:
    """Use the user's own prepared data, and leave no host behind."""
    try:
        yield
    finally:
        subprocess.run([sys.executable, "-m", "mlgym_mcp.cli.entry", "host", "stop"], capture_output=True, check=False)


def relay_command(backend: str, session: str) -> tuple[list[str], dict[str, str]]:
    """Return the stdio command of a session, and its environment."""
    arguments = ["serve", TASK, "--sandbox", backend, "--session", f"{session}-{backend}-{os.getpid()}"]
    limits = ["--calls", str(UNLIMITED["calls"]), "--wall", str(UNLIMITED["wall_s"])]
    return [sys.executable, "-m", "mlgym_mcp.cli.entry", *arguments, *limits], dict(os.environ)


@contextlib.asynccontextmanager
async def http_server(app: Any) -> AsyncIterator[str]:
    """Serve an ASGI application on a loopback port; yields its base URL."""
    server = HttpServer(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", timeout_graceful_shutdown=2))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve)
        with anyio.fail_after(20):
            while not server.started:
                await anyio.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            server.should_exit = True


@contextlib.asynccontextmanager
async def running_host(backend: str, *, warm: int = 0) -> AsyncIterator[Host]:
    """A host with HTTP on a loopback port."""
    host = Host(SessionRegistry(Catalog.default(), sandbox=backend, warm=warm))
    async with host.run(), serve_http(host, "127.0.0.1", 0):
        yield host


@contextlib.asynccontextmanager
async def task_session(backend: str) -> AsyncIterator[tuple[str, str]]:
    """One session served over HTTP by a process of its own; yields its URL and its id."""
    limits = ["--calls", str(UNLIMITED["calls"]), "--wall", str(UNLIMITED["wall_s"])]
    command = [sys.executable, "-m", "mlgym_mcp.cli.entry", "serve", TASK, "--http", "127.0.0.1:0"]
    async with await anyio.open_process([*command, "--sandbox", backend, *limits]) as process:
        try:
            assert process.stdout is not None
            printed = b""
            with anyio.fail_after(120):
                while b"The sandbox is ready." not in printed:
                    printed += await process.stdout.receive()
            url = next(word for word in printed.decode().split() if word.startswith("http://"))
            yield url, url.split("/")[-2]
        finally:
            process.terminate()
            with anyio.move_on_after(30, shield=True):
                await process.wait()
