"""Toy tasks, toy submissions, and sandboxes for their players."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from mlgym_mcp.grading.grader_process import GradeResult, GradeSpec, PlayerLimits, grade
from mlgym_mcp.grading.snapshot import Snapshot, store_snapshot
from mlgym_sandbox.errors import SandboxLostError


@dataclass(frozen=True)
class Status:
    exit_code: int | None
    reason: str | None = None
    oom: bool = False


class LocalStream:
    """A plain process with its pipes: what a player needs of a sandbox, and no isolation at all."""

    def __init__(self, process: anyio.abc.Process, stderr: Path) -> None:
        self._process = process
        self._stderr = stderr

    async def send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send(data)

    async def receive(self) -> bytes:
        assert self._process.stdout is not None
        return await self._process.stdout.receive()

    async def close_stdin(self) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.aclose()

    async def wait(self, timeout_s: float) -> Status:
        with anyio.move_on_after(timeout_s):
            await self._process.wait()
        return Status(self._process.returncode)

    async def stderr(self, limit: int = 8192) -> bytes:
        return self._stderr.read_bytes()[-limit:]

    async def aclose(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        await self._process.aclose()


class LostStream(LocalStream):
    """A stream whose connection breaks when the first answer is waited for."""

    async def receive(self) -> bytes:
        raise SandboxLostError("the engine was stopped")


class LocalSandbox:
    """A folder and one process in it; for tests of the grading alone."""

    streams = LocalStream

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        self.folder = folder
        self.python = python
        self.closed = False
        self.stream: LocalStream | None = None

    async def untar(self, data: bytes, path: str = "/workspace") -> None:
        self.folder.mkdir()
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            tar.extractall(
                self.folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {})
            )  # Python 3.11.2 has no filters

    async def open_stream(
        self,
        command: str | Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> LocalStream:
        assert not isinstance(command, str)
        stderr = self.folder.with_suffix(".stderr")
        with stderr.open("wb") as out:
            process = await anyio.open_process(
                [self.python, *command[1:]],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=out,
                cwd=self.folder,
                env={"PATH": os.defpath},
                start_new_session=True,
            )
        self.stream = self.streams(process, stderr)
        return self.stream

    async def close(self) -> None:
        self.closed = True
        if self.stream is not None:
            await self.stream.aclose()
        shutil.rmtree(self.folder, ignore_errors=True)


class LostSandbox(LocalSandbox):
    """A sandbox whose engine stops while it is used."""

    streams = LostStream


@dataclass
class Sandboxes:
    """Makes sandboxes for players and remembers them."""

    folder: Path
    made: list[Any] = field(default_factory=list)
    kind: type[LocalSandbox] = LocalSandbox
    python: str = sys.executable
    lost: type[LocalSandbox] = LostSandbox

    async def __call__(self) -> LocalSandbox:
        sandbox = self.kind(self.folder / f"player-{len(self.made)}", self.python)
        self.made.append(sandbox)
        return sandbox


@pytest.fixture
async def sandboxes(tmp_path: Path) -> AsyncIterator[Sandboxes]:
    made = Sandboxes(tmp_path)
    yield made
    assert all(sandbox.closed for sandbox in made.made), "a player's sandbox was left behind"


MakeTar = Callable[[Mapping[str, bytes | str]], bytes]


@pytest.fixture
def make_tar() -> MakeTar:
    def make(files: Mapping[str, bytes | str]) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name, content in files.items():
                data = content.encode() if isinstance(content, str) else content
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return out.getvalue()

    return make


@dataclass
class Bench:
    """Grades a submission with a grader, both given as text."""

    folder: Path
    sandboxes: Sandboxes
    tar: MakeTar
    limits: PlayerLimits = field(default_factory=lambda: PlayerLimits(call_timeout_s=5, load_timeout_s=20))
    timeout_s: float = 60
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=lambda: {"score": (0.0, 1.0)})
    player_factory: Callable[[], Awaitable[Any]] | None = None

    async def snapshot(self, files: Mapping[str, bytes | str]) -> Snapshot:
        return await store_snapshot(self.tar(files), self.folder / "episode", max_bytes=1 << 20, max_files=20)

    async def grade(
        self, grader: str, files: Mapping[str, bytes | str], split: str = "val", **options: Any
    ) -> GradeResult:
        task = self.folder / "task"
        for name in ("task", "public", "private"):
            (self.folder / name).mkdir(exist_ok=True)
        (task / "grader.py").write_text("from mlgym_mcp.grading.api import *\n" + grader)
        spec = GradeSpec(
            task="toy",
            preset="mini",
            bounds=self.bounds,
            params={"rounds": 3},
            timeout_s=self.timeout_s,
            player=self.limits,
        )
        return await grade(
            task,
            spec,
            split,  # type: ignore[arg-type]
            await self.snapshot(files),
            self.folder / "public",
            self.folder / "private",
            b"w" * 32,
            python=sys.executable,
            player_factory=self.player_factory or self.sandboxes,
            **options,
        )


@pytest.fixture
def bench(tmp_path: Path, sandboxes: Sandboxes, make_tar: MakeTar) -> Bench:
    return Bench(tmp_path, sandboxes, make_tar)
