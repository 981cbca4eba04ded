"""Whether the server can do its work: engine, disk, journals, tasks. Problems are told, never raised."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.to_thread

from mlgym_mcp import __version__
from mlgym_mcp.api import Health, HealthProblem
from mlgym_mcp.catalog import TaskError
from mlgym_mcp.serving.host import Host
from mlgym_sandbox.errors import SandboxError
from mlgym_sandbox.spec import Check

_FRESH_S = 10.0
_FAILED_S = 30.0
_PROBE_S = 15.0
_LOW_MB = 512


class HealthCheck:
    """Looks after the server's health; what costs something is looked at now and then, however often one asks."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lock = anyio.Lock()
        self._threads = anyio.CapacityLimiter(1)  # of its own: it must not wait for those who start sandboxes
        self._seen: tuple[list[HealthProblem], str, int | None] = ([], "", None)
        self._until = 0.0
        self._proved: set[str] = set()
        """Backends that have made a sandbox here."""

    async def report(self) -> Health:
        """Return how the server is."""
        if self._until == 0.0 or not self._lock.locked():  # while somebody looks, others hear what was seen last
            async with self._lock:
                if time.monotonic() >= self._until:
                    self._seen = await self._look()
                    self._until = time.monotonic() + (_FAILED_S if self._seen[0] else _FRESH_S)
        problems, sandbox, free = self._seen
        return Health(
            status="degraded" if problems else "ok",
            version=__version__,
            live_sessions=self._host.registry.live,
            max_sessions=self._host.limits.sessions,
            sandbox=sandbox,
            disk_free_mb=free,
            problems=problems,
        )

    async def _look(self) -> tuple[list[HealthProblem], str, int | None]:
        registry = self._host.registry
        free, problems = await anyio.to_thread.run_sync(_disk, registry.root, limiter=self._threads)
        sandbox = registry.default_sandbox
        try:
            with anyio.fail_after(_PROBE_S):
                backend = await registry.backend()
                sandbox = backend.name
                if sandbox in self._proved:
                    await backend.find({"mlgym.session": "health"})  # asks the engine, and costs next to nothing
                    checks: Sequence[Check] = ()
                else:
                    checks = await backend.probe()  # makes a sandbox
        except TimeoutError:
            problems.append(HealthProblem(what="engine", detail=f"{sandbox} did not answer in {_PROBE_S:g} seconds"))
        except (SandboxError, OSError, ValueError) as exc:
            problems.append(HealthProblem(what="engine", detail=f"{sandbox} cannot be used: {_one_line(exc)}"))
        else:
            if not checks or checks[-1].ok:
                self._proved.add(sandbox)
            else:
                detail = _one_line(checks[-1].detail)
                problems.append(HealthProblem(what="engine", detail=f"{sandbox} does not work: {detail}"))
        try:
            broken = await anyio.to_thread.run_sync(registry.catalog.broken, limiter=self._threads)
        except (TaskError, OSError) as exc:
            problems.append(HealthProblem(what="tasks", detail=_one_line(exc)))
        else:
            mend = "cannot be read: 'mlgym-mcp tasks check' says why"
            problems += [HealthProblem(what="tasks", detail=f"{name} {mend}") for name in broken]
        return problems, sandbox, free


def _disk(root: Path) -> tuple[int | None, list[HealthProblem]]:
    """Look at the disk of the episodes, by writing to it."""
    problems = []
    free: int | None = None
    try:
        facts = os.statvfs(root)
        free = facts.f_bavail * facts.f_frsize >> 20
        if free < _LOW_MB:
            problems.append(HealthProblem(what="disk", detail=f"{free} MB are left for episodes: free disk space"))
    except OSError as exc:
        problems.append(HealthProblem(what="disk", detail=f"the episodes' folder cannot be seen: {exc.strerror}"))
    trial = root / f".health-{secrets.token_hex(4)}"
    try:
        trial.write_bytes(b"x" * 4096)
    except OSError as exc:
        problems.append(HealthProblem(what="journal", detail=f"journals cannot be written: {exc.strerror}"))
    finally:
        try:
            trial.unlink(missing_ok=True)
        except OSError:
            pass
    return free, problems


def _one_line(problem: object) -> str:
    return " ".join(str(problem).split())[:300]
