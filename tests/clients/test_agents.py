"""Agents by name: made from options, and playing whole sessions against the real server."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client

from mlgym_clients.agents.agent import AgentResult, Assignment, EndpointError
from mlgym_clients.agents.calling import ServerLostError
from mlgym_clients.agents.random_calls import drawn_arguments
from mlgym_clients.agents.registry import AgentOptionError, agent_kinds, make_agent
from mlgym_clients.agents.replaying import RecordError, recorded_calls
from mlgym_clients.agents.solutions import find_solution
from mlgym_clients.episode_player import play_session
from mlgym_mcp.records.episodes import summarize
from mlgym_mcp.serving.wrapping import MCP_TOOLS
from tests.clients.small_server import SmallServer
from tests.serving.conftest import episode_folder, light, own_home, playing, running_host
from tests.toy import CSV

__all__ = ["light", "own_home"]  # fixtures

pytestmark = pytest.mark.anyio

TASKS = Path(__file__).parents[2] / "tasks"


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("randon", {}, "there is no agent 'randon', did you mean 'random'?; there are: scripted, replay, baseline"),
        ("random", {"call": 3}, "random: unknown option 'call', did you mean 'calls'?; it takes: calls, submit, avoid"),
        ("random", {"calls": -1}, "random: calls: Input should be greater than or equal to 0, got -1"),
        ("scripted", {}, "scripted: the option 'script' is missing: The calls, or the path"),
        ("scripted", {"script": "no-such-file.json"}, "scripted: no-such-file.json: [Errno 2] No such file"),
        (
            "scripted",
            {"script": [{"tool": "shell", "argument": {}}]},
            "step 1 has unknown keys ['argument']; known: to",
        ),
        ("scripted", {"script": [{"tool": "x"}, {"tool": 3}]}, "script: step 2: tool: Input should be a valid string"),
        ("replay", {"episode": "nothing-like-it"}, "replay: there is no episode 'nothing-like-it'"),
        ("baseline", {"tasks": 3}, "baseline: tasks: Input is not a valid path"),
        ("llm", {}, "llm: the option 'model' is missing: PROVIDER:NAME"),
        ("llm", {"model": "gpt-5"}, "llm: model: String should match pattern '^(openai|anthropic|google)"),
        ("llm", {"model": "openai:x", "api_key": "sk-1"}, "name the variable that holds the key in api_key_env"),
        ("llm", {"model": "openai:x", "api_key_env": "sk-1 2"}, "llm: api_key_env: String should match pattern"),
        ("llm", {"model": "openai:x", "price_in": 1}, "price_in and price_out belong together"),
        ("llm", {"model": "openai:x", "base_url": "http://me:secret@host/v1"}, "llm: base_url: String should match"),
        ("llm", {"model": "openai:x", "base_url": "file:///etc/passwd"}, "llm: base_url: String should match"),
    ],
)
def test_a_wrong_option_is_told_with_what_fits(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(AgentOptionError) as caught:
        make_agent(name, **options)
    assert words in str(caught.value)


def test_agents_that_need_no_model_do_not_load_the_models_libraries() -> None:
    program = (
        "import sys; from mlgym_clients.agents.registry import agent_kinds, make_agent; make_agent('random')\n"
        "assert 'llm' in agent_kinds()\n"
        "assert not {'pydantic_ai', 'openai', 'anthropic', 'google.genai'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_the_models_libraries_the_others_work_and_llm_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    make_agent("random")
    with pytest.raises(AgentOptionError, match=r"pip install 'mlgym-mcp\[agents\]'"):
        make_agent("llm", model="openai:x")


def test_every_agent_describes_itself_in_plain_json(tmp_path: Path) -> None:
    options: dict[str, dict[str, Any]] = {
        "scripted": {"script": [{"tool": "shell", "arguments": {"command": "ls"}}]},
        "llm": {"model": "openai:x", "base_url": "http://127.0.0.1:9/v1", "api_key_env": "PATH"},
    }
    for name in agent_kinds().keys() - {"replay"}:
        agent = make_agent(name, **options.get(name, {}))
        described = json.dumps(agent.describe())
        assert json.loads(described)["agent"] == name
        assert agent.name.startswith(name)
        assert "/bin" not in described  # the variable's name, never what it holds


SCRIPT = [
    {"tool": "shell", "arguments": {"command": "sleep 1.5; echo long"}, "save": "job", "until_done": True},
    {"tool": "job_output", "arguments": {"job_id": "${job.job_id}"}, "save": "out"},
    {"tool": "note_write", "arguments": {"text": "${job.state}, ${job.exit_code}, $${job.state}"}, "save": "noted"},
    {"tool": "write_file", "arguments": {"path": "big.txt", "content": "x" * 70_000}},
    {"tool": "write_file", "arguments": {"path": "submission.csv", "content": CSV}},
    {"tool": "validate"},
    {"tool": "submit", "until_done": True},
]


async def test_a_script_is_played_and_its_episode_played_again_to_the_same_score(own_home: Path) -> None:
    told: list[str] = []
    async with running_host(wait_s=1.2) as host:
        async with playing(host) as (client, session):
            assignment = Assignment(on_call=lambda tool, arguments, result: told.append(tool))
            result = await make_agent("scripted", script=SCRIPT).play(client, assignment)
            first = episode_folder(session)
        assert (result.stop, result.cost_usd) == ("submitted", 0.0)
        assert told[:3] == ["shell", "job_wait", "job_output"]
        assert result.steps == len(told)
        agent = make_agent("replay", episode=str(first))
        assert any(c.arguments.get("text") == "exited, 0, ${job.state}" for c in recorded_calls(first))
        assert any(c.arguments.get("content") == "x" * 70_000 for c in recorded_calls(first))  # it lay in a blob
        async with playing(host) as (client, session):
            again = await agent.play(client)
            second = episode_folder(session)
    assert again.stop == "submitted"
    assert summarize(first).value == summarize(second).value is not None
    played = [(c.tool, c.arguments.get("content")) for c in recorded_calls(second) if c.tool != "job_wait"]
    assert played == [(c.tool, c.arguments.get("content")) for c in recorded_calls(first) if c.tool != "job_wait"]


async def test_a_script_ends_as_its_calls_do(own_home: Path) -> None:
    wrong = {"tool": "read_file", "arguments": {"path": "nowhere"}}
    read = {"tool": "read_file", "arguments": {"path": "start.py"}}
    async with running_host() as host, playing(host, budget={"calls": 3}) as (client, session):
        result = await make_agent("scripted", script=[read, wrong, read]).play(client)
        assert result.stop == "failed"
        assert result.detail.startswith("step 2 (read_file): ")
        result = await make_agent("scripted", script=[{"tool": "shell", "arguments": {"command": "${a.b}"}}]).play(
            client
        )
        assert "no earlier step was saved as 'a'" in result.detail
        result = await make_agent("scripted", script=[wrong, read], keep_going=True).play(client)
        assert (result.stop, result.steps) == ("done", 2)
        await session.end("deleted", "the test is done")
        result = await make_agent("scripted", script=[read]).play(client)
        assert result.stop == "over"


def test_a_damaged_or_curtailed_record_is_not_played(own_home: Path, tmp_path: Path) -> None:
    from mlgym_mcp.session.episode import Episode

    folder = tmp_path / "episode"
    episode = Episode(folder)
    arguments = episode.shrink({"command": "x" * 100_000, "n": float("nan")})
    episode.journal.append("call", tool="shell", arguments=arguments)
    episode.close()
    (call,) = recorded_calls(folder)
    assert call.arguments["command"] == "x" * 100_000
    (blob,) = (folder / "blobs").iterdir()
    blob.write_text("something else")
    with pytest.raises(RecordError, match="digest differs"):
        recorded_calls(folder)
    blob.unlink()
    with pytest.raises(RecordError, match="too large to be kept"):
        recorded_calls(folder)
    with (folder / "events.jsonl").open("r+b") as file:
        file.write(b"{")
        file.seek(3)
        file.write(b"!")
    with pytest.raises(AgentOptionError, match="damaged at event 0"):
        make_agent("replay", episode=str(folder))


@given(st.integers(0, 2**32))
def test_random_arguments_fit_every_tools_schema(seed: int) -> None:
    draw = random.Random(seed)
    for tool in MCP_TOOLS:
        jsonschema.validate(drawn_arguments(tool.parameters, draw), tool.parameters)


async def test_random_calls_are_valid_and_the_same_for_the_same_seed(own_home: Path) -> None:
    drawn: list[list[tuple[str, Any]]] = []
    async with running_host() as host:
        for seed in (7, 7, 8):
            calls: list[tuple[str, Any]] = []

            def note(tool: str, arguments: Any, result: Any, calls: list[tuple[str, Any]] = calls) -> None:
                assert "is not an argument" not in result.text
                assert "is missing" not in result.text
                calls.append((tool, dict(arguments)))

            async with playing(host) as (client, _):
                agent = make_agent("random", calls=10, avoid=["validate", "job_wait"])
                result = await agent.play(client, Assignment(seed, on_call=note))
            assert result.stop in ("done", "submitted")
            assert result.steps == len(calls) >= 11
            drawn.append(calls)
    assert drawn[0] == drawn[1] != drawn[2]


async def test_a_real_tasks_solutions_are_played_through_mcp_to_their_scores(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLGYM_TASKS")
    scores = {}
    async with running_host() as host:
        for kind in ("baseline", "reference"):
            session = await host.create("battle_of_sexes")
            result = await play_session(make_agent(kind), host.mcp_url(session))
            assert result.stop == "submitted", result.detail
            await session.wait_ended()  # the end, which has the score, is written after the answer
            scores[kind] = summarize(episode_folder(session)).value
    assert scores == {  # as its task.toml says
        "baseline": pytest.approx(0.822, abs=0.08),
        "reference": pytest.approx(1.422, abs=0.08),
    }


async def test_a_solution_that_fails_says_how(own_home: Path, tmp_path: Path) -> None:
    async with running_host() as host, playing(host) as (client, _):
        result = await make_agent("reference").play(client)
        assert (result.stop, "has no folder reference/" in result.detail) == ("failed", True)
        solved = tmp_path / "tasks" / "toy" / "reference"
        solved.mkdir()
        (solved / "solve.py").write_text("import sys\nprint('out of luck')\nsys.exit(3)\n")
        result = await make_agent("reference").play(client)
        assert result.stop == "failed"
        assert result.detail.startswith("python solve.py failed")
        assert "out of luck" in result.detail
        (solved / "solve.py").write_text(
            "open('submission.csv', 'w').write(open('deep/a b.bin', 'rb').read()[1:].decode())\n"
        )
        (solved / "deep").mkdir()
        (solved / "deep" / "a b.bin").write_bytes(b"\xff" + CSV.encode())
        result = await make_agent("reference", validate_first=True).play(client)
        assert result.stop == "submitted", result.detail


def test_solutions_are_found_for_every_task_beside_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLGYM_TASKS", raising=False)
    for folder in sorted(path.parent for path in TASKS.glob("*/task.toml")):
        assert find_solution(folder.name, "mini", "reference").files
        assert find_solution(folder.name, "mini", "baseline").timeout_s > 0
    with pytest.raises(LookupError, match=r"there is no task 'nothing' in .*; set the option 'tasks'"):
        find_solution("nothing", "mini", "baseline")


class Raising:
    """An agent that fails in a way of its own."""

    name = "raising"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def describe(self) -> dict[str, Any]:
        return {}

    async def play(self, client: Client, assignment: Assignment = Assignment()) -> AgentResult:  # noqa: B008
        await client.call_tool("status", {})
        raise self.error


async def test_a_session_is_played_over_its_url_with_its_token(own_home: Path) -> None:
    async with running_host() as host:
        session = await host.create("toy")
        url, token = host.mcp_url(session), getattr(session, "token", None)
        result = await play_session(make_agent("random", calls=2), url, token=token)
        assert result.steps >= 3
        with pytest.raises(ServerLostError):
            await play_session(make_agent("random"), url.replace("/sessions/", "/sessions/not"))


async def test_what_failed_is_told_as_itself() -> None:
    for error in (EndpointError("no answer", permanent=True), KeyError("a fault of the agent's")):
        with pytest.raises(type(error)) as caught:
            await play_session(Raising(error), SmallServer().mcp())
        assert caught.value is error
    with pytest.raises(ServerLostError, match="went away"):
        await play_session(Raising(ServerLostError("went away")), SmallServer().mcp())


async def test_a_server_that_is_not_there_is_not_the_agents_failure() -> None:
    with pytest.raises(ServerLostError, match="connection attempts failed"):
        await play_session(make_agent("random"), "http://127.0.0.1:9/sessions/x/mcp")
