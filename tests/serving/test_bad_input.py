"""What a hostile or broken client sends to a real server, and that the server goes on for everybody else."""

from __future__ import annotations

import json
import shutil
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.abc
import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from mlgym_mcp.serving.auth import load_admin_token
from mlgym_mcp.serving.limits import Limits
from mlgym_mcp.serving.process import allow_many_files
from mlgym_sandbox import environment, get_backend
from tests.serving.conftest import make_home, running_host, text_of
from tests.serving.control_client import ACCEPT, INITIALIZE, admin_of, bearer, until_ready
from tests.serving.server_process import ServerProcess, free_port, server, until_listening
from tests.toy import make_toy

pytestmark = pytest.mark.anyio


MOST = 12
"""So many sessions the server takes on."""


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory, light: environment.Environment) -> Iterator[ServerProcess]:
    """One real server for all; it must end well, with no failure in its log."""
    folder = tmp_path_factory.mktemp("bad-input")
    make_home(folder / "home", light)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLGYM_HOME", str(folder / "home"))
        patch.setenv("MLGYM_TASKS", str(make_toy(folder / "tasks")))
        backend = "bubblewrap" if shutil.which("bwrap") else "process"
        options = ("--max-sessions", str(MOST))
        with server(free_port(), backend, folder / "log", options=options) as started:
            yield started
        assert "Traceback" not in started.log.read_text()
        assert '"level": "error"' not in started.log.read_text()


@pytest.fixture
async def http(process: ServerProcess, backend: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the admin token; whatever a test did to the server, it is well afterwards, and nothing is left."""
    headers = bearer(load_admin_token().value)
    async with httpx.AsyncClient(base_url=process.url, headers=headers, timeout=60) as client:
        await until_listening(client)
        yield client
        for view in await live(client):
            await client.delete(f"/api/sessions/{view['id']}")
        health = (await client.get("/api/health")).json()
        assert (health["status"], health["live_sessions"]) == ("ok", 0)
        assert not await get_backend(backend, unsafe=True).find({})


async def live(http: httpx.AsyncClient) -> list[dict[str, Any]]:
    """The sessions that have not ended."""
    pages = [await http.get("/api/sessions", params={"limit": 100})]
    while (after := pages[-1].json()["next"]) is not None:
        pages.append(await http.get("/api/sessions", params={"after": after}))
    return [view for page in pages for view in page.json()["sessions"] if view["state"] != "over"]


def post(path: str, body: bytes, *headers: str) -> bytes:
    """Return a request as bytes."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1:1", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "Connection: close", "", ""]).encode("latin-1") + body


async def dial(url: str, **options: int) -> anyio.abc.SocketStream:
    """Connect to a server, over a socket with small buffers if ``receive`` says so."""
    stream = await anyio.connect_tcp("127.0.0.1", int(url.rpartition(":")[2]))
    if "receive" in options:
        stream.extra(anyio.abc.SocketAttribute.raw_socket).setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, options["receive"]
        )
    return stream


async def until_closed(stream: anyio.abc.SocketStream, seconds: float = 30) -> bytes:
    """Return what comes until the server closes the connection."""
    received = b""
    with anyio.fail_after(seconds):
        try:
            while True:
                received += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return received


async def ask(url: str, sent: bytes) -> tuple[int, bytes]:
    """Send bytes; return the answer's status and all of it."""
    async with await dial(url) as stream:
        await stream.send(sent)
        received = await until_closed(stream)
    return int(received.split(b" ", 2)[1]), received


async def test_requests_for_what_is_not_there_make_nothing(process: ServerProcess, http: httpx.AsyncClient) -> None:
    before = (await http.get("/api/sessions")).json()["sessions"]
    for body, status, expected in (
        ({"task": "nonesuch"}, 400, "no task 'nonesuch'"),
        ({"task": "toy", "preset": "nonesuch"}, 400, "no preset 'nonesuch'"),
        ({"task": "toy", "sandbox": "nonesuch"}, 400, "nonesuch"),
        ({"task": "toy", "budget": {"coffee": 1}}, 400, "coffee"),
        ({"task": "toy", "budget": {"wall_s": 0}}, 400, "wall_s"),
        ({"task": "toy", "budget": {"wall_s": 100 * 365.25 * 86400}}, 400, "wall_s"),
        ({"task": "toy", "budget": {"calls": 0}}, 400, "calls"),
        ({"task": "toy", "budget": {"calls": 10**30}}, 400, "calls"),
        ({"task": "toy", "budget": {"cpu_s": 0}}, 400, "cpu_s"),
        ({"task": "toy", "budget": {"disk_mb": 10**9}}, 400, "disk_mb"),
    ):
        answer = await http.post("/api/sessions", json=body)
        assert answer.status_code == status, (body, answer.text)
        assert expected in answer.json()["error"]
        assert len(answer.json()["error"]) < 400
    assert (await http.get("/api/sessions")).json()["sessions"] == before


async def test_no_malformed_token_and_no_other_tenants_opens_anything(
    process: ServerProcess, http: httpx.AsyncClient
) -> None:
    admin = load_admin_token().value
    mine, other = [(await http.post("/api/sessions", json={"task": "toy"})).json() for _ in range(2)]
    path = httpx.URL(mine["mcp_url"]).path
    good = ("Accept: application/json, text/event-stream",)
    body = json.dumps(INITIALIZE).encode()
    assert (await ask(process.url, post(path, body, *good, f"Authorization: Bearer {mine['token']}")))[0] == 200
    for header in (
        "X-Nothing: 1",
        "Authorization:",
        "Authorization: Bearer",
        "Authorization: Bearer \xff\xfe\x80",
        f"Authorization: Bearer {mine['token']} {mine['token']}",
        f"Authorization: Bearer {mine['token']}\r\nAuthorization: Bearer {mine['token']}",
        f"Authorization: Basic {mine['token']}",
        f"Authorization: {mine['token']}",
        f"Authorization: Bearer {mine['token'][:-1]}",
        f"Authorization: Bearer {mine['token']}x",
        f"Authorization: Bearer {other['token']}",
        f"Authorization: Bearer {admin}",
        f"Authorization: Bearer {'x' * 60_000}",
    ):
        status, answer = await ask(process.url, post(path, body, *good, header))
        assert status == 401, header
        assert mine["token"].encode() not in answer
    for token in (mine["token"], f"{admin}x", "\xff"):
        wanted = f"Authorization: Bearer {token}"
        assert (await ask(process.url, post("/api/sessions", b'{"task": "toy"}', wanted)))[0] == 401
    for name in (other["id"][:8], other["id"].upper(), f"{other['id']}x", "..", "%2e%2e", "*"):
        wanted = f"Authorization: Bearer {mine['token']}"
        assert (await ask(process.url, post(f"/sessions/{name}/mcp", body, *good, wanted)))[0] in (401, 404), name
    assert len(await live(http)) == 2


async def test_a_session_that_is_deleted_during_a_call_and_by_several_at_once_ends_once(
    process: ServerProcess, http: httpx.AsyncClient
) -> None:
    view = (await http.post("/api/sessions", json={"task": "toy"})).json()
    texts, outcomes = [], []

    async def delete() -> None:
        outcomes.append((await http.delete(f"/api/sessions/{view['id']}")).json()["outcome"])

    async with (
        httpx2.AsyncClient(headers=bearer(view["token"]), timeout=60) as plain,
        Client(streamable_http_client(view["mcp_url"], http_client=plain)) as client,
    ):

        async def call() -> None:
            texts.append(await text_of(client, "shell", command="echo begun > begun.txt; sleep 60"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            with anyio.fail_after(30):
                while "begun.txt" not in await text_of(client, "list_files"):
                    await anyio.sleep(0.02)
            for _ in range(5):
                tasks.start_soon(delete)
        assert "the session was deleted" in await text_of(client, "shell", command="true")
    assert "the session was deleted" in texts[0]
    assert len(set(outcomes)) == 1
    unborn = (await http.post("/api/sessions", json={"task": "toy"})).json()
    assert (await http.delete(f"/api/sessions/{unborn['id']}")).json()["outcome"] == "abandoned"


async def test_100_mb_that_are_really_sent_are_neither_taken_nor_kept(
    process: ServerProcess, http: httpx.AsyncClient
) -> None:
    view = (await http.post("/api/sessions", json={"task": "toy"})).json()
    await until_ready(http, view["id"])
    before = process.memory_mb()
    path = httpx.URL(view["mcp_url"]).path

    async def send(path: str, token: str, how: str) -> None:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:1\r\nContent-Type: application/json\r\n{how}\r\n"
            f"Accept: application/json, text/event-stream\r\nAuthorization: Bearer {token}\r\n\r\n"
        )
        part = b" " * (1 << 20)
        part = b"100000\r\n" + part + b"\r\n" if "chunked" in how else part
        sent = 0
        async with await dial(process.url) as stream:
            try:
                await stream.send(head.encode())
                with anyio.move_on_after(20):
                    while sent < 100:
                        await stream.send(part)
                        sent += 1
                answer = await until_closed(stream)
            except (anyio.BrokenResourceError, anyio.EndOfStream):
                answer = b""
        assert answer == b"" or answer.startswith(b"HTTP/1.1 413")
        assert sent < 100, "it was cut off on the way"

    async with anyio.create_task_group() as tasks:
        for how in ("Content-Length: 104857600", "Transfer-Encoding: chunked"):
            tasks.start_soon(send, "/api/sessions", load_admin_token().value, how)
            tasks.start_soon(send, path, view["token"], how)
    assert process.memory_mb() < before + 64
    assert (await http.get(f"/api/sessions/{view['id']}")).json()["state"] == "ready"


async def test_1000_creates_at_once_are_made_or_refused_and_nothing_is_left_of_them(
    process: ServerProcess, http: httpx.AsyncClient
) -> None:
    allow_many_files()
    answers: list[tuple[int, bytes]] = []
    keyed: list[tuple[int, bytes]] = []
    await http.get("/api/sessions")
    files = process.descriptors()
    token = f"Authorization: Bearer {load_admin_token().value}"

    async def create(found: list[tuple[int, bytes]], body: dict[str, str]) -> None:
        found.append(await ask(process.url, post("/api/sessions", json.dumps(body).encode(), token)))

    async with anyio.create_task_group() as tasks:
        for i in range(1000):
            if i % 10:
                tasks.start_soon(create, answers, {"task": "toy"})
            else:
                tasks.start_soon(create, keyed, {"task": "toy", "idempotency_key": "one"})
    statuses = Counter(status for status, _ in answers + keyed)
    assert set(statuses) == {200, 201, 429} or set(statuses) == {201, 429}, statuses
    assert all(b"retry-after: " in answer.lower() for status, answer in answers + keyed if status == 429)
    assert 1 <= statuses[201] <= MOST
    made = [json.loads(answer.partition(b"\r\n\r\n")[2])["id"] for status, answer in keyed if status != 429]
    assert len(set(made)) <= 1
    views = await live(http)
    assert len(views) == statuses[201]
    async with anyio.create_task_group() as tasks:
        for view in views:
            tasks.start_soon(http.delete, f"/api/sessions/{view['id']}")
    assert (await http.get("/api/health")).json()["live_sessions"] == 0
    again = await http.post("/api/sessions", json={"task": "toy"})
    assert again.status_code == 201
    assert (await until_ready(http, again.json()["id"]))["state"] == "ready"
    await http.delete(f"/api/sessions/{again.json()['id']}")
    with anyio.fail_after(20):
        while process.descriptors() > files + 10:
            await anyio.sleep(0.05)


async def test_readers_that_never_read_cost_no_memory_and_hold_nobody_up(
    process: ServerProcess, http: httpx.AsyncClient
) -> None:
    view = (await http.post("/api/sessions", json={"task": "toy", "budget": {"calls": 1000}})).json()
    await until_ready(http, view["id"])
    async with (
        httpx2.AsyncClient(headers=bearer(view["token"]), timeout=60) as plain,
        Client(streamable_http_client(view["mcp_url"], http_client=plain)) as client,
    ):

        async def fill(times: int) -> None:
            for _ in range(times):
                text = await text_of(client, "shell", command="head -c 25000 /dev/zero | tr '\\0' x")
                assert "xxx" in text

        await fill(30)
        events = f"/api/sessions/{view['id']}/events"
        admin = load_admin_token().value
        before = process.memory_mb()
        async with anyio.create_task_group() as tasks:
            stuck = []
            for _ in range(60):
                stream = await dial(process.url, receive=4096)
                stuck.append(stream)
                await stream.send(
                    f"GET {events} HTTP/1.1\r\nHost: 127.0.0.1:1\r\nAuthorization: Bearer {admin}\r\n\r\n".encode()
                )
                assert (await stream.receive(1)) == b"H"
            call = {
                "jsonrpc": "2.0",
                "id": 1,
                "method": "tools/call",
                "params": {
                    "name": "shell",
                    "arguments": {"command": "head -c 25000 /dev/zero | tr '\\0' y"},
                    "_meta": {
                        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                        "io.modelcontextprotocol/clientCapabilities": {},
                    },
                },
            }
            for i in range(10):
                stream = await dial(process.url, receive=4096)
                stuck.append(stream)
                headers = [f"{name}: {value}" for name, value in ACCEPT.items()]
                headers += [f"Authorization: Bearer {view['token']}", "MCP-Protocol-Version: 2026-07-28"]
                headers += ["Mcp-Method: tools/call", "Mcp-Name: shell"]
                body = json.dumps(call | {"id": i}).encode()
                await stream.send(post(httpx.URL(view["mcp_url"]).path, body, *headers))
            await fill(30)
            seen = 0
            async with http.stream("GET", events) as followed:
                async for line in followed.aiter_lines():
                    seen += line == "event: result"
                    if seen == 60:
                        break
            grown = process.memory_mb() - before
            tasks.cancel_scope.cancel()
        for stream in stuck:
            await stream.aclose()
        assert grown < 24, f"{grown:.0f} MB for 70 readers of a MB and more each"
        assert "alive" in await text_of(client, "shell", command="echo alive")


@pytest.mark.usefixtures("own_home")
@pytest.mark.parametrize("what", ["head", "body", "call"])
async def test_bytes_that_come_one_by_one_are_not_waited_for(what: str, backend: str) -> None:
    async with running_host(backend, limits=Limits(head_s=0.5, body_s=0.5), require_token=True) as host:
        session = await host.create("toy")
        token, path = load_admin_token().value, "/api/sessions"
        if what == "call":
            token, path = session.token, f"/sessions/{session.id}/mcp"
        request = post(path, b" " * 1000, "Accept: application/json", f"Authorization: Bearer {token}")
        head = request.index(b"\r\n\r\n") + 4
        slow = 4 if what == "head" else head + 1
        answers = []

        async def drip() -> None:
            async with await dial(host.base_url) as stream:
                async with anyio.create_task_group() as tasks:

                    async def send() -> None:
                        try:
                            await stream.send(request[:slow])
                            for i in range(slow, len(request)):
                                await stream.send(request[i : i + 1])
                                await anyio.sleep(0.05)
                        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                            pass

                    tasks.start_soon(send)
                    answers.append(await until_closed(stream, 10))
                    tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks, admin_of(host) as http:
            for _ in range(20):
                tasks.start_soon(drip)
            for _ in range(5):
                assert (await http.get("/api/health")).status_code == 200
        assert {answer[:12] for answer in answers} == ({b""} if what == "head" else {b"HTTP/1.1 408"})
        assert session.over is None


@pytest.mark.usefixtures("own_home")
async def test_slow_clients_that_take_all_connections_have_them_for_a_moment_only(backend: str) -> None:
    async with running_host(backend, limits=Limits(head_s=0.5, connections=20)) as host:
        streams = [await dial(host.base_url) for _ in range(40)]
        for stream in streams:
            await stream.send(b"GET /api/health HTTP/1.1\r\nHost: ")
        full, _ = await ask(
            host.base_url, b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1:1\r\nConnection: close\r\n\r\n"
        )
        assert full == 503
        for stream in streams:
            assert await until_closed(stream, 10) == b""
            await stream.aclose()
        async with admin_of(host) as http:
            assert (await http.get("/api/health")).status_code == 200
