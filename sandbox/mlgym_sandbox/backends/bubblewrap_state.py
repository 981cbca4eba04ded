"""A bubblewrap sandbox on disk: its folder, what is remembered of it, and whether it lives."""

from __future__ import annotations

import errno
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mlgym_sandbox.backends.local import LocalFolder
from mlgym_sandbox.errors import SandboxError
from mlgym_sandbox.home import home
from mlgym_sandbox.identities import Identities
from mlgym_sandbox.launching.order import PIDS
from mlgym_sandbox.processes import process_started

_STATE = "state.json"
_HALF_MADE_S = 60.0
_DEATH_S = 5.0


SOCKETS = LocalFolder("bubblewrap")
"""Reaches runners by their sockets in the sandboxes' folders."""


def root() -> Path:
    """Return the folder that holds all bubblewrap sandboxes."""
    return home("run", "bubblewrap")


@dataclass(frozen=True, slots=True)
class State:
    """What a later server must know of a sandbox. Holds its secret: the file is for its owner only.

    Attributes:
        name: the sandbox's.
        labels: to be found by.
        magic: its secret, hexadecimal.
        boot: which boot of the machine it belongs to.
        identities: its users, needed to remove their files.
        cgroup: the hierarchy its group is in: version, then folders by controller; ``None`` without one.
    """

    name: str
    labels: Mapping[str, str]
    magic: str
    boot: str
    identities: Identities
    cgroup: tuple[int, Mapping[str, str]] | None

    @property
    def folder(self) -> Path:
        """Where it is on disk."""
        return root() / self.name


@dataclass(frozen=True, slots=True)
class Pids:
    """bubblewrap's own process and the first one inside; each with its start time, so never another's."""

    monitor: int
    monitor_started: int
    first: int
    first_started: int


def boot_id() -> str:
    """Return what names this boot of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def make(state: State) -> Path:
    """Make the sandbox's folder with its state in it, whole or not at all.

    Raises:
        SandboxError: the name is taken, or the disk is full.
    """
    making = state.folder.with_name(f".{state.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        making.mkdir(mode=0o700)
        (making / _STATE).write_text(json.dumps(asdict(state)))
        (making / "jobs").mkdir(mode=0o700)
        (making / "workspace").mkdir(mode=0o755)
        making.rename(state.folder)
    except OSError as error:
        shutil.rmtree(making, ignore_errors=True)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise SandboxError(f"there is a sandbox named {state.name!r} already; choose another name") from None
        raise SandboxError(f"the sandbox's folder {state.folder} could not be made: {error.strerror}") from error
    return state.folder


def load(name: str) -> State | None:
    """Return what is remembered of a sandbox; ``None`` when there is none, or nothing legible."""
    try:
        plain = json.loads((root() / name / _STATE).read_text())
        who = plain["identities"]
        for kind in ("uids", "gids"):
            who[kind] = tuple(tuple(line) for line in who[kind])
        cgroup = plain["cgroup"]
        return State(**plain | {"identities": Identities(**who), "cgroup": tuple(cgroup) if cgroup else None})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def relabel(name: str, labels: Mapping[str, str]) -> bool:
    """Write other labels, whole or not at all; whether there is such a sandbox."""
    state = load(name)
    if state is None:
        return False
    fresh = state.folder / f".{_STATE}"
    fresh.write_text(json.dumps(asdict(replace(state, labels=dict(labels)))))
    fresh.rename(state.folder / _STATE)
    return True


def every() -> Iterator[State]:
    """Yield all sandboxes that are remembered; throws away what a killed server left half made."""
    for folder in sorted(root().iterdir()):
        if folder.name.startswith("."):
            try:
                if time.time() - folder.stat().st_mtime > _HALF_MADE_S:
                    shutil.rmtree(folder, ignore_errors=True)
            except FileNotFoundError:
                pass
        elif (state := load(folder.name)) is not None:
            yield state


def pids(state: State) -> Pids | None:
    """Return its processes as the launcher wrote them down; ``None`` when it never got so far."""
    try:
        return Pids(*map(int, (state.folder / PIDS).read_text().split()))
    except (OSError, ValueError, TypeError):
        return None


def running(state: State) -> bool:
    """Whether its first process lives."""
    found = pids(state)
    return state.boot == boot_id() and found is not None and process_started(found.first) == found.first_started


def kill(state: State) -> None:
    """Kill its first process, and with it everything inside; wait, for some seconds, until all that is gone.

    Raises:
        SandboxError: it would not die.
    """
    found = pids(state)
    if found is None or state.boot != boot_id():
        return
    for pid, started in ((found.first, found.first_started), (found.monitor, found.monitor_started)):
        _kill(pid, started)


def _kill(pid: int, started: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if process_started(pid) != started:  # looked at only now: the descriptor cannot come to mean another process
            return
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        if not select.select([descriptor], [], [], _DEATH_S)[0]:
            raise SandboxError(f"process {pid} of a sandbox does not die; the kernel holds it (a hung disk?)")
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


def erase(folder: Path) -> None:
    """Delete a folder, whatever the commands have made of its modes and however deep it is.

    Raises:
        SandboxError: something is left.
    """
    for program in (("rm", "-rf"), ("chmod", "-R", "u+rwX"), ("rm", "-rf")):
        if not folder.exists():
            return
        subprocess.run([*program, "--", str(folder)], capture_output=True, timeout=120, check=False)
    if folder.exists():
        raise SandboxError(f"the folder {folder} could not be deleted; delete it as root")
