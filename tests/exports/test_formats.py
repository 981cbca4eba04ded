"""The formats: whole, valid, and without what must not leave."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from mlgym_mcp.records.exports.atif import as_atif
from mlgym_mcp.records.exports.chat import conversation, write_chat
from mlgym_mcp.records.exports.files import Names
from mlgym_mcp.records.exports.formats import FORMATS, Curated, Tally, trajectories
from mlgym_mcp.records.exports.otel import as_request, send_otel
from mlgym_mcp.records.exports.reading import read_trajectory
from mlgym_mcp.records.exports.redaction import Redactor
from mlgym_mcp.records.exports.tables import write_tables
from mlgym_mcp.records.exports.trajectory import Trajectory
from tests.exports.atif_model import Trajectory as AtifTrajectory
from tests.exports.episodes import PLANTED, write_hostile, write_messages
from tests.records.written import write_episode

TOOLS = [{"name": "shell", "description": "Run a command.", "parameters": {"type": "object", "properties": {}}}]


@pytest.fixture(params=["calls only", "messages"])
def read(request: pytest.FixtureRequest, tmp_path: Path) -> Trajectory:
    folder = write_hostile(tmp_path / "episodes")
    messages = write_messages(tmp_path / "messages.jsonl") if request.param == "messages" else None
    return read_trajectory(folder, Redactor(), messages=messages, tools=TOOLS)


def test_a_conversation_answers_every_call_and_its_arguments_are_json_texts(read: Trajectory) -> None:
    line = conversation(read)
    assert set(line) == {"messages", "tools"}
    asked: list[str] = []
    for message in line["messages"]:
        if message["role"] == "assistant":
            assert not asked, "a call was not answered before the next turn"
            asked = [call["id"] for call in message.get("tool_calls", [])]
            for call in message.get("tool_calls", []):
                assert isinstance(json.loads(call["function"]["arguments"]), dict)
            assert message["content"] is None or message["content"]
        elif message["role"] == "tool":
            asked.remove(message["tool_call_id"])
            assert isinstance(message["content"], str)
    assert not asked
    ids = [call["id"] for m in line["messages"] for call in m.get("tool_calls", [])]
    assert len(ids) == len(set(ids))
    assert line["messages"][0]["role"] in ("system", "user")
    json.dumps(line, allow_nan=False).encode()


def test_each_line_of_chat_is_told_in_the_same_line_beside_it(read: Trajectory, tmp_path: Path) -> None:
    file, beside = write_chat([read, read], tmp_path / "deep" / "train.jsonl")
    assert beside.name == "train.about.jsonl"
    assert len(file.read_text().splitlines()) == len(beside.read_text().splitlines()) == 2
    about = json.loads(beside.read_text().splitlines()[0])
    assert (about["task"], about["score"], about["outcome"]) == ("toy", 0.75, "scored")
    assert {path.name for path in file.parent.iterdir()} == {file.name, beside.name}  # no half-written ones


def test_a_trajectory_is_atif(read: Trajectory) -> None:
    written = as_atif(read)
    AtifTrajectory.model_validate(json.loads(json.dumps(written, allow_nan=False)))
    if read.from_messages:
        assert written["final_metrics"]["total_prompt_tokens"] == 200
        assert written["agent"]["model_name"] == "openai:gpt-x"
    assert written["extra"]["scores"][0]["value"] == 0.88


def test_spans_are_otlp_and_each_call_lies_in_its_episode(read: Trajectory) -> None:
    from google.protobuf.json_format import ParseDict
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = json.loads(json.dumps(as_request(read), allow_nan=False))
    spans = request["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert len({span["spanId"] for span in spans}) == len(spans)
    root, known = spans[0], spans[0]["spanId"]
    assert root["name"] == "invoke_agent a"
    for span in spans:
        assert (len(span["traceId"]), len(span["spanId"])) == (32, 16)
        assert int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"])
        assert span is root or span["parentSpanId"] == known
        for name in ("traceId", "spanId", "parentSpanId"):  # OTLP has them in hex, protobuf's own JSON in base64
            if name in span:
                span[name] = base64.b64encode(bytes.fromhex(span[name])).decode()
    message = ParseDict(request, ExportTraceServiceRequest())
    parsed = message.resource_spans[0].scope_spans[0].spans
    tools = [span for span in parsed if span.name.startswith("execute_tool ")]
    assert len(tools) == sum(1 for _ in read.calls)
    attributes = {a.key: a.value for a in tools[0].attributes}
    assert json.loads(attributes["gen_ai.tool.call.arguments"].string_value) == {"command": "env | grep KEY"}
    assert attributes["gen_ai.operation.name"].string_value == "execute_tool"
    assert [event.name for event in parsed[0].events] == ["gen_ai.evaluation.result"] * 2
    chats = [span for span in parsed if span.name.startswith("chat")]
    assert len(chats) == (2 if read.from_messages else 0)
    assert as_request(read) == as_request(read), "sent twice it is the same trace"


def test_tables_are_flat_and_speak_to_no_spreadsheet(read: Trajectory, tmp_path: Path) -> None:
    paths = {path.stem: path for path in write_tables([read], tmp_path / "tables")}
    rows = {}
    for name, path in paths.items():
        with path.open(newline="", encoding="utf-8") as file:
            rows[name] = list(csv.DictReader(file))
    assert rows["episodes"][0]["score"] == "0.75"
    assert [row["value"] for row in rows["scores"]] == ["0.88", "0.75"]
    assert len(rows["calls"]) == sum(1 for _ in read.calls)
    if not read.from_messages:
        assert rows["calls"][2]["text"] == "'=1+1"
    else:
        assert rows["said"][2]["thinking"] == "hm"
    assert not any(cell.startswith("=") for table in rows.values() for row in table for cell in row.values())


@pytest.mark.parametrize("form", [name for name in FORMATS if name != "inspect"])
@pytest.mark.parametrize("with_messages", [False, True])
def test_secrets_and_hidden_data_never_leave(tmp_path: Path, form: str, with_messages: bool) -> None:
    folder = write_hostile(tmp_path / "episodes")
    if with_messages:
        write_messages(folder / "messages.jsonl")
    tally = Tally()
    redactor = Redactor(["planted-admin-token", "planted-by-environment"])
    out = tmp_path / "out"
    FORMATS[form](
        trajectories([folder], tally, redactor, tools=TOOLS), out / "a" if form in ("openai", "otel") else out
    )
    assert_nothing_planted(out)
    assert tally.exported == [folder.name]
    assert tally.redacted > 0


def assert_nothing_planted(folder: Path) -> None:
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert written
    for path in written:
        content = path.read_bytes()
        for secret in PLANTED:
            assert secret.encode() not in content, f"{secret} is in {path.name}"


def test_what_cannot_be_read_and_what_was_dropped_is_counted(tmp_path: Path) -> None:
    good = write_episode(tmp_path, "good", calls=2)
    bad = write_episode(tmp_path, "bad")
    (bad / "events.jsonl").write_text("nothing\n")
    kept = {
        good: Curated(),
        bad: Curated(),
        tmp_path / "different": Curated("a score came out different"),
        tmp_path / "gone": Curated(before=1),
    }
    tally = Tally()
    folders = [*kept, tmp_path / "unknown"]
    assert [t.episode for t in trajectories(folders, tally, Redactor(), curated=kept)] == ["good"]
    assert tally.dropped == {
        "it cannot be read": 2,
        "a score came out different": 1,
        "it was not replayed": 1,
    }
    assert len(tally.problems) == 2


def test_of_a_curated_episode_only_the_beginning_may_be_left(tmp_path: Path) -> None:
    folder = write_episode(tmp_path, "e", calls=3)
    tally = Tally()
    (cut,) = trajectories([folder], tally, Redactor(), curated={folder: Curated(before=3)})
    assert [call.arguments["command"] for call in cut.calls] == ["echo 0"]
    assert (tally.cut, cut.about()["cut"], cut.about()["score"]) == (1, True, None)
    assert list(trajectories([folder], tally, Redactor(), curated={folder: Curated(before=1)})) == []
    assert tally.dropped == {"nothing is left of it": 1}


def test_a_file_that_cannot_be_finished_leaves_nothing_and_the_old_one_stays(read: Trajectory, tmp_path: Path) -> None:
    out = tmp_path / "train.jsonl"
    write_chat([read], out)
    before = out.read_text()

    def broken() -> Iterator[Trajectory]:
        yield read
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        write_chat(broken(), out)
    assert out.read_text() == before
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".part"]


def test_names_of_files_are_plain_and_meet_each_other_nowhere() -> None:
    names = Names()
    assert [names.take(name) for name in ("a", "A", "../../etc/x", "é\n", "")] == [
        *("a", "A-2", "_.._etc_x", "_", "episode")
    ]


class Collector:
    """An OTLP/HTTP collector."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str | None, Any]] = []
        self.status = 200
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.got.append((self.path, self.headers.get("x-key"), json.loads(body)))
                self.send_response(collector.status)
                self.end_headers()
                self.wfile.write(b"{}" if collector.status == 200 else b"no such tenant")

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    thread = Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def test_spans_go_to_a_collector_that_may_refuse_them(read: Trajectory, collector: Collector) -> None:
    assert send_otel([read, read], collector.url, {"x-key": "k"}) == 2
    path, key, body = collector.got[0]
    assert (path, key) == ("/v1/traces", "k")
    assert body["resourceSpans"]
    send_otel([read], f"{collector.url}/v1/traces")
    assert collector.got[-1][0] == "/v1/traces"
    collector.status = 403
    with pytest.raises(OSError, match="answered 403 after 0 episodes: no such tenant"):
        send_otel([read], collector.url)
    with pytest.raises(OSError, match="does not answer"):
        send_otel([read], "http://127.0.0.1:9")
