"""A facade's server dies in the middle of an episode, and comes back or does not; the facade itself dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import httpx
import pytest

from mlgym_sandbox.environment import Environment
from tests.chaos.killable import ADMIN, Killable
from tests.facades.conftest import TALE, facade, journals, none_are_left, played_once, toys_of, until_begun
from tests.facades.test_openenv import CALLS, WRITE, talking
from tests.facades.test_openreward import TOY, Client
from tests.serving.conftest import make_home

pytestmark = pytest.mark.anyio


def outcomes_of(mortal: Killable) -> list[str]:
    return sorted(event["outcome"] for events in journals(mortal) for event in events if event.type == "end")


async def until_there(file: Path) -> None:
    with anyio.fail_after(30):
        while not file.exists():
            await anyio.sleep(0.02)


async def raw_openenv(url: str) -> None:
    """An episode over a WebSocket."""
    async with talking(url) as talk:
        await talk.reset()
        await talk.step(WRITE)
        told = (await talk.step({"tool_name": "shell", "arguments": TALE}))["data"]
        assert told["observation"]["result"]["data"].startswith("told by 1\n[exit 0"), told
        last = (await talk.step({"tool_name": "submit"}))["data"]
        assert (last["done"], last["reward"], last["metadata"]["outcome"]) == (True, 1.0, "scored"), last


async def raw_openreward(url: str) -> None:
    """An episode over plain HTTP."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        client = Client(http, "raw")
        await client.post("/create", task_spec=TOY)
        await client.call(name="write_file", input=CALLS[1][1])
        _, told = await client.call(name="shell", input=TALE)
        assert told["output"]["blocks"][0]["text"].startswith("told by 1\n[exit 0"), told
        _, last = await client.call(name="submit", input={})
        assert (last["output"]["finished"], last["output"]["reward"]) == (True, 1.0), last


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_clients_go_on_with_their_episodes_when_the_server_is_killed_or_restarted(
    mortal: Killable, number: int
) -> None:
    await mortal.start()
    toys = toys_of(mortal)
    async with facade("openenv", toys) as env_url, facade("openreward", toys) as ors_url:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(raw_openenv, env_url)
            tasks.start_soon(raw_openreward, ors_url)
            await until_begun(mortal, 2)
            await anyio.to_thread.run_sync(mortal.kill, number)
            await mortal.start()
        await none_are_left(toys)
    played_once(mortal, 2)


async def test_a_grading_over_which_the_server_dies_is_made_again_and_paid_once(mortal: Killable, gate: Path) -> None:
    await mortal.start()
    toys, told = toys_of(mortal), {}
    async with (
        facade("openenv", toys) as env_url,
        facade("openreward", toys) as ors_url,
        talking(env_url) as talk,
        httpx.AsyncClient(base_url=ors_url, timeout=60) as http,
    ):
        await talk.reset()
        await talk.step(WRITE)
        client = Client(http, "one")
        await client.post("/create", task_spec=TOY)
        await client.call(name="write_file", input=CALLS[1][1])
        (gate / "go").unlink()

        async def validate() -> None:
            told["validate"] = (await talk.step({"tool_name": "validate"}))["data"]

        async def submit() -> None:
            told["submit"] = (await client.call(name="submit", input={}))[1]["output"]

        async with anyio.create_task_group() as tasks:
            for grading in (validate, submit):
                (gate / "arrived").unlink(missing_ok=True)
                tasks.start_soon(grading)
                await until_there(gate / "arrived")
            mortal.kill()
            (gate / "go").touch()
            await mortal.start()
        validated = told["validate"]["observation"]["result"]["structured_content"]
        assert (validated["score"], validated["validations_left"], told["validate"]["reward"]) == (1.0, 2, 1.0)
        assert (told["submit"]["finished"], told["submit"]["reward"]) == (True, 1.0)
        assert "Submitted. Test score: accuracy 1" in told["submit"]["blocks"][0]["text"]
        last = (await talk.step({"tool_name": "submit"}))["data"]
        assert (last["done"], last["reward"]) == (True, 0.0), "no better than it was"
    played_once(mortal, 2)
    assert sorted(len([1 for event in events if event.type == "score"]) for events in journals(mortal)) == [1, 2]


async def test_a_server_that_does_not_come_back_is_one_error_and_the_next_one_is_played_at(mortal: Killable) -> None:
    await mortal.start()
    toys = toys_of(mortal)
    async with (
        facade("openenv", toys, patience_s=0.3) as env_url,
        facade("openreward", toys, patience_s=0.3) as ors_url,
        talking(env_url) as talk,
        httpx.AsyncClient(base_url=env_url, timeout=60) as plain,
        httpx.AsyncClient(base_url=ors_url, timeout=60) as http,
    ):
        told: dict[str, Any] = {}
        client, later = Client(http, "one"), Client(http, "later")
        await talk.reset()
        await client.post("/create", task_spec=TOY)
        await client.get("/prompt")
        name = (await plain.post("/reset", json={"task": "toy"})).json()["metadata"]["session_id"]
        action = {"type": "call_tool", "tool_name": "shell", "arguments": TALE}

        async def said() -> None:
            told["said"] = (await talk.step(action))["data"]

        async def stepped() -> None:
            told["stepped"] = await plain.post("/step", json={"action": action, "session_id": name})

        async def called() -> None:
            told["called"] = (await client.call(name="shell", input=TALE))[1]

        async with anyio.create_task_group() as tasks:
            for ask in (said, stepped, called):
                tasks.start_soon(ask)
            await until_begun(mortal, 3)
            mortal.kill()
        lost = f"{mortal.url} does not answer"
        assert told["said"]["code"] == "EXECUTION_ERROR"
        assert told["stepped"].status_code == 400
        for words in (told["said"]["message"], told["stepped"].json()["detail"], told["called"]["error"]):
            assert words.startswith(lost), words
            assert "/sessions/" not in words, "the way in is nobody else's"

        assert "begin another" in (await talk.step(action))["data"]["message"]
        assert (await client.call(name="shell", input=TALE))[1]["reason"] == "episode_finished"
        assert lost in (await talk.reset())["data"]["message"]
        await later.post("/create", task_spec=TOY)
        failed = await later.get("/prompt")
        assert (failed.status_code, failed.json()["detail"][: len(lost)]) == (400, lost)
        assert (await http.post("/tasks", json={"split": "mini"})).status_code == 503
        assert (await plain.get("/health")).status_code == (await http.get("/health")).status_code == 200

        await mortal.start()
        await later.post("/delete")
        await raw_openenv(env_url)
        await raw_openreward(ors_url)
        await talk.reset()
        assert (await talk.step(WRITE))["data"]["done"] is False
    await none_are_left(toys)  # nor those that were lost, now that their server is there again
    assert not mortal.errors()


async def test_a_server_with_another_home_is_not_waited_for(
    mortal: Killable, backend: str, light: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mortal.start()
    with monkeypatch.context() as elsewhere:  # afterwards, what the server before left is found in its own home
        elsewhere.setenv("MLGYM_HOME", str(make_home(tmp_path / "other", light)))
        other = Killable(tmp_path / "other", backend, port=mortal.port)
    with closing(other):
        async with facade("openenv", toys_of(mortal)) as url, talking(url) as talk:
            await talk.reset()
            mortal.kill()
            await other.start()
            told = (await talk.step(WRITE))["data"]
            assert told["message"] == "the server does not know its session any more"
            assert (await talk.reset())["type"] == "observation"


@asynccontextmanager
async def program(mortal: Killable) -> AsyncIterator[tuple[subprocess.Popen[str], str]]:
    """A facade for Open Reward as a process, and its address."""
    command = [sys.executable, "-m", "mlgym_clients.facades", "openreward", "--listen", "127.0.0.1:0"]
    variables = {**os.environ, "MLGYM_SERVER": mortal.url, "MLGYM_ADMIN_TOKEN": ADMIN}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables) as process:
        assert process.stdout is not None
        try:
            yield process, (await anyio.to_thread.run_sync(process.stdout.readline)).strip()
        finally:
            process.kill()


async def test_what_ended_unheard_is_told_and_a_facade_that_is_killed_leaves_no_session(
    mortal: Killable, gate: Path
) -> None:
    await mortal.start()
    async with program(mortal) as (process, url), httpx.AsyncClient(base_url=url, timeout=60) as http:
        client, other = Client(http, "one"), Client(http, "other")
        await client.post("/create", task_spec=TOY)
        await client.call(name="write_file", input=CALLS[1][1])
        (gate / "go").unlink()
        told: list[dict[str, Any]] = []

        async def submit() -> None:
            told.append((await client.call(name="submit", input={}))[1]["output"])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(submit)
            await until_there(gate / "arrived")
            process.send_signal(signal.SIGSTOP)
            mortal.kill()
            (gate / "go").touch()
            await mortal.start()
            (session,) = await toys_of(mortal).sessions()
            await mortal.api("DELETE", f"/sessions/{session['id']}")
            mortal.kill()
            await mortal.start()
            process.send_signal(signal.SIGCONT)
        (last,) = told
        assert (last["finished"], last["reward"], last["metadata"]["outcome"]) == (True, 1.0, "scored"), last
        assert last["blocks"][0]["text"].startswith("The episode is over (scored)"), last

        await other.post("/create", task_spec=TOY)
        assert (await other.get("/prompt")).status_code == 200
        mortal.kill()
        process.kill()
    await mortal.start()
    await none_are_left(toys_of(mortal))
    with anyio.fail_after(20):  # it is over before that is written down
        while (outcomes := outcomes_of(mortal)) != ["abandoned", "scored"]:
            assert len(outcomes) < 2, outcomes
            await anyio.sleep(0.02)
    assert not mortal.errors()
