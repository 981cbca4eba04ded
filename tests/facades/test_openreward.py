"""The Open Reward Standard's own client plays through our facade; other clients do what they should not."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.chaos.killable import Killable
from tests.facades.conftest import TOKEN, Toys, facade, none_are_left, played_once, toys_of, until_begun, written
from tests.facades.test_openenv import CALLS
from tests.frameworks import matrix
from tests.frameworks.environments import python_of
from tests.frameworks.playing import EXAMPLES

TOY = {"task": "toy", "preset": "mini"}


@pytest.mark.anyio
async def test_the_standards_own_client_plays_an_episode_under_which_the_server_dies(
    mortal: Killable, tmp_path: Path
) -> None:
    python = await anyio.to_thread.run_sync(python_of, "openreward_client")
    await mortal.start()
    told: list[subprocess.CompletedProcess[bytes]] = []

    async def play(url: str) -> None:
        calls = [call for call in CALLS if call[0] != "submit"][:4]  # the terminal tool ends what was not submitted
        command = [str(python), str(EXAMPLES / "openreward_client.py"), url, "toy", written(tmp_path, calls)]
        variables = {**os.environ, "MLGYM_FACADE_TOKEN": TOKEN}
        with anyio.fail_after(100):
            told.append(await anyio.run_process(command, check=False, env=variables, cwd=tmp_path))

    async with facade("openreward", toys_of(mortal), token=TOKEN) as url:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(play, url)
            await until_begun(mortal, 1)
            mortal.kill()
            await mortal.start()
        (played,) = told
        assert played.returncode == 0, played.stderr.decode()[-4000:]
        await none_are_left(toys_of(mortal))
    lines = played.stdout.decode().splitlines()
    assert lines[0] == "get_task: # Odd or even"
    assert "shell: told by 1" in lines
    assert lines[-1] == "5 steps of 16 tools, reward 1.00, done True"
    played_once(mortal, 1)
    matrix.record("Open Reward Standard (facade)", "HTTP", "ORS", "scored: 5 steps", version="0.1.167")


class Client:
    """A client that speaks for itself."""

    def __init__(self, http: httpx.AsyncClient, name: str) -> None:
        self.http = http
        self.headers = {"X-Session-ID": name}

    async def post(self, path: str, **body: Any) -> httpx.Response:
        return await self.http.post(path, json=body, headers=self.headers)

    async def get(self, path: str) -> httpx.Response:
        return await self.http.get(path, headers=self.headers)

    async def call(self, **body: Any) -> tuple[str, dict[str, Any]]:
        """The events of a call: its number, and what came of it."""
        events = parsed((await self.post("/mlgym/call", **body)).text)
        assert events[-1][0] in ("end", "error"), events
        answer = "".join(data for name, data in events if name in ("chunk", "end", "error"))
        return events[0][1], json.loads(answer) if events[-1][0] == "end" else {"error": answer}


def parsed(stream: str) -> list[tuple[str, str]]:
    found = []
    for event in stream.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in event.splitlines() if not line.startswith(":"))
        if lines:
            found.append((lines["event"], lines.get("data", "")))
    return found


@pytest.mark.anyio
async def test_a_call_whose_stream_breaks_is_made_once_and_answered_when_asked_for_again(toys: Toys) -> None:
    async with facade("openreward", toys) as url, httpx.AsyncClient(base_url=url, timeout=60) as http:
        client = Client(http, "one")
        assert (await client.post("/create", task_spec=TOY)).json() == {"sid": "one"}
        body = {"name": "shell", "input": {"command": "echo made >> made; sleep 1; seq 1 2000; wc -l < made"}}
        async with http.stream("POST", "/mlgym/call", json=body, headers=client.headers) as broken:
            async for line in broken.aiter_lines():
                if line.startswith("data: "):
                    break
        number = line.removeprefix("data: ")
        for _ in range(2):
            again, answer = await client.call(**body, task_id=number)
            assert again == number
            text = answer["output"]["blocks"][0]["text"]
            assert text.split("\n[exit")[0].endswith("2000\n1"), "it was made once"
        assert (await client.call(name="shell", input={}, task_id="no-such"))[1] == {"error": "unknown task_id"}
        other = Client(http, "two")
        await other.post("/create", split="mini", index=0)
        assert (await other.call(name="shell", input={}, task_id=number))[1] == {"error": "unknown task_id"}, (
            "another's"
        )
        for one in (client, other):
            await one.post("/delete")
        assert await toys.sessions() == []


@pytest.mark.anyio
async def test_nonsense_is_refused_with_a_reason(toys: Toys) -> None:
    async with facade("openreward", toys) as url, httpx.AsyncClient(base_url=url, timeout=60) as http:
        assert (await http.get("/list_environments")).json() == ["mlgym"]
        assert (await http.get("/mlgym/splits")).json() == [{"name": "mini", "type": "train"}]
        assert (await http.post("/num_tasks", json={"split": "mini"})).json() == {"num_tasks": 1}
        task = (await http.post("/mlgym/task", json={"split": "mini", "index": 0})).json()["task"]
        assert task == TOY | {"title": "Odd or even"}
        some = await http.post("/mlgym/task_range", json={"split": "mini", "stop": 5})
        assert some.json()["tasks"] == [task]
        for path, body in (
            ("/tasks", {}),
            ("/tasks", {"split": {"a": 1}}),
            ("/task", {"split": "mini", "index": -1}),
            ("/task", {"split": "mini", "index": "0"}),
            ("/task_range", {"split": "mini", "start": "x"}),
            ("/create_nothing", {}),
            ("/elsewhere/tasks", {"split": "mini"}),
        ):
            assert (await http.post(path, json=body)).status_code in (400, 404, 405), (path, body)
        client = Client(http, "one")
        for wrong in (
            {},
            {"task_spec": []},
            {"task_spec": {}},
            {"task_spec": TOY | {"seed": -1}},
            {"split": "mini", "index": 9},
            {"task_spec": TOY, "toolset_name": "codex"},
        ):
            assert (await client.post("/create", **wrong)).status_code == 400, wrong
        assert (await http.post("/create", json={"task_spec": TOY})).status_code == 400, "no session's id"
        assert (await Client(http, "x" * 5000).post("/create", task_spec=TOY)).status_code == 400
        assert (await client.post("/ping")).status_code == 404
        assert (await client.post("/create", task_spec={"task": "no-such"})).status_code == 200
        told = await client.get("/mlgym/prompt")
        assert (told.status_code, told.json()["detail"]) == (400, "there is no task 'no-such'; there are: toy")
        await client.post("/delete")
        assert (await client.post("/create", task_spec=TOY)).status_code == 200
        assert (await client.post("/create", task_spec=TOY)).status_code == 400, "there is one already"
        assert "Guess" in (await client.get("/messages")).json()[0]["blocks"][0]["text"]
        assert (await client.post("/call", name="shell", input=[])).status_code == 422
        assert (await client.call(name="no_such", input={}))[1]["reason"] == "not_found"
        misuse = (await client.call(name="read_file", input={"file": "x"}))[1]
        assert misuse["output"]["metadata"]["is_error"]
        assert (await client.call(name="submit", input={}))[1]["output"]["finished"] is False, "there is nothing yet"
    assert await toys.sessions() == []


@pytest.mark.anyio
async def test_a_harness_ends_an_episode_without_a_submission_and_is_paid_for_what_is_there(toys: Toys) -> None:
    async with facade("openreward", toys) as url, httpx.AsyncClient(base_url=url, timeout=60) as http:
        for name, reward, outcome in (("right", 1.0, "scored"), ("empty", -1.0, "abandoned")):
            client = Client(http, name)
            await client.post("/create", task_spec=TOY)
            listed = (await client.get("/mlgym/task_tools")).json()
            last = listed["terminal_tool"]
            assert last["arg"] is None
            assert last["name"] not in {tool["name"] for tool in listed["tools"]}, "models do not see it"
            if name == "right":
                await client.call(name="write_file", input=CALLS[1][1])
            output = (await client.call(name=last["name"], input={}))[1]["output"]
            told = (output["finished"], output["reward"], output["metadata"]["outcome"])
            assert told == (True, reward, outcome), output
            assert output["blocks"][0]["text"].startswith(f"[The episode is over ({outcome})"), output
            assert (await client.call(name=last["name"], input={}))[1]["reason"] == "episode_finished"
        assert await toys.sessions() == []
        group = {"candidates": [{"messages": [{"role": "assistant", "blocks": []}]}]}
        assert (await client.post("/score_group", **group)).status_code == 404, "so clients know that there is none"
        refused = await http.post("/create_session", json={"env": {"OPENAI_BASE_URL": "http://127.0.0.1:9"}})
        assert (refused.status_code, "override" in refused.json()["detail"]) == (400, True)


@pytest.mark.anyio
async def test_a_client_that_says_nothing_any_more_is_gone_and_one_that_pings_is_not(toys: Toys) -> None:
    async with facade("openreward", toys, idle_s=1.2) as url, httpx.AsyncClient(base_url=url, timeout=60) as http:
        silent, alive = Client(http, "silent"), Client(http, "alive")
        for client in (silent, alive):
            await client.post("/create", task_spec=TOY)
            assert (await client.get("/prompt")).status_code == 200
        with anyio.fail_after(20):
            while len(await toys.sessions()) > 1:
                assert (await alive.post("/ping")).status_code == 200
                await anyio.sleep(0.1)
        assert (await alive.call(name="status", input={}))[1]["ok"]
        assert (await silent.post("/ping")).status_code == 404
        await alive.post("/delete")
        gone = Client(http, "gone")
        await gone.post("/create", task_spec=TOY)
        await gone.post("/delete")  # while it is being made
        await none_are_left(toys)
