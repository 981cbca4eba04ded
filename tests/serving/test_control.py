"""The control API: sessions made, followed and ended by a program, over real HTTP."""

from __future__ import annotations

import io
import json
import logging
import re
import signal
import sys
from pathlib import Path

import anyio
import httpx
import pytest
from mcp import Client
from prometheus_client.parser import text_string_to_metric_families

from mlgym_mcp.serving.auth import load_admin_token
from mlgym_mcp.serving.control import events, health
from mlgym_mcp.serving.logs import JsonFormatter
from mlgym_mcp.session.about import about
from mlgym_mcp.session.journal import read_journal
from tests.serving.conftest import running_host, text_of
from tests.serving.control_client import admin_of, bearer, events_of, until_ready
from tests.serving.server_process import free_port, server, until_listening
from tests.toy import CSV

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("own_home")]


async def test_two_creates_with_one_key_at_once_are_one_session(backend: str) -> None:
    async with running_host(backend) as host, admin_of(host) as http:
        answers: list[httpx.Response] = []
        body = {"task": "toy", "seed": 3, "idempotency_key": "k"}

        async def create() -> None:
            answers.append(await http.post("/api/sessions", json=body))

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(create)
        assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert len({answer.json()["token"] for answer in answers}) == 1
        assert len(host.registry.sessions()) == 1
        other = await http.post("/api/sessions", json={**body, "seed": 4})
        assert other.status_code == 409
        view = answers[0].json()
        assert other.json().get("token") is None
        assert answers[0].headers["location"] == f"/api/sessions/{view['id']}"
        assert answers[0].headers["cache-control"] == "no-store"


async def test_sessions_come_and_go_while_others_work(backend: str) -> None:
    async with running_host(backend, require_token=True) as host, admin_of(host) as http:
        steady = (await http.post("/api/sessions", json={"task": "toy"})).json()
        results = []

        async def work() -> None:
            headers = bearer(steady["token"])
            for i in range(5):
                body = {
                    "jsonrpc": "2.0",
                    "id": i,
                    "method": "tools/call",
                    "params": {
                        "name": "shell",
                        "arguments": {"command": f"echo {i}"},
                        "_meta": {
                            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                            "io.modelcontextprotocol/clientCapabilities": {},
                        },
                    },
                }
                headers |= {
                    "Accept": "application/json, text/event-stream",
                    "MCP-Protocol-Version": "2026-07-28",
                    "Mcp-Method": "tools/call",
                    "Mcp-Name": "shell",
                }
                async with httpx.AsyncClient(timeout=60) as plain:
                    results.append((await plain.post(steady["mcp_url"], json=body, headers=headers)).status_code)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            for _ in range(3):
                view = (await http.post("/api/sessions", json={"task": "toy"})).json()
                ended = await http.delete(f"/api/sessions/{view['id']}")
                assert ended.json()["outcome"] == "abandoned"
        assert results == [200] * 5
        assert (await http.get(f"/api/sessions/{steady['id']}")).json()["state"] == "ready"


async def test_a_delete_during_a_call_is_an_ordinary_answer_to_the_agent(backend: str) -> None:
    async with running_host(backend) as host, admin_of(host) as http:
        view = (await http.post("/api/sessions", json={"task": "toy"})).json()
        texts = []
        async with Client(view["mcp_url"]) as client:

            async def call() -> None:
                texts.append(await text_of(client, "shell", command="echo begun > begun.txt; sleep 30"))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call)
                with anyio.fail_after(30):
                    while "begun.txt" not in await text_of(client, "list_files"):
                        await anyio.sleep(0.02)
                deleted = await http.delete(f"/api/sessions/{view['id']}")
            assert deleted.json()["state"] == "over"
            assert "The episode is over (abandoned): the session was deleted" in texts[0]
        again = await http.delete(f"/api/sessions/{view['id']}")
        assert (again.status_code, again.json()["outcome"]) == (200, deleted.json()["outcome"])


async def test_lists_are_paged_and_every_session_and_episode_is_on_one_page(backend: str) -> None:
    async with running_host(backend) as host, admin_of(host) as http:
        made = {(await http.post("/api/sessions", json={"task": "toy", "seed": i})).json()["id"] for i in range(5)}
        for path, key in (("/api/sessions", "sessions"), ("/api/episodes", "episodes")):
            seen: list[dict[str, object]] = []
            after: dict[str, str] = {}
            for _ in range(10):
                page = (await http.get(path, params={"limit": 2, **after})).json()
                assert len(page[key]) <= 2
                seen += page[key]
                if page["next"] is None:
                    break
                after = {"after": page["next"]}
            assert len(seen) == 5
            assert {one["seed"] for one in seen} == set(range(5))
            assert "token" not in seen[0] or seen[0]["token"] is None
            if key == "sessions":
                assert {one["id"] for one in seen} == made
        for query in ({"limit": 0}, {"limit": 1000}, {"limit": "x"}, {"after": "y" * 400}):
            assert (await http.get("/api/sessions", params=query)).status_code == 422
        assert (await http.get("/api/sessions", params={"after": "~"})).json()["sessions"] == []


async def test_a_follower_sees_all_events_in_order_and_goes_on_where_it_was_cut_off(backend: str) -> None:
    async with running_host(backend) as host, admin_of(host) as http:
        view = (await http.post("/api/sessions", json={"task": "toy"})).json()
        url = f"/api/sessions/{view['id']}/events"
        await until_ready(http, view["id"])
        first = []
        async for event in events_of(http, url):
            first.append(event)
            if event["type"] == "sandbox":
                break
        assert [event["seq"] for event in first] == list(range(len(first)))
        assert all(event["id"] == str(event["seq"]) and event["event"] == event["type"] for event in first)
        rest: list[dict[str, object]] = []

        async def listen() -> None:
            async for event in events_of(http, url, **{"Last-Event-ID": first[-1]["id"]}):
                rest.append(event)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            async with Client(view["mcp_url"]) as client:
                await text_of(client, "write_file", path="submission.csv", content=CSV)
                await client.call_tool("validate", {})
                with anyio.fail_after(20):
                    while not any(event["type"] == "score" for event in rest):
                        await anyio.sleep(0.01)
                await client.call_tool("submit", {})
        session = host.registry.get(view["id"])
        assert session is not None
        assert [e["seq"] for e in first + rest] == [e.seq for e in read_journal(session.episode.folder)]
        assert rest[-1]["type"] == "end"
        assert rest[-1]["outcome"] == "scored"
        again = [event["seq"] async for event in events_of(http, f"{url}?after={rest[0]['seq']}")]
        assert again == [event["seq"] for event in rest[1:]]
        for garbage in ("x", "-5", "1e3", "9" * 50, "²"):
            headers = {"Last-Event-ID": garbage.encode("utf-8").decode("latin-1").encode("latin-1")}
            answer = await http.get(url, headers=headers)
            assert answer.text.count("\nevent: ") == len(first + rest), "what is no number is as if it were not there"
        for garbage in ("-2", "x", "1.5", "9" * 50):
            assert (await http.get(url, params={"after": garbage})).status_code == 422


async def test_events_tell_nothing_hidden(backend: str) -> None:
    async with running_host(backend) as host, admin_of(host) as http:
        view = (await http.post("/api/sessions", json={"task": "toy"})).json()
        async with Client(view["mcp_url"]) as client:
            await text_of(client, "write_file", path="submission.csv", content=CSV)
            await client.call_tool("validate", {})
            await client.call_tool("submit", {})
        session = host.registry.get(view["id"])
        assert session is not None
        await session.wait_ended()
        shown = [event async for event in events_of(http, f"/api/sessions/{view['id']}/events")]
        text = json.dumps(shown)
        raw = [event for event in read_journal(session.episode.folder) if event.type == "score"]
        assert all("metrics" in event.fields and "private" in event.fields for event in raw)
        for hidden in ('"metrics"', '"private"', '"se"', '"snapshot"', view["token"], view["id"], '"pid"', '"node"'):
            assert hidden not in text, hidden


async def test_a_slow_follower_misses_nothing(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_WAITING", 3)
    monkeypatch.setattr(events, "_BATCH", 4)
    async with running_host(backend) as host:
        session = await host.create("toy")
        seen = []
        async for text in events.follow(session, -1, host.stopping, ping_s=0.01):
            if (found := re.match(r"id: (\d+)\n", text)) is not None:
                seen.append(int(found[1]))
            if len(seen) in (1, 4, 11):
                for _ in range(20):
                    session.episode.journal.append("test")
            if len(seen) > 60:
                break
        assert seen == list(range(len(seen)))


async def test_of_a_long_journal_a_reader_has_a_little_in_memory_at_a_time(backend: str) -> None:
    async with running_host(backend) as host:
        session = await host.create("toy")
        for i in range(30):
            session.episode.journal.append("result", call=i, seconds=0.0, text="x" * 50_000)
        seen: list[int] = []
        journal = read_journal(session.episode.folder)
        while batch := events._read(journal, -1):
            assert sum(len(events.event_text(event)) for event in batch) < events._BATCH_BYTES + 60_000
            seen += [event.seq for event in batch]
        assert len(seen) > 30
        assert seen == list(range(len(seen)))


async def test_a_quiet_stream_is_kept_open_and_a_stopping_server_ends_it(backend: str) -> None:
    async with running_host(backend) as host:
        session = await host.create("toy")
        await session.wait_ready()
        stream = events.follow(session, 10_000, host.stopping, ping_s=0.01)
        assert await anext(stream) == "retry: 1000\n\n"
        with anyio.fail_after(10):
            while await anext(stream) != ": ping\n\n":
                pass
        watchers = len(session.episode.journal.watchers)
        host.stopping.set()
        with anyio.fail_after(10):
            async for _ in stream:
                pass
        assert len(session.episode.journal.watchers) == watchers - 1, "nobody is told any more"


async def test_health_tells_problems_as_fields(backend: str, monkeypatch: pytest.MonkeyPatch, own_home: Path) -> None:
    monkeypatch.setattr(health, "_FRESH_S", 0.0)
    async with running_host(backend) as host, httpx.AsyncClient(base_url=host.base_url) as http:
        good = (await http.get("/api/health")).json()
        assert good["status"] == "ok"
        assert good["problems"] == []
        assert good["sandbox"] == backend
        assert good["disk_free_mb"] > 0
        assert (await http.get("/api/health")).json()["status"] == "ok"
        monkeypatch.setattr(health, "_LOW_MB", 1 << 60)
        (own_home.parent / "tasks" / "toy" / "task.toml").write_text("broken [")
        host.registry.catalog._loaded.clear()
        host.registry.root = own_home / "gone"
        host.registry.backends._made.clear()
        host.registry.default_sandbox = "nonesuch"
        answer = await http.get("/api/health")
        assert answer.status_code == 200
        assert answer.json()["status"] == "degraded"
        assert {problem["what"] for problem in answer.json()["problems"]} == {"disk", "journal", "engine", "tasks"}
        assert "Traceback" not in answer.text
        host.registry.root = own_home / "episodes"


async def test_health_is_told_from_memory_while_somebody_looks(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_FRESH_S", 0.0)
    async with running_host(backend) as host:
        check = health.HealthCheck(host)
        first = await check.report()
        looking = anyio.Event()

        async def look() -> None:
            looking.set()
            await anyio.sleep_forever()

        monkeypatch.setattr(check, "_look", look)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(check.report)
            await looking.wait()
            with anyio.fail_after(5):
                assert await check.report() == first
            tasks.cancel_scope.cancel()


async def test_metrics_count_what_happened(backend: str) -> None:
    async with running_host(backend) as host, admin_of(host) as http:
        view = (await http.post("/api/sessions", json={"task": "toy"})).json()
        async with Client(view["mcp_url"]) as client:
            await text_of(client, "write_file", path="submission.csv", content=CSV)
            for _ in range(3):
                await text_of(client, "shell", command="true")
            await client.call_tool("validate", {})
            await client.call_tool("submit", {})
        session = host.registry.get(view["id"])
        assert session is not None
        await session.wait_ended()
        await http.post("/api/sessions", json={"task": "toy", "color": "red"})
        answer = await http.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        found = {
            (sample.name, *(sample.labels[name] for name in sorted(sample.labels, reverse=True))): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }
        assert found["mlgym_tool_calls_total", "shell", "ok"] == 3
        assert found["mlgym_tool_seconds_count", "shell"] == 3
        assert found["mlgym_sandbox_starts_total", "cold", backend] == 1
        assert found["mlgym_sandbox_start_seconds_count", backend] == 1
        assert found["mlgym_sessions_created_total", "toy"] == 1
        assert found["mlgym_scores_total", "yes", "validate"] == found["mlgym_scores_total", "yes", "submit"] == 1
        for gauge in ("mlgym_pool_ready", "mlgym_gpus_leased", "mlgym_gpu_queue"):
            assert found[(gauge,)] == 0
        assert found["mlgym_grader_seconds_count", "toy"] == 2
        assert found["mlgym_sessions_ended_total", "scored"] == 1
        assert found["mlgym_sessions", "over"] == 1
        assert found["mlgym_refused_total", "422"] == 1
        assert found["mlgym_sessions", "ready"] == 0
        assert "process_resident_memory_bytes" in answer.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b"[" * 50_000,
        b'{"task": 1}',
        b'{"task": ""}',
        b'{"task": "toy", "seed": -1}',
        b'{"task": "toy", "seed": 1e400}',
        b'{"task": "toy", "seed": ' + b"9" * 5000 + b"}",
        b'{"task": "toy", "budget": {"wall_s": NaN}}',
        b'{"task": "toy", "budget": {"wall_s": Infinity}}',
        b'{"task": "toy", "budget": {"wall_s": 0}}',
        b'{"task": "toy", "budget": {"wall_s": -1}}',
        b'{"task": "toy", "budget": {"wall_s": 3155760000}}',
        b'{"task": "toy", "budget": {"wall_s": "soon"}}',
        b'{"task": "toy", "budget": {"calls": 0}}',
        b'{"task": "toy", "budget": {"calls": 2.5}}',
        b'{"task": "toy", "budget": {"\\ud800": 1}}',
        b'{"task": "\\ud800"}',
        b'{"task": "toy\\u0000"}',
        b'{"task": "../toy"}',
        b'{"task": "toy", "preset": "\\ud800"}',
        b'{"task": "toy", "sandbox": "\\u0000"}',
        b'{"task": "toy", "sandbox": "process"}',
        b'{"task": "toy", "idempotency_key": ""}',
        b'{"task": "toy", "metadata": {"a": "' + b"x" * 70_000 + b'"}}',
        b'{"task": "toy", "metadata": {"a": ' + b"[" * 20_000 + b"]" * 20_000 + b"}}",
    ],
    ids=range(30),
)
async def test_what_is_no_request_makes_no_session_and_is_answered_in_a_sentence(body: bytes, backend: str) -> None:
    if b'"process"' in body and backend == "process":
        pytest.skip("it is allowed here")
    async with running_host(backend) as host, admin_of(host) as http:
        answer = await http.post("/api/sessions", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422), answer.text
        error = answer.json()["error"]
        assert 0 < len(error) < 2000
        assert "Traceback" not in error
        assert not host.registry.sessions()


async def test_metadata_is_kept_as_it_is_or_refused(backend: str) -> None:
    async with running_host(backend) as host, admin_of(host) as http:
        good = {"ключ": "значение\u0000", "n": None, "deep": [{"a": 1.5}], "big": 2**70}
        made = await http.post("/api/sessions", json={"task": "toy", "metadata": good})
        assert made.status_code == 201
        assert (await http.get(f"/api/sessions/{made.json()['id']}")).json()["metadata"] == good
        (episode,) = (await http.get("/api/episodes")).json()["episodes"]
        assert episode["metadata"] == good
        for bad in ("\ud800", float("nan"), {"\udfff": 1}):
            content = json.dumps({"task": "toy", "metadata": {"a": bad}})
            headers = {"Content-Type": "application/json"}
            assert (await http.post("/api/sessions", content=content, headers=headers)).status_code == 422


async def test_unknown_paths_and_methods_are_problems_like_all_others(backend: str) -> None:
    async with running_host(backend) as host, admin_of(host) as http:
        for method, path, status in (
            ("GET", "/", 404),
            ("GET", "/api/nothing", 404),
            ("PUT", "/api/sessions", 405),
            ("GET", "/api/sessions/nope/events", 404),
            ("GET", "/api/sessions/%2e%2e%2fepisodes", 404),
            ("DELETE", "/api/sessions/nope", 404),
        ):
            answer = await http.request(method, path)
            assert answer.status_code == status, path
            assert answer.json()["error"]


def test_logs_are_json_lines_that_name_a_session_but_do_not_open_it() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("mlgym.test")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    with about("0123456789abcdef"):
        logger.warning("two\nlines %s", "é")
        try:
            raise RuntimeError("x")
        except RuntimeError:
            logger.exception("it failed")
    logger.info("outside")
    first, second, third = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first | {"time": ""} == {
        "time": "",
        "level": "warning",
        "logger": "mlgym.test",
        "message": "two\nlines é",
        "session": "01234567",
    }
    assert "RuntimeError: x" in second["error"]
    assert "session" not in third


async def test_a_server_told_to_terminate_leaves_its_sessions_to_the_next_one_at_the_same_address(
    backend: str, tmp_path: Path
) -> None:
    port = free_port()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        with server(port, backend, tmp_path / "first.log", signal.SIGTERM) as process:
            log = process.log
            await until_listening(http)
            token = load_admin_token().value
            with anyio.fail_after(20):
                while token not in log.read_text():
                    await anyio.sleep(0.05)
            http.headers.update(bearer(token))
            body = {"task": "toy", "idempotency_key": "k"}
            view = (await http.post("/api/sessions", json=body)).json()
            assert view["mcp_url"].startswith(f"http://127.0.0.1:{port}/sessions/")
            await until_ready(http, view["id"])
            stranger = await http.post(view["mcp_url"], json={}, headers=bearer("x" * 20))
            assert stranger.status_code == 401
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        assert all(line["level"] and view["id"] not in str(line) for line in lines)
        of_session = [line for line in lines if view["episode"] in line["message"]]
        assert [line["session"] for line in of_session] == [view["id"][:8]] * len(of_session)
        assert "began" in of_session[0]["message"]
        with server(port, backend, tmp_path / "second.log", signal.SIGINT) as process:
            log = process.log
            await until_listening(http)
            with anyio.fail_after(20):
                while "the admin token in" not in log.read_text():
                    await anyio.sleep(0.05)
            assert token not in log.read_text(), "it is shown once"
            again = await http.post("/api/sessions", json=body)
            assert again.status_code == 200
            assert again.json()["mcp_url"] == view["mcp_url"]
            assert again.json()["token"] == view["token"]
            assert (await until_ready(http, view["id"]))["state"] == "ready"
            late = [event["type"] async for event in _until(events_of(http, f"/api/sessions/{view['id']}/events"), 2)]
            assert late[0] == "session"
    assert sys.platform == "linux"


async def _until(stream, count: int):
    async for event in stream:
        yield event
        count -= 1
        if not count:
            return
