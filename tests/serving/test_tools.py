"""What an agent sees: every tool over a real MCP connection, in both protocol eras."""

from __future__ import annotations

import json

import anyio
import pytest
from mcp import Client

from mlgym_mcp.records.episodes import summarize
from mlgym_mcp.session.journal import read_journal
from mlgym_mcp.tools.reply import MAX_CHARS
from mlgym_mcp.tools.toolbox import TOOLS
from tests.serving.conftest import playing, running_host, text_of
from tests.toy import CSV

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("own_home")]
ERAS = pytest.mark.parametrize("mode", ["auto", "legacy"])


@ERAS
async def test_an_agent_plays_an_episode_from_the_task_to_the_score(mode: str, backend: str) -> None:
    async with running_host(backend) as host, playing(host, mode) as (client, session):
        assert client.protocol_version == ("2026-07-28" if mode == "auto" else "2025-11-25")
        await text_of(client, "shell", command="true")
        task = (await client.call_tool("get_task", {})).structured_content
        assert task["metric"] == {"name": "accuracy", "direction": "max", "unit": "", "baseline": 0.5, "optimal": 1.0}
        assert task["files"] == ["start.py"]
        assert task["data"] == ["README.md"]
        assert "Guess, in preset mini. Baseline 0.50." in task["instruction"]
        assert "submission.csv" in task["how_to_submit"]
        assert "hello from the starter" in await text_of(client, "shell", command="python start.py")
        assert "Wrote /workspace/submission.csv: 41 lines" in await text_of(
            client, "write_file", path="submission.csv", content=CSV
        )
        validation = (await client.call_tool("validate", {})).structured_content
        assert validation["valid"]
        assert validation["score"] == round(validation["score"], 2)
        assert validation["validations_left"] == 2
        submitted = await client.call_tool("submit", {})
        assert submitted.structured_content["valid"]
        assert "The episode is over." in submitted.content[0].text
        after = await text_of(client, "shell", command="true")
        assert after.startswith("The episode is over (scored): the work was submitted. Final score: accuracy")
        again = await client.call_tool("submit", {})
        assert not again.is_error
        assert again.structured_content["code"] == "refused"
        assert (await client.call_tool("status", {})).structured_content["state"] == "over"
        await session.wait_ended()
    summary = summarize(session.episode.folder)
    assert summary.outcome == "scored"
    assert summary.value == submitted.structured_content["score"]
    assert summary.damage is None


@ERAS
async def test_tools_describe_themselves_strictly(mode: str, backend: str) -> None:
    async with running_host(backend) as host, playing(host, mode) as (client, _):
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert set(tools) == {spec.name for spec in TOOLS}
    for tool in tools.values():
        assert tool.title
        assert len(tool.description) > 20
        hints = tool.annotations
        assert None not in (
            hints.read_only_hint,
            hints.destructive_hint,
            hints.idempotent_hint,
            hints.open_world_hint,
        )
        assert tool.input_schema["additionalProperties"] is False
        for parameter in tool.input_schema.get("properties", {}).values():
            assert isinstance(parameter["type"], str)
            assert parameter["description"]
        structured = tool.name in ("get_task", "status", "validate", "submit")
        assert (tool.output_schema is not None) == structured


@pytest.mark.parametrize(
    ("tool", "arguments", "expected"),
    [
        ("bash", {"command": "ls"}, "There is no tool 'bash'. The tools are: get_task, status, read_file"),
        (
            "shell",
            {"command": "ls", "timeout": 5},
            "timeout is not an argument of shell. shell takes command (string), ",
        ),
        ("shell", {}, "command is missing"),
        ("shell", {"command": 3}, "command is 3, but: input should be a valid string"),
        ("shell", {"command": "ls", "timeout_s": -1}, "timeout_s is -1, but: input should be greater than 0"),
        ("shell", {"command": "  "}, "The command is empty"),
        ("shell", {"command": "a\0b"}, "NUL character"),
        ("read_file", {"path": "/workspace"}, "directory"),
        ("read_file", {"path": "nowhere.txt"}, "nowhere.txt"),
        ("read_file", {"path": "start.py", "offset": 99}, "offset 99 is past its end"),
        ("write_file", {"path": "/data/x", "content": "x"}, "/data is read-only"),
        ("write_file", {"path": "/etc/passwd", "content": "x"}, "only files under /workspace"),
        ("write_file", {"path": "../../etc/x", "content": "x"}, "/etc/x cannot be written"),
        ("edit_file", {"path": "start.py", "old": "not there", "new": "x"}, "is not in /workspace/start.py"),
        ("edit_file", {"path": "start.py", "old": "l", "new": "x"}, "is in /workspace/start.py 2 times (lines 1, 1)"),
        ("edit_file", {"path": "start.py", "new": "x"}, "Nothing to replace"),
        ("edit_file", {"path": "start.py", "new": "x", "first_line": 5, "last_line": 6}, "which has 1 line."),
        ("edit_file", {"path": "start.py", "old": "print", "new": "print"}, "changes nothing"),
        ("search_files", {"pattern": "("}, "not a regular expression"),
        ("list_files", {"path": "/nowhere"}, "/nowhere"),
        ("job_wait", {"job_id": "zzz"}, "There is no job 'zzz'. Jobs of this session: none yet."),
        ("note_write", {"text": " "}, "The note is empty"),
    ],
)
async def test_misuse_is_an_error_of_one_clear_sentence(
    tool: str, arguments: dict[str, object], expected: str, backend: str
) -> None:
    async with running_host(backend) as host, playing(host) as (client, _):
        result = await client.call_tool(tool, arguments)
        assert result.is_error
        assert expected in result.content[0].text
        assert "Traceback" not in result.content[0].text
        assert "[exit 0" in await text_of(client, "shell", command="true")


async def test_text_that_looks_like_json_is_written_as_it_is(backend: str) -> None:
    async with running_host(backend) as host, playing(host) as (client, _):
        content = '{"a": 1, "b": [true, null]}'
        await text_of(client, "write_file", path="x.json", content=content)
        assert content in await text_of(client, "read_file", path="x.json")


async def test_edits_answer_with_the_changed_lines_and_syntax_errors_and_are_kept(backend: str) -> None:
    async with running_host(backend) as host, playing(host) as (client, _):
        await text_of(client, "write_file", path="a.py", content="x = 1\ny = 2\nz = 3\n")
        assert "     2\ty = 20" in await text_of(client, "edit_file", path="a.py", old="y = 2", new="y = 20")
        broken = await client.call_tool("edit_file", {"path": "a.py", "old": "z = 3", "new": "z = ("})
        assert not broken.is_error
        assert "Python syntax error in line 3" in broken.content[0].text
        await text_of(client, "edit_file", path="a.py", new="z = 4\nw = 5", first_line=3, last_line=3)
        await text_of(client, "edit_file", path="a.py", new="# top", first_line=1, last_line=0)
        shown = await text_of(client, "read_file", path="a.py")
        assert shown == "     1\t# top\n     2\tx = 1\n     3\ty = 20\n     4\tz = 4\n     5\tw = 5"


async def test_long_files_are_read_in_pieces_and_binary_ones_are_refused(backend: str) -> None:
    async with running_host(backend) as host, playing(host) as (client, _):
        await text_of(
            client,
            "shell",
            command="seq 1 3000 > n.txt; truncate -s 5G big.bin || truncate -s 60M big.bin; printf 'a\\0b' > b.bin",
        )
        first = await text_of(client, "read_file", path="n.txt")
        assert "read_file(path, offset=501)" in first
        assert "   501\t501" in await text_of(client, "read_file", path="n.txt", offset=501)
        assert "binary file (" in await text_of(client, "read_file", path="big.bin")
        assert "binary file" in await text_of(client, "read_file", path="b.bin")


async def test_directory_and_exported_variables_stay_from_one_command_to_the_next(backend: str) -> None:
    async with running_host(backend) as host, playing(host) as (client, _):
        await text_of(client, "shell", command="mkdir -p deep/er && cd deep/er && export COLOUR='very red'")
        assert "deep/er very red" in await text_of(client, "shell", command='echo "${PWD#/workspace/} $COLOUR"')
        assert "[exit 3 " in await text_of(client, "shell", command="exit 3")


async def test_long_output_is_cut_with_head_tail_and_how_to_read_the_rest(backend: str) -> None:
    async with running_host(backend) as host, playing(host) as (client, _):
        text = await text_of(client, "shell", command="seq 1 100000")
        assert len(text) <= MAX_CHARS
        assert text.startswith("1\n2\n")
        assert "\n100000\n" in text
        assert 'job_output(job_id="' in text
        result = await client.call_tool("shell", {"command": "head -c 1000000000 /dev/zero | tr '\\0' x"})
        assert len(result.content[0].text) <= MAX_CHARS
        job = result.meta["job_id"]
        piece = await client.call_tool("job_output", {"job_id": job, "offset": -100})
        assert piece.meta["total"] == 1_000_000_000


async def test_a_long_command_becomes_a_job_that_can_be_waited_for_read_and_stopped(backend: str) -> None:
    async with running_host(backend, wait_s=1.4) as host, playing(host) as (client, _):
        await ready(client)
        seen: list[str | None] = []

        async def progress(_done: float, _total: float | None, message: str | None) -> None:
            seen.append(message)

        command = "for i in $(seq 1 200); do echo epoch $i/200; sleep 0.1; done"
        result = await client.call_tool("shell", {"command": command}, progress_callback=progress)
        assert result.meta["state"] == "running"
        job = result.meta["job_id"]
        assert f'job_wait(job_id="{job}")' in result.content[0].text
        assert seen
        assert str(seen[-1]).startswith("epoch ")
        assert job in await text_of(client, "job_list")
        status = (await client.call_tool("status", {})).structured_content
        assert [j["id"] for j in status["running_jobs"]] == [job]
        stopped = await client.call_tool("job_stop", {"job_id": job})
        assert stopped.meta["state"] == "killed"
        assert "stopped after" in stopped.content[0].text


async def ready(client: Client) -> None:
    """Wait until the sandbox is there, however short the session's wait window."""
    with anyio.fail_after(60):
        while (await client.call_tool("status", {})).structured_content["state"] != "ready":
            await anyio.sleep(0.05)


async def test_a_cancelled_call_leaves_the_job_running(backend: str) -> None:
    async with running_host(backend) as host, playing(host) as (client, _):
        await text_of(client, "shell", command="true")
        with anyio.move_on_after(0.5):
            await client.call_tool("shell", {"command": "sleep 2; echo survived"})
        with anyio.fail_after(20):
            while "running" not in (listed := await text_of(client, "job_list")):
                await anyio.sleep(0.05)
        job = next(line.split()[0] for line in listed.splitlines() if "survived" in line)
        assert "survived" in await text_of(client, "job_wait", job_id=job)


async def test_a_job_is_killed_with_its_whole_tree_when_its_time_is_over(backend: str) -> None:
    async with running_host(backend) as host, playing(host) as (client, _):
        command = "trap '' TERM; (trap '' TERM; sleep 321) & sleep 321"
        text = await text_of(client, "shell", command=command, timeout_s=0.5)
        assert "killed: its timeout_s was over" in text
        assert "0" in await text_of(client, "shell", command="pgrep -fc 'sleep 32[1]' || true")


@ERAS
async def test_twenty_calls_at_once_with_submit_among_them(mode: str, backend: str) -> None:
    async with running_host(backend) as host, playing(host, mode) as (client, session):
        await text_of(client, "write_file", path="submission.csv", content=CSV)
        answers: dict[int, str] = {}

        async def call(i: int) -> None:
            if i == 10:
                answers[i] = await text_of(client, "submit")
            elif i % 3:
                answers[i] = await text_of(client, "shell", command=f"echo {i} >> order.txt")
            else:
                answers[i] = await text_of(client, "read_file", path="start.py")

        async with anyio.create_task_group() as tasks:
            for i in range(20):
                tasks.start_soon(call, i)
        assert answers[10].startswith("Submitted.")
        assert len(answers) == 20
        refused = [i for i, text in answers.items() if text.startswith("The episode is over (scored)")]
        done = [i for i, text in answers.items() if i not in refused and i != 10]
        assert len(done) + len(refused) == 19
        await session.wait_ended()
    events = list(read_journal(session.episode.folder))
    scored = next(e.seq for e in events if e.type == "score")
    started_after = [e for e in events if e.type == "call" and e.seq > scored and e["tool"] == "shell"]
    for event in started_after:
        result = next(e for e in events if e.type == "result" and e["call"] == event.seq)
        assert "refused" in result.fields or result.get("cancelled"), "nothing runs after submit"
    changes = [e for e in events if e.type == "call" and e["tool"] == "shell"]
    results = {e["call"]: e.seq for e in events if e.type == "result"}
    assert [results[e.seq] for e in changes] == sorted(results[e.seq] for e in changes), "changes in arrival order"


async def test_an_invalid_submission_says_why_and_leaves_the_episode_open(backend: str) -> None:
    async with running_host(backend) as host, playing(host) as (client, _):
        for content, code in (
            ("", "format"),
            ("id,label\n0,1\n", "format"),
            (CSV.replace("0,0", "0,nan", 1), "format"),
        ):
            await text_of(client, "write_file", path="submission.csv", content=content)
            result = await client.call_tool("submit", {})
            assert result.structured_content["code"] == code
            assert "correct it and submit again" in result.content[0].text
        await text_of(client, "shell", command="rm submission.csv; ln -s /etc/passwd submission.csv")
        result = await client.call_tool("submit", {})
        assert not result.structured_content["valid"]
        assert result.structured_content["code"] == "forbidden"
        await text_of(client, "shell", command="rm submission.csv")
        assert (await client.call_tool("validate", {})).structured_content["code"] in ("missing", "forbidden")
        await text_of(client, "write_file", path="submission.csv", content=CSV)
        assert (await client.call_tool("validate", {})).structured_content["validations_left"] == 2
        assert (await client.call_tool("submit", {})).structured_content["valid"]


async def test_budgets_are_counted_and_their_ends_are_ordinary_results(backend: str) -> None:
    async with running_host(backend) as host, playing(host, budget={"calls": 4, "validations": 1}) as (client, _):
        await text_of(client, "write_file", path="submission.csv", content=CSV)
        assert (await client.call_tool("validate", {})).structured_content["validations_left"] == 0
        refused = await client.call_tool("validate", {})
        assert not refused.is_error
        assert refused.structured_content["code"] == "refused"
        assert "All 1 validations are used" in refused.content[0].text
        assert "Budget is low: 0 tool calls left" in await text_of(client, "shell", command="true")
        spent = await client.call_tool("shell", {"command": "true"})
        assert not spent.is_error
        assert "The budget of 4 tool calls is spent" in spent.content[0].text
        assert (await client.call_tool("submit", {})).structured_content["valid"]


async def test_when_the_wall_time_is_spent_the_workspace_is_scored_as_it_stands(backend: str) -> None:
    async with running_host(backend) as host, playing(host, budget={"wall_s": 2.5}) as (client, session):
        await text_of(client, "write_file", path="submission.csv", content=CSV)
        text = await text_of(client, "shell", command="sleep 60")
        assert text.startswith("The episode is over (budget_exhausted): the wall time of 2 s is spent")
        end = await session.wait_ended()
        assert end.outcome == "scored"
        assert end.score is not None
        assert end.score.kind == "autosubmit"
    summary = summarize(session.episode.folder)
    assert summary.outcome == "scored"
    assert summary.value == end.score.value


@pytest.mark.parametrize(("content", "outcome"), [(None, "budget_exhausted"), ("garbage", "invalid_submission")])
async def test_what_is_left_when_the_time_is_over_decides_the_outcome(
    content: str | None, outcome: str, backend: str
) -> None:
    async with running_host(backend) as host, playing(host, budget={"wall_s": 1.5}) as (client, session):
        await text_of(client, "list_files")
        if content is not None:
            await text_of(client, "write_file", path="submission.csv", content=content)
        end = await session.wait_ended()
    assert end.outcome == outcome
    assert end.score is None
    assert summarize(session.episode.folder).outcome == outcome


async def test_a_session_nobody_used_is_abandoned(backend: str) -> None:
    async with running_host(backend) as host:
        session = await host.create("toy", budget={"wall_s": 0.5})
        assert (await session.wait_ended()).outcome == "abandoned"


async def test_cpu_seconds_end_a_session(backend: str) -> None:
    async with running_host(backend) as host, playing(host, budget={"cpu_s": 1.0}) as (client, session):
        await text_of(client, "shell", command="timeout 30 python -c 'while True: pass'")
        end = await session.wait_ended()
        assert "CPU time" in end.reason
        assert end.outcome == "budget_exhausted"


async def test_notes_are_kept_and_found(backend: str) -> None:
    async with running_host(backend) as host, playing(host) as (client, _):
        await text_of(client, "note_write", text="ridge gives 0.85", tags="result")
        await text_of(client, "note_write", text="try boosting", tags="plan")
        assert "ridge gives 0.85" in await text_of(client, "note_search", query="ridge result")
        assert "boosting" not in await text_of(client, "note_search", query="ridge result")


@ERAS
async def test_resources_and_the_prompt_are_there(mode: str, backend: str) -> None:
    async with running_host(backend) as host, playing(host, mode) as (client, _):
        await text_of(client, "shell", command="echo hi")
        names = {str(r.uri) for r in (await client.list_resources()).resources}
        assert names == {"task://instruction", "task://status", "task://scores", "task://log"}
        instruction = (await client.read_resource("task://instruction")).contents[0].text
        assert "Guess, in preset mini" in instruction
        status = json.loads((await client.read_resource("task://status")).contents[0].text)
        assert status["state"] == "ready"
        assert "echo hi" in (await client.read_resource("task://log")).contents[0].text
        prompt = await client.get_prompt("attempt")
        assert "Call get_task" in prompt.messages[0].content.text


async def test_the_journal_holds_every_call_and_result_and_long_arguments_as_blobs(backend: str) -> None:
    long = "x" * 20_000
    async with running_host(backend) as host, playing(host) as (client, session):
        await text_of(client, "write_file", path="long.txt", content=long)
    events = list(read_journal(session.episode.folder))
    call = next(e for e in events if e.type == "call")
    assert call["arguments"]["content"]["chars"] == 20_000
    blob = session.episode.folder / "blobs" / call["arguments"]["content"]["$blob"]
    assert blob.read_text() == long
    assert events[-1].type == "end"


async def test_a_sandbox_that_dies_ends_the_episode_as_infrastructure_and_not_as_a_score(backend: str) -> None:
    async with running_host(backend) as host, playing(host) as (client, session):
        await text_of(client, "shell", command="true")
        await session.backend.remove((await session.sandbox()).name)
        text = await text_of(client, "shell", command="true")
        assert "infrastructure_error" in text
        end = await session.wait_ended()
        assert end.outcome == "infrastructure_error"
        assert end.score is None
