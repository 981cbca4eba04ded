"""A server with the toy task, and facades over it in this process."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import uvicorn

from mlgym_clients.facades.__main__ import Stoppable
from mlgym_clients.facades.episodes import playing
from mlgym_clients.facades.guard import Guard
from mlgym_clients.facades.openenv import openenv_app
from mlgym_clients.facades.openreward import openreward_app
from mlgym_clients.rl.servers import Address
from mlgym_sandbox import environment
from tests.frameworks.playing import GENERATOR
from tests.serving.conftest import light, make_home
from tests.serving.server_process import free_port, server, until_listening
from tests.toy import make_toy

__all__ = ["light"]  # fixture

ADMIN = "a-word-that-opens-everything"
TOKEN = "sesame"


@dataclass(frozen=True)
class Toys:
    """A server with the toy task.

    Attributes:
        address: where it answers.
        variables: what programs of the same home have in their environments.
    """

    address: Address
    variables: dict[str, str]

    async def sessions(self) -> list[dict[str, Any]]:
        """Its live sessions."""
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {self.address.token}"}) as http:
            listed = (await http.get(f"{self.address.url}/api/sessions")).json()["sessions"]
        return [session for session in listed if session["state"] != "over"]


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory, light: environment.Environment) -> Iterator[Toys]:
    place = tmp_path_factory.mktemp("toys")
    make_home(place / "home", light)
    tasks = make_toy(place / "tasks")
    (tasks / "toy" / "generator.py").write_text(GENERATOR)  # every score of the right answer is 1
    given = {"MLGYM_HOME": str(place / "home"), "MLGYM_TASKS": str(tasks)}
    backend = "bubblewrap" if shutil.which("bwrap") else "process"
    token = {"MLGYM_ADMIN_TOKEN": ADMIN}
    with server(free_port(), backend, place / "server.log", environ=given | token) as running:
        anyio.run(_listening, running.url)
        yield Toys(Address(running.url, ADMIN), {**os.environ, **given})


async def _listening(url: str) -> None:
    async with httpx.AsyncClient(base_url=url) as http:
        await until_listening(http)


@asynccontextmanager
async def facade(
    standard: str, toys: Toys, *, most: int = 8, idle_s: float = 60, token: str | None = None
) -> AsyncIterator[str]:
    """A facade, and its address."""
    port = free_port()
    async with AsyncExitStack() as stack:
        episodes = await stack.enter_async_context(playing(toys.address, most=most))
        made = openenv_app(episodes, idle_s) if standard == "openenv" else openreward_app(episodes, idle_s)
        app = Guard(await stack.enter_async_context(made), token)
        running = Stoppable(uvicorn.Config(app, "127.0.0.1", port, log_level="warning", lifespan="off"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(running.serve)
            with anyio.fail_after(20):
                while not running.started:
                    await anyio.sleep(0.01)
            yield f"http://127.0.0.1:{port}"
            running.should_exit = True


async def none_are_left(toys: Toys) -> None:
    """Wait until the server has no live session."""
    with anyio.fail_after(20):
        while await toys.sessions():
            await anyio.sleep(0.05)


def written(folder: Path, calls: list[tuple[str, dict[str, Any]]]) -> str:
    """A file of calls, for the examples."""
    file = folder / "calls.json"
    file.write_text(json.dumps(calls))
    return str(file)
