"""The model's agent: plays through real wire formats and lives through what endpoints and models do wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from mlgym_clients.agents.agent import AgentResult, Assignment, EndpointError
from mlgym_clients.agents.registry import make_agent
from mlgym_clients.episode_player import play_session
from mlgym_mcp.records.episodes import summarize
from tests.clients.endpoints import Cuts, Endpoint, Fails, Garbles, Says, Turn, running
from tests.clients.small_server import SmallServer
from tests.serving.conftest import episode_folder, light, own_home, running_host
from tests.toy import CSV

__all__ = ["light", "own_home"]  # fixtures

pytestmark = pytest.mark.anyio

KEY = "sk-very-secret-0123456789"
PROVIDERS = ("openai", "anthropic", "google")
SUBMIT = Says("done", [("submit", {})])


@pytest.fixture(autouse=True)
def only_this_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SCRIPTED_KEY", KEY)


async def play(
    endpoint: Endpoint, provider: str = "openai", server: SmallServer | None = None, folder: Path | None = None,
    **options: Any,
) -> AgentResult:  # fmt: skip
    base = endpoint.url + ("/v1" if provider == "openai" else "")
    defaults = {"api_key_env": "SCRIPTED_KEY", "retry_s": 0.001, "retries": 3, "price_in": 2, "price_out": 10}
    agent = make_agent("llm", model=f"{provider}:scripted", base_url=base, **{**defaults, **options})
    with anyio.fail_after(60):
        async with Client((server or SmallServer()).mcp()) as client:
            try:
                return await agent.play(client, Assignment(folder=folder))
            except EndpointError as exc:
                failure = exc  # what leaves the client's block is put into groups
    raise failure


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "messages.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_model_plays_to_its_submission_and_every_token_is_counted(
    provider: str, stream: bool, tmp_path: Path
) -> None:
    server = SmallServer()
    turns = [
        Says("Let me look.", [("shell", {"command": "ls"}), ("shell", {"command": "pwd"})], (1000, 50, 400)),
        Says("", [("submit", {})], (1200, 20, 0)),
    ]
    async with running(*turns, key=KEY) as endpoint:
        result = await play(endpoint, provider, server, tmp_path, stream=stream, price_cached=0.5)
    assert [name for name, _ in server.called] == ["shell", "shell", "submit"]
    assert (result.stop, result.steps, result.requests) == ("submitted", 4, 2)
    assert (result.tokens_in, result.tokens_out, result.tokens_cached) == (2200, 70, 400)
    assert result.cost_usd == pytest.approx((1800 * 2 + 400 * 0.5 + 70 * 10) / 1e6)
    assert not result.estimated
    assert "ok pwd" in json.dumps(endpoint.asked[1])  # the results went back
    assert result.messages == tmp_path / "messages.jsonl"
    kept = lines(tmp_path)
    assert [line["role"] for line in kept] == [
        "setup", "system", "user", "assistant", "tool", "tool", "assistant", "tool", "note",
    ]  # fmt: skip
    assert kept[3]["tool_calls"][1]["arguments"] == {"command": "pwd"}
    assert kept[3]["content"] == "Let me look."
    assert kept[3]["usage"] == {"in": 1000, "out": 50, "cached": 400}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    "fault",
    [
        Fails(429, headers={"retry-after": "0.01"}),
        Fails(500),
        Fails(503),
        Cuts(),
        Cuts(clean=True),
        Garbles(),
        Garbles(b"<html>502 Bad Gateway</html>", "text/html"),
        Garbles(b"data: {nonsense\n\n", "text/event-stream"),
    ],
    ids=["429", "500", "503", "torn", "cut", "half-json", "html", "bad-event"],
)
async def test_what_passes_is_tried_again(provider: str, fault: Turn, tmp_path: Path) -> None:
    async with running(fault, fault, SUBMIT) as endpoint:
        result = await play(endpoint, provider, folder=tmp_path)
    assert (result.stop, result.requests) == ("submitted", 3)
    assert (result.tokens_in, result.tokens_out) == (1000, 50)
    notes = [line["content"] for line in lines(tmp_path) if line["role"] == "note"]
    assert sum("no answer" in note for note in notes) == 2


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_wrong_key_ends_it_at_once_and_is_shown_nowhere(
    provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIPTED_KEY", "sk-wrong-key-98765")
    async with running(SUBMIT, key=KEY) as endpoint:
        with pytest.raises(EndpointError, match="401") as caught:
            await play(endpoint, provider, folder=tmp_path)
    assert caught.value.permanent
    assert len(endpoint.asked) == 1
    assert caught.value.result is not None
    shown = f"{caught.value} {caught.value.result} {(tmp_path / 'messages.jsonl').read_text()}"
    assert "sk-wrong-key" not in shown
    assert "[key]" in shown


async def test_a_model_that_says_the_key_has_it_cut_out_of_the_messages(tmp_path: Path) -> None:
    turn = Says(f"my key is {KEY}", [("shell", {"command": f"echo {KEY}"})])
    async with running(turn, SUBMIT, key=KEY) as endpoint:
        await play(endpoint, folder=tmp_path)
    assert KEY not in (tmp_path / "messages.jsonl").read_text()
    assert (tmp_path / "messages.jsonl").stat().st_mode & 0o777 == 0o600


async def test_an_endpoint_that_is_down_is_no_failure_of_the_agent() -> None:
    endpoint = Endpoint()
    endpoint.url = "http://127.0.0.1:9"
    with pytest.raises(EndpointError, match="4 tries") as caught:
        await play(endpoint)
    assert not caught.value.permanent
    assert caught.value.result is not None
    assert caught.value.result.requests == 4


async def test_the_pause_that_an_endpoint_asks_for_is_kept_and_bounded(tmp_path: Path) -> None:
    async with running(Fails(429, headers={"retry-after": "3600"}), SUBMIT) as endpoint:
        await play(endpoint, folder=tmp_path, retry_most_s=0.05)
    (note,) = [line["content"] for line in lines(tmp_path) if "next try" in line.get("content", "")]
    assert note.endswith("next try in 0.1 s")  # 0.05, rounded


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_model_that_never_calls_a_tool_is_asked_to_and_then_left(provider: str) -> None:
    async with running(Says("Interesting task!"), key=KEY) as endpoint:
        result = await play(endpoint, provider)
    assert (result.stop, len(endpoint.asked)) == ("silent", 3)
    assert "You called no tool" in json.dumps(endpoint.asked[1])


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_calls_of_tools_that_do_not_exist_are_answered_with_those_that_do(provider: str) -> None:
    server = SmallServer()
    turn = Says("", [("do_magic", {}), ("bad name\n\u00e4" * 30, {"x": 1})])
    async with running(turn, SUBMIT) as endpoint:
        result = await play(endpoint, provider, server)
    assert result.stop == "submitted"
    assert "There is no tool 'do_magic'. The tools are: get_task" in json.dumps(endpoint.asked[1])
    assert [name for name, _ in server.called] == ["submit"]


async def test_a_model_that_makes_nothing_but_mistakes_is_left() -> None:
    async with running(Says("", [("do_magic", {})])) as endpoint:
        result = await play(endpoint)
    assert (result.stop, len(endpoint.asked)) == ("stuck", 6)
    turns = [Says("", [("shell", {"command": "fail", "n": i})]) for i in range(20)]
    async with running(*turns) as endpoint:
        result = await play(endpoint)
    assert (result.stop, len(endpoint.asked)) == ("stuck", 12)
    assert "calls that failed" in result.detail


async def test_a_model_in_a_circle_is_left_but_one_whose_results_change_is_not() -> None:
    async with running(Says("", [("shell", {"command": "same"})])) as endpoint:
        result = await play(endpoint)
    assert (result.stop, len(endpoint.asked)) == ("stuck", 6)
    turns = [Says("", [("shell", {"command": command})]) for command in ["a", "b"] * 10]
    async with running(*turns) as endpoint:
        result = await play(endpoint)
    assert (result.stop, len(endpoint.asked)) == ("stuck", 12)
    async with running(Says("", [("shell", {"command": "count"})])) as endpoint:
        result = await play(endpoint, max_requests=20)
    assert (result.stop, len(endpoint.asked)) == ("limit", 20)


@pytest.mark.parametrize("arguments", ["{not json", "[1, 2]", '"text"', '{"command": "a"', "NaN"])
async def test_malformed_arguments_are_the_models_to_correct(arguments: str) -> None:
    server = SmallServer()
    async with running(Says("", [("shell", arguments)], raw=True), SUBMIT) as endpoint:
        result = await play(endpoint, "openai", server)
    assert result.stop == "submitted"
    assert [name for name, _ in server.called] == ["submit"]
    assert "are not a JSON object" in json.dumps(endpoint.asked[1])


async def test_characters_that_no_wire_can_carry_do_not_end_the_play() -> None:
    server = SmallServer()
    turn = Says('thinking \ud800 {"name": "shell", "parameters": {"command": "echo \\ud800 \\u0000"}}')
    async with running(turn, Says("\udfff"), SUBMIT) as endpoint:
        result = await play(endpoint, "openai", server)
    assert result.stop == "submitted"
    assert server.called[0][1]["command"] == "echo \N{REPLACEMENT CHARACTER} \0"


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_megabyte_of_an_answer_does_not_come_back_to_the_model(provider: str, tmp_path: Path) -> None:
    turn = Says("[{(" * 350_000, [("shell", {"command": "ls"})])
    async with running(turn, Says("[(" * 500_000), SUBMIT) as endpoint:
        result = await play(endpoint, provider, folder=tmp_path)
    assert result.stop == "submitted"
    assert len(json.dumps(endpoint.asked[2])) < 80_000
    assert (tmp_path / "messages.jsonl").stat().st_size < 500_000


@pytest.mark.parametrize(
    "text",
    [
        '<|python_tag|>{"name": "shell", "parameters": {"command": "ls"}}<|eom_id|>',
        'I will look.\n{"name": "shell", "parameters": {"command": "ls"}}',
        '[shell(command="ls")]',
        '<|python_start|>[shell(command="ls")]<|python_end|><|eot|>',
    ],
    ids=["llama3-tag", "llama3-json", "llama4", "llama4-tag"],
)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_calls_that_open_models_write_as_text_are_made(text: str, stream: bool) -> None:
    server = SmallServer()
    async with running(Says(text), Says("[submit()]")) as endpoint:
        result = await play(endpoint, "openai", server, stream=stream)
    assert result.stop == "submitted"
    assert server.called == [("shell", {"command": "ls"}), ("submit", {})]
    assert endpoint.asked[1]["messages"][-1]["role"] == "tool"
    assert "max_tokens" in endpoint.asked[0]  # what every open server knows


async def test_an_endpoint_without_tools_has_them_in_the_prompt_and_gets_results_as_text() -> None:
    server = SmallServer()
    async with running(Says('{"name": "shell", "parameters": {"command": "ls"}}'), Says("[submit()]")) as endpoint:
        result = await play(endpoint, "openai", server, tool_style="text")
    assert result.stop == "submitted"
    first, second = endpoint.asked
    assert "tools" not in first
    assert '"name": "shell"' in first["messages"][0]["content"]
    assert [message["role"] for message in second["messages"]] == ["system", "user", "assistant", "user"]
    assert second["messages"][-1]["content"] == "Result of shell:\nok ls"


async def test_a_long_play_fits_the_models_context_and_keeps_the_task() -> None:
    server = SmallServer(output="x" * 5000)
    async with running(Says("", [("shell", {"command": "count"})], None)) as endpoint:
        result = await play(endpoint, "openai", server, context_tokens=12_000, max_output_tokens=1000, max_requests=40)
    assert result.stop == "limit"
    assert result.estimated
    sizes = [len(json.dumps(asked["messages"])) for asked in endpoint.asked]
    assert max(sizes) < 12_000 * 3.6
    for asked in endpoint.asked:
        assert "Guess odd or even." in asked["messages"][1]["content"]
        calls = {call["id"] for m in asked["messages"] for call in m.get("tool_calls") or ()}
        assert {m["tool_call_id"] for m in asked["messages"] if m["role"] == "tool"} == calls


async def test_a_context_that_is_fuller_than_thought_is_shortened_and_asked_again() -> None:
    full = Fails(400, {"error": {"message": "This model's maximum context length is 900 tokens.", "code": 400}})
    server = SmallServer(output="x" * 5000)
    turns: list[Turn] = [Says("", [("shell", {"command": "count"})])] * 3
    async with running(*turns, full, SUBMIT) as endpoint:
        result = await play(endpoint, "openai", server)
    assert result.stop == "submitted"
    assert len(json.dumps(endpoint.asked[4])) < len(json.dumps(endpoint.asked[3])) * 0.7
    async with running(full) as endpoint:
        with pytest.raises(EndpointError, match="not even a shortened request fits"):
            await play(endpoint)


async def test_limits_of_tokens_cost_and_time_end_a_play_with_a_warning_before() -> None:
    looks = Says("", [("shell", {"command": "count"})], (1000, 100, 0))
    async with running(looks) as endpoint:
        result = await play(endpoint, max_tokens=11_000)
    assert (result.stop, result.requests) == ("limit", 10)
    assert "11000 of 11000 tokens" in result.detail
    assert "Your own limit is near" in json.dumps(endpoint.asked[-1])
    async with running(looks) as endpoint:
        result = await play(endpoint, max_cost_usd=0.01)
    assert (result.stop, result.requests) == ("limit", 4)  # 0.003 each
    async with running(Fails(500)) as endpoint:
        result = await play(endpoint, max_seconds=0.2, retry_s=60)
    assert (result.stop, result.detail) == ("limit", "0.2 seconds are spent")


async def test_the_end_of_the_episode_ends_the_play() -> None:
    async with running(Says("", [("shell", {"command": "count"})])) as endpoint:
        result = await play(endpoint, server=SmallServer(calls_left=3))
    assert (result.stop, result.detail, result.steps) == ("over", "The episode is over.", 5)


async def test_a_model_plays_the_real_server_to_a_score(own_home: Path) -> None:
    turns = [
        Says("", [("write_file", {"path": "submission.csv", "content": "id,label\n"}), ("validate", {})]),
        Says("", [("submit", {}), ("write_file", {"path": "submission.csv", "content": CSV})]),
        SUBMIT,
    ]
    async with running(*turns) as endpoint, running_host() as host:
        session = await host.create("toy")
        agent = make_agent("llm", model="openai:scripted", base_url=f"{endpoint.url}/v1")
        result = await play_session(agent, host.mcp_url(session), Assignment(folder=own_home / "attempt"))
    assert (result.stop, result.steps, result.cost_usd) == ("submitted", 6, None)
    assert "is not valid" in json.dumps(endpoint.asked[2])
    assert "Guess, in preset mini." in json.dumps(endpoint.asked[0])
    assert summarize(episode_folder(session)).value is not None


async def test_the_key_of_a_provider_is_not_sent_to_an_address_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-real-key-of-openai")
    async with running(SUBMIT) as endpoint:
        await play(endpoint, api_key_env=None)
    assert "sk-real" not in json.dumps(endpoint.headers)


async def test_a_missing_key_is_told_before_anything_is_done() -> None:
    agent = make_agent("llm", model="anthropic:claude-haiku-4-5")
    async with Client(SmallServer().mcp()) as client:
        with pytest.raises(EndpointError, match="needs a key: set ANTHROPIC_API_KEY, or name"):
            await agent.play(client)
    agent = make_agent("llm", model="openai:x", base_url="http://127.0.0.1:9/v1", api_key_env="NOT_SET_ANYWHERE")
    async with Client(SmallServer().mcp()) as client:
        with pytest.raises(EndpointError, match="NOT_SET_ANYWHERE is not set") as caught:
            await agent.play(client)
    assert caught.value.permanent


def test_prices_of_known_models_come_with_the_library_and_unknown_ones_cannot_have_a_limit() -> None:
    make_agent("llm", model="anthropic:claude-haiku-4-5", max_cost_usd=1)
    with pytest.raises(ValueError, match="no price of openai:my-model is known: set price_in"):
        make_agent("llm", model="openai:my-model", base_url="http://127.0.0.1:9/v1", max_cost_usd=1)
