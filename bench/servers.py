"""Servers that benchmarks measure: in this process over HTTP, behind the stdio relay, or a process that hosts many."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import uvicorn

from mlgym_mcp.serving.http_server import HttpServer
from mlgym_sandbox.home import home

TASK = "house_price"
UNLIMITED = {"calls": 10_000_000, "wall_s": 36_000.0}
CLI = [sys.executable, "-m", "mlgym_mcp.cli.entry"]


@contextlib.contextmanager
def bench_home() -> Iterator[None]:
    """Use the user's own prepared data, and leave no host behind."""
    try:
        yield
    finally:
        subprocess.run([*CLI, "host", "stop"], capture_output=True, check=False)


def relay_command(backend: str, session: str, task: str) -> tuple[list[str], dict[str, str]]:
    """Return the stdio command of a session, and its environment."""
    arguments = ["serve", task, "--sandbox", backend, "--session", f"{session}-{backend}-{os.getpid()}"]
    limits = ["--calls", str(UNLIMITED["calls"]), "--wall", str(UNLIMITED["wall_s"])]
    return [*CLI, *arguments, *limits], dict(os.environ)


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
async def task_session(backend: str, task: str) -> AsyncIterator[tuple[str, str]]:
    """One session served over HTTP by a process of its own; yields its URL and its id."""
    limits = ["--calls", str(UNLIMITED["calls"]), "--wall", str(UNLIMITED["wall_s"])]
    command = [*CLI, "serve", task, "--http", "127.0.0.1:0"]
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


@contextlib.contextmanager
def own_home(task: str) -> Iterator[Path]:
    """A home of its own with this user's Python environments and the prepared data of a task; removed at the end.

    From here on SIGTERM ends the benchmark as an error does: no server is left running.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="mlgym-bench-") as folder:
        place = Path(folder) / "home"
        place.mkdir(mode=0o700)
        (place / "environments").symlink_to(home("environments"))
        environment = {**os.environ, "MLGYM_HOME": str(place)}
        subprocess.run([*CLI, "tasks", "prepare", task], env=environment, capture_output=True, check=True)
        yield place


@dataclass(frozen=True, slots=True)
class ManyServer:
    """A process that hosts many sessions.

    Attributes:
        pid: its process id.
        port: where it listens, on 127.0.0.1.
        token: its admin token.
        home: its MLGYM_HOME.
        log: what it has to say.
    """

    pid: int
    port: int
    token: str
    home: Path
    log: Path


@contextlib.asynccontextmanager
async def many_server(place: Path, backend: str, options: Sequence[str] = ()) -> AsyncIterator[ManyServer]:
    """Run ``mlgym-mcp serve --http`` as a process of its own; its sessions end with it.

    Args:
        place: its MLGYM_HOME.
        backend: of its sessions' sandboxes.
        options: more of the command's.

    Raises:
        RuntimeError: it did not start, or did not end by itself with status 0.
    """
    token = secrets.token_urlsafe(24)
    environment = {**os.environ, "MLGYM_HOME": str(place), "MLGYM_ADMIN_TOKEN": token, "COLUMNS": "200"}
    command = [*CLI, "serve", "--http", "127.0.0.1:0", "--sandbox", backend, "--rate", "1000000", *options]
    log = place.parent / "server.log"
    with log.open("wb") as said:
        process = await anyio.open_process(command, env=environment, stdout=said, stderr=said, stdin=subprocess.DEVNULL)
    async with process:
        try:
            with anyio.fail_after(60):
                while b"SIGTERM" not in (text := log.read_bytes()):
                    if process.returncode is not None:
                        raise RuntimeError(f"the server did not start: {text.decode()}")
                    await anyio.sleep(0.02)
            url = next(word for word in text.decode().split() if word.startswith("http://"))
            yield ManyServer(process.pid, int(url.split(":")[2].split("/")[0]), token, place, log)
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGINT)
                with anyio.move_on_after(120, shield=True):
                    await process.wait()
        if process.returncode != 0:
            raise RuntimeError(f"the server ended with {process.returncode}: {log.read_text()[-3000:]}")
