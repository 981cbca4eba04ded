"""The stdio relay: holds nothing, may come and go, and the host behind it owns the session."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import anyio
import pytest
from mcp import Client

from mlgym_mcp.records.episodes import episode_folders, summarize
from mlgym_mcp.session.journal import read_journal
from mlgym_sandbox import get_backend
from tests.serving.conftest import CLI, relay, text_of
from tests.toy import CSV

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("own_home")]


async def one_call(tool: str, arguments: dict[str, object], *options: str, mode: str = "auto") -> object:
    """Start a relay, make one call, close it: what several frameworks do for every call."""
    async with Client(relay(*options), mode=mode) as client:
        return await client.call_tool(tool, arguments)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_process_per_tool_call_plays_one_whole_episode(mode: str, backend: str) -> None:
    options = ("--sandbox", backend, "--unsafe", "--calls", "5")
    await one_call("write_file", {"path": "submission.csv", "content": CSV}, *options, mode=mode)
    await one_call("shell", {"command": "cd /tmp && export A=1"}, *options, mode=mode)
    shown = await one_call("shell", {"command": "echo $PWD $A"}, *options, mode=mode)
    assert "/tmp 1" in shown.content[0].text
    validation = await one_call("validate", {}, *options, mode=mode)
    assert validation.structured_content["validations_left"] == 2
    status = await one_call("status", {}, *options, mode=mode)
    assert status.structured_content["budget"]["calls_left"] == 1
    submitted = await one_call("submit", {}, *options, mode=mode)
    assert submitted.structured_content["valid"]
    after = await one_call("shell", {"command": "true"}, *options, mode=mode)
    assert "The episode is over (scored)" in after.content[0].text
    assert len(episode_folders()) == 1


async def test_two_agents_get_two_sessions_and_a_named_session_is_shared(backend: str) -> None:
    common = ("--sandbox", backend, "--unsafe")
    async with Client(relay("--session", "a", *common)) as a, Client(relay("--session", "b", *common)) as b:
        await text_of(a, "write_file", path="mine.txt", content="a")
        assert "mine.txt" not in await text_of(b, "list_files")
        async with Client(relay("--session", "a", *common)) as again:
            assert "mine.txt" in await text_of(again, "list_files")


async def test_a_relay_killed_in_mid_call_loses_nothing(backend: str) -> None:
    options = ["--session", "kill", "--sandbox", backend, "--unsafe"]
    async with Client(relay(*options)) as client:
        await text_of(client, "shell", command="true")
    process = subprocess.Popen(
        [*CLI, "serve", "toy", *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ)
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for message in (
        {
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": {"name": "t", "version": "1"},
            },
        },
        {"method": "notifications/initialized"},
        {
            "id": 2,
            "method": "tools/call",
            "params": {"name": "shell", "arguments": {"command": "touch begun; sleep 1.5; echo done > finished.txt"}},
        },
    ):
        process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
    process.stdin.flush()
    process.stdout.readline()
    async with Client(relay(*options)) as client:
        with anyio.fail_after(20):
            while "begun" not in await text_of(client, "list_files"):
                await anyio.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        await anyio.sleep(0.1)
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
        with anyio.fail_after(20):
            while "finished.txt" not in await text_of(client, "list_files"):
                await anyio.sleep(0.1)


async def test_relays_that_come_at_once_start_one_host(backend: str) -> None:
    results = []

    async def play(i: int) -> None:
        results.append(await one_call("shell", {"command": f"echo {i}"}, "--sandbox", backend, "--unsafe"))

    async with anyio.create_task_group() as tasks:
        for i in range(4):
            tasks.start_soon(play, i)
    assert len(results) == 4
    assert len(episode_folders()) == 1, "the same parent, task and preset: one session"


async def test_an_unknown_task_is_one_sentence_on_stderr() -> None:
    done = subprocess.run([*CLI, "serve", "toi"], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 2
    assert done.stderr.strip() == "mlgym-mcp: there is no task 'toi'; did you mean 'toy'?"
    assert not done.stdout


async def test_a_host_killed_in_mid_job_leaves_a_whole_episode_and_the_next_one_goes_on_with_it(
    own_home: Path, backend: str
) -> None:
    options = ("--session", "doomed", "--sandbox", backend, "--unsafe")
    acknowledged = []
    async with Client(relay(*options)) as client:
        for i in range(5):
            acknowledged.append(await text_of(client, "shell", command=f"echo {i}"))
        score = (await client.call_tool("write_file", {"path": "submission.csv", "content": CSV})).is_error
        assert not score
        validation = (await client.call_tool("validate", {})).structured_content
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_swallow, client, "shell", {"command": "sleep 300"})
            with anyio.fail_after(20):
                while "sleep 300" not in await text_of(client, "job_list"):
                    await anyio.sleep(0.05)
            pid = int((own_home / "run" / "host.lock").read_text())
            os.kill(pid, signal.SIGKILL)
            tasks.cancel_scope.cancel()
    (folder,) = episode_folders()
    events = list(read_journal(folder))
    results = [e["text"] for e in events if e.type == "result" and "text" in e.fields]
    assert set(acknowledged) <= set(results)
    (scored,) = [e for e in events if e.type == "score"]
    assert scored["shown"] == validation["score"]
    assert summarize(folder).outcome == "live"
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        await anyio.sleep(0.05)
    async with Client(relay(*options)) as client:  # starts another host, and meets the same session
        assert "sleep 300" in await text_of(client, "job_list")
        status = (await client.call_tool("status", {})).structured_content
        assert [job["command"] for job in status["running_jobs"]] == ["sleep 300"]
        assert status["best_validation"]["score"] == validation["score"]
        assert (await client.call_tool("submit", {})).structured_content["valid"]
    assert episode_folders() == [folder]
    with anyio.fail_after(20):
        while (summary := summarize(folder)).outcome == "live":
            await anyio.sleep(0.05)
    assert (summary.outcome, summary.damage) == ("scored", None)
    with anyio.fail_after(20):
        while await get_backend(backend, unsafe=True).find({"mlgym": "1"}):
            await anyio.sleep(0.05)


async def _swallow(client: Client, tool: str, arguments: dict[str, object]) -> None:
    try:
        await client.call_tool(tool, arguments)
    except Exception:
        return
