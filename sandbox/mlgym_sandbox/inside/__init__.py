"""Programs that run inside a sandbox: standard library only, handed in as one text each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mlgym_sandbox.inside import bundle

CONFIG_VARIABLE = "MLGYM_RUNNER"
"""The environment variable that carries a runner's configuration."""
STATE_DIR = "/run/mlgym"
"""The runner's private folder inside a sandbox (0700, the runner's uid)."""


def runner_source() -> str:
    """Return the runner as one text, to run as ``python3 -I -S -B -c TEXT`` (Python 3.9 or newer)."""
    return bundle.source()


def runner_command(python: str = "python3") -> tuple[str, ...]:
    """Return the command that starts a runner with the given interpreter (Python 3.9 or newer)."""
    return (python, "-I", "-S", "-B", "-c", runner_source())


def player_command(python: str = "python3") -> tuple[str, ...]:
    """Return the command that runs a submission's program for a referee; its folder is the working directory."""
    return (python, "-I", "-B", "-c", bundle.source(bundle.PLAYER))


def compiled_runner(first: str | None = None) -> Path:
    """Return the runner as a file of bytecode of the server's Python: ``python -I -S -B FILE``, ready much sooner.

    Args:
        first: text of a module to import before the runner's own.
    """
    return bundle.bytecode(first)


def runner_config(
    *,
    transport: Literal["stdio", "listen"],
    kill: Literal["everyone", "descendants"] = "everyone",
    listen_fd: int | None = None,
    agent_uid: int | None = None,
    agent_gid: int | None = None,
    ttl_s: float = 3600.0,
    state_dir: str = STATE_DIR,
    workspace: str = "/workspace",
    path_map: Mapping[str, str] | None = None,
    read_only: Sequence[str] = ("/data",),
    env: Mapping[str, str] | None = None,
    output_bytes: int = 16 << 20,
    storage_bytes: int | None = None,
    disk_paths: Sequence[str] = ("/workspace", "/tmp"),
    oom_fd: int | None = None,
    cgroup_dir: str | None = "/sys/fs/cgroup",
    nofile: int = 4096,
    nproc: int | None = None,
    fsize_bytes: int | None = None,
) -> dict[str, str]:
    """Return the environment entry (name and JSON) that configures a runner.

    Args:
        transport: ``stdio`` (frames on fd 0 and 1) or ``listen`` (an inherited listening unix socket).
        kill: ``everyone`` when the runner is PID 1 of its own pid namespace, else ``descendants``.
        listen_fd: descriptor number of the listening socket inside the runner.
        agent_uid: uid of the commands; ``None`` leaves the runner's own (no uid split).
        agent_gid: gid of the commands; ``None`` means the same number as ``agent_uid``.
        ttl_s: seconds without a word from a server after which the runner ends the sandbox.
        state_dir: folder for job output that only the runner can read; made if missing.
        workspace: default working directory and HOME of the commands, as the agent names it.
        path_map: prefixes as the agent names them -> real folders (process backend only).
        read_only: prefixes that file operations refuse to write below (a mount does it for commands).
        env: environment of every command, over the runner's defaults.
        output_bytes: bytes kept of one job's output.
        storage_bytes: watch ``disk_paths`` and kill everything when they hold more; ``None``: no watch.
        disk_paths: what is counted, each as the agent names it.
        oom_fd: an open cgroup file with an ``oom_kill N`` line; else the files below ``cgroup_dir``.
        cgroup_dir: the sandbox's own cgroup as seen inside; ``None`` when there is none.
        nofile: open files limit of every process.
        nproc: processes of the uid; ``None`` leaves it.
        fsize_bytes: largest file; ``None`` leaves it.
    """
    config: dict[str, Any] = {
        "transport": transport,
        "listen_fd": listen_fd,
        "agent_uid": agent_uid,
        "agent_gid": agent_uid if agent_gid is None else agent_gid,
        "kill": kill,
        "ttl_s": ttl_s,
        "state_dir": state_dir,
        "workspace": workspace,
        "path_map": dict(path_map or {}),
        "read_only": list(read_only),
        "env": dict(env or {}),
        "output_bytes": output_bytes,
        "storage_bytes": storage_bytes,
        "disk_paths": list(disk_paths),
        "oom_fd": oom_fd,
        "cgroup_dir": cgroup_dir,
        "nofile": nofile,
        "nproc": nproc,
        "fsize_bytes": fsize_bytes,
    }
    return {CONFIG_VARIABLE: json.dumps(config, separators=(",", ":"))}
