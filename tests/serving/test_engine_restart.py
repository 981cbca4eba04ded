"""A Docker engine that dies or is stopped under sessions at work, and is started again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import anyio.to_thread
import docker
import httpx
import pytest
from mcp import Client

from mlgym_mcp.records.episodes import summarize
from mlgym_mcp.serving.control import health
from mlgym_mcp.serving.host import Host
from mlgym_mcp.session.journal import read_journal
from mlgym_mcp.session.markers import Markers
from mlgym_mcp.session.session import Session
from mlgym_sandbox import environment, images
from mlgym_sandbox.backends.docker_engine import Engine
from mlgym_sandbox.processes import process_started
from tests.sandbox.engine import ENGINE, missing
from tests.serving.conftest import running_host, text_of
from tests.serving.control_client import admin_of
from tests.toy import CSV, TASK, make_toy

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
IMAGE = "mlgym-light"
"""The default one: its name is what the health check makes a sandbox of."""


class OwnEngine:
    """An engine that nobody else uses, so that it can be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"unix://{folder}/docker.sock"

    def command(self, *words: str) -> None:
        done = subprocess.run([ENGINE, *words, str(self.folder)], capture_output=True, text=True, timeout=90)
        assert done.returncode == 0, done.stderr

    async def kill(self, number: int) -> None:
        """End the daemon; returns when it is gone."""
        pid = int((self.folder / "docker.pid").read_text())
        os.kill(pid, number)
        with anyio.fail_after(30):
            while process_started(pid) is not None:
                await anyio.sleep(0.02)

    def left(self) -> tuple[list[str], list[str]]:
        """Names of the containers and of the workspaces that are there."""
        client = docker.APIClient(self.url, version="auto")
        try:
            containers = [each["Names"][0] for each in client.containers(all=True)]
            volumes = client.volumes(filters={"label": "mlgym.role=workspace"})["Volumes"] or []
            return containers, [each["Name"] for each in volumes]
        finally:
            client.close()


@pytest.fixture(scope="module")
def own_engine() -> Iterator[OwnEngine]:
    if os.getuid() != 0 or shutil.which("dockerd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
        missing("an engine that can be killed needs root and dockerd")
    folder = Path(tempfile.mkdtemp(prefix="mlgym-engine-"))
    made = OwnEngine(folder)
    try:
        made.command("start")
        yield made
    finally:
        made.command("stop")


@pytest.fixture
async def docker_toy(
    own_engine: OwnEngine, own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> OwnEngine:
    """The toy task in an image of the engine's, which is the default one."""
    await environment.prepare("bare")
    engine = Engine(own_engine.url)
    await images.build("mlgym-bare", tag=IMAGE, from_host=True, engine=engine)
    await engine.aclose()
    task = TASK.replace("cpus = 1", f'image = "{IMAGE}"\ncpus = 0.5')
    monkeypatch.setenv("MLGYM_TASKS", str(make_toy(tmp_path / "docker-tasks", task=task)))
    monkeypatch.setenv("DOCKER_HOST", own_engine.url)
    monkeypatch.setattr(health, "_FRESH_S", 0.0)
    monkeypatch.setattr(health, "_FAILED_S", 0.0)
    return own_engine


async def work(client: Client) -> None:
    while "The session is still" in await text_of(client, "job_list"):
        pass
    await text_of(client, "write_file", path="submission.csv", content=CSV)
    assert (await client.call_tool("validate", {})).structured_content["valid"]


async def problems(http: httpx.AsyncClient) -> list[str]:
    return [each["what"] for each in (await http.get("/api/health")).json()["problems"]]


async def nothing_left(engine: OwnEngine, session: Session) -> None:
    """Return when neither the engine nor the markers know anything of a session any more."""
    with anyio.fail_after(30):
        while True:
            containers, volumes = await anyio.to_thread.run_sync(engine.left)
            known = [*containers, *volumes, *(marker.session for marker in Markers().every())]
            if not any(session.id[:24] in name for name in known):
                return
            await anyio.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_sessions_of_an_engine_that_is_restarted_end_with_a_reason_and_others_never_notice(
    number: int, docker_toy: OwnEngine, backend: str
) -> None:
    answers: list[str] = []
    async with running_host("docker", wait_s=40) as host, admin_of(host) as http, AsyncExitStack() as stack:
        busy, idle = await host.create("toy"), await host.create("toy")
        other = await host.create("toy", sandbox=backend, unsafe=True)
        clients = [await stack.enter_async_context(Client(host.mcp_url(each))) for each in (busy, idle, other)]
        async with anyio.create_task_group() as tasks:
            for client in clients:
                tasks.start_soon(work, client)
        assert await problems(http) == []

        async def in_flight() -> None:
            answers.append(await text_of(clients[0], "shell", command="sleep 1000"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(in_flight)
            with anyio.fail_after(20):
                while not any(job.command == "sleep 1000" for job in await (await busy.sandbox()).jobs()):
                    await anyio.sleep(0.01)
            await docker_toy.kill(number)
            assert await problems(http) == ["engine"]
            assert "well" in await text_of(clients[2], "shell", command="echo well")
            await anyio.to_thread.run_sync(docker_toy.command, "restart")
            with anyio.fail_after(60):
                await busy.wait_ended()
                await idle.wait_ended()
        assert "The episode is over (infrastructure_error): the sandbox was lost" in answers[0]
        assert "The episode is over (infrastructure_error)" in await text_of(clients[1], "shell", command="true")
        await hold_against(host, http, [busy, idle])
        assert await problems(http) == []
        new = await host.create("toy")
        async with Client(host.mcp_url(new)) as client:
            await work(client)
            assert (await client.call_tool("submit", {})).structured_content["valid"]
        assert other.over is None
        assert "well" in await text_of(clients[2], "shell", command="echo well")
        for session in (busy, idle, new):
            await nothing_left(docker_toy, session)
    assert docker_toy.left() == ([], [])


async def hold_against(host: Host, http: httpx.AsyncClient, sessions: list[Session]) -> None:
    """The sessions have ended with a reason, nobody's score, and an episode that can be read."""
    for session in sessions:
        view = (await http.get(f"/api/sessions/{session.id}")).json()
        assert (view["outcome"], view["score"]) == ("infrastructure_error", None)
        assert "engine" in view["detail"]
        summary = summarize(session.episode.folder)
        assert (summary.outcome, summary.value, summary.damage) == ("infrastructure_error", None, None)
        assert len(summary.validations) == 1
        events = list(read_journal(session.episode.folder))
        assert [event.type for event in events].count("end") == 1
        calls = {event.seq for event in events if event.type == "call"}
        assert {event["call"] for event in events if event.type == "result"} == calls, "every call was answered"


async def test_what_is_left_of_a_session_that_ended_without_its_engine_is_removed_when_it_is_back(
    docker_toy: OwnEngine,
) -> None:
    async with running_host("docker", wait_s=40) as host:
        session = await host.create("toy")
        await session.wait_ready()
        await docker_toy.kill(signal.SIGKILL)
        await session.end("abandoned", "the session was deleted")
        with anyio.fail_after(30):
            await session.wait_ended()
        assert session.id in [marker.session for marker in Markers().every()], "the next server would remove it"
        await anyio.to_thread.run_sync(docker_toy.command, "restart")
        assert docker_toy.left() != ([], [])
        await nothing_left(docker_toy, session)
    assert docker_toy.left() == ([], [])
