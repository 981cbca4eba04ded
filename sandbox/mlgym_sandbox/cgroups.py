"""Kernel limits of one sandbox: a cgroup of its own where we may make one, a systemd scope where systemd may.

Both generations are known: version 2 (one folder with all controllers) and version 1 (a folder per controller,
also beside an empty version 2). All functions block, briefly; call them on a thread.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlgym_sandbox.errors import SandboxError
from mlgym_sandbox.spec import Limits

PARENT = "mlgym"
"""All our groups are below a group of this name, so that people and reapers find them."""
PIDS_HEADROOM = 32
"""Processes beyond the commands' limit: for the runner, which must be able to fork when a fork bomb cannot."""

_CONTROLLERS = ("memory", "pids", "cpu")
_PERIOD_US = 100_000
_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where groups are made: one folder per controller (version 1) or the same folder for all (version 2)."""

    version: Literal[1, 2]
    roots: Mapping[str, Path]


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One sandbox's group.

    Attributes:
        version: of the control group interface.
        folders: its folder in each hierarchy.
        oom_counter: the file whose line ``oom_kill N`` counts processes killed for memory.
    """

    version: Literal[1, 2]
    folders: tuple[Path, ...]
    oom_counter: Path

    @property
    def entrances(self) -> tuple[Path, ...]:
        """The files to write a pid to, to bring a process in."""
        return tuple(folder / "cgroup.procs" for folder in self.folders)


def hierarchy(mounts: str | None = None) -> Hierarchy | None:
    """Return the hierarchy in which this process may make groups, or ``None``.

    Args:
        mounts: text as of ``/proc/self/mounts``; default: that file.
    """
    text = Path("/proc/self/mounts").read_text() if mounts is None else mounts
    unified: list[Path] = []
    separate: dict[str, Path] = {}
    for line in text.splitlines():
        _source, where, kind, options = line.split(" ")[:4]
        if kind == "cgroup2":
            unified.append(Path(where))
        elif kind == "cgroup":
            separate |= {name: Path(where) for name in options.split(",") if name in _CONTROLLERS}
    if len(separate) == len(_CONTROLLERS):
        found = Hierarchy(1, separate)
    else:
        whole = [root for root in unified if set(_CONTROLLERS) <= set(_read(root / "cgroup.controllers").split())]
        if not whole:
            return None
        found = Hierarchy(2, dict.fromkeys(_CONTROLLERS, whole[0]))
    return found if all(os.access(root, os.W_OK) for root in found.roots.values()) else None


def available() -> Hierarchy | None:
    """Return the hierarchy after having made and removed a group in it, or ``None`` when that is refused."""
    found = hierarchy()
    if found is None:
        return None
    name = f"probe-{os.getpid()}-{time.monotonic_ns()}"
    try:
        create(name, Limits(), found)
    except (OSError, SandboxError):
        return None
    finally:
        remove(name, found)
    return found


def create(name: str, limits: Limits, where: Hierarchy) -> Cgroup:
    """Make a group with these limits; nothing is left when that fails.

    Raises:
        SandboxError: the kernel refused.
    """
    try:
        for root in set(where.roots.values()):
            parent = root / PARENT
            parent.mkdir(mode=0o755, exist_ok=True)
            if where.version == 2:
                for folder in (root, parent):
                    missing = set(_CONTROLLERS) - set(_read(folder / "cgroup.subtree_control").split())
                    if missing:
                        (folder / "cgroup.subtree_control").write_text(" ".join(f"+{c}" for c in sorted(missing)))
            (parent / name).mkdir(mode=0o755)
        for controller, settings in _settings(limits, where.version).items():
            folder = where.roots[controller] / PARENT / name
            for file, value in settings.items():
                # Kernels without swap accounting lack the swap files: then there is no swap to limit, either.
                if ("swap" not in file and "memsw" not in file) or (folder / file).exists():
                    (folder / file).write_text(str(value))
    except OSError as error:
        remove(name, where)
        raise SandboxError(f"the control group {PARENT}/{name} could not be made: {error}") from error
    return group(name, where)


def group(name: str, where: Hierarchy) -> Cgroup:
    """Return a group by name, whether it exists or not."""
    folders = tuple(sorted({root / PARENT / name for root in where.roots.values()}))
    counter = "memory.events" if where.version == 2 else "memory.oom_control"
    return Cgroup(where.version, folders, where.roots["memory"] / PARENT / name / counter)


def _settings(limits: Limits, version: int) -> Mapping[str, Mapping[str, int | str]]:
    memory = limits.memory_mb << 20
    pids = limits.pids + PIDS_HEADROOM
    quota = max(1000, int(limits.cpus * _PERIOD_US))
    if version == 2:
        return {
            "memory": {"memory.max": memory, "memory.swap.max": 0},
            "pids": {"pids.max": pids},
            "cpu": {"cpu.max": f"{quota} {_PERIOD_US}"},
        }
    return {
        "memory": {"memory.limit_in_bytes": memory, "memory.memsw.limit_in_bytes": memory},
        "pids": {"pids.max": pids},
        "cpu": {"cpu.cfs_period_us": _PERIOD_US, "cpu.cfs_quota_us": quota},
    }


def kill(name: str, where: Hierarchy) -> None:
    """Kill everything in a group, again and again until it is empty; gives up after some seconds."""
    found = group(name, where)
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        pids = {int(pid) for entrance in found.entrances for pid in _read(entrance).split()} - {0}
        if not pids:
            return
        if where.version == 2:
            _quietly(lambda: (found.folders[0] / "cgroup.kill").write_text("1"))
        for pid in pids:
            _quietly(lambda pid=pid: os.kill(pid, signal.SIGKILL))  # type: ignore[misc]
        time.sleep(0.005)


def remove(name: str, where: Hierarchy) -> None:
    """Kill what is in a group and remove it; no error when it is gone already."""
    kill(name, where)
    deadline = time.monotonic() + _WAIT_S
    for folder in group(name, where).folders:
        while folder.exists() and time.monotonic() < deadline:
            if not _quietly(folder.rmdir):
                time.sleep(0.01)  # the last of its dead are still leaving


def scope_command(name: str, limits: Limits) -> list[str]:
    """Return what to put before a command so that systemd runs it, as an ordinary user, under these limits."""
    return [
        "systemd-run", "--user", "--scope", "--quiet", "--collect", f"--unit=mlgym-{name}",
        "-p", f"MemoryMax={limits.memory_mb}M", "-p", "MemorySwapMax=0",
        "-p", f"TasksMax={limits.pids + PIDS_HEADROOM}", "-p", f"CPUQuota={max(1, round(limits.cpus * 100))}%", "--",
    ]  # fmt: skip


def scopes_work() -> bool:
    """Whether systemd gives this user scopes with limits: on version 2 only, and tried by running one."""
    if "memory" not in _own_controllers():
        return False
    command = scope_command(f"probe-{os.getpid()}-{time.monotonic_ns()}", Limits())
    try:
        return subprocess.run([*command, "true"], capture_output=True, timeout=10, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _own_controllers() -> list[str]:
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        if line.startswith("0::"):
            return _read(Path("/sys/fs/cgroup") / line[3:].lstrip("/") / "cgroup.controllers").split()
    return []


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _quietly(work: Callable[[], object]) -> bool:
    try:
        work()
    except OSError:
        return False
    return True
