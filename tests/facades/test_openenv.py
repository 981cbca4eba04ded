"""OpenEnv's own client plays through our facade; other clients do what they should not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from mlgym_clients.facades.__main__ import main
from tests.chaos.killable import ADMIN, Killable
from tests.facades.conftest import TALE, TOKEN, Toys, facade, none_are_left, played_once, until_begun, written
from tests.frameworks import matrix
from tests.frameworks.environments import python_of
from tests.frameworks.playing import EXAMPLES
from tests.toy import CSV

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("get_task", {}),
    ("write_file", {"path": "submission.csv", "content": CSV}),
    ("shell", TALE),
    ("validate", {}),
    ("submit", {}),
    ("status", {}),
]
WRITE = {"type": "call_tool", "tool_name": "write_file", "arguments": CALLS[1][1]}


@pytest.mark.anyio
async def test_openenvs_own_client_plays_an_episode_under_which_the_server_dies(
    mortal: Killable, tmp_path: Path
) -> None:
    (tmp_path / "gradio.py").write_text(
        "raise ModuleNotFoundError('takes seconds, and is for servers', name='gradio')\n"
    )
    await mortal.start()
    where = {"MLGYM_SERVER": mortal.url, "MLGYM_ADMIN_TOKEN": ADMIN, "MLGYM_FACADE_TOKEN": TOKEN}
    variables = {**os.environ, **where}
    command = [sys.executable, "-m", "mlgym_clients.facades", "openenv", "--listen", "127.0.0.1:0"]
    python = await anyio.to_thread.run_sync(python_of, "openenv_client")
    told: list[subprocess.CompletedProcess[bytes]] = []

    async def play(url: str) -> None:
        command = [str(python), str(EXAMPLES / "openenv_client.py"), url, "toy", written(tmp_path, CALLS)]
        with anyio.fail_after(100):
            told.append(await anyio.run_process(command, check=False, env=variables | {"PYTHONPATH": str(tmp_path)}))

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables) as served:
        try:
            assert served.stdout is not None
            url = (await anyio.to_thread.run_sync(served.stdout.readline)).strip()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(play, url)
                await until_begun(mortal, 1)
                mortal.kill()
                await mortal.start()
        finally:
            served.terminate()
        assert served.wait(60) == 0
    (played,) = told
    assert played.returncode == 0, played.stderr.decode()[-4000:]
    lines = played.stdout.decode().splitlines()
    assert lines[0] == "get_task: # Odd or even"
    assert "shell: told by 1" in lines
    assert any(line.startswith("submit: Submitted. Test score: accuracy 1") for line in lines), lines
    assert lines[-1] == "5 steps of 16 tools, reward 1.00, done True", "validated at the best, and submitted the same"
    played_once(mortal, 1)
    matrix.record("OpenEnv (facade)", "HTTP", "OpenEnv", "scored: 5 steps", version="0.10.0")


class Talk:
    """A WebSocket of a client that speaks for itself."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def say(self, message: Any) -> dict[str, Any]:
        await self.socket.send(message if isinstance(message, str | bytes) else json.dumps(message))
        return await self.hear()

    async def hear(self) -> dict[str, Any]:
        with anyio.fail_after(30):
            heard: dict[str, Any] = json.loads(await self.socket.recv())
        return heard

    async def code(self, message: Any) -> str:
        """The code of the error that a message meets."""
        heard = await self.say(message)
        assert heard["type"] == "error", heard
        return str(heard["data"]["code"])

    async def reset(self, **data: Any) -> dict[str, Any]:
        return await self.say({"type": "reset", "data": {"task": "toy", **data}})

    async def step(self, action: dict[str, Any]) -> dict[str, Any]:
        return await self.say({"type": "step", "data": action})


@asynccontextmanager
async def talking(url: str, session: str | None = None, **headers: str) -> AsyncIterator[Talk]:
    query = "" if session is None else f"?session_id={session}"
    async with connect(f"{url.replace('http', 'ws')}/ws{query}", additional_headers=headers, proxy=None) as socket:
        yield Talk(socket)


async def rpc(http: httpx.AsyncClient, method: str, **params: Any) -> dict[str, Any]:
    asked = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
    answer: dict[str, Any] = (await http.post("/mcp", json=asked)).json()
    assert answer["id"] == 7
    return answer


@pytest.mark.anyio
async def test_nonsense_is_answered_and_the_client_goes_on_where_it_was(toys: Toys) -> None:
    async with facade("openenv", toys) as url, talking(url) as talk:
        for nonsense in ("{", "[]", b"\xff", "[" * 100_000):
            assert await talk.code(nonsense) == "INVALID_JSON"
        assert await talk.code({"type": "dance"}) == "UNKNOWN_TYPE"
        assert await talk.code({"type": ["reset"]}) == "UNKNOWN_TYPE"
        assert await talk.code({"type": "reset", "data": []}) == "VALIDATION_ERROR"
        heard = await talk.say({"type": "reset", "data": {}})
        assert "say which task" in heard["data"]["message"]
        for wrong in ({"seed": -1}, {"seed": "x"}, {"budget": {"calls": "many"}}, {"task": 5}, {"preset": "huge"}):
            assert await talk.code({"type": "reset", "data": {"task": "toy", **wrong}}) == "EXECUTION_ERROR"
        assert (
            await talk.code({"type": "step", "data": {"type": "call_tool", "tool_name": "status"}}) == "EXECUTION_ERROR"
        )
        first = await talk.reset(seed=4, episode_id="mine", unknown=True)
        assert first["data"]["observation"]["seed"] == 4
        assert "Guess, in preset mini." in first["data"]["observation"]["instruction"]
        for action in (
            {},
            {"tool_name": 5},
            {"tool_name": "shell", "arguments": "ls"},
            {"tool_name": "shell", "arguments": []},
        ):
            assert await talk.code({"type": "step", "data": action}) == "EXECUTION_ERROR"
        missing = (await talk.step({"tool_name": "no_such"}))["data"]
        assert missing["observation"]["error"]["error_type"] == "tool_not_found"
        misuse = (await talk.step({"tool_name": "read_file", "arguments": {"file": "x"}}))["data"]
        assert (misuse["observation"]["result"]["is_error"], misuse["observation"]["error"]) == (True, None)
        as_text = (await talk.step({"tool_name": "shell", "arguments": '{"command": "echo hi"}'}))["data"]
        assert as_text["observation"]["result"]["data"].startswith("hi\n")
        state = await talk.say({"type": "state"})
        assert (state["data"]["step_count"], state["data"]["done"]) == (3, False)
    await none_are_left(toys)


@pytest.mark.anyio
async def test_an_episode_that_is_over_wants_a_reset_and_a_reset_ends_what_is_played(toys: Toys) -> None:
    async with facade("openenv", toys) as url, talking(url) as talk:
        await talk.reset()
        await talk.step(WRITE)
        last = (await talk.step({"tool_name": "submit"}))["data"]
        assert (last["done"], last["reward"], last["metadata"]["ending"]) == (True, 1.0, "submitted")
        assert "begin another" in (await talk.step(WRITE))["data"]["message"]
        one = (await talk.reset())["data"]["observation"]["episode_id"]
        two = (await talk.reset())["data"]["observation"]["episode_id"]
        assert one != two
        assert [session["episode"] for session in await toys.sessions()] == [two]
        assert (await talk.step({"type": "list_tools"}))["data"]["observation"]["tools"][0]["name"] == "get_task"
        await talk.socket.send(json.dumps({"type": "close"}))
        with pytest.raises(websockets.ConnectionClosed):
            await talk.socket.recv()
        await none_are_left(toys)


@pytest.mark.anyio
async def test_a_session_is_one_clients_and_others_neither_join_nor_close_it(toys: Toys) -> None:
    async with facade("openenv", toys) as url, httpx.AsyncClient(base_url=url, timeout=30) as http:
        name = (await rpc(http, "openenv/session/create"))["result"]["session_id"]
        assert (await rpc(http, "tools/call", name="status", session_id=name))["error"]["code"] == -32603, "no task yet"
        async with talking(url, name) as talk:
            await talk.reset()
            async with talking(url, name) as second:
                assert "already has an attached" in (await second.hear())["data"]["message"]
            own = {"jsonrpc": "2.0", "id": 1, "method": "openenv/session/close", "params": {"session_id": name}}
            heard = await talk.say({"type": "mcp", "data": own})
            assert heard["data"]["error"]["code"] == -32600
            called = (await rpc(http, "tools/call", name="shell", arguments={"command": "echo hi"}, session_id=name))[
                "result"
            ]
            assert (called["data"][:3], called["metadata"]) == ("hi\n", {"reward": 0.0, "done": False})
            assert (await rpc(http, "openenv/session/close", session_id=name))["result"]["closing"]
            assert len(await toys.sessions()) == 1, "while its client is there"
        await none_are_left(toys)
        for session in (name, "x" * 5000, "", None, 5, ["a"]):
            told = await rpc(http, "tools/call", name="status", session_id=session)
            assert told["error"]["code"] == -32602, session
        async with talking(url, "no-such") as third:
            assert (await third.hear())["data"]["code"] == "SESSION_ERROR"
        for wrong in ({}, {"jsonrpc": "2.0", "method": "tools/list", "params": []}, {"jsonrpc": "2.0", "method": "x"}):
            assert "error" in (await http.post("/mcp", json=wrong)).json()
        assert (await http.post("/mcp", content="{")).status_code == 400
        assert (await http.post("/mcp", content=b"[" + b"0," * 5_000_000 + b"0]")).status_code == 413


@pytest.mark.anyio
async def test_who_has_no_room_is_told_so_and_room_comes_back(toys: Toys) -> None:
    async with facade("openenv", toys, most=1) as url, talking(url) as waiting:
        async with talking(url) as playing:
            await playing.reset()
            assert await waiting.code({"type": "reset", "data": {"task": "toy"}}) == "CAPACITY_REACHED"
            await playing.reset()  # in one's own place there is room
        await none_are_left(toys)
        with anyio.fail_after(20):
            while (await waiting.reset())["type"] == "error":
                await anyio.sleep(0.05)


@pytest.mark.anyio
async def test_a_client_that_is_gone_leaves_no_episode_behind(toys: Toys) -> None:
    async with facade("openenv", toys, idle_s=1.5) as url, httpx.AsyncClient(base_url=url, timeout=30) as http:
        reset = (await http.post("/reset", json={"task": "toy"})).json()
        name = reset["metadata"]["session_id"]
        action = {"type": "call_tool", "tool_name": "shell", "arguments": {"command": "sleep 2.5; echo hi"}}
        step = await http.post("/step", json={"action": action, "session_id": name})
        assert step.json()["observation"]["result"]["data"].startswith("hi\n"), "while it calls it is not idle"
        assert (await http.get("/state", params={"session_id": name})).json()["step_count"] == 1
        assert (await http.post("/step", json={"action": 5, "session_id": name})).status_code == 422
        await none_are_left(toys)
        gone = await http.post("/step", json={"action": action, "session_id": name})
        assert gone.status_code == 400, gone.text
    async with facade("openenv", toys) as url, httpx.AsyncClient(base_url=url, timeout=30) as http:
        await http.post("/reset", json={"task": "toy"})
    assert await toys.sessions() == [], "when the facade ends, so do its episodes"


@pytest.mark.anyio
async def test_only_those_with_the_token_come_in_by_a_name_of_the_facade_and_from_no_page_of_others(toys: Toys) -> None:
    async with facade("openenv", toys, token=TOKEN) as url, httpx.AsyncClient(base_url=url) as http:
        good = {"Authorization": f"Bearer {TOKEN}"}
        assert (await http.get("/health")).json() == {"status": "healthy"}
        assert (await http.get("/metadata", headers=good)).json()["name"] == "mlgym"
        assert (await http.get("/metadata", headers={"X-API-Key": TOKEN})).status_code == 200
        for bad in ({}, {"Authorization": "Bearer no"}, {"Authorization": TOKEN}, {"X-API-Key": "n\u00f6".encode()}):
            assert (await http.post("/reset", json={"task": "toy"}, headers=bad)).status_code == 401
        assert (await http.get("/metadata", headers=good | {"Host": "evil.example"})).status_code == 421
        assert (await http.get("/metadata", headers=good | {"Origin": "https://evil.example"})).status_code == 403
        assert (await http.get("/metadata", headers=good | {"Origin": "http://localhost:3"})).status_code == 200
        for headers in ({}, {"Authorization": "Bearer no"}, good | {"Origin": "http://evil.example"}):
            with pytest.raises(websockets.InvalidStatus):
                async with talking(url, **headers):
                    pass
        async with talking(url, **good) as talk:
            assert (await talk.say({"type": "state"}))["data"]["step_count"] == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["openenv", "--listen", "0.0.0.0:0"], "need --allow-host NAME and a token"),
        (["openenv", "--allow-host", "mlgym.example"], "need --allow-host NAME and a token"),
        (["openenv", "--listen", "127.0.0.1"], "wants HOST:PORT"),
        (["openenv", "--max-episodes", "0"], "must be positive"),
        (["openreward", "--token-file", "/nowhere", "--server", "http://127.0.0.1:9"], "No such file"),
    ],
)
def test_a_facade_that_would_be_open_to_everybody_or_makes_no_sense_is_refused(
    arguments: list[str], why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLGYM_FACADE_TOKEN", raising=False)
    try:
        status = main(arguments)
    except SystemExit as exc:
        status = int(exc.code or 0)
    assert status != 0
    assert why in " ".join(capsys.readouterr().err.split())


def test_a_port_that_somebody_has_is_named_before_anything_is_started(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["openreward", "--listen", f"127.0.0.1:{taken.getsockname()[1]}"]) == 1
    assert "in use" in capsys.readouterr().err
