"""No isolation at all: commands run as the server's own user, with all its rights. For tests and trusted machines.

``/workspace`` and ``/data`` are host folders that only file operations know by these names; commands find
them as their working directory and in ``DATA_DIR``. There are no limits on memory, processes or the network.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from mlgym_sandbox import environment
from mlgym_sandbox.backends.base import Backend, Found
from mlgym_sandbox.backends.local import LOG, LocalFolder, Record
from mlgym_sandbox.errors import BackendUnavailableError, SandboxError, SandboxLostError
from mlgym_sandbox.inside import compiled_runner, runner_config
from mlgym_sandbox.processes import process_started
from mlgym_sandbox.sandbox import Sandbox
from mlgym_sandbox.spec import DATA, WORKSPACE, Check, SandboxSpec

MIB = 1 << 20
_MARKER = "MLGYM_SANDBOX"
_DEATH_S = 5.0
_THREADS = anyio.CapacityLimiter(4)
_STARTED: dict[int, subprocess.Popen[bytes]] = {}
"""Runners that are children of this very process, to be reaped when they are removed."""


class ProcessBackend(Backend):
    """Commands as plain processes of this machine.

    Args:
        unsafe: must be true: whoever runs an agent this way gives it everything this user can do.

    Raises:
        BackendUnavailableError: ``unsafe`` is not set.
    """

    name = "process"

    def __init__(self, *, unsafe: bool) -> None:
        if not unsafe:
            raise BackendUnavailableError(
                "the process backend isolates nothing: an agent's commands could read and change all that you can; "
                "use docker or bubblewrap, or allow it with --unsafe (unsafe=True) on a machine you can afford to lose"
            )
        self._folder = LocalFolder("process")

    async def probe(self) -> Sequence[Check]:
        """Nothing is needed but Linux. See ``Backend.probe``."""
        ok = sys.platform == "linux"
        detail = "no isolation: for tests and trusted machines only" if ok else f"needs Linux, this is {sys.platform}"
        return [Check("process works", ok, detail, None if ok else "use the docker backend")]

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """Start a runner and connect to it. See ``Backend.create``."""
        if spec.gpus:
            raise BackendUnavailableError("the process backend hands in no GPUs; use the docker backend for them")
        record = Record(spec.name, secrets.token_hex(32), dict(spec.labels))
        self._folder.make(record)  # from here on the name is ours
        try:
            record = await anyio.to_thread.run_sync(self._launch, spec, record, limiter=_THREADS)
            return await self._connect(record)
        except BaseException as error:
            said = self._folder.log(spec.name)
            await self.remove(spec.name)
            if isinstance(error, (SandboxLostError, OSError)):
                raise SandboxError(f"the sandbox {spec.name} did not start: {said or error}") from error
            raise

    async def find(self, labels: Mapping[str, str]) -> Sequence[Found]:
        """All sandboxes with these labels. See ``Backend.find``."""
        return [
            Found(record.name, record.labels, record.alive)
            for record in self._folder.all()
            if labels.items() <= record.labels.items()
        ]

    async def relabel(self, name: str, labels: Mapping[str, str]) -> None:
        """Write the labels anew. See ``Backend.relabel``."""
        record = self._folder.load(name)
        if record is None:
            raise SandboxLostError(f"there is no sandbox named {name!r}")
        self._folder.save(replace(record, labels=dict(labels)))

    async def attach(self, name: str) -> Sandbox:
        """Connect to a running sandbox again. See ``Backend.attach``."""
        record = self._folder.load(name)
        if record is None or not record.alive:
            raise SandboxLostError(f"there is no running sandbox named {name!r}")
        return await self._connect(record)

    async def remove(self, name: str) -> None:
        """Kill a sandbox and delete its folder. See ``Backend.remove``."""
        with anyio.CancelScope(shield=True):  # bounded: every wait in there is
            await anyio.to_thread.run_sync(self._remove, name, limiter=_THREADS)

    async def _connect(self, record: Record) -> Sandbox:
        stream = await self._folder.connect(record.name)
        remove = partial(self.remove, record.name)
        return await Sandbox.connect(record.name, stream, bytes.fromhex(record.magic), remove=remove)

    def _launch(self, spec: SandboxSpec, record: Record) -> Record:
        folder = self._folder.path(spec.name)
        workspace, data = folder / "workspace", folder / "data"
        workspace.mkdir(mode=0o755)
        places = {mount.target: str(mount.source.absolute()) for mount in spec.mounts}
        if DATA not in places:
            data.mkdir(mode=0o755)
            places[DATA] = str(data)
        listener = self._folder.listen(spec.name)
        with listener, (folder / LOG).open("wb") as log:
            config = runner_config(
                transport="listen",
                kill="descendants",
                listen_fd=listener.fileno(),
                ttl_s=spec.ttl_s,
                state_dir=str(folder / "jobs"),
                workspace=WORKSPACE,
                path_map={WORKSPACE: str(workspace), **places},
                read_only=tuple(places),
                env=_command_environment(spec, record, workspace, places[DATA]),
                output_bytes=spec.limits.output_mb * MIB,
                storage_bytes=spec.limits.storage_mb * MIB,
                disk_paths=(WORKSPACE,),
                cgroup_dir=None,
                nofile=spec.limits.open_files,
            )
            process = subprocess.Popen(
                [str(environment.base_python()), "-I", "-S", "-B", str(compiled_runner())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={_MARKER: record.magic[:16], "PATH": "/usr/bin:/bin", **config},
                pass_fds=(listener.fileno(),),
                start_new_session=True,
                cwd="/",
            )
        _STARTED[process.pid] = process
        return self._folder.started(record, process.pid)

    def _remove(self, name: str) -> None:
        record = self._folder.load(name)
        if record is not None:
            if record.alive:
                _signal(record.pid, signal.SIGTERM)  # the runner kills what it started, then itself
                _wait_for_death(record, _DEATH_S / 2)
            if record.alive:
                _signal(record.pid, signal.SIGKILL)
            child = _STARTED.pop(record.pid, None)
            if child is not None:
                try:
                    child.wait(_DEATH_S)
                except subprocess.TimeoutExpired:
                    pass  # held by the kernel; nothing more can be done
            _kill_marked(f"{_MARKER}={record.magic[:16]}".encode())
        if self._folder.path(name).exists():
            self._folder.delete(name)


def _command_environment(spec: SandboxSpec, record: Record, workspace: Path, data: str) -> dict[str, str]:
    python = environment.find(spec.environment)
    path = os.environ.get("PATH", "/usr/local/bin:/usr/bin:/bin")
    first = python.path / "bin" if python else Path(sys.executable).parent
    return {
        "PATH": f"{first}:{path}",
        "HOME": str(workspace),
        "DATA_DIR": data,
        _MARKER: record.magic[:16],
        **spec.env,
    }


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _wait_for_death(record: Record, seconds: float) -> None:
    end = time.monotonic() + seconds
    while record.alive and time.monotonic() < end:
        time.sleep(0.005)


def _kill_marked(mark: bytes) -> None:
    """Kill what outlived a runner that was itself killed: everything with the sandbox's mark."""
    end = time.monotonic() + _DEATH_S
    while time.monotonic() < end:
        found = [
            int(folder.name)
            for folder in Path("/proc").iterdir()
            if folder.name.isdigit() and _has_mark(folder, mark) and process_started(int(folder.name)) is not None
        ]
        if not found:
            return
        for pid in found:
            _signal(pid, signal.SIGKILL)
        time.sleep(0.005)


def _has_mark(folder: Path, mark: bytes) -> bool:
    try:
        return mark in (folder / "environ").read_bytes().split(b"\0")
    except OSError:
        return False
