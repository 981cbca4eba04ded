"""Claude Code and Codex as they are on a bad day: impatient, hasty, killed in mid-training."""

from __future__ import annotations

import re
from pathlib import Path

import anyio
import pytest

from mlgym_mcp.records.episodes import episode_folders, summarize
from mlgym_mcp.serving.host import Host
from mlgym_mcp.session.journal import read_journal
from tests.desktop.attempts import connect, host_of_both, results
from tests.desktop.clients import MODEL
from tests.desktop.more_clients import CLIENTS
from tests.frameworks.playing import SCORE, SOLVE
from tests.frameworks.scripted_model import FINAL, Does, Script, scripted_model

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.usefixtures("home")]

PATIENCE_S = 2
TRAINING = "echo begun >> runs.txt; sleep {}; python solve.py; echo trained"


def training_job(said: str) -> str:
    """The job that the model saw in a list of jobs, running or not."""
    return re.findall(r"(j\d+) [\w .]+ echo begun", said)[-1]


def to_the_score(waits: int) -> Script:
    """What a model does that knows nothing of its job but that there must be one."""
    waiting = [Does("job_wait", {"job_id": training_job, "wait_s": 1})] * waits
    return (Does("job_list"), *waiting, Does("shell", {"command": "cat runs.txt"}), Does("submit"))


@pytest.mark.parametrize(
    ("title", "transport"),
    [
        ("Claude Code", "HTTP"),
        ("Codex", "stdio"),
        pytest.param("Gemini CLI", "HTTP", marks=pytest.mark.frameworks),
        pytest.param("opencode", "HTTP", marks=pytest.mark.frameworks),
        pytest.param("GitHub Copilot CLI", "HTTP", marks=pytest.mark.frameworks),
    ],
)
async def test_a_client_that_gives_up_on_its_calls_finds_its_job_and_one_that_calls_in_heaps_is_served_in_order(
    title: str, transport: str, program: list[str], place: Path, backend: str
) -> None:
    heap = [Does("shell", {"command": f"echo {i} >> order.txt"}) for i in range(10)]
    heap += [Does("read_file", {"path": "solve.py"})] * 10
    script = (
        Does("write_file", {"path": "solve.py", "content": SOLVE}),
        heap,
        Does("shell", {"command": TRAINING.format(PATIENCE_S * 2)}),
        *to_the_score(PATIENCE_S * 2),
    )
    before = set(episode_folders())
    async with scripted_model(**{MODEL: script}) as model, host_of_both(backend, wait_s=45) as host:
        client = CLIENTS[title](program, place, model.url)
        await connect(client, transport, "toy", host)
        client.give_up_after(PATIENCE_S)
        assert FINAL in await client.run()
    (folder,) = set(episode_folders()) - before
    events = list(read_journal(folder))
    shells = results(events, "shell")
    assert len(shells) == 12
    assert len(results(events, "read_file")) == 10
    (given_up,) = (event for event in shells if "is still running" in event["text"])
    assert given_up["seconds"] < 45, "it did not wait for its own window to end"
    assert "trained\n[exit 0" in results(events, "job_wait")[-1]["text"]
    assert shells[-1]["text"].startswith("begun\n[exit 0"), "it ran once"
    assert summarize(folder).value == SCORE


async def job_begun(host: Host) -> None:
    """Return when a session's job is running."""
    with anyio.fail_after(60):
        while True:
            for session in host.registry.sessions():
                async with session.working() as sandbox:
                    if any(job.state == "running" for job in await sandbox.jobs()):
                        return
            await anyio.sleep(0.05)


@pytest.mark.parametrize(
    ("title", "transport"),
    [
        ("Claude Code", "stdio"),
        ("Codex", "HTTP"),
        pytest.param("Gemini CLI", "stdio", marks=pytest.mark.frameworks),
        pytest.param("opencode", "stdio", marks=pytest.mark.frameworks),
        pytest.param("GitHub Copilot CLI", "stdio", marks=pytest.mark.frameworks),
    ],
)
async def test_a_client_that_is_killed_in_mid_training_comes_back_to_its_job(
    title: str, transport: str, program: list[str], place: Path, backend: str
) -> None:
    begins = (
        Does("write_file", {"path": "solve.py", "content": SOLVE}),
        Does("shell", {"command": TRAINING.format(3)}),
    )
    before = set(episode_folders())
    async with host_of_both(backend, wait_s=45) as host:
        async with scripted_model(**{MODEL: begins}) as model, anyio.create_task_group() as tasks:
            client = CLIENTS[title](program, place, model.url)
            await connect(client, transport, "toy", host)
            tasks.start_soon(client.run)
            await job_begun(host)
            tasks.cancel_scope.cancel()  # SIGKILL, with all that it started
        async with scripted_model(**{MODEL: to_the_score(4)}) as model:
            client.talk_to(model.url)
            assert FINAL in await client.run()
    (folder,) = set(episode_folders()) - before
    events = list(read_journal(folder))
    assert "trained\n[exit 0" in results(events, "job_wait")[-1]["text"]
    assert results(events, "shell")[-1]["text"].startswith("begun\n[exit 0"), "it ran once"
    assert summarize(folder).value == SCORE
