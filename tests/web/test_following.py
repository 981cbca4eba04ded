"""Live sessions, followed by their journals on disk."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import uvicorn

from mlgym_mcp.serving.http_server import HttpServer
from mlgym_mcp.serving.listening import listen
from mlgym_mcp.session.journal import FILE_NAME, Journal
from mlgym_mcp.web.app import make_app
from mlgym_mcp.web.following import follow
from mlgym_mcp.web.shelf import Shelf
from tests.records.written import score, write_episode
from tests.web.conftest import HOSTILE, address, elements, words

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def served(root: Path) -> AsyncIterator[tuple[str, HttpServer]]:
    """The pages behind a real socket."""
    listener = listen("127.0.0.1", 0)
    shelf = Shelf([root])
    app = make_app(shelf, stopping=lambda: server.should_exit)
    server = HttpServer(uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=5))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, [listener])
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", server
        finally:
            server.should_exit = True
    shelf.close()


async def told(answer: httpx.Response) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    kind = ""
    async for line in answer.aiter_lines():
        if line.startswith("event: "):
            kind = line[7:]
        elif line.startswith("data: "):
            yield kind, json.loads(line[6:])


async def test_entries_come_as_they_are_written_and_change_when_they_are_answered(root: Path) -> None:
    folder = root / "open"
    journal = Journal(folder)
    here = address(folder)
    async with served(root) as (url, _), httpx.AsyncClient(base_url=url, timeout=20) as client:
        page = (await client.get(here)).text
        (place,) = [a for _, a in elements(page) if "data-follow" in a]
        async with client.stream("GET", f"{place['data-follow']}?after={place['data-after']}") as answer:
            events = told(answer)
            call = journal.append("call", tool="shell", arguments={"command": HOSTILE})
            kind, first = await anext(events)
            assert (kind, first["entry"]) == ("entry", f"e{call.seq}")
            assert "no answer yet" in words(first["html"])
            assert not elements(first["html"], "script")
            journal.append("result", call=call.seq, seconds=0.5, text="done", meta={"job_id": "j1"})
            _, second = await anext(events)
            assert second["entry"] == first["entry"]
            assert second["job"] == "j1"
            assert "no answer yet" not in words(second["html"])
            journal.append("score", **score("validate", 0.8))
            _, third = await anext(events)
            assert third["chart"].startswith('<svg class="chart"')
            journal.append("end", outcome="scored", reason="over", score=None, spent=None)
            kind, _ = await anext(events)
            assert kind == "end"
            assert [e async for e in events] == []
        async with client.stream("GET", f"{here}/follow", headers={"Last-Event-ID": str(call.seq)}) as answer:
            assert (await anext(told(answer)))[1]["entry"] == first["entry"]
        assert "data-follow" not in (await client.get(here)).text
    journal.close()


async def test_a_reader_that_is_served_does_not_keep_the_server_from_stopping(root: Path) -> None:
    with anyio.fail_after(10):
        async with served(root) as (url, server), httpx.AsyncClient(base_url=url, timeout=20) as client:
            async with client.stream("GET", f"{address(root / 'open')}/follow") as answer:
                events = told(answer)
                await anext(events)
                server.should_exit = True
                assert "end" not in [kind async for kind, _ in events]


async def test_torn_and_foreign_lines_are_left_out_until_they_are_whole(tmp_path: Path) -> None:
    folder = write_episode(tmp_path / "r", "torn", outcome=None, submitted=None, validations=(), calls=0)
    path = folder / FILE_NAME
    line = b'{"seq":7,"t":1.5,"type":"adopted","away_s":1,"sum":"00000000"}\n'
    with path.open("ab") as file:
        for junk in (
            b"[]\n",
            b"{}\n",
            b"\xff\n",
            b'{"seq":"x","t":[],"type":1}\n',
            b'{"seq":1e999,"t":1,"type":"x"}\n',
        ):
            file.write(junk)
        file.write(line[:20])
        file.flush()
        stream = follow(folder, 0, lambda: False, look_s=0.01)
        async with anyio.create_task_group() as tasks:

            async def finish() -> None:
                file.write(line[20:])
                file.flush()

            tasks.start_soon(finish)
            found = await anext(stream)
    assert found is not None
    assert (found[0].seq, found[1].title) == (7, "another server went on with the session")
    path.unlink()
    assert [each async for each in stream] == []
