"""What must be there before an agent can work: environment, data, sandbox, starter files."""

from __future__ import annotations

import io
import secrets
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from mlgym_mcp.catalog import Prepared, Task, find_prepared, prepare
from mlgym_mcp.catalog.spec import PlayerSpec
from mlgym_mcp.grading.player_host import player_sandbox_spec
from mlgym_mcp.session import leases
from mlgym_mcp.session.leftovers import owner_labels
from mlgym_mcp.session.tracing import span
from mlgym_sandbox import Limits, Mount, Sandbox, SandboxSpec, environment
from mlgym_sandbox.errors import SandboxError, SandboxLostError
from mlgym_sandbox.spec import DATA

if TYPE_CHECKING:
    from mlgym_mcp.session.recovery import Past
    from mlgym_mcp.session.session import Session

TTL_S = 1800.0
"""A sandbox ends itself when no server has spoken to it for so long."""
_ATTACH_S = 30.0
_ATTACH_AGAIN_S = 0.5


@dataclass(frozen=True, slots=True)
class Setup:
    """What ``set_up`` made."""

    sandbox: Sandbox
    prepared: Prepared
    grader_python: Path


async def ensure_data(task: Task, preset: str, say: Callable[[str], None]) -> tuple[Prepared, Path]:
    """Return the prepared data of a task and the Python that runs its grader, making them if missing.

    Raises:
        OSError: no disk.
        mlgym_mcp.catalog.TaskError: the data cannot be had; the message says why and what to do.
    """
    light = environment.find("light")
    if light is None:
        say("preparing the Python environment (once per machine)")
        light = await environment.prepare("light")
    found = find_prepared(task, preset)
    if found is None:
        say(f"preparing the data of {task.id}/{preset} (once per machine)")
        found = await prepare(task, preset, progress=lambda fraction, text: say(f"{text} {fraction:.0%}"))
    return found, light.python


def sandbox_spec(session: Session, prepared: Prepared) -> SandboxSpec:
    """Return the sandbox that a session's preset asks for."""
    preset = session.preset
    return SandboxSpec(
        name=f"mlgym-{session.id[:24]}",
        environment=preset.environment,
        image=preset.image,
        limits=Limits(
            cpus=preset.cpus,
            memory_mb=preset.memory_mb,
            storage_mb=session.config.budget.disk_mb or preset.storage_mb,
        ),
        mounts=(Mount(prepared.public, DATA),),
        gpus=session.gpus,
        env={
            "MLGYM_SEED": str(session.config.seed),
            "MLGYM_TASK": session.task.id,
            "MLGYM_PRESET": session.config.preset,
        },
        labels={
            **owner_labels(),
            "mlgym.session": session.id,
            "mlgym.task": session.task.id,
            **leases.labels_of(session.gpus),
        },
        ttl_s=TTL_S,
    )


def player_spec(session: Session) -> SandboxSpec:
    """Return the throw-away sandbox in which a submission's code is played: no data, small, short-lived."""
    limits = session.spec.grader.player or PlayerSpec()
    return player_sandbox_spec(
        f"mlgym-player-{session.id[:12]}-{secrets.token_hex(5)}",
        environment=session.preset.environment,
        image=session.preset.image,
        cpus=limits.cpus,
        memory_mb=limits.memory_mb,
        pids=limits.pids,
        gpus=session.gpus[: limits.gpus],
        labels={**owner_labels(), "mlgym.session": session.id, "mlgym.role": "player"},
        ttl_s=limits.total_timeout_s + 120,
    )


def pack(files: Mapping[str, bytes]) -> bytes:
    """Return a tar of files, by their names in the workspace; programs (``#!``) are executable."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mode = 0o755 if data.startswith(b"#!") else 0o644
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


async def set_up(session: Session, say: Callable[[str], None]) -> Setup:
    """Prepare a session: returns when the sandbox answers and the starter files are in its workspace.

    Raises:
        SandboxError: it could not be started; nothing is left behind.
        InfrastructureError: the data or the environment cannot be had.
        OSError: no disk.
    """
    prepared, grader_python = await ensure_data(session.task, session.config.preset, say)
    if environment.find(session.preset.environment) is None and session.backend.name != "docker":
        say(f"preparing the Python environment {session.preset.environment} (once per machine)")
        await environment.prepare(session.preset.environment)
    if session.gpu_desk is not None:
        session.gpus = await session.gpu_desk.lease(session, say)
    say("starting the sandbox")
    with span("sandbox start", session) as made:
        wanted = sandbox_spec(session, prepared)
        sandbox = await session.backend.create(wanted)
        made.set_attribute("mlgym.start", "cold" if sandbox.name == wanted.name else "warm")
    try:
        if session.checkpoints.is_fork:
            say("laying out the snapshot that it begins with")
            await session.checkpoints.lay_out(sandbox)
        else:
            starter = {name: path.read_bytes() for name, path in session.task.starter().items()}
            await sandbox.untar(pack(starter))
        session.episode.journal.append("sandbox", state="started", name=sandbox.name, data=prepared.digest)
    except BaseException:
        with anyio.CancelScope(shield=True), anyio.move_on_after(30):
            await sandbox.close()
        raise
    return Setup(sandbox, prepared, grader_python)


async def take_up(session: Session, past: Past, say: Callable[[str], None]) -> Setup:
    """Go on with a session that an earlier server began: returns when its sandbox answers again.

    One that was not ready then is set up anew.

    Raises:
        SandboxError: the sandbox is gone, or cannot be reached.
        InfrastructureError, OSError: as ``set_up``.
    """
    if past.sandbox is None:
        for found in await session.backend.find({"mlgym.session": session.id}):
            await session.backend.remove(found.name)  # half made
        return await set_up(session, say)
    prepared, grader_python = await ensure_data(session.task, session.config.preset, say)
    say("connecting to the sandbox again")
    with span("sandbox attach", session):
        sandbox = await reach(session, past.sandbox)
    if session.gpu_desk is not None:
        session.gpus = await session.gpu_desk.adopt(session)
    if past.restoring is not None:
        say("restoring a snapshot")
        await session.checkpoints.redo(sandbox, past.restoring)
    return Setup(sandbox, prepared, grader_python)


async def reach(session: Session, name: str) -> Sandbox:
    """Connect to a sandbox, waiting a while for an engine that is being started.

    Raises:
        SandboxLostError: it is gone.
        SandboxError: nobody answers.
    """
    deadline = anyio.current_time() + _ATTACH_S
    while True:
        try:
            with anyio.fail_after(_ATTACH_S):
                return await session.backend.attach(name)
        except SandboxLostError:
            raise
        except (SandboxError, OSError, TimeoutError) as exc:
            if anyio.current_time() > deadline:
                raise SandboxError(f"the sandbox {name} cannot be reached: {exc}") from exc
            await anyio.sleep(_ATTACH_AGAIN_S)
