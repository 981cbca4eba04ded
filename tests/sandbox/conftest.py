"""The backends as the tests see them: each is tried where it works, and in CI all must."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from mlgym_sandbox import Backend, JobStatus, Limits, Mount, Sandbox, SandboxSpec, get_backend
from mlgym_sandbox.backends.docker import DockerBackend
from mlgym_sandbox.backends.process import ProcessBackend
from tests.sandbox.engine import docker_home, engine, host_image, missing

__all__ = ["docker_home", "engine", "host_image"]  # fixtures

SMALL = Limits(cpus=1, memory_mb=384, pids=64, storage_mb=64, tmp_mb=16, output_mb=1)


@dataclass(frozen=True)
class Place:
    """One backend and what it needs to make a sandbox here."""

    backend: Backend
    data: Path
    image: str = ""

    @property
    def name(self) -> str:
        return self.backend.name

    @property
    def isolates(self) -> bool:
        return self.name != "process"

    def spec(self, **changes: Any) -> SandboxSpec:
        return SandboxSpec(
            **{
                "name": f"test-{secrets.token_hex(4)}",
                "image": self.image,
                "environment": "bare",
                "limits": SMALL,
                "mounts": (Mount(self.data, "/data"),),
                "labels": {"suite": "behaviour"},
                "ttl_s": 300.0,
                **changes,
            }
        )


@pytest.fixture(
    scope="session",
    params=[
        "process",
        pytest.param("bubblewrap", marks=pytest.mark.bubblewrap),
        pytest.param("docker", marks=pytest.mark.docker),
    ],
)
def place(
    request: pytest.FixtureRequest, docker_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    data = tmp_path_factory.mktemp("data")
    data.chmod(0o755)
    (data / "train.csv").write_text("id,label\n1,2\n")
    backend = get_backend(request.param, unsafe=True)
    if request.param == "docker":
        assert isinstance(backend, DockerBackend)
        request.getfixturevalue("engine")
        yield Place(backend, data, request.getfixturevalue("host_image"))
        anyio.run(backend.aclose)
        return
    verdict = anyio.run(backend.probe)[-1]
    if not verdict.ok:
        missing(f"{verdict.detail}; {verdict.mend}")
    yield Place(backend, data)


@pytest.fixture(scope="session")
def shared(place: Place) -> Iterator[str]:
    """The name of a sandbox that the tests of one backend share; each connects to it anew."""

    async def create() -> str:
        sandbox = await place.backend.create(place.spec())
        await sandbox.detach()
        return sandbox.name

    name = anyio.run(create)
    yield name
    anyio.run(place.backend.remove, name)


@pytest.fixture
async def box(place: Place, shared: str) -> AsyncIterator[Sandbox]:
    """A connection to the shared sandbox, tidy: nothing runs and the workspace is empty."""
    sandbox = await place.backend.attach(shared)
    await sandbox.kill_all()
    await run(sandbox, "chmod -R u+rwX . 2>/dev/null; find . -mindepth 1 -delete")
    yield sandbox
    await sandbox.detach()


@pytest.fixture
async def fresh(place: Place) -> AsyncIterator[Sandbox]:
    """A sandbox for this test alone."""
    sandbox = await place.backend.create(place.spec())
    yield sandbox
    await sandbox.close()


@pytest.fixture
def process_backend(docker_home: Path) -> ProcessBackend:
    return ProcessBackend(unsafe=True)


async def run(sandbox: Sandbox, command: str | list[str], **options: Any) -> tuple[JobStatus, str]:
    """Run a command to its end; return its status and output as text."""
    options.setdefault("wait_s", 30)
    status, output = await sandbox.run(command, **options)
    assert status.state != "running", f"still running: {command}"
    return status, output.data.decode(errors="replace")


async def nothing_runs(sandbox: Sandbox) -> None:
    with anyio.fail_after(10):
        while (await sandbox.usage()).processes:
            await anyio.sleep(0.02)
