"""Clients that are rough: they cut connections, send requests again as they were, have no patience, know no errors."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from mcp import Client, MCPError
from mcp.types import CallToolResult

from mlgym_mcp.serving.host import Host
from mlgym_mcp.session.journal import read_journal
from mlgym_mcp.session.session import Session
from tests.serving.conftest import playing, running_host, text_of
from tests.serving.control_client import ACCEPT, INITIALIZE
from tests.toy import CSV, make_toy

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("own_home")]
ERAS = pytest.mark.parametrize("mode", ["auto", "legacy"])
TRAINING = "echo begun >> runs.txt; sleep 1.5; echo trained"


def calls_of(session: Session, tool: str) -> list[Any]:
    return [e for e in read_journal(session.episode.folder) if e.type == "call" and e["tool"] == tool]


class Raw:
    """Tool calls without a client's good manners: a connection that is cut is cut, and nothing is said."""

    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self.http = http
        self.url = url
        self.headers = dict(ACCEPT)
        self.meta: dict[str, Any] = {"progressToken": 1}

    async def begin(self, mode: str) -> None:
        """Say hello in the legacy protocol, or do without in the modern one."""
        if mode == "legacy":
            hello = await self.http.post(self.url, json=INITIALIZE, headers=self.headers)
            self.headers |= {"mcp-session-id": hello.headers["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}
            known = {"jsonrpc": "2.0", "method": "notifications/initialized"}
            await self.http.post(self.url, json=known, headers=self.headers)
            return
        self.headers |= {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "shell"}
        client = {"clientInfo": {"name": "raw", "version": "1"}, "clientCapabilities": {}}
        about = {"protocolVersion": "2026-07-28", **client}
        self.meta |= {f"io.modelcontextprotocol/{name}": value for name, value in about.items()}

    async def shell(self, number: int, command: str) -> str:
        """Run a command in a request of this number, and return the text of the answer."""
        return await self.call(number, "shell", command=command)

    async def call(self, number: int, tool: str, **arguments: str) -> str:
        """Send a request under a number, and return the text of the answer."""
        params = {"name": tool, "arguments": arguments, "_meta": self.meta}
        body = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
        named = {"mcp-name": tool} if "mcp-name" in self.headers else {}
        answer = await self.http.post(self.url, json=body, headers=self.headers | named)
        frames = [line[5:] for line in answer.text.splitlines() if line.startswith("data:")] or [answer.text]
        said = json.loads(frames[-1])
        assert said["id"] == number
        return str(said["result"]["content"][0]["text"])


@ERAS
async def test_a_request_sent_again_as_it_was_after_the_connection_was_cut_is_the_same_job(
    mode: str, backend: str
) -> None:
    async with running_host(backend) as host, playing(host) as (watcher, session):
        async with httpx.AsyncClient(timeout=30) as http:
            raw = Raw(http, host.mcp_url(session))
            await raw.begin(mode)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(raw.shell, 7, TRAINING)
                with anyio.fail_after(30):
                    while "runs.txt" not in await text_of(watcher, "list_files"):
                        await anyio.sleep(0.05)
                tasks.cancel_scope.cancel()
            assert "running" in await text_of(watcher, "job_list"), "the job is still there"
            assert "trained\n[exit 0" in await raw.shell(7, TRAINING)
            assert (await raw.shell(8, "cat runs.txt")).startswith("begun\n[exit 0 ")
            for number in (9, 10):  # the same command once more is another request
                await raw.shell(number, "echo anew >> runs.txt")
            assert (await raw.shell(11, "cat runs.txt")).startswith("begun\nanew\nanew\n[exit 0")
        assert len(calls_of(session, "shell")) == 5


@pytest.mark.parametrize("once", [True, False], ids=["once", "always_the_same_number"])
async def test_a_number_names_one_request_but_to_clients_that_have_only_one(once: bool, backend: str) -> None:
    """An answer can be lost without a word in the protocols with sessions: the same number asks for it again."""
    async with running_host(backend) as host, playing(host) as (_, session), httpx.AsyncClient(timeout=30) as http:
        raw = Raw(http, host.mcp_url(session))
        await raw.begin("legacy")
        await raw.call(7 if once else 9, "get_task")
        for _ in range(2):
            said = [await raw.shell(9, "echo anew >> runs.txt; wc -l < runs.txt") for _ in range(2)]
            assert [text.partition("\n")[0] for text in said] == (["1", "1"] if once else ["1", "2"])
            if not once:
                break
        assert len(calls_of(session, "shell")) == (1 if once else 2)


@ERAS
async def test_an_edit_and_a_note_whose_answers_were_lost_are_made_once(
    mode: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLGYM_TASKS", str(make_toy(tmp_path / "slow", grader=SLOW_GRADER)))
    edit = {"path": "letters.txt", "old": "a", "new": "aa"}
    note = {"text": "letters double"}
    async with running_host(backend) as host, playing(host) as (watcher, session):
        await watcher.call_tool("write_file", {"path": "submission.csv", "content": CSV})
        await watcher.call_tool("write_file", {"path": "letters.txt", "content": "a"})
        async with httpx.AsyncClient(timeout=30) as http:
            raw = Raw(http, host.mcp_url(session))
            await raw.begin(mode)
            for number, tool, arguments in ((7, "edit_file", edit), (8, "note_write", note)):
                answer = "Edited" if tool == "edit_file" else "Kept as note 1"
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(watcher.call_tool, "validate")  # changes wait for it
                    with anyio.fail_after(30):
                        while not session.calls.in_flight:
                            await anyio.sleep(0.01)
                        cut = anyio.CancelScope()
                        tasks.start_soon(cancellable, cut, raw, number, tool, arguments)
                        while session.calls.in_flight < 2:
                            await anyio.sleep(0.01)
                        cut.cancel()
                        while mode == "auto" and waited_for(host, session, tool):  # else nobody says that it broke
                            await anyio.sleep(0.01)
                    assert (await raw.call(number, tool, **arguments)).startswith(answer)
            assert (await raw.call(9, "read_file", path="letters.txt")).endswith("\taa")
        assert [len(calls_of(session, tool)) for tool in ("edit_file", "note_write")] == [1, 1]


def waited_for(host: Host, session: Session, tool: str) -> bool:
    endpoint = host.endpoint(session.id)
    assert endpoint is not None
    return any(call.listeners for call in endpoint.calls._calls.values() if call.name == tool)


async def cancellable(scope: anyio.CancelScope, raw: Raw, number: int, tool: str, arguments: dict[str, str]) -> None:
    with scope:
        await raw.call(number, tool, **arguments)


SLOW_GRADER = """\
import time
from mlgym_mcp.grading.api import GradeContext, Score

def grade(ctx: GradeContext) -> Score:
    time.sleep(1.5)
    return Score(metrics={"accuracy": 0.75}, se={"accuracy": 0.1})
"""


async def stubborn(client: Client, tool: str, patience_s: float = 0.6, **arguments: object) -> CallToolResult:
    """Make a call, give it up after a moment, make it again, until it is answered."""
    with anyio.fail_after(60):
        while True:
            with contextlib.suppress(MCPError):
                return await client.call_tool(tool, arguments, read_timeout_seconds=patience_s)


@ERAS
async def test_a_client_that_gives_up_every_call_after_a_moment_and_calls_again_gets_to_its_score(
    mode: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLGYM_TASKS", str(make_toy(tmp_path / "slow", grader=SLOW_GRADER)))
    async with running_host(backend) as host, playing(host, mode) as (client, session):
        await stubborn(client, "get_task")
        await stubborn(client, "write_file", path="submission.csv", content=CSV)
        trained = await stubborn(client, "shell", command=TRAINING)
        assert trained.content[0].text.startswith("trained\n[exit 0")
        assert (await stubborn(client, "shell", command="cat runs.txt")).content[0].text.startswith("begun\n[exit 0")
        assert (await stubborn(client, "validate")).structured_content["validations_left"] == 2
        assert (await stubborn(client, "submit")).structured_content["score"] == 0.75
        scores = [e["kind"] for e in read_journal(session.episode.folder) if e.type == "score"]
        assert scores == ["validate", "submit"]


MISUSES: list[tuple[str, dict[str, object], str]] = [
    ("shell", {"cmd": "true"}, "cmd is not an argument of shell"),
    ("shell", {}, "command"),
    ("read_file", {"path": "nothing.py"}, "nothing.py"),
    ("edit_file", {"path": "start.py", "old": "not in there", "new": ""}, "start.py"),
    ("write_file", {"path": "/etc/passwd", "content": "x"}, "/etc/passwd"),
    ("job_wait", {"job_id": "j99"}, "There is no job 'j99'"),
    ("job_output", {"job_id": "j1", "offset": "many"}, "offset"),
    ("bash", {"command": "true"}, "bash"),
]


@ERAS
async def test_a_client_that_does_not_know_of_errors_reads_in_words_what_was_wrong_and_goes_on(
    mode: str, backend: str
) -> None:
    async with running_host(backend) as host, playing(host, mode) as (client, session):
        for tool, arguments, expected in MISUSES:
            text = await text_of(client, tool, **arguments)
            assert expected in text, (tool, text)
            assert len(text) < 1000
        assert "start.py" in await text_of(client, "list_files")
        await text_of(client, "write_file", path="submission.csv", content=CSV)
        assert (await text_of(client, "submit")).startswith("Submitted.")
        await session.wait_ended()
        assert session.over.outcome == "scored"
