"""A host with the toy task, in this process or behind real relays, on every backend this machine has."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import HTTPServer
from pathlib import Path

import anyio
import pytest
from mcp import Client, StdioServerParameters

from mlgym_mcp.catalog import Catalog
from mlgym_mcp.serving.host import Host
from mlgym_mcp.serving.http_server import serve_http
from mlgym_mcp.serving.relay import ask_host
from mlgym_mcp.session.registry import SessionRegistry
from mlgym_mcp.session.session import Session
from mlgym_sandbox import environment, get_backend
from mlgym_sandbox.home import home
from tests.toy import make_toy


@pytest.fixture(scope="session")
def light() -> environment.Environment:
    """The prepared environment of this machine, made once; tests link it into homes of their own."""
    return anyio.run(environment.prepare, "light")


def make_home(place: Path, light: environment.Environment) -> Path:
    """Make a folder to be an MLGYM_HOME, with the prepared environment in it."""
    (place / "environments").mkdir(parents=True, mode=0o700)
    (place / "environments" / light.path.name).symlink_to(light.path)
    return place


@pytest.fixture
def own_home(tmp_path: Path, light: environment.Environment, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty MLGYM_HOME with the prepared environment and the toy task; its host is stopped at the end."""
    place = make_home(tmp_path / "home", light)
    monkeypatch.setenv("MLGYM_HOME", str(place))
    monkeypatch.setenv("MLGYM_TASKS", str(make_toy(tmp_path / "tasks")))
    yield place
    with contextlib.suppress(SystemExit):
        ask_host("stop")
    anyio.run(_remove_sandboxes)


async def _remove_sandboxes() -> None:
    """Remove those that a server left to the next one, which the test did not start."""
    for backend in (get_backend("bubblewrap"), get_backend("process", unsafe=True)):
        for found in await backend.find({}):
            await backend.remove(found.name)


CLI = [sys.executable, "-m", "mlgym_mcp.cli.entry"]


@pytest.fixture
def backend() -> str:
    """Which sandbox the serving tests use: it makes no difference to them, so the quickest that is here."""
    return "bubblewrap" if shutil.which("bwrap") else "process"


@contextmanager
def answering(http: HTTPServer) -> Iterator[None]:
    """Serve a small HTTP server of a test's own, in a thread."""
    thread = threading.Thread(target=http.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


@asynccontextmanager
async def running_host(backend: str = "bubblewrap", *, wait_s: float = 45.0, **options: bool) -> AsyncIterator[Host]:
    """A host in this process with HTTP on a free loopback port."""
    registry = SessionRegistry(Catalog.default(), sandbox=backend, unsafe=backend == "process", wait_s=wait_s)
    host = Host(registry, **options)
    async with host.run(), serve_http(host, "127.0.0.1", 0):
        yield host


@asynccontextmanager
async def playing(host: Host, mode: str = "auto", **options: object) -> AsyncIterator[tuple[Client, Session]]:
    """A connected client of a new session."""
    session = await host.create("toy", **options)
    async with Client(host.mcp_url(session), mode=mode) as client:
        yield client, session


def relay(*arguments: str) -> StdioServerParameters:
    """The stdio command of the toy task."""
    return StdioServerParameters(
        command=CLI[0], args=[*CLI[1:], "serve", "toy", *arguments], env={**os.environ, "PYTHONPATH": ""}
    )


async def text_of(client: Client, tool: str, **arguments: object) -> str:
    """Call a tool and return its text; an error is returned as it reads."""
    result = await client.call_tool(tool, arguments)
    return "\n".join(block.text for block in result.content)


def episode_folder(session: Session) -> Path:
    return home("episodes") / session.episode.id
