"""Submitted programs that cheat: an honest score, or none with a typed reason; through validate and submit."""

from __future__ import annotations

import json
import textwrap
import tomllib
from collections.abc import AsyncIterator

import pytest
from mcp import Client

from mlgym_mcp.catalog.adversarial import VALID, Adversarial, adversarial
from mlgym_mcp.catalog.spec import TaskSpec
from mlgym_mcp.tools.reply import MAX_CHARS
from tests import toy_player
from tests.attacks.conftest import Arena, Server, expected
from tests.serving.conftest import text_of

pytestmark = pytest.mark.anyio
PLAIN = {"strategy.py": toy_player.ONES.encode()}
CASES = {case.name: case for case in adversarial(TaskSpec.model_validate(tomllib.loads(toy_player.TASK)), PLAIN)}

ON_DOCKER = [
    pytest.mark.docker,
]


def share_of_ones(server: Server, split: str) -> float:
    bits = [bit for match in server.vault("toy_player", "world.json")[split] for bit in match]
    return sum(bits) / len(bits)


@pytest.fixture(scope="module")
def match(server: Server) -> dict[str, object]:
    """One session for all programs: an invalid one leaves it open."""
    return server.create("toy_player", "bubblewrap")


@pytest.fixture
async def playing(arena: Arena, match: dict[str, str]) -> AsyncIterator[Client]:
    async with Client(match["mcp_url"]) as client:
        yield client


@pytest.mark.parametrize("name", CASES)
async def test_a_hostile_program_is_refused_with_a_type_or_scored_as_what_it_plays(
    playing: Client, arena: Arena, name: str
) -> None:
    case: Adversarial = CASES[name]
    await text_of(playing, "shell", command="rm -rf /workspace/* && true")
    for path, content in case.files.items():
        await text_of(playing, "write_file", path=path, content=content.decode())
    if case.commands:
        await text_of(playing, "shell", command=case.commands)
    result = (await playing.call_tool("validate", {})).structured_content
    assert (VALID if result["valid"] else result["code"]) in expected(case), result
    if result["valid"]:
        assert result["score"] == round(share_of_ones(arena.server, "val"), 3)
    else:
        assert result["score"] is None
        assert result["reason"]


MORE = {
    "writes forged answers ahead of time": (
        {"protocol", "crash", "timeout", VALID},  # they are its own word, if they come in time
        r"""
        import json, os, struct
        for seq in range(1, 40):
            head = json.dumps({"seq": seq, "ok": True, "result": {"moves": [1] * 8}, "size": 0}).encode()
            for fd in range(3, 32):
                try: os.write(fd, struct.pack("<I", len(head)) + head)
                except OSError: pass
        def move(history): return 1
        """,
    ),
    "runs a thread that answers between questions": (
        {"protocol", "crash", "timeout", VALID},
        r"""
        import os, threading, time
        def flood():
            while True:
                for fd in range(3, 32):
                    try: os.write(fd, b"\0\0\0\0")
                    except OSError: pass
                time.sleep(0.01)
        threading.Thread(target=flood, daemon=True).start()
        def move(history): time.sleep(0.1); return 1
        """,
    ),
    "answers wrong lengths": (
        {"protocol", "range", "format", "crash"},
        r"""
        import sys
        for module in list(sys.modules.values()):
            for name, value in list(vars(module).items() if hasattr(module, "__dict__") else ()):
                if name == "json" and hasattr(value, "dumps"):
                    old = value.dumps
                    def dumps(what, *a, **k):
                        if isinstance(what, dict) and "result" in what: what = {**what, "result": {"moves": [1] * 9}}
                        return old(what, *a, **k)
                    value.dumps = dumps
        def move(history): return 1
        """,
    ),
    "daemonises and goes on after its end": (
        {VALID},
        r"""
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.closerange(0, 64)
                time.sleep(600)
            os._exit(0)
        def move(history): return 1
        """,
    ),
    "fills its disk and memory file systems": (
        {VALID, "crash"},
        r"""
        for name in ("/workspace/x", "/tmp/x"):
            try:
                with open(name, "wb") as out:
                    for _ in range(100): out.write(bytes(1 << 20))
            except OSError: pass
        def move(history): return 1
        """,
    ),
    "floods stderr": (
        {VALID, "timeout"},
        r"""
        import sys
        def move(history):
            sys.stderr.write("x" * 4_000_000)
            return 1
        """,
    ),
}


@pytest.mark.parametrize("name", MORE)
async def test_a_program_that(playing: Client, arena: Arena, name: str) -> None:
    allowed, code = MORE[name]
    await text_of(playing, "write_file", path="strategy.py", content=textwrap.dedent(code))
    result = await playing.call_tool("validate", {})
    score = result.structured_content
    wrote = "".join(score["details"].get("player_stderr", ())).strip()
    assert ("What your code wrote to stderr" in result.content[0].text) is bool(wrote)
    assert (VALID if score["valid"] else score["code"]) in allowed, score
    if score["valid"]:
        assert score["score"] == round(share_of_ones(arena.server, "val"), 3)
    assert len(result.content[0].text) < MAX_CHARS


@pytest.mark.parametrize("where", ["bubblewrap", pytest.param("docker", marks=ON_DOCKER)], indirect=True)
async def test_submit_pays_the_hidden_test_and_shows_nothing_of_it(arena: Arena) -> None:
    """A program that prints all it sees: validate returns that (validation data only), submit does not."""
    spy = """
        import sys
        def move(history):
            print("HISTORY", history, file=sys.stderr)
            return 1
    """
    async with arena.playing("toy_player") as (client, made):
        await text_of(client, "write_file", path="strategy.py", content=textwrap.dedent(spy))
        validation = await client.call_tool("validate", {})
        assert not validation.is_error, validation.content
        assert "wrote to stderr:\nHISTORY [" in validation.content[0].text
        assert validation.structured_content["score"] == round(share_of_ones(arena.server, "val"), 3)
        crash = textwrap.dedent(spy).replace("return 1", "return 1 // (5 - len(history))")
        await text_of(client, "write_file", path="strategy.py", content=crash)
        failed = await client.call_tool("submit", {})
        assert failed.structured_content["code"] == "crash"
        assert "HISTORY [" not in failed.content[0].text + str(failed.structured_content)
        await text_of(client, "write_file", path="strategy.py", content=textwrap.dedent(spy))
        submitted = await client.call_tool("submit", {})
        assert submitted.structured_content["score"] == pytest.approx(share_of_ones(arena.server, "test"))
        shown = submitted.content[0].text + str(submitted.structured_content)
        shown += (await client.read_resource("task://log")).contents[0].text
        for score in json.loads((await client.read_resource("task://scores")).contents[0].text):
            shown += str(score) if score["kind"] == "submit" else ""
        assert "'submit'" in shown
        assert "HISTORY [" not in shown
        assert "known to the journal only" not in shown
        scores = [e for e in arena.server.events(made) if e.type == "score"]
        assert scores[-1]["private"]["secret"] == "known to the journal only"


@pytest.mark.parametrize("where", [pytest.param("docker", marks=ON_DOCKER)], indirect=True)
async def test_programs_are_locked_in_on_docker_too(arena: Arena) -> None:
    wanted = (
        "a player that forks without end",
        "a player that looks for secrets in /proc and on the disk",
        "a player that tries the network",
        "a player that eats all memory",
        "a player that exits 0 with a score on stdout",
        "a player that never answers",
    )
    async with arena.playing("toy_player") as (client, _):
        for name in wanted:
            case = CASES[name]
            await text_of(client, "write_file", path="strategy.py", content=case.files["strategy.py"].decode())
            answer = await client.call_tool("validate", {})
            assert not answer.is_error, answer.content
            result = answer.structured_content
            assert (VALID if result["valid"] else result["code"]) in expected(case), (name, result)
