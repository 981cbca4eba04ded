"""What a sandbox is made of: plain values, checked when made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

WORKSPACE = "/workspace"
"""Where the agent works: the default working directory of every command."""
DATA = "/data"
"""Where a task's public data is mounted, read-only; also in the environment as ``DATA_DIR``."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Hard limits of one sandbox.

    ``storage_mb`` bounds the workspace, ``tmp_mb`` the private ``/tmp``, ``output_mb`` what is kept of one
    job's output. All sizes are MiB.
    """

    cpus: float = 2.0
    memory_mb: int = 4096
    pids: int = 512
    storage_mb: int = 2048
    tmp_mb: int = 256
    open_files: int = 4096
    output_mb: int = 16


def inodes(size_mb: int) -> int:
    """Return how many files a file system in memory of this size may hold: as many as a disk of it would.

    An empty file takes no space there, but about a kilobyte of memory that outlives its process: without a
    bound a million of them take the sandbox down.
    """
    return 1024 + 64 * size_mb


@dataclass(frozen=True, slots=True)
class Mount:
    """A host directory shown read-only at an absolute path inside the sandbox."""

    source: Path
    target: str


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """Everything a backend needs to make one sandbox.

    Attributes:
        name: unique on this machine, ``[a-z0-9-]``; names the container, cgroup and state folder.
        environment: the prepared Python environment (bubblewrap and process backends).
        image: the container image (docker backend).
        limits: hard limits.
        mounts: host directories shown read-only.
        network: only ``"none"``: loopback and nothing else.
        gpus: device UUIDs to hand in; empty for none.
        env: extra environment variables of every command.
        labels: found again by these after a crash; must hold no secret.
        ttl_s: the sandbox ends itself when no server has spoken to it for so many seconds.

    Raises:
        ValueError: a name, limit or mount target that no backend could honour.
    """

    name: str
    environment: str = "light"
    image: str = "mlgym-light"
    limits: Limits = field(default_factory=Limits)
    mounts: tuple[Mount, ...] = ()
    network: Literal["none"] = "none"
    gpus: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    ttl_s: float = 3600.0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"sandbox name {self.name!r} must match [a-z0-9][a-z0-9-]*, at most 63 characters")
        for name in ("cpus", "memory_mb", "pids", "storage_mb", "tmp_mb", "open_files", "output_mb"):
            if getattr(self.limits, name) <= 0:
                raise ValueError(f"limit {name} must be positive, got {getattr(self.limits, name)!r}")
        if self.ttl_s <= 0:
            raise ValueError(f"ttl_s must be positive, got {self.ttl_s!r}")
        for mount in self.mounts:
            if not mount.target.startswith("/") or ".." in mount.target.split("/"):
                raise ValueError(f"mount target {mount.target!r} must be an absolute path without '..'")


JobState = Literal["running", "exited", "killed"]


@dataclass(frozen=True, slots=True)
class JobStatus:
    """One command in a sandbox, as it stands now.

    Attributes:
        id: the sandbox's name for the job.
        command: what was asked to run, for people.
        state: ``running``, ``exited`` (by itself) or ``killed`` (by us or by a signal).
        exit_code: as a shell reports it (128 + signal when killed by one); ``None`` while running.
        reason: why it was killed: ``timeout``, ``stopped``, ``oom``, ``disk``, ``session``; else ``None``.
        started: Unix time, seconds.
        seconds: wall seconds so far, or in all.
        output_bytes: bytes the job has printed (stdout and stderr together), also those not kept.
        oom: the kernel killed something in the sandbox for memory while this job ran.
    """

    id: str
    command: str
    state: JobState
    exit_code: int | None
    reason: str | None
    started: float
    seconds: float
    output_bytes: int
    oom: bool = False


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of a job's output.

    ``data`` begins at byte ``offset`` of everything printed; ``total`` is what was printed so far. When the
    output outgrew the kept part, reading inside the gap answers from the first byte kept after it, so
    ``offset`` may be larger than what was asked for.
    """

    data: bytes
    offset: int
    total: int


@dataclass(frozen=True, slots=True)
class FileChunk:
    """A piece of a regular file: ``data`` from ``offset``; ``size`` is the whole file's size in bytes."""

    data: bytes
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One directory entry; ``kind`` is ``file``, ``dir``, ``link`` or ``other``; ``path`` is relative."""

    path: str
    kind: Literal["file", "dir", "link", "other"]
    size: int
    mtime: float


@dataclass(frozen=True, slots=True)
class Listing:
    """Entries of a directory tree, sorted by path; ``truncated`` when more were there than asked for."""

    entries: tuple[FileEntry, ...]
    truncated: bool


@dataclass(frozen=True, slots=True)
class Match:
    """One matching line: 1-based ``line`` of ``path``; ``text`` is cut at 400 characters."""

    path: str
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Matches:
    """Search results in path order; ``truncated`` when the limit or the time ran out first."""

    matches: tuple[Match, ...]
    truncated: bool
    files_searched: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What a sandbox has used: CPU seconds of all its commands ever, now-resident bytes, processes, disk bytes."""

    cpu_s: float
    memory_bytes: int
    processes: int
    disk_bytes: int
    oom_kills: int


@dataclass(frozen=True, slots=True)
class Check:
    """One line of ``doctor``: what was looked at, whether it is usable, what was seen and the command that mends it."""

    name: str
    ok: bool
    detail: str
    mend: str | None = None
