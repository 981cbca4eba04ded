"""Sessions that need GPUs, and sessions from the warm pool. The GPU is made up; the sandboxes are real."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from mlgym_mcp.catalog import Catalog
from mlgym_mcp.session.errors import RefusedError
from mlgym_mcp.session.leases import GpuDesk
from mlgym_mcp.session.leftovers import owner_labels
from mlgym_mcp.session.registry import SessionRegistry
from mlgym_mcp.session.session import Session
from mlgym_sandbox.backends import bubblewrap_gpus
from mlgym_sandbox.errors import BackendUnavailableError
from mlgym_sandbox.gpu_leases import LABEL as GPUS
from mlgym_sandbox.gpus import Gpu, Inventory
from mlgym_sandbox.pool import LABEL as POOLED
from tests.serving.conftest import backend, light, own_home
from tests.toy import TASK, make_toy

__all__ = ["backend", "light", "own_home"]  # fixtures
pytestmark = pytest.mark.anyio

ONE = Inventory((Gpu("GPU-a", "NVIDIA H100", 81559, nodes=("/dev/nvidia0",)),), "a test")


@pytest.fixture
def needy(own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy task with a preset that needs a GPU, and bubblewrap without the devices that are not there."""
    wanted = TASK.replace("run_s = 10\n", "run_s = 10\ngpus = 1\ngpu_memory_gb = 16\n")
    monkeypatch.setenv("MLGYM_TASKS", str(make_toy(tmp_path / "needy", task=wanted)))
    monkeypatch.setattr(bubblewrap_gpus, "nodes", lambda gpus, known=None: ())


@asynccontextmanager
async def server(
    sandbox: str = "bubblewrap", found: Inventory = ONE, *, run: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[SessionRegistry]:
    async def look() -> Inventory:
        await anyio.lowlevel.checkpoint()
        return found

    registry = SessionRegistry(Catalog.default(), sandbox=sandbox, unsafe=True, wait_s=20, **options)
    registry.gpu_desk = GpuDesk(registry.backends.made, look=look, wait_s=options.get("gpu_wait_s", 60))
    async with registry.run(**run or {}):
        yield registry


async def phase(session: Session, words: str) -> None:
    with anyio.move_on_after(30):
        while words not in session.phase:
            await anyio.sleep(0.01)
    assert words in session.phase, (session.phase, session.over, session.gpus)


async def shell(session: Session, command: str) -> str:
    _, output = await (await session.sandbox()).run(command, wait_s=20)
    return output.data.decode()


bubblewrap = pytest.mark.bubblewrap


@pytest.fixture(autouse=True)
def _only_where_bubblewrap_is(request: pytest.FixtureRequest, backend: str) -> None:
    if request.node.get_closest_marker("bubblewrap") and backend != "bubblewrap":
        pytest.skip("no bubblewrap")


# ---------------------------------------------------------------------- GPUs


async def test_a_machine_without_gpus_refuses_at_creation_and_keeps_nothing(needy: None, own_home: Path) -> None:
    nothing = Inventory(problem="this machine has no GPU that can be seen; install its driver")
    async with server(found=nothing) as registry:
        with pytest.raises(BackendUnavailableError, match=r"a GPU with at least 16 GB is needed.*mini"):
            await registry.create("toy")
        assert registry.sessions() == []
    assert list((own_home / "episodes").rglob("*.jsonl")) == []
    assert list((own_home / "run" / "sessions").glob("*.json")) == []


async def test_the_process_backend_refuses_a_preset_with_gpus(needy: None) -> None:
    async with server("process") as registry:
        with pytest.raises(BackendUnavailableError, match="use docker or bubblewrap"):
            await registry.create("toy")


@bubblewrap
async def test_sessions_wait_in_line_for_the_gpu_and_get_it_when_one_ends(needy: None) -> None:
    async with server() as registry:
        first = await registry.create("toy")
        assert await shell(first, "echo $CUDA_VISIBLE_DEVICES") == "GPU-a\n"
        (found,) = await first.backend.find({GPUS: "GPU-a"})
        assert found.labels["mlgym.session"] == first.id
        second, third = await registry.create("toy"), await registry.create("toy")
        await phase(second, "waiting for a GPU (place 1 in the queue)")
        await phase(third, "place 2 in the queue")
        third.config = replace(third.config, wait_s=0.01)
        with pytest.raises(RefusedError, match="place 2 in the queue"):
            await third.sandbox()
        assert (registry.gpu_desk.waiting, registry.gpu_desk.owners) == (2, {"GPU-a": first.id})

        await second.end("abandoned", "it gave up waiting")
        await second.wait_ended()
        await phase(third, "place 1 in the queue")
        await first.end("abandoned", "enough")
        await phase(third, "ready")
        assert registry.gpu_desk.owners == {"GPU-a": third.id}
        assert third.gpus == ("GPU-a",)
    assert registry.gpu_desk.owners == {}


@bubblewrap
async def test_who_waits_too_long_ends_with_the_reason(needy: None) -> None:
    async with server(gpu_wait_s=0.2) as registry:
        first = await registry.create("toy")
        await phase(first, "ready")
        late = await registry.create("toy")
        with anyio.fail_after(20):
            over = await late.wait_ended()
        assert over.outcome == "infrastructure_error"
        assert "no GPU became free within 0.2 s" in over.reason
        assert first.over is None


@bubblewrap
async def test_the_next_server_knows_which_session_has_the_gpu(needy: None) -> None:
    leaving = {"address": "here", "on_stop": "detach"}
    async with server(run=leaving) as registry:
        session = await registry.create("toy")
        await phase(session, "ready")
    async with server(run={"address": "elsewhere"}) as stranger:  # not its session, but its GPU is in use
        other = await stranger.create("toy")
        await phase(other, "place 1 in the queue")
    async with server(run={"address": "here"}) as registry:
        again = registry.get(session.id)
        assert again is not None
        await phase(again, "ready")
        assert again.gpus == ("GPU-a",)
        assert registry.gpu_desk.owners == {"GPU-a": session.id}
        assert await shell(again, "echo $CUDA_VISIBLE_DEVICES") == "GPU-a\n"


# ---------------------------------------------------------------------- the warm pool


async def pool_filled(registry: SessionRegistry, count: int = 1) -> None:
    with anyio.fail_after(30):
        while registry.pool.ready != count:
            await anyio.sleep(0.01)


async def test_a_session_from_the_pool_is_like_any_other(own_home: Path, backend: str) -> None:
    async with server(backend, warm=1) as registry:
        first = await registry.create("toy", seed=1)
        await phase(first, "ready")
        await pool_filled(registry)
        second = await registry.create("toy", seed=2)
        assert await shell(second, "echo $MLGYM_SEED $MLGYM_TASK; ls") == "2 toy\nstart.py\n"
        assert str(second.sandbox_name).startswith("mlgym-warm-")
        (found,) = await second.backend.find({"mlgym.session": second.id})
        assert found.name == second.sandbox_name
        assert POOLED not in found.labels
        await pool_filled(registry)
        (waiting,) = await second.backend.find({POOLED: "1"})
        assert owner_labels().items() <= waiting.labels.items()  # by which the next server finds it
    everything = await second.backend.find({})
    assert list(everything) == []


async def test_a_session_from_the_pool_is_taken_over_by_the_next_server(own_home: Path, backend: str) -> None:
    async with server(backend, warm=1, run={"address": "here", "on_stop": "detach"}) as registry:
        await phase(await registry.create("toy"), "ready")
        await pool_filled(registry)
        session = await registry.create("toy", seed=9)
        await phase(session, "ready")
        name = session.sandbox_name
        assert str(name).startswith("mlgym-warm-")
    async with server(backend, run={"address": "here"}) as registry:
        again = registry.get(session.id)
        assert again is not None
        assert await shell(again, "echo $MLGYM_SEED") == "9\n"
        assert again.sandbox_name == name
        assert list(await again.backend.find({POOLED: "1"})) == []
