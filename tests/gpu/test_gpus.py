"""Sessions with a real GPU: they have it alone, give it back, train and are graded on it. Skipped where there is none.

Two tasks are played in copies whose ``mini`` presets ask for one GPU, so that no data has to be fetched. All the GPUs
but the first are kept out of it, so that there is something to wait for.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import anyio
import pytest
from mcp import Client

from mlgym_clients.agents.calling import Caller
from mlgym_clients.episode_player import connected
from mlgym_clients.rl.servers import Address, running_server
from mlgym_clients.sweep.control import Control
from mlgym_mcp.api import ScoreView, SessionRequest, SessionView
from mlgym_sandbox import environment
from mlgym_sandbox.gpus import discover
from tests.serving.conftest import CLI, light, text_of

__all__ = ["light"]  # fixtures

GPUS = discover().gpus
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not GPUS, reason="no GPU on this machine"),
]

TASKS = Path(__file__).parents[2] / "tasks"
PLAYER = "{ cpus = 2, memory_mb = 8192, gpus = 1, pids = 256, total_timeout_s = 120, load_timeout_s = 120 }"
WANTED = {
    "cifar10": "gpus = 1\ngpu_memory_gb = 8\n",
    "language_modeling": f"gpus = 1\ngpu_memory_gb = 8\nplayer = {PLAYER}\n",
    "blotto": "",
}
ASK = "python -c 'import torch; print(torch.cuda.device_count(), torch.cuda.is_available() and torch.zeros(1).cuda())'"
HOLD = """\
import time, torch
held = torch.ones(6 << 30, dtype=torch.uint8, device="cuda")
torch.cuda.synchronize()
open("held.txt", "w").close()
time.sleep(600)
"""


@pytest.fixture(scope="module")
def server(light: environment.Environment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """A server process with the tasks, their data and one GPU."""
    place = tmp_path_factory.mktemp("gpu")
    torch = anyio.run(environment.prepare, "torch")
    (place / "home" / "environments").mkdir(parents=True, mode=0o700)
    for made in (light, torch):
        (place / "home" / "environments" / made.path.name).symlink_to(made.path)
    for task, wanted in WANTED.items():
        shutil.copytree(TASKS / task, place / "tasks" / task)
        file = place / "tasks" / task / "task.toml"
        text = re.sub(r"(?m)^memory_mb = 4096$", "memory_mb = 12288", file.read_text())
        file.write_text(text.replace("[presets.mini]\n", f"[presets.mini]\n{wanted}", 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLGYM_HOME", str(place / "home"))
        patch.setenv("MLGYM_TASKS", str(place / "tasks"))
        patch.setenv("MLGYM_GPUS", GPUS[0].id)
        for task in WANTED:
            subprocess.run([*CLI, "tasks", "prepare", task], check=True, stdout=subprocess.DEVNULL)
        with running_server("--sandbox", "bubblewrap") as address:
            yield address


@asynccontextmanager
async def session(server: Address, task: str) -> AsyncIterator[tuple[Control, SessionView, Client]]:
    """A session, ended at the end, and a client of it."""
    async with Control(server.url, server.token) as control:
        view = await control.create(SessionRequest(task=task))
        try:
            assert view.token is not None
            async with connected(view.mcp_url, view.token) as client:
                yield control, view, client
        finally:
            await control.end(view.id)


async def score_of(client: Client, kind: Literal["validate", "submit"]) -> ScoreView:
    """Ask for a score, and wait for it."""
    with anyio.fail_after(200):
        return ScoreView.model_validate((await Caller(client).score(kind)).structured)


def memory_used() -> int:
    """Of the leased device, MiB, as the driver has it."""
    query = ["nvidia-smi", f"--id={GPUS[0].id}", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(query, check=True, capture_output=True, text=True).stdout)


async def test_the_doctor_names_the_gpus(server: Address) -> None:
    told = subprocess.run([*CLI, "doctor", "--json"], check=False, capture_output=True, text=True).stdout
    (line,) = [check for check in json.loads(told)["machine"] if check["name"] == "GPUs"]
    assert line["ok"]
    assert GPUS[0].id in line["detail"]


async def test_a_session_sees_the_gpu_that_it_leased_and_one_that_asked_for_none_sees_none(server: Address) -> None:
    async with session(server, "cifar10") as (_, _, client):
        assert (await text_of(client, "shell", command=ASK)).startswith("1 tensor([0.], device='cuda:0')")
        assert f"GPU {GPUS[0].number}" in await text_of(client, "shell", command="nvidia-smi -L || true")
        nodes = (await text_of(client, "shell", command="ls /dev | grep -x 'nvidia[0-9]*'")).split("\n")
        assert nodes[:-1] == [Path(node).name for node in GPUS[0].nodes[:1]]
    async with session(server, "blotto") as (_, _, client):
        said = await text_of(client, "shell", command="ls /dev | grep -c nvidia; echo $CUDA_VISIBLE_DEVICES")
        assert said.startswith("0\n\n[exit 0")


async def test_the_next_session_waits_for_the_gpu_and_finds_its_memory_free(server: Address) -> None:
    idle = memory_used()
    async with session(server, "cifar10") as (control, first, client), anyio.create_task_group() as tasks:
        await client.call_tool("write_file", {"path": "hold.py", "content": HOLD})
        tasks.start_soon(client.call_tool, "shell", {"command": "python hold.py"})
        with anyio.fail_after(60):
            while "held.txt" not in await text_of(client, "list_files"):
                await anyio.sleep(0.1)
        assert memory_used() >= idle + 6000
        second = await control.create(SessionRequest(task="cifar10"))
        try:
            with anyio.fail_after(30):
                while "GPU" not in second.detail:
                    second = await control.session(second.id) or second
                    await anyio.sleep(0.05)
            assert second.state == "preparing"
            await control.end(first.id)  # with the job still on the GPU
            with anyio.fail_after(30):
                while second.state == "preparing":
                    second = await control.session(second.id) or second
                    await anyio.sleep(0.05)
            assert second.state == "ready"
            assert memory_used() < idle + 1000, "nothing of the session before is left on the GPU"
        finally:
            await control.end(second.id)
            tasks.cancel_scope.cancel()


async def test_a_baseline_trains_on_the_gpu_and_scores(server: Address) -> None:
    async with session(server, "cifar10") as (_, _, client):
        said = await text_of(client, "shell", command="python -c 'import baseline; print(baseline.DEVICE)'")
        assert said.startswith("cuda\n")
        caller = Caller(client)
        with anyio.fail_after(200):
            result = await caller.finished(await caller.call("shell", {"command": "python -u baseline.py"}))
        assert "[exit 0" in result.text, result.text
        assert (await score_of(client, "validate")).valid
        final = await score_of(client, "submit")
        assert final.score is not None
        assert final.score > 0.3


async def test_a_submitted_model_answers_the_graders_questions_on_the_gpu(server: Address) -> None:
    """The model refuses to be without one, wherever it runs: here, and where the grader asks it."""
    async with session(server, "language_modeling") as (_, _, client):
        await client.call_tool("shell", {"command": "sed -i 's/^DEVICE = .*/DEVICE = \"cuda\"/' model.py"})
        await client.call_tool("shell", {"command": "echo 'assert torch.cuda.is_available()' >> model.py"})
        said = await text_of(client, "shell", command="python -u baseline.py 200")
        assert "[exit 0" in said, said
        final = await score_of(client, "submit")
        assert final.valid, final.reason
        assert final.score is not None
        assert final.score < 8.0, "eight bits a byte is what knowing nothing costs"


async def test_a_sweep_of_more_attempts_than_gpus_scores_them_all(server: Address, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(server.token)
    command = [*CLI, "eval", "--tasks", "cifar10", "--agents", "baseline", "--seeds", "2", "--max-sessions", "2"]
    command += [
        "--server",
        server.url,
        "--token-file",
        str(tmp_path / "token"),
        "--out",
        str(tmp_path / "sweep"),
        "--json",
    ]
    done = await anyio.run_process(command, check=False)
    assert done.returncode == 0, done.stderr.decode()
    lines = [json.loads(line) for line in (tmp_path / "sweep" / "attempts.jsonl").read_text().splitlines()]
    assert [line["outcome"] for line in lines] == ["scored"] * 2
