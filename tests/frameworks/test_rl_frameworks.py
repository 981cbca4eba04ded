"""Trainers and evaluators of others roll out tasks, each in its own environment: verifiers and TRL."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from mlgym_clients.rl.servers import Address, running_server
from mlgym_mcp.records.episodes import episode_folders, summarize
from mlgym_mcp.session.journal import read_journal
from tests.frameworks import matrix
from tests.frameworks.environments import REQUIREMENTS, cache_folder, indexes, python_of
from tests.frameworks.playing import SCORE, SOLVE, version_of
from tests.frameworks.scripted_model import Does, scripted_model
from tests.sweep.conftest import server_arguments

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = REQUIREMENTS.parents[2]
GAIN = (SCORE - 0.5) / 0.5


@pytest.fixture
def server(place: Path, backend: str) -> Iterator[Address]:
    with running_server(*server_arguments(backend)) as address:
        yield address


def noted(client: str, environment: str, calls: int) -> None:
    """Check that two rollouts were whole attempts in episodes of their own, and note them for the matrix."""
    played = [summarize(folder) for folder in episode_folders()]
    assert [(episode.outcome, episode.value) for episode in played] == [("scored", SCORE)] * 2
    made = [[event.fields for event in read_journal(folder) if event.type == "call"] for folder in episode_folders()]
    worked = [[call for call in each if call["tool"] not in ("status", "get_task")] for each in made]
    assert [len(each) for each in worked] == [calls] * 2
    (era,) = {str(call["era"]) for each in worked for call in each}
    matrix.record(client, "HTTP", era, f"scored: 2 rollouts of {calls} calls", version=version_of(environment))


async def run(command: list[str], place: Path, **settings: str) -> str:
    environ = {"PATH": os.environ["PATH"], "HOME": str(place), "LANG": "C.UTF-8", **settings}
    with anyio.fail_after(400):
        done = await anyio.run_process(command, check=False, env=environ, cwd=place)
    assert done.returncode == 0, f"{done.stdout.decode()[-8000:]}\n{done.stderr.decode()[-8000:]}"
    return done.stdout.decode()


async def test_verifiers_rolls_out_sessions_of_their_own(server: Address, place: Path) -> None:
    python = await anyio.to_thread.run_sync(python_of, "verifiers_env")
    turns = (
        *(Does("get_task"), Does("write_file", {"path": "solve.py", "content": SOLVE})),
        *(Does("shell", {"command": "python solve.py"}), Does("validate"), Does("submit")),
    )
    async with scripted_model(player=turns) as model:
        command = [
            *(str(python.with_name("vf-eval")), "verifiers_env", "-r", "2", "-o", str(place / "out")),
            *("-m", "player", "--client.base-url", f"{model.url}/v1", "--client.api-key-var", "SCRIPTED_API_KEY"),
            *("--env.agent.harness.id", "null", "--env.agent.runtime.type", "subprocess", "--no-push", "--no-rich"),
            *("--env.taskset.tasks", '["toy"]'),
        ]
        await run(
            command,
            place,
            **_for_uv(),
            PATH=f"{python.parent}{os.pathsep}{os.environ['PATH']}",
            PYTHONPATH=str(REQUIREMENTS.parent),
            MLGYM_SERVER=server.url,
            MLGYM_ADMIN_TOKEN=server.token,
            SCRIPTED_API_KEY="sk-scripted",
        )
    (file,) = (place / "out").glob("*/traces.jsonl")
    assert server.token not in file.read_text()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert not [error for line in lines for trace in line["traces"] for error in trace["errors"]]
    rewards = [trace["rewards"]["gain"]["score"] for line in lines for trace in line["traces"]]
    assert rewards == pytest.approx([GAIN] * 2)
    noted("verifiers", "verifiers_env", calls=4)


async def test_trl_trains_on_what_rollouts_paid(server: Address, place: Path) -> None:
    python = await anyio.to_thread.run_sync(python_of, "trl_grpo")
    answers = [
        _call("write_file", path="solve.py", content=SOLVE),
        *(_call("shell", command="python solve.py"), _call("validate"), _call("submit"), "Done."),
    ]
    output = await run(
        [str(python), str(Path(__file__).with_name("forced_grpo.py")), str(place), "toy", *answers],
        place,
        PYTHONPATH=os.pathsep.join(map(str, (REQUIREMENTS.parent, ROOT, ROOT / "clients", ROOT / "sandbox"))),
        MLGYM_SERVER=server.url,
        MLGYM_ADMIN_TOKEN=server.token,
        HF_HUB_OFFLINE="1",
        TRL_EXPERIMENTAL_SILENCE="1",
        CUDA_VISIBLE_DEVICES="",
    )
    said = dict(line.split(": ", 1) for line in output.splitlines() if ": " in line and not line.startswith("{"))
    assert said["tools"] == "edit_file read_file shell submit validate write_file"
    assert float(said["reward"]) == pytest.approx(GAIN)
    noted("TRL", "trl_grpo", calls=4)


def _for_uv() -> dict[str, str]:
    """What uv is told here: verifiers makes an environment with it for its harness, and shall find it again."""
    told = {name: value for name, value in os.environ.items() if name.startswith(("UV_", "SSL_"))}
    return {**told, **indexes(), "UV_CACHE_DIR": str(cache_folder() / "uv-cache")}


def _call(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"
