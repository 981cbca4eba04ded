"""What plays with the frameworks is to be trusted: environments, the scripted model, the matrix, the examples."""

from __future__ import annotations

import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.frameworks import environments, matrix
from tests.frameworks.playing import EXAMPLES
from tests.frameworks.scripted_model import FINAL, Does, ScriptedModel, last_job, scripted_model

ROOT = Path(__file__).parents[2]
SCRIPT = (Does("get_task"), (Does("list_files"), Does("shell", {"command": "true"})), Does("submit"))
CHAT = [{"type": "function", "function": {"name": name}} for name in ("get_task", "list_files", "shell", "submit")]


def asked(messages: list[dict[str, object]], **more: object) -> dict[str, object]:
    return {"model": "openai/player", "messages": messages, "tools": CHAT, **more}


def called(count: int) -> list[dict[str, object]]:
    return [{"role": "assistant", "content": None, "tool_calls": [{} for _ in range(count)]}]


@pytest.mark.parametrize(
    ("said", "calls", "first"),
    [
        ([{"role": "user", "content": "go"}], ["get_task"], 0),
        (called(1), ["list_files", "shell"], 1),
        ([*called(1), *called(1)], ["submit"], 2),  # it left out the second of two calls at once
        ([*called(1), *called(2)], ["submit"], 3),
    ],
)
def test_the_conversation_says_how_far_the_script_is_and_calls_have_numbers_of_their_own(
    said: list[dict[str, object]], calls: list[str], first: int
) -> None:
    answer = ScriptedModel({"player": SCRIPT}).answer(asked(said))
    assert ([name for name, _ in answer.calls], answer.first) == (calls, first)


def test_a_script_that_is_played_and_a_request_that_is_about_something_else_are_answered_in_words() -> None:
    model = ScriptedModel({"player": SCRIPT})
    assert model.answer(asked(called(4))).text == FINAL
    for other in (asked([]) | {"tools": []}, asked([]) | {"model": "another"}, asked([], tools=None)):
        assert model.answer(other).text == "Fine."


def test_tools_are_known_by_the_names_that_clients_give_them_and_a_missing_one_is_told() -> None:
    model = ScriptedModel({"player": SCRIPT})
    for name in ("mcp__mlgym__get_task", "mlgym-get_task", "mlgym.get_task", "get_task"):
        assert model.answer(asked([], tools=[{"name": name}])).calls[0][0] == name
    refused = model.answer(asked([], tools=[{"name": "submit"}, {"name": "forget_task"}]))
    assert refused.status == 400
    assert "no tool get_task among ['forget_task', 'submit']" in json.dumps(refused.body)


def test_arguments_may_come_from_what_was_said() -> None:
    model = ScriptedModel({"player": (Does("job_wait", {"job_id": last_job}),)})
    said = [{"role": "user", "content": "[job j1 is still running after 3 s] [job j2 is still running after 4 s]"}]
    answer = model.answer(asked(said, tools=[{"name": "job_wait"}]))
    assert answer.calls == [("job_wait", {"job_id": "j2"})]


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True])
async def test_the_protocol_of_responses_names_the_namespace_of_a_tool(stream: bool) -> None:
    tools = [{"type": "namespace", "name": "mcp__mlgym", "tools": [{"type": "function", "name": "get_task"}]}]
    async with scripted_model(player=SCRIPT[:1]) as model, httpx.AsyncClient(base_url=model.url) as http:
        for said, kind in ([[], "function_call"], [[{"type": "function_call"}], "message"]):
            body = {"model": "player", "input": said, "tools": tools, "stream": stream}
            answer = await http.post("/v1/responses", json=body)
            if stream:
                last = answer.text.strip().splitlines()[-1].removeprefix("data: ")
                (item,) = json.loads(last)["response"]["output"]
            else:
                (item,) = answer.json()["output"]
            assert item["type"] == kind
            assert item.get("namespace") == ("mcp__mlgym" if kind == "function_call" else None)
        assert (await http.get("/api/telemetry")).status_code == 404
        assert model.elsewhere == ["GET /api/telemetry"]


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent?alt=sse"])
async def test_googles_protocol_names_the_model_in_the_path_and_calls_are_parts(method: str) -> None:
    body = {"tools": [{"functionDeclarations": [{"name": "mcp_mlgym_get_task"}, {"name": "get_forecast"}]}]}
    call = {"functionCall": {"name": "mcp_mlgym_get_task", "args": {}}}
    async with scripted_model(player=SCRIPT[:1]) as model, httpx.AsyncClient(base_url=model.url) as http:
        for said, part in ([{"text": "go"}], call), ([{"text": "go"}, call], {"text": FINAL}):
            contents = [{"role": "model", "parts": said}]
            answer = await http.post(f"/v1beta/models/player:{method}", json={**body, "contents": contents})
            text = answer.text.splitlines()[0].removeprefix("data: ") if "stream" in method else answer.text
            assert json.loads(text)["candidates"][0]["content"]["parts"] == [part]
        other = await http.post(f"/v1beta/models/another:{method}", json={**body, "contents": []})
        assert "Fine." in other.text


@pytest.fixture
def pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Requirements of nothing, and an empty cache but for uv."""
    uv = environments._uv()
    monkeypatch.setattr(environments, "_uv", lambda: uv)
    monkeypatch.setattr(environments, "REQUIREMENTS", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "nothing.txt"
    file.write_text("# nothing\n")
    return file


def test_an_environment_is_made_once_and_anew_when_its_pins_change_or_it_was_half_made(pins: Path) -> None:
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(environments.python_of, ["nothing", "nothing"])
    assert first == second
    mark = first.parents[1] / "mark"
    mark.touch()
    assert environments.python_of("nothing") == first
    assert mark.exists()

    (first.parents[1] / ".made").unlink()
    assert environments.python_of("nothing") == first
    assert not mark.exists(), "half made, it is begun again"

    pins.write_text("# nothing else\n")
    assert environments.python_of("nothing") != first


def test_what_cannot_be_installed_is_said_and_not_kept(pins: Path) -> None:
    pins.write_text("./no-such-package\n")
    with pytest.raises(subprocess.CalledProcessError):
        environments.python_of("nothing")
    assert not list(environments.cache_folder().glob("*/.made"))
    with pytest.raises(FileNotFoundError):
        environments.python_of("unheard-of")


@pytest.fixture
def document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A document with a table of one row."""
    file = tmp_path / "frameworks.md"
    head = "| client | version | transport | protocol | result |\n|---|---|---|---|---|"
    file.write_text(f"# Before\n{matrix.BEGIN}\n{head}\n| a | 1 | HTTP | new | scored |\n{matrix.END}\nafter\n")
    monkeypatch.setattr(matrix, "DOCUMENT", file)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return file


def test_what_a_test_saw_must_be_what_the_document_says(document: Path) -> None:
    saw = {"client": "a", "transport": "HTTP", "era": "new", "result": "scored", "version": "1"}
    matrix.record(**saw)
    for seen in ({"era": "old"}, {"result": "no score"}, {"version": "2"}, {"transport": "stdio"}, {"client": "b"}):
        with pytest.raises(AssertionError, match=r"python -m tests\.frameworks\.matrix"):
            matrix.record(**{**saw, **seen})
    with pytest.raises(AssertionError):
        matrix.record("a | b", "HTTP", "new", "scored", version="1")


def test_the_document_gets_what_was_seen_last_and_keeps_the_rest(document: Path) -> None:
    for client, result in (("a", "no score"), ("b", "scored"), ("a", "scored twice")):
        with pytest.raises(AssertionError):
            matrix.record(client, "stdio", "new", result, version="1")
    matrix.write()
    matrix.write()
    assert [tuple(row) for row in matrix.documented()] == [
        ("a", "1", "HTTP", "new", "scored"),
        ("a", "1", "stdio", "new", "scored twice"),
        ("b", "1", "stdio", "new", "scored"),
    ]
    assert document.read_text().startswith("# Before\n")
    assert document.read_text().endswith(f"{matrix.END}\nafter\n")
    matrix.record("b", "stdio", "new", "scored", version="1")


def test_every_row_of_the_matrix_comes_from_a_test() -> None:
    texts = [file.read_text() for file in (ROOT / "tests").rglob("test_*.py") if file != Path(__file__)]
    for row in matrix.documented():
        assert any(f'"{row.client}"' in text for text in texts), row


AGENTS = sorted(file for file in EXAMPLES.glob("*.py") if '"--stdio" in sys.argv' in file.read_text())


@pytest.mark.parametrize("example", AGENTS, ids=lambda path: path.stem)
def test_an_example_is_short_told_in_the_documents_and_says_what_it_needs(example: Path) -> None:
    text = example.read_text()
    assert text.count("\n") < 60
    documents = "".join(document.read_text() for document in (ROOT / "docs").glob("*.md"))
    assert f"clients/examples/{example.name}" in documents
    for needed in re.findall(r"requirements/[\w.]+\.txt", text):
        pins = (EXAMPLES / needed).read_text().splitlines()
        assert pins
        assert all("==" in pin for pin in pins if pin and not pin.startswith(("#", "-"))), pins
