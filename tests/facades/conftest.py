"""Servers with the toy task, one of which may be killed, and facades over them in this process."""

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

from mlgym_clients.episode_player import connected
from mlgym_clients.facades.__main__ import Stoppable
from mlgym_clients.facades.episodes import playing
from mlgym_clients.facades.guard import Guard
from mlgym_clients.facades.openenv import openenv_app
from mlgym_clients.facades.openreward import openreward_app
from mlgym_clients.rl.servers import Address
from mlgym_mcp.session.journal import Event, read_journal
from mlgym_sandbox import environment
from tests.attacks.conftest import gated_grader
from tests.chaos import killable
from tests.chaos.killable import Killable
from tests.frameworks.playing import GENERATOR
from tests.serving.conftest import backend, light, make_home, own_home
from tests.serving.server_process import free_port, server, until_listening
from tests.toy import make_toy

__all__ = ["backend", "light", "own_home"]  # fixtures

ADMIN = "a-word-that-opens-everything"
TOKEN = "sesame"
TALE = {"command": "echo run >> runs; sleep 1.5; echo told by $(wc -l < runs)"}
"""Arguments of a command that says how often it was run."""


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


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """Gradings of the server below wait for a file ``go`` here, at first there, and say that they have ``arrived``."""
    place = tmp_path / "gate"
    place.mkdir()
    (place / "go").touch()
    return place


@pytest.fixture
def mortal(
    own_home: Path, backend: str, tmp_path: Path, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Killable]:
    """A server with the toy task and a home of its own, to be started and killed."""
    tasks = make_toy(tmp_path / "gated", grader=gated_grader(gate))
    (tasks / "toy" / "generator.py").write_text(GENERATOR)
    monkeypatch.setenv("MLGYM_TASKS", str(tasks))
    monkeypatch.delenv("MLGYM_FACADE_TOKEN", raising=False)
    made = Killable(own_home, backend, wait_s=20)
    yield made
    made.close()


def toys_of(mortal: Killable) -> Toys:
    return Toys(Address(mortal.url, killable.ADMIN), dict(os.environ))


def journals(mortal: Killable) -> list[list[Event]]:
    return [list(read_journal(folder)) for folder in sorted((mortal.home / "episodes").iterdir())]


async def until_begun(mortal: Killable, commands: int) -> None:
    """Wait until so many sessions have begun with their ``TALE``."""
    begun: set[str] = set()
    async with connected(f"{mortal.url}/mcp", killable.ADMIN) as desk:
        with anyio.fail_after(60):
            while len(begun) < commands:
                for session in await toys_of(mortal).sessions():
                    told = await desk.call_tool("job_list", {"session_id": session["id"]})
                    begun |= {session["id"]} if "told by" in told.content[0].text else set()
                await anyio.sleep(0.05)


def played_once(mortal: Killable, episodes: int) -> None:
    """Every episode was scored, and nothing in it was done twice, whatever was asked for twice."""
    found = journals(mortal)
    assert len(found) == episodes
    for events in found:
        assert [event["outcome"] for event in events if event.type == "end"] == ["scored"]
        assert [event.type for event in events].count("adopted") == 1
        assert [event["kind"] for event in events if event.type == "score"][-1] in ("submit", "autosubmit")
        begun = [event["tool"] for event in events if event.type == "call" and event.get("follows") is None]
        assert begun.count("write_file") == 1, begun
    assert not mortal.errors()


async def _listening(url: str) -> None:
    async with httpx.AsyncClient(base_url=url) as http:
        await until_listening(http)


@asynccontextmanager
async def facade(
    standard: str, toys: Toys, *, most: int = 8, idle_s: float = 60, patience_s: float = 30, token: str | None = None
) -> AsyncIterator[str]:
    """A facade, and its address."""
    port = free_port()
    async with AsyncExitStack() as stack:
        episodes = await stack.enter_async_context(playing(lambda: toys.address, most=most, patience_s=patience_s))
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
