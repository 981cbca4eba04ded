"""OpenTelemetry: what a collector receives of a real server, and what it never does."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mlgym_mcp.serving.auth import load_admin_token
from mlgym_mcp.serving.traces import set_up_traces
from mlgym_mcp.session import tracing
from tests.serving.conftest import answering, running_host, text_of
from tests.serving.control_client import bearer, until_ready
from tests.serving.server_process import free_port, server, until_listening
from tests.toy import CSV

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("own_home")]
SECRET = "key-of-the-collector"
SOMEWHERE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}


class Span:
    """One received span."""

    def __init__(self, message: object) -> None:
        self.name = message.name
        self.id, self.parent, self.trace = message.span_id, message.parent_span_id, message.trace_id
        self.seconds = (message.end_time_unix_nano - message.start_time_unix_nano) / 1e9
        self.failed = message.status.code == 2
        self.facts = {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in message.attributes}


class Collector:
    """Receives spans over OTLP/HTTP."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.keys: set[str | None] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.bodies.append(gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
                collector.keys.add(self.headers["x-key"])
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def requests(self) -> list[ExportTraceServiceRequest]:
        return [ExportTraceServiceRequest.FromString(body) for body in self.bodies]

    def spans(self) -> list[Span]:
        found = [scope for request in self.requests() for one in request.resource_spans for scope in one.scope_spans]
        return [Span(message) for scope in found for message in scope.spans]


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    with answering(made.http):
        yield made


@contextmanager
def traced(backend: str, log: Path, endpoint: str, **more: str) -> Iterator[str]:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_HEADERS": f"x-key={SECRET}", **more}
    port = free_port()
    with server(port, backend, log, environ=environ) as process:
        yield process.url


async def test_a_collector_sees_the_tree_of_a_sessions_life_and_nothing_that_is_hidden(
    backend: str, tmp_path: Path, collector: Collector
) -> None:
    admin, client_trace, client_span = bearer(load_admin_token().value), "0af7651916cd43dd8448eb211c80319c", "b" * 16
    parent = {"traceparent": f"00-{client_trace}-{client_span}-01"}
    with traced(backend, tmp_path / "log", collector.url, OTEL_RESOURCE_ATTRIBUTES="deployment=test") as url:
        async with httpx.AsyncClient(base_url=url, headers=admin, timeout=60) as http:
            await until_listening(http)
            view = (await http.post("/api/sessions", json={"task": "toy"}, headers=parent)).json()
            await until_ready(http, view["id"])
            async with httpx2.AsyncClient(headers=bearer(view["token"]), timeout=60) as agent_http:
                async with Client(streamable_http_client(view["mcp_url"], http_client=agent_http)) as agent:
                    environment = await text_of(agent, "shell", command="env; echo whisper")
                    assert "OTEL" not in environment
                    await text_of(agent, "shell", command="exit 3")
                    await agent.call_tool("read_file", {"path": "no such file"})
                    assert (await agent.call_tool("validate", {})).structured_content["code"] == "missing"
                    await text_of(agent, "write_file", path="submission.csv", content=CSV)
                    await agent.call_tool("validate", {})
                    score = (await agent.call_tool("submit", {})).structured_content["score"]
            await http.get(f"/api/sessions/{view['id']}")
            assert (await http.get("/api/sessions/nope")).status_code == 404
    spans = collector.spans()
    by_id = {span.id: span for span in spans}

    def above(span: Span) -> str | None:
        return by_id[span.parent].name if span.parent in by_id else None

    (post,) = [span for span in spans if span.name == "POST /api/sessions"]
    assert (post.trace.hex(), post.parent.hex()) == (client_trace, client_span), "it goes on with the client's trace"
    assert post.facts["http.response.status_code"] == 201
    assert {"GET /api/health", "GET /api/sessions/{id}"} <= {span.name for span in spans}
    missing = next(span for span in spans if span.facts.get("http.response.status_code") == 404)
    assert (missing.name, missing.failed) == ("GET /api/sessions/{id}", False)

    (life,) = [span for span in spans if span.name == "session"]
    assert above(life) == "POST /api/sessions"
    assert life.trace == post.trace
    mine = {"session.id": view["id"][:8], "mlgym.task": "toy", "mlgym.preset": "mini", "mlgym.backend": backend}
    assert mine.items() <= life.facts.items()
    assert life.facts["mlgym.outcome"] == "scored"
    (start,) = [span for span in spans if span.name == "sandbox start"]
    assert above(start) == "session"
    assert start.facts["mlgym.start"] == "cold"
    assert 0 < start.seconds < life.seconds

    calls = [span for span in spans if span.name.startswith("call ")]
    assert [above(call) for call in calls] == [f"tools/call {call.facts['gen_ai.tool.name']}" for call in calls]
    assert all(mine.items() <= call.facts.items() for call in calls)
    told = [(call.facts["gen_ai.tool.name"], call.facts["mlgym.outcome"]) for call in calls]
    assert told == [
        ("shell", "ok"),
        ("shell", "ok"),
        ("read_file", "error"),
        ("validate", "ok"),
        ("write_file", "ok"),
        ("validate", "ok"),
        ("submit", "ok"),
    ]
    assert [above(span) for span in spans if span.name == "snapshot"] == ["call validate"] * 2 + ["call submit"]
    grades = [span for span in spans if span.name == "grade"]
    assert [above(span) for span in grades] == ["call validate", "call submit"]
    assert [span.facts["mlgym.kind"] for span in grades] == ["validate", "submit"]
    assert {span.facts["mlgym.outcome"] for span in grades} == {"valid"}

    told_all = b"".join(collector.bodies)
    for hidden in (view["id"], view["token"], load_admin_token().value, "whisper", "exit 3", "no such file", SECRET):
        assert hidden.encode() not in told_all, hidden
    numbers = [value for span in spans for value in span.facts.values() if isinstance(value, float)]
    assert score not in numbers
    assert collector.keys == {SECRET}
    (resource,) = {
        tuple(sorted((a.key, a.value.string_value) for a in one.resource.attributes))
        for request in collector.requests()
        for one in request.resource_spans
    }
    assert ("service.name", "mlgym-mcp") in resource
    assert ("deployment", "test") in resource


async def test_a_collector_that_is_not_there_holds_nothing_up(backend: str, tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    with traced(backend, tmp_path / "log", nobody, OTEL_EXPORTER_OTLP_TIMEOUT="2", OTEL_BSP_SCHEDULE_DELAY="50") as url:
        async with httpx.AsyncClient(base_url=url, headers=bearer(load_admin_token().value), timeout=60) as http:
            await until_listening(http)
            view = (await http.post("/api/sessions", json={"task": "toy"})).json()
            assert (await until_ready(http, view["id"]))["state"] == "ready"
            ended = (await http.delete(f"/api/sessions/{view['id']}")).json()
            assert ended["outcome"] == "abandoned"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        (SOMEWHERE | {"OTEL_SDK_DISABLED": "true"}, None),
        (SOMEWHERE | {"OTEL_TRACES_EXPORTER": "none"}, None),
        (
            SOMEWHERE | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "only http/protobuf",
        ),
    ],
)
def test_nothing_is_sent_where_nothing_or_something_else_is_configured(
    environ: dict[str, str], expected: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert not set_up_traces(environ)
    assert not tracing.is_on()
    assert (expected is None and not caplog.text) or (expected is not None and expected in caplog.text)


def test_where_the_sdk_is_missing_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert not set_up_traces(dict(SOMEWHERE))
    assert "pip install 'mlgym-mcp[otel]'" in caplog.text


async def test_where_nobody_takes_spans_none_is_made(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a span was made")

    monkeypatch.setattr(tracing, "_span", never)
    monkeypatch.setattr(tracing, "attributes", never)
    async with running_host(backend) as host:
        session = await host.create("toy")
        async with Client(host.mcp_url(session)) as client:
            assert "hello" in await text_of(client, "shell", command="echo hello")
