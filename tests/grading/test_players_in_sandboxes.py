"""The same players in real sandboxes: the whole path from a snapshot to a score, and what is out of reach."""

from __future__ import annotations

import secrets
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from mlgym_mcp.grading.grader_process import PlayerLimits
from mlgym_mcp.grading.player_host import player_sandbox_spec
from mlgym_sandbox import BackendUnavailableError, get_backend
from mlgym_sandbox.environment import prepare

pytestmark = pytest.mark.anyio

GRADER = """
def grade(ctx):
    with ctx.player("strategy.py", "matches") as player:
        player.start(1)
        moves = []
        for turn in range(4):
            moves += player.moves([0], [(0, moves[-1], 1)] if moves else [], low=0, high=1)
    return Score({"score": sum(moves) / 4})
"""
COPY = "def move(history):\n    return history[-1][1] if history else 0\n"


@pytest.fixture(params=["process", pytest.param("bubblewrap", marks=pytest.mark.bubblewrap)])
async def real(
    request: pytest.FixtureRequest, bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Any]:
    """A bench whose players live in sandboxes of a backend."""
    monkeypatch.setenv("MLGYM_HOME", str(tmp_path / "home"))
    backend = get_backend(request.param, unsafe=True)
    labels = {"mlgym.test": secrets.token_hex(4)}
    await prepare("bare")

    async def make() -> Any:
        name = f"player-{secrets.token_hex(6)}"
        return await backend.create(
            player_sandbox_spec(name, environment="bare", image="mlgym-light", storage_mb=64, labels=labels)
        )

    try:
        first = await make()
    except BackendUnavailableError as error:
        pytest.skip(str(error))
    await first.close()
    bench.player_factory = make
    bench.limits = PlayerLimits(call_timeout_s=5, load_timeout_s=20, total_timeout_s=30)
    yield bench
    assert await backend.find(labels) == [] or await backend.find(labels) == ()


async def test_an_honest_strategy_is_scored_in_a_sandbox(real: Any) -> None:
    result = await real.grade(GRADER, {"strategy.py": "print('loaded')\n" + COPY})
    assert result.metrics == {"score": 0.75}
    assert "loaded" in result.public["player_stderr"][0]


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("import os\nprint('{\"score\": 1}')\nos._exit(0)\n", "crash"),
        ("import time\ndef move(h):\n    time.sleep(600)\n", "timeout"),
        ("import os\nos.write(1, b'\\xff' * 100)\nwhile True: os.write(11, b'\\xff' * 65536)\n", "protocol"),
        ("import os\nwhile True: os.write(1, b'x' * 65536)\n", "timeout"),
        ("import os\nfor _ in range(200):\n    os.fork()\n", None),
        ("import os, signal\nos.kill(-1, signal.SIGKILL)\n", "crash"),
        ("import os, signal\nos.setsid()\nos.fork() or os.execvp('sleep', ['sleep', '600'])\n" + COPY, None),
    ],
)
async def test_an_attack_ends_in_a_typed_reason_and_an_empty_house(
    real: Any, request: pytest.FixtureRequest, program: str, code: str | None
) -> None:
    if "process" in request.node.callspec.id and ("kill(-1" in program or "fork()\n" in program):
        pytest.skip("the process backend isolates nothing: this would hit the machine")
    real.limits = PlayerLimits(call_timeout_s=1, load_timeout_s=2.5, total_timeout_s=30)
    result = await real.grade(GRADER, {"strategy.py": program})
    if code is None:
        assert result.valid or result.reason_code in ("crash", "timeout", "protocol")
    else:
        assert (result.valid, result.reason_code) == (False, code)


LOOK = """
import os, socket, sys
def read(path):
    try:
        return open(path, "rb").read(100_000).decode("latin-1")
    except OSError:
        return ""
def look(paths):
    found = {"read": [path for path in paths if os.path.exists(path)]}
    words = [read(f"/proc/{pid}/{what}") for pid in os.listdir("/proc") if pid.isdigit()
             for what in ("environ", "cmdline")]
    found["secret"] = any("7777777777" in text for text in words)
    found["data"] = os.listdir("/data") if os.path.isdir("/data") else []
    try:
        socket.create_connection(("192.0.2.1", 9), timeout=1)
        found["network"] = True
    except OSError:
        found["network"] = False
    found["uid"] = os.getuid()
    return found
"""


async def test_nothing_hidden_is_in_a_players_sandbox(
    real: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if "process" in request.node.callspec.id:
        pytest.skip("the process backend isolates nothing")
    (tmp_path / "private").mkdir()
    labels = tmp_path / "private" / "labels.txt"
    labels.write_text("7777777777")
    hidden = [str(labels), str(tmp_path), str(tmp_path / "task" / "grader.py"), str(Path(__file__).parent)]
    grader = f"""
def grade(ctx):
    ctx.private("labels.txt")
    with ctx.player("look.py", "call") as player:
        return Score({{"score": 0.0}}, private=player.function("look", {hidden!r}))
"""
    seen = (await real.grade(grader, {"look.py": LOOK})).private
    assert seen["read"] == []
    assert not seen["secret"]
    assert seen["data"] == []
    assert not seen["network"]
    assert seen["uid"] != 0 or sys.platform != "linux"


async def test_a_cancelled_grading_removes_its_players_sandbox(real: Any) -> None:
    started = anyio.Event()
    make = real.player_factory

    async def noted() -> Any:
        sandbox = await make()
        started.set()
        return sandbox

    real.player_factory = noted
    with anyio.fail_after(40):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(real.grade, GRADER, {"strategy.py": "import time\ntime.sleep(600)\n"})
            await started.wait()
            tasks.cancel_scope.cancel()
