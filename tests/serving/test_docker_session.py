"""A whole session with Docker: the same product, another sandbox."""

from __future__ import annotations

from pathlib import Path

import pytest
from mcp import Client

from mlgym_mcp.records.episodes import summarize
from mlgym_sandbox import environment
from mlgym_sandbox.backends.docker import DockerBackend
from tests.sandbox.engine import docker_home, engine, host_image
from tests.serving.conftest import playing, relay, running_host, text_of
from tests.toy import CSV, TASK, make_toy

__all__ = ["docker_home", "engine", "host_image"]  # fixtures

pytestmark = [pytest.mark.anyio, pytest.mark.docker, pytest.mark.usefixtures("own_home")]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_an_episode_is_played_in_a_container_and_leaves_nothing_behind(
    mode: str, engine: DockerBackend, host_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await environment.prepare("bare")
    task = TASK.replace("cpus = 1", f'image = "{host_image}"\ncpus = 1')
    monkeypatch.setenv("MLGYM_TASKS", str(make_toy(tmp_path / "docker-tasks", task=task)))
    async with running_host("docker") as host, playing(host, mode) as (client, session):
        assert "hello from the starter" in await text_of(client, "shell", command="python3 start.py")
        assert "Seccomp:\t2" in await text_of(client, "shell", command="grep Seccomp: /proc/self/status")
        await text_of(client, "shell", command="cd /tmp && export A=1")
        assert "/tmp 1" in await text_of(client, "shell", command="echo $PWD $A")
        await text_of(client, "write_file", path="submission.csv", content=CSV)
        assert (await client.call_tool("validate", {})).structured_content["valid"]
        submitted = (await client.call_tool("submit", {})).structured_content
        assert submitted["valid"]
        await session.wait_ended()
        assert not await engine.find({"mlgym.session": session.id})
    summary = summarize(session.episode.folder)
    assert summary.outcome == "scored"
    assert summary.sandbox == "docker"
    assert summary.value == submitted["score"]


async def test_the_engine_is_the_one_that_the_client_names_whoever_started_the_host(
    engine: DockerBackend, host_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await environment.prepare("bare")
    task = TASK.replace("cpus = 1", f'image = "{host_image}"\ncpus = 1')
    monkeypatch.setenv("MLGYM_TASKS", str(make_toy(tmp_path / "docker-tasks", task=task)))
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
        options = ("--session", "first", "--sandbox", "docker")
        async with Client(relay(*options)) as client:  # this starts the host
            assert "does not answer" in await text_of(client, "shell", command="true")
    monkeypatch.setenv("DOCKER_HOST", engine.engine.url)
    async with Client(relay("--session", "second", "--sandbox", "docker")) as client:
        assert "Seccomp:\t2" in await text_of(client, "shell", command="grep Seccomp: /proc/self/status")
