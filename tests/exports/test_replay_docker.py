"""Episodes that were played in Docker, played again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from mcp import Client

from mlgym_clients.agents.calling import Caller
from mlgym_clients.replay.playing import replay
from mlgym_mcp.records.episodes import summarize
from mlgym_mcp.serving.host import Host
from mlgym_mcp.session.session import Session
from mlgym_sandbox import environment
from mlgym_sandbox.home import home
from tests.exports.test_replay import control_of, recorded
from tests.sandbox.engine import docker_home, engine, host_image
from tests.serving.conftest import light, own_home, running_host
from tests.toy import CSV, TASK, make_toy

__all__ = ["docker_home", "engine", "host_image", "light", "own_home"]  # fixtures

pytestmark = [pytest.mark.anyio, pytest.mark.docker]


@pytest.fixture
async def host(own_home: Path, host_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    """A host whose toy task has an image."""
    await environment.prepare("bare")
    task = TASK.replace("cpus = 1", f'image = "{host_image}"\ncpus = 1')
    monkeypatch.setenv("MLGYM_TASKS", str(make_toy(tmp_path / "docker-tasks", task=task)))
    async with running_host("docker", wait_s=0.4) as host:
        yield host


async def play(client: Client, session: Session) -> None:
    """Work as agents do, and be refused as they are."""
    call = client.call_tool
    await call("shell", {"command": "id; pwd; hostname; date; echo pid $$; python3 start.py; cd /tmp; export A=5"})
    job = await call("shell", {"command": "for i in $(seq 9); do echo line $i; sleep 0.1; done"})
    assert job.meta is not None
    assert job.meta["state"] == "running"
    while (await call("job_wait", {"job_id": job.meta["job_id"]})).meta["state"] == "running":  # type: ignore[index]
        pass
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call, "shell", {"command": "sleep 0.2; echo $A > /workspace/made"})
        tasks.start_soon(call, "read_file", {"path": "start.py"})
    for command in ("touch /data/x /x", "bash -c 'kill -SEGV $$'; cat made"):
        await call("shell", {"command": command})
    await call("shell", {"command": "sleep 30", "timeout_s": 0.2})
    await call("write_file", {"path": "/data/x", "content": "a"})
    await call("write_file", {"path": "submission.csv", "content": CSV})
    await Caller(client).score("validate")
    await Caller(client).score("submit")


@pytest.mark.parametrize("then", ["docker", pytest.param("bubblewrap", marks=pytest.mark.bubblewrap)])
async def test_an_episode_from_docker_comes_again_there_and_in_another_sandbox_which_is_told(
    host: Host, then: str
) -> None:
    recording = await recorded(host, play)
    assert recording.sandbox == "docker"
    async with control_of(host) as control:
        verdict = await replay(recording, control, sandbox=then, episodes=home("episodes"))
    assert summarize(home("episodes") / verdict.episode).sandbox == then
    assert not [(c.step.arguments, c.comparison) for c in verdict.compared if c.comparison.level == "different"]
    assert verdict.reproduced
    assert (verdict.outcome.level, verdict.score.level) == ("exact", "exact")
    moved = "the sandbox was docker, and is bubblewrap now: commands see other disks and processes"
    assert verdict.notes == (() if then == "docker" else (moved,))
