"""A server that hosts many sessions dies or is stopped, and the next one at its address goes on with them."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from mcp import Client

from mlgym_mcp.session.journal import read_journal
from mlgym_sandbox import environment, get_backend
from mlgym_sandbox.backends.docker import DockerBackend
from tests.attacks.conftest import gated_grader
from tests.chaos.killable import ADMIN, Killable
from tests.sandbox.engine import docker_home, engine, host_image
from tests.serving.conftest import text_of
from tests.serving.control_client import bearer, events_of
from tests.toy import CSV, TASK, make_toy

__all__ = ["docker_home", "engine", "host_image"]  # fixtures
pytestmark = pytest.mark.anyio
JOB = "i=0; while true; do echo line $i; i=$((i+1)); sleep 0.02; done"


@pytest.fixture
def server(own_home: Path, backend: str) -> Iterator[Killable]:
    made = Killable(own_home, backend, wait_s=0.5)
    yield made
    made.close()


async def call(client: Client, tool: str, **arguments: object) -> Any:
    return await client.call_tool(tool, arguments)


async def work(client: Client) -> tuple[str, str, int]:
    """Do a bit of everything; returns a running job's id, the first bytes that it printed, and the calls left."""
    while "The session is still" in await text_of(client, "job_list"):
        pass
    assert "Kept as note 1" in await text_of(client, "note_write", text="a thought")
    await text_of(client, "write_file", path="submission.csv", content=CSV)
    while "Grading goes on" in await text_of(client, "validate"):
        pass
    await text_of(client, "shell", command="export WHO=me; cd /tmp")
    job = await call(client, "shell", command=JOB)
    found = re.search(r'job_wait\(job_id="(\w+)"\)', job.content[0].text)
    assert found is not None
    budget = (await call(client, "status")).structured_content["budget"]
    return found[1], job.content[0].text.partition("[job")[0], budget["calls_left"]


async def check(client: Client, job: str, printed: str, calls_left: int) -> None:
    """All of it is still there, and the job runs on."""
    while "The session is still" in await text_of(client, "job_list"):
        pass
    status = (await call(client, "status")).structured_content
    assert [each["id"] for each in status["running_jobs"]] == [job]
    assert status["scores"] == 1
    assert status["best_validation"]["valid"]
    assert (status["budget"]["calls_left"], status["budget"]["validations_left"]) == (calls_left, 2)
    assert (await text_of(client, "job_output", job_id=job)).startswith(printed)
    first = await text_of(client, "job_output", job_id=job, offset=70, limit=70)
    assert first.startswith("line 10\n")
    assert "a thought" in await text_of(client, "note_search")
    assert "me /tmp\n" in await text_of(client, "shell", command="echo $WHO $PWD")


async def sessions_go_on(server: Killable, number: int) -> list[dict[str, Any]]:
    """Eight busy sessions, a dead server, a new one: returns the sessions."""
    await server.start()
    sessions = [await server.api("POST", "/sessions", {"task": "toy", "idempotency_key": f"k{i}"}) for i in range(8)]
    done: dict[str, tuple[str, str, int]] = {}

    async def one(made: dict[str, Any]) -> None:
        async with server.playing(made) as client:
            done[made["id"]] = await work(client)

    async def again(made: dict[str, Any]) -> None:
        async with server.playing(made) as client:
            await check(client, *done[made["id"]])

    async with anyio.create_task_group() as tasks:
        for made in sessions:
            tasks.start_soon(one, made)
    server.kill(number)
    await server.start()
    async with anyio.create_task_group() as tasks:
        for made in sessions:
            tasks.start_soon(again, made)
    same = await server.api("POST", "/sessions", {"task": "toy", "idempotency_key": "k3"})
    assert (same["id"], same["mcp_url"]) == (sessions[3]["id"], sessions[3]["mcp_url"])
    return sessions


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_eight_busy_sessions_go_on_at_the_same_urls_with_the_same_tokens(
    server: Killable, backend: str, number: int
) -> None:
    sessions = await sessions_go_on(server, number)
    for made in sessions:
        await server.api("DELETE", f"/sessions/{made['id']}")
    server.kill(signal.SIGTERM)
    for made in sessions:
        events = list(read_journal(server.home / "episodes" / made["episode"]))
        assert [event["outcome"] for event in events if event.type == "end"] == ["scored"]
        assert [event.type for event in events].count("adopted") == 1
        assert ("detached" in [event.type for event in events]) == (number == signal.SIGTERM)
    assert not await get_backend(backend, unsafe=True).find({"mlgym": "1"})
    assert not server.errors()


async def test_a_grading_under_way_is_lost_uncharged_and_done_again(
    own_home: Path, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    gate.mkdir()
    grader = gated_grader(gate)
    monkeypatch.setenv("MLGYM_TASKS", str(make_toy(tmp_path / "gated-tasks", grader=grader)))
    server = await anyio.to_thread.run_sync(partial(Killable, own_home, backend, wait_s=20))
    try:
        await server.start()
        made = await server.api("POST", "/sessions", {"task": "toy"})

        async def validating() -> None:
            with contextlib.suppress(Exception):  # the connection breaks in one way or another
                async with server.playing(made) as client:
                    await text_of(client, "write_file", path="submission.csv", content=CSV)
                    await text_of(client, "validate")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(validating)
            with anyio.fail_after(30):
                while not (gate / "arrived").exists():
                    await anyio.sleep(0.01)
            server.kill()
            tasks.cancel_scope.cancel()
        (gate / "go").touch()
        await server.start()
        async with server.playing(made) as client:
            status = (await call(client, "status")).structured_content
            assert (status["scores"], status["budget"]["validations_left"]) == (0, 3)
            assert (await call(client, "validate")).structured_content["validations_left"] == 2
        events = list(read_journal(own_home / "episodes" / made["episode"]))
        assert [event.type for event in events].count("score") == 1
        server.kill(signal.SIGINT)
    finally:
        server.close()
    assert not await get_backend(backend, unsafe=True).find({"mlgym": "1"})


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_whoever_comes_back_to_an_episode_that_ended_before_the_restart_is_told_so(
    server: Killable, mode: str
) -> None:
    await server.start()
    made, other = [await server.api("POST", "/sessions", {"task": "toy", "metadata": {"who": "me"}}) for _ in range(2)]
    path = f"/sessions/{made['id']}"
    async with server.playing(made, mode) as client:
        while "The session is still" in await text_of(client, "job_list"):
            pass
        await text_of(client, "write_file", path="submission.csv", content=CSV)
        while (score := (await call(client, "submit")).structured_content)["code"] == "refused":
            pass
        assert score["valid"], score
        before = await server.api("DELETE", path)  # returns when all is done
        server.kill()
        await server.start()
        told = await text_of(client, "shell", command="echo still here")
        assert told.startswith("The episode is over (scored): the work was submitted. Final score: accuracy")
        again = await call(client, "submit")
        assert (again.is_error, again.structured_content["reason"]) == (False, told)
    with pytest.raises(ExceptionGroup) as caught:
        async with server.playing(made, mode):
            pass
    assert "The episode is over (scored)" in repr(caught.value)
    assert {**await server.api("GET", path), "calls": before["calls"]} == before
    assert await server.api("DELETE", path) == await server.api("GET", path)
    await nobody_else_is_told(server, made, other)
    journal = list(read_journal(server.home / "episodes" / made["episode"]))
    for after in (-1, 4, journal[-1].seq):
        seen = await events_after(server, made["id"], after)
        assert [event["seq"] for event in seen] == [event.seq for event in journal if event.seq > after]
    assert "private" not in json.dumps(await events_after(server, made["id"], -1))
    assert not server.errors()


async def events_after(server: Killable, session_id: str, after: int) -> list[dict[str, Any]]:
    async with httpx.AsyncClient(base_url=server.url, headers=bearer(ADMIN)) as http:
        return [event async for event in events_of(http, f"/api/sessions/{session_id}/events?after={after}")]


async def nobody_else_is_told(server: Killable, made: dict[str, Any], other: dict[str, Any]) -> None:
    """To whoever lacks the session's own token it is like one that never was; what makes no sense is refused."""
    url = f"/sessions/{made['id']}/mcp"
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "status", "arguments": {}}}
    async with httpx.AsyncClient(base_url=server.url) as http:
        unknown = await http.post(f"/sessions/{'0' * 32}/mcp", json=call, headers=bearer(made["token"]))
        assert unknown.status_code == 404
        for headers in ({}, bearer(other["token"]), bearer(ADMIN), bearer("x"), {"Authorization": made["token"]}):
            answer = await http.post(url, json=call, headers=headers)
            assert (answer.status_code, answer.content) == (404, unknown.content)
        mine = bearer(made["token"])
        assert (await http.get(url, headers=mine)).status_code == 405
        odd: list[object] = [[], 1, None, {}, {"method": 1, "id": 1}, {**call, "id": [1]}, {**call, "id": True}]
        for body in odd:
            assert (await http.post(url, json=body, headers=mine)).status_code in (202, 400)
        for params in (None, [], {"name": []}, {"name": "nonesuch"}, {"name": "shell", "arguments": "x"}):
            answer = await http.post(url, json={**call, "params": params}, headers=mine)
            assert answer.status_code == 200
            assert "The episode is over" in answer.text
        for raw in (b"", b"{", b"[" * 5000, b"\xff"):
            assert (await http.post(url, content=raw, headers=mine)).status_code == 400


async def test_ctrl_c_ends_all_sessions(server: Killable, backend: str) -> None:
    await server.start()
    made = await server.api("POST", "/sessions", {"task": "toy"})
    async with server.playing(made) as client:
        await text_of(client, "shell", command="true")
    server.kill(signal.SIGINT)
    (end,) = [e for e in read_journal(server.home / "episodes" / made["episode"]) if e.type == "end"]
    assert (end["outcome"], end["reason"]) == ("infrastructure_error", "the server was stopped")
    assert not await get_backend(backend, unsafe=True).find({"mlgym": "1"})
    await server.start()
    assert (await server.api("GET", "/health"))["live_sessions"] == 0


@pytest.mark.docker
async def test_containers_are_adopted_and_those_of_a_stopped_engine_end_their_sessions(
    engine: DockerBackend, host_image: str, own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await environment.prepare("bare")
    task = TASK.replace("cpus = 1", f'image = "{host_image}"\ncpus = 0.5')
    monkeypatch.setenv("MLGYM_TASKS", str(make_toy(tmp_path / "docker-tasks", task=task)))
    monkeypatch.setenv("DOCKER_HOST", engine.engine.url)
    server = await anyio.to_thread.run_sync(partial(Killable, own_home, "docker", wait_s=0.5))
    try:
        sessions = await sessions_go_on(server, signal.SIGKILL)
        server.kill()
        lost, *others = sessions
        await engine.remove(f"mlgym-{lost['id'][:24]}")
        await server.start()
        for made in others:
            async with server.playing(made) as client:
                assert "well" in await text_of(client, "shell", command="echo well")
            await server.api("DELETE", f"/sessions/{made['id']}")
        server.kill(signal.SIGINT)
    finally:
        server.close()
    (end,) = [e for e in read_journal(own_home / "episodes" / lost["episode"]) if e.type == "end"]
    assert end["outcome"] == "infrastructure_error"
    assert "did not outlive the server" in end["reason"]
    for made in sessions:
        assert not await engine.find({"mlgym.session": made["id"]})
