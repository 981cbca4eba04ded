"""The command line as a person or a program uses it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from mcp import Client

from mlgym_mcp.cli.entry import greeting_of
from mlgym_mcp.cli.http_server import parse_address
from mlgym_mcp.records.episodes import episode_folders
from tests.serving.conftest import CLI, light, own_home, playing, running_host, text_of
from tests.toy import CSV

__all__ = ["light", "own_home"]  # fixtures

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("own_home")]


def run(*arguments: str, status: int = 0) -> str:
    done = subprocess.run([*CLI, *arguments], capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == status, f"{arguments}: {done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout if status == 0 else done.stderr


async def played() -> str:
    """Play one short episode and return its name."""
    async with running_host() as host, playing(host, seed=3) as (client, session):
        await text_of(client, "write_file", path="submission.csv", content=CSV)
        await text_of(client, "validate")
        await text_of(client, "submit")
        await session.wait_ended()
        return session.episode.id


def test_tasks_are_listed_shown_and_prepared() -> None:
    (listed,) = json.loads(run("tasks", "list", "--json"))
    assert listed["id"] == "toy"
    assert listed["data"] == {"mini": "missing"}
    assert "Prepared toy/mini: README.md" in run("tasks", "prepare", "toy")
    assert "is ready" in run("tasks", "prepare", "toy")
    assert json.loads(run("tasks", "list", "--json"))[0]["data"] == {"mini": "ready"}
    assert "toy/mini" in run("tasks", "list")
    shown = run("tasks", "show", "toy")
    assert "Guess, in preset mini. Baseline 0.50." in shown
    assert "accuracy, higher is better" in shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("tasks", "show", "toi"), "there is no task 'toi'; did you mean 'toy'?"),
        (("tasks", "show", "toy", "--preset", "huge"), "has no preset 'huge'; it has: mini"),
        (("tasks", "check"), "name one task, or pass --all"),
        (("episodes", "show", "nothing"), "there is no episode 'nothing'"),
        (("serve", "toy", "--http", "8000"), "--http wants HOST:PORT"),
        (("serve", "toy", "--http", "0.0.0.0:0"), "can be reached from other machines: name the hosts"),
        (("host", "status"), "no host is running"),
        (("environments", "prepare", "heavy"), "there is no environment 'heavy'"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(arguments: tuple[str, ...], expected: str) -> None:
    assert expected in " ".join(run(*arguments, status=1).split())


async def test_episodes_are_listed_and_shown() -> None:
    name = await played()
    (listed,) = json.loads(run("episodes", "list", "--json"))
    assert listed["id"] == name
    assert listed["outcome"] == "scored"
    assert listed["seed"] == 3
    assert listed["calls"] == 3
    assert listed["value"] == listed["score"]["metrics"]["accuracy"]
    assert name in run("episodes", "list")
    shown = run("episodes", "show", "last")
    assert "write_file(path=submission.csv" in shown
    assert "scored" in shown
    assert json.loads(run("episodes", "show", name[:15], "--json"))["events"][0]["type"] == "session"


async def test_an_edited_episode_is_shown_as_damaged_and_not_as_a_score() -> None:
    await played()
    (folder,) = episode_folders()
    journal = folder / "events.jsonl"
    journal.write_text(journal.read_text().replace('"accuracy":0.', '"accuracy":1.'))
    (listed,) = json.loads(run("episodes", "list", "--json"))
    assert listed["outcome"] == "live"
    assert listed["value"] is None
    assert "damaged at event" in listed["damage"]


def test_the_doctor_says_what_is_here_and_what_mends_the_rest() -> None:
    done = subprocess.run([*CLI, "doctor", "--json"], capture_output=True, text=True, check=False)
    groups = json.loads(done.stdout)
    assert set(groups) == {"bubblewrap", "docker", "machine", "environments", "data"}
    data = next(check for check in groups["data"] if check["name"] == "data toy/mini")
    assert not data["ok"]
    assert data["mend"] == "mlgym-mcp tasks prepare toy --preset mini"
    usable = groups["bubblewrap"][-1]["ok"] or groups["docker"][-1]["ok"]
    assert done.returncode == (0 if usable else 1)


async def test_serve_over_http_prints_a_url_that_a_client_can_use_and_ends_on_a_signal() -> None:
    command = [*CLI, "serve", "toy", "--http", "127.0.0.1:0", "--sandbox", "bubblewrap", "--calls", "7"]
    async with await anyio.open_process(command, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        printed = b""
        with anyio.fail_after(60):
            while b"The sandbox is ready." not in printed:
                printed += await process.stdout.receive()
        url = next(word for word in printed.decode().split() if word.startswith("http://127.0.0.1:"))
        async with Client(url) as client:
            status = (await client.call_tool("status", {})).structured_content
            assert status["budget"]["calls"] == 7
        process.send_signal(signal.SIGTERM)
        with anyio.fail_after(30):
            assert await process.wait() == 0
    (folder,) = episode_folders()
    assert (folder / "events.jsonl").read_text().count('"type":"end"') == 1


def test_a_port_that_is_taken_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = run("serve", "toy", "--http", f"127.0.0.1:{port}", status=1)
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another port" in " ".join(said.split())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["toy"], {"task": "toy", "preset": "mini", "budget": {}}),
        (["toy", "--preset=full", "--seed", "3"], {"task": "toy", "preset": "full", "seed": 3, "budget": {}}),
        (
            ["toy", "--calls", "5", "--wall=9.5"],
            {"task": "toy", "preset": "mini", "budget": {"calls": 5, "wall_s": 9.5}},
        ),
        (["toy", "--unsafe"], {"task": "toy", "preset": "mini", "budget": {}, "unsafe": True}),
        (["toy", "--http", "127.0.0.1:1"], None),
        (["toy", "other"], None),
        (["toy", "--calls", "many"], None),
        (["--help"], None),
        ([], {}),
    ],
)
def test_the_relays_short_way_reads_what_it_knows_and_leaves_the_rest(arguments: list[str], expected: object) -> None:
    assert greeting_of(arguments) == expected


def test_addresses_are_read() -> None:
    assert parse_address("127.0.0.1:8000") == ("127.0.0.1", 8000)
    assert parse_address("[::1]:0") == ("::1", 0)
    with pytest.raises(ValueError, match="HOST:PORT"):
        parse_address("localhost")


def test_the_relay_loads_no_library_before_it_speaks() -> None:
    code = (
        "import sys; sys.argv=['x']; import mlgym_mcp.cli.entry, mlgym_mcp.serving.relay\n"
        "heavy = {'mcp','pydantic','anyio','typer','rich','docker','asyncio'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("command", [[], ["tasks"], ["serve"], ["episodes"], ["images"], ["doctor"], ["host"]])
def test_every_command_has_help(command: list[str]) -> None:
    assert "Usage" in run(*command, "--help")


def test_the_background_host_ends_by_itself_when_it_has_nothing_to_do(own_home: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "mlgym_mcp.serving", "--idle", "0.2"], timeout=60, check=False)
    assert done.returncode == 0
    assert not (own_home / "run" / "host.sock").exists()
