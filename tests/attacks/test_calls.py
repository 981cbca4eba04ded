"""Arguments and calls that are too large, too deep, no text, or too many."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx
import pytest

from mlgym_mcp.records.episodes import summarize
from mlgym_mcp.tools.reply import MAX_CHARS
from tests.attacks.conftest import Arena, alive
from tests.serving.conftest import text_of
from tests.toy import CSV

pytestmark = pytest.mark.anyio
MIB = 1 << 20


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_an_argument_of_nearly_four_megabytes_is_answered_in_words(arena: Arena, mode: str) -> None:
    async with arena.playing(mode=mode) as (client, made):
        large = await client.call_tool("write_file", {"path": "a.txt", "content": "x" * 3_900_000})
        assert large.is_error
        assert "write_file takes up to 3.0 MiB" in large.content[0].text
        assert "Wrote" in await text_of(client, "write_file", path="a.txt", content="é\n" * MIB)
        for tool, arguments in (
            ("read_file", {"path": "x" * 3_900_000}),
            ("note_write", {"text": "x" * 3_900_000}),
            ("search_files", {"pattern": "x" * 3_900_000}),
            ("search_files", {"pattern": "(" * 100_000}),
            ("search_files", {"pattern": "x", "glob": "*" * 3_000_000}),
            ("edit_file", {"path": "a.txt", "old": "x" * 1_900_000, "new": "y" * 1_900_000}),
            ("job_wait", {"job_id": "j" * 3_900_000}),
            ("x" * 3_900_000, {}),
            ("job_list", {"x" * 3_900_000: 1}),
            ("job_list", {f"a{i}": "y" * 100 for i in range(30_000)}),
        ):
            with anyio.fail_after(20):
                result = await client.call_tool(tool, arguments)
            text = result.content[0].text
            assert result.is_error, (tool[:20], text[:200])
            assert len(text) <= MAX_CHARS
            assert "Traceback" not in text
        await alive(client)
        folder = arena.server.home / "episodes" / made["episode"]
        assert (folder / "events.jsonl").stat().st_size < 2 * MIB, "long arguments do not swell the journal"


async def test_what_an_agent_sends_cannot_fill_the_servers_disk(arena: Arena) -> None:
    """Calls that cost no budget, each with another four megabytes."""
    async with arena.playing(budget={"calls": 5}) as (client, made):
        for i in range(40):
            await client.call_tool("job_list", {"nonsense": f"{i}" + "x" * 3_000_000})
            await client.call_tool("job_list", {"nonsense": [f"{i}" + "x" * 500_000]})
        await client.call_tool("status", {})
    folder = arena.server.home / "episodes" / made["episode"]
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 100 * MIB
    assert summarize(folder).damage is None


async def test_a_path_of_five_thousand_characters_is_a_clear_error(arena: Arena) -> None:
    async with arena.playing() as (client, _):
        for path in ("x" * 5000, "/".join(["y" * 100] * 50), "../" * 2000 + "etc/passwd", "a/" * 2500 + "b"):
            for tool, more in (
                ("read_file", {}),
                ("write_file", {"content": "x"}),
                ("edit_file", {"old": "a", "new": "b"}),
                ("list_files", {}),
                ("search_files", {"pattern": "x"}),
            ):
                result = await client.call_tool(tool, {"path": path, **more})
                text = result.content[0].text
                assert result.is_error or path.startswith("../"), (tool, text[:300])
                assert "Traceback" not in text
                assert len(text) < 12_000
        await alive(client)


async def test_a_command_of_a_megabyte_is_refused_with_what_to_do(arena: Arena) -> None:
    async with arena.playing() as (client, _):
        for command in (": " + "x" * MIB, ": " + "x" * 3_900_000, ": " + "é" * 100_000):
            result = await client.call_tool("shell", {"command": command})
            assert result.is_error
            assert "write it to a file and run that" in result.content[0].text
        assert "[exit 0" in await text_of(client, "shell", command="true;" * 20_000)
        await alive(client)


async def post(url: str, body: bytes, *headers: tuple[str, str]) -> httpx.Response:
    async with httpx.AsyncClient(timeout=30) as http:
        accept = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
        return await http.post(url, content=body, headers={**accept, **dict(headers)})


async def raw_call(url: str, arguments: str) -> str:
    """Call ``shell`` with arguments given as raw JSON text; the whole answer as text."""
    first = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "raw", "version": "1"},
        },
    }
    hello = await post(url, json.dumps(first).encode())
    assert hello.status_code == 200
    state = [("Mcp-Session-Id", hello.headers["mcp-session-id"])] if "mcp-session-id" in hello.headers else []
    await post(url, b'{"jsonrpc":"2.0","method":"notifications/initialized"}', *state)
    body = f'{{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{{"name":"shell","arguments":{arguments}}}}}'
    answer = await post(url, body.encode("utf-8", "surrogatepass"), *state)
    assert answer.status_code < 500, answer.text[:500]
    return answer.text


@pytest.mark.parametrize(
    "arguments",
    [
        '{"command": "echo \\ud800"}',
        '{"command": "echo \udcff"}',
        '{"command": "echo \\u0000"}',
        '{"command": "true", "timeout_s": NaN}',
        '{"command": "true", "timeout_s": Infinity}',
        '{"command": "true", "timeout_s": 1e999}',
        '{"command": "true", "timeout_s": %s}' % ("9" * 6000),
        '{"command": "true", "extra": NaN}',
        '{"command": "true", "extra": %s}' % ("9" * 6000),
        '{"command": ' + "[" * 150 + "1" + "]" * 150 + "}",
        '{"command": "true", "extra": ' + "[" * 150 + "1" + "]" * 150 + "}",
        '{"command": ' + "[" * 100_000 + "1" + "]" * 100_000 + "}",
        '{"command": "a", "command": 3}',
        '{"": "", "__proto__": {}, "ctx": {}, "self": 1, "arguments": {}}',
        '{"command": "true", "ctx": {"session": 1}}',
        '["command"]',
        '"command"',
        "null",
    ],
    ids=lambda text: ascii(text[:50]),
)
async def test_arguments_that_are_no_proper_json_or_text_are_answered(arena: Arena, arguments: str) -> None:
    async with arena.playing() as (client, made):
        text = await raw_call(made["mcp_url"], arguments)
        assert text
        assert "Traceback" not in text
        assert "internal" not in text.lower(), text[:600]
        await alive(client)
        arena.server.events(made)


async def test_a_body_that_is_too_large_or_no_json_is_refused_and_the_session_lives(arena: Arena) -> None:
    async with arena.playing() as (client, made):
        for body in (b"x" * 10, b"\xff\xfe" * 100, b"[" * 1_000_000, b"{}", b"[]", b'{"jsonrpc":"2.0"}', b""):
            answer = await post(made["mcp_url"], body)
            assert 400 <= answer.status_code < 500, (body[:20], answer.status_code)
        try:
            assert (await post(made["mcp_url"], b"x" * (40 * MIB))).status_code == 413
        except httpx.HTTPError:
            pass  # the connection was cut in the middle of it
        await alive(client)


SURROGATES = "\ud800 and \udfff"


async def test_surrogates_and_control_characters_in_every_text_argument_do_no_harm(arena: Arena) -> None:
    nasty = "".join(map(chr, range(1, 32))) + "\x7f\x85\u2028\u202e\ufeff\U0010ffff"
    async with arena.playing() as (client, made):
        for tool, arguments in (
            ("write_file", {"path": "nasty.txt", "content": nasty}),
            ("read_file", {"path": "nasty.txt"}),
            ("write_file", {"path": f"d/{nasty}.txt".replace("/", "", 0), "content": "x"}),
            ("list_files", {"path": ".", "depth": 3}),
            ("search_files", {"pattern": ".", "path": "."}),
            ("edit_file", {"path": "nasty.txt", "old": "\x01", "new": "\x02\x00\x03"}),
            ("shell", {"command": f"echo '{nasty}'; exit 3"}),
            ("note_write", {"text": nasty, "tags": nasty}),
            ("note_search", {"query": nasty}),
            ("job_wait", {"job_id": nasty}),
            ("job_stop", {"job_id": nasty}),
        ):
            result = await client.call_tool(tool, arguments)
            text = "\n".join(block.text for block in result.content)
            assert "Traceback" not in text
            assert "internal" not in text.lower(), (tool, text)
        await alive(client)
        assert len([e for e in arena.server.events(made) if e.type == "call"]) == 12


async def test_two_hundred_reads_at_once_are_all_answered(arena: Arena) -> None:
    async with arena.playing() as (client, _):
        await text_of(client, "write_file", path="a.txt", content="line\n" * 1000)
        answers: list[Any] = []

        async def read(i: int) -> None:
            tool, arguments = (
                ("read_file", {"path": "a.txt", "offset": 1 + i}),
                ("list_files", {"path": "."}),
                ("search_files", {"pattern": "line", "path": "a.txt"}),
                ("status", {}),
            )[i % 4]
            answers.append(await client.call_tool(tool, arguments))

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for i in range(200):
                    tasks.start_soon(read, i)
        assert len(answers) == 200
        wrong = [a.content[0].text for a in answers if a.is_error]
        assert not wrong, wrong[:3]
        await alive(client)


async def test_twenty_validations_and_submits_at_once_give_one_end(arena: Arena) -> None:
    async with arena.playing(budget={"validations": 3}) as (client, made):
        await text_of(client, "write_file", path="submission.csv", content=CSV)
        answers: list[tuple[str, Any]] = []

        async def call(i: int) -> None:
            tool = "submit" if i % 5 == 4 else "validate"
            answers.append((tool, (await client.call_tool(tool, {})).structured_content))

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for i in range(20):
                    tasks.start_soon(call, i)
        assert len(answers) == 20
        submits = [view for tool, view in answers if tool == "submit" and view["valid"]]
        assert len({view["score"] for view in submits}) == 1
        scores = [e for e in arena.server.events(made) if e.type == "score"]
        assert sum(e["kind"] == "submit" for e in scores) == 1
        assert sum(e["kind"] == "validate" for e in scores) <= 3
        for tool, arguments in (
            ("shell", {"command": "touch late"}),
            ("write_file", {"path": "late", "content": "x"}),
            ("validate", {}),
            ("submit", {}),
            ("job_list", {}),
        ):
            result = await client.call_tool(tool, arguments)
            assert "The episode is over (scored)" in result.content[0].text, tool
        assert sum(e.type == "score" for e in arena.server.events(made)) == len(scores)
