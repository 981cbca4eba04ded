"""The server killed while it grades: no score that was not earned, and everything readable and tidy afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import anyio
import pytest
from mcp import Client

from mlgym_mcp.records.episodes import summarize
from mlgym_sandbox import environment
from tests.attacks.conftest import leftovers, make_server
from tests.serving.conftest import CLI, own_home, text_of
from tests.toy import CSV

__all__ = ["own_home"]  # a fixture
pytestmark = [pytest.mark.anyio, pytest.mark.bubblewrap]


async def test_a_server_killed_while_it_grades_leaves_no_score_and_the_next_one_tidies_up(
    light: environment.Environment, bubblewrap_works: str | None
) -> None:
    if bubblewrap_works is not None:
        pytest.skip(bubblewrap_works)
    with tempfile.TemporaryDirectory(prefix="mlgym-attacks-") as folder:
        server = make_server(Path(folder), light, "")
        gate = Path(folder) / "gate"
        server.start()
        try:
            made = server.create("gated", "bubblewrap")
            assert server.process is not None
            with contextlib.suppress(Exception):  # the connection breaks in one way or another
                async with Client(made["mcp_url"]) as client, anyio.create_task_group() as tasks:
                    await text_of(client, "write_file", path="submission.csv", content=CSV)
                    tasks.start_soon(text_of, client, "submit")
                    with anyio.fail_after(20):
                        while not (gate / "arrived").exists():
                            await anyio.sleep(0.01)
                    os.kill(server.process.pid, signal.SIGKILL)
            assert server.process.wait(5) == -signal.SIGKILL
            server.stop()
            (gate / "go").touch()  # the grader is dead, or this would let it finish
            episode = server.home / "episodes" / made["episode"]
            summary = summarize(episode)
            assert summary.damage is None
            assert (summary.outcome, summary.score) == ("live", None)
            assert [e["tool"] for e in server.events(made) if e.type == "call"] == ["write_file", "submit"]
            server.start()
            summary = summarize(episode)
            assert (summary.outcome, summary.score, summary.damage) == ("infrastructure_error", None, None)
            assert not [e for e in server.events(made) if e.type == "score"]
            await server.bystander_is_well("bubblewrap")
        finally:
            server.stop()
        deadline = time.monotonic() + 10
        while (found := leftovers(server)) and time.monotonic() < deadline:
            await anyio.sleep(0.1)
        assert not found


NONSENSE = b"\xff\xfe\n{}\n[]\n\n\r\nnull\n" + b"[" * 200_000 + b'\n{"jsonrpc":"2.0","id":NaN,"method":3}\n\0\0\0\n'


@pytest.mark.usefixtures("own_home")
@pytest.mark.parametrize(
    ("nonsense", "lives"), [(NONSENSE, True), (b"x" * (9 << 20) + b"\n", False)], ids=["lines", "long"]
)
async def test_nonsense_on_stdio_is_answered_or_ends_that_connection_only(nonsense: bytes, lives: bool) -> None:
    hello = {
        "jsonrpc": "2.0",
        "id": "hello",
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "raw", "version": "1"},
        },
    }
    command = [*CLI, "serve", "toy", "--session", "one", "--sandbox", "bubblewrap"]

    def talk(first: bytes) -> bytes:
        data = first + json.dumps(hello).encode() + b"\n"
        return subprocess.run(command, input=data, capture_output=True, timeout=60, check=False).stdout

    assert (b'"id":"hello"' in talk(nonsense)) == lives
    assert b'"id":"hello"' in talk(b""), "the host serves the next connection"
