"""Claude Code and Codex attempt tasks as their users would have them, and reach nothing but us and their models."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mlgym_mcp.records.episodes import episode_folders, summarize
from mlgym_mcp.session.journal import read_journal
from tests.desktop.attempts import ATTEMPTS, connect, host_of_both, results
from tests.desktop.clients import MODEL
from tests.desktop.loopback import cut_off
from tests.desktop.more_clients import CLIENTS
from tests.frameworks import matrix
from tests.frameworks.playing import SCORE
from tests.frameworks.scripted_model import FINAL, Does, scripted_model

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.usefixtures("home")]


@pytest.mark.parametrize(
    ("title", "transport", "task", "era"),
    [
        ("Claude Code", "stdio", "house_price", "2026-07-28"),
        ("Claude Code", "HTTP", "toy", "2026-07-28"),
        ("Codex", "stdio", "toy", "2025-06-18"),
        ("Codex", "HTTP", "house_price", "2025-06-18"),
        pytest.param("Gemini CLI", "stdio", "house_price", "2025-06-18", marks=pytest.mark.frameworks),
        pytest.param("Gemini CLI", "HTTP", "toy", "2025-06-18", marks=pytest.mark.frameworks),
        pytest.param("opencode", "stdio", "toy", "2025-11-25", marks=pytest.mark.frameworks),
        pytest.param("opencode", "HTTP", "house_price", "2025-11-25", marks=pytest.mark.frameworks),
        pytest.param("GitHub Copilot CLI", "stdio", "toy", "2026-07-28", marks=pytest.mark.frameworks),
        pytest.param("GitHub Copilot CLI", "HTTP", "house_price", "2026-07-28", marks=pytest.mark.frameworks),
    ],
)
async def test_a_client_attempts_a_task_to_its_score(
    title: str, transport: str, task: str, era: str, program: list[str], place: Path, backend: str
) -> None:
    script = ATTEMPTS[task]
    before = set(episode_folders())
    async with scripted_model(**{MODEL: script}) as model, host_of_both(backend) as host:
        client = CLIENTS[title](program, place, model.url)
        await connect(client, transport, task, host)
        assert FINAL in await client.run()
    (folder,) = set(episode_folders()) - before
    events, summary = list(read_journal(folder)), summarize(folder)
    calls = [event for event in events if event.type == "call"]
    assert [call["tool"] for call in calls] == [turn.tool for turn in script if isinstance(turn, Does)]
    assert {call["era"] for call in calls} == {era}
    (begun,) = results(events, "shell")
    assert "is still running" in begun["text"], "a job that outlives its call"
    assert "[exit 0" in results(events, "job_wait")[-1]["text"]
    assert (summary.task, summary.preset, summary.outcome) == (task, "mini", "scored")
    assert summary.value is not None
    if task == "toy":
        assert summary.value == SCORE
    else:
        assert summary.baseline is not None
        assert summary.value > summary.baseline
    *_, final = (event for event in events if event.type == "score")
    told = json.dumps(model.asked[-1])
    assert str(final["shown"]) in told or "Submitted. Test score" in told, "the model was told its score"
    assert not model.elsewhere
    matrix.record(title, transport, era, f"{summary.outcome}: {len(calls)} calls", version=client.version())


@pytest.mark.frameworks
@pytest.mark.parametrize("title", ["Gemini CLI", "opencode", "GitHub Copilot CLI"])
async def test_of_a_long_result_the_model_sees_its_head_its_end_and_how_to_read_the_rest(
    title: str, program: list[str], place: Path, backend: str
) -> None:
    script = (Does("shell", {"command": "seq -f 'line %095.0f' 1 2000"}),)
    async with scripted_model(**{MODEL: script}) as model, host_of_both(backend) as host:
        client = CLIENTS[title](program, place, model.url)
        await connect(client, "HTTP", "toy", host)
        assert FINAL in await client.run()
    shown = json.dumps(model.asked[-1])
    assert f"line {1:095}" in shown
    assert "shows them ...]" in shown
    assert f"line {2000:095}" in shown


REACHING = """\
import socket, sys
for port in map(int, sys.argv[1:]):
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(b"hello")
            print(connection.recv(100).decode())
    except OSError as exc:
        print(type(exc).__name__)
try:
    socket.create_connection(("192.0.2.1", 443), 5)
except OSError as exc:
    print(exc.strerror)
print(*(name for _, name in socket.if_nameindex()))
"""


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="no bubblewrap")
def test_what_the_clients_run_in_has_no_network_but_the_ports_that_are_named(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as named, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [str(server.getsockname()[1]) for server in (named, other)]
        with cut_off([sys.executable, "-c", REACHING, *ports], [int(ports[0])], place) as command:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            with named.accept()[0] as connection:
                connection.sendall(connection.recv(100).upper())
            said, _ = process.communicate(timeout=30)
    assert said.splitlines() == ["HELLO", "ConnectionRefusedError", "Network is unreachable", "lo"]
