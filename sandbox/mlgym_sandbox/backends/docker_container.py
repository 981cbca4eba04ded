"""What a sandbox's container is made of: from a spec to the engine's options, with no call to the engine."""

from __future__ import annotations

import base64
import functools
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import docker
from docker.types import LogConfig, Mount, Ulimit

from mlgym_sandbox.backends import docker_gpus
from mlgym_sandbox.inside import STATE_DIR
from mlgym_sandbox.spec import WORKSPACE, Limits, SandboxSpec, inodes

LOADER: Final = (
    "import os,zlib,base64;"
    "exec(compile(zlib.decompress(base64.b64decode(os.environ.pop('MLGYM_SOURCE'))),'runner','exec'))"
)
"""Runs the runner from its environment, which no command can read: on the command line it would fill every ``ps``."""
RUNNER_PROCESSES: Final = 8
"""Processes of the runner itself that count against the container's limit."""


@dataclass(frozen=True, slots=True)
class Memory:
    """How memory-backed storage is shared out, MiB.

    Files in memory count against the container's memory and outlive the process that wrote them: if they could
    fill it, every later command would be killed. So all of them together get at most half.
    """

    state_mb: int
    tmp_mb: int
    shm_mb: int
    workspace_in_memory: bool


def share_memory(limits: Limits) -> Memory:
    """Divide half of the memory between job output, /tmp, /dev/shm and, where it fits, the workspace."""
    half = max(8, limits.memory_mb // 2)
    state = max(1, min(4 * limits.output_mb, half // 8))
    tmp = max(1, min(limits.tmp_mb, half // 4))
    shm = max(1, min(1024, half // 8))
    return Memory(state, tmp, shm, workspace_in_memory=limits.storage_mb <= half - state - tmp - shm)


@dataclass(frozen=True, slots=True)
class Bind:
    """A directory or file of the engine's machine shown read-only (images made from the host only)."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A sandbox's container before it is made."""

    spec: SandboxSpec
    memory: Memory
    workspace: str
    data: Mapping[str, str]
    """Target path -> volume."""
    binds: Sequence[Bind]
    runner: Mapping[str, str]
    """The environment entry that configures the runner."""
    source: str
    cpus: float
    """Already no more than the engine has."""
    runtimes: frozenset[str] = frozenset()
    cdi: frozenset[str] | None = None
    """What the engine says of its ways to hand in GPUs; see ``EngineInfo``."""


@functools.cache
def encode_source(source: str) -> str:
    """Pack a program so that it fits into one environment variable (128 KiB)."""
    return base64.b64encode(zlib.compress(source.encode("utf-8"), 9)).decode("ascii")


def thread_environment(cpus: float) -> dict[str, str]:
    """Keep numeric libraries from starting a thread for each CPU of the machine instead of each of the limit."""
    threads = str(max(1, math.floor(cpus)))
    return dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_MAX_THREADS"), threads)


def labels_of(spec: SandboxSpec) -> dict[str, str]:
    """All labels of a sandbox's container and volume; ``mlgym.labels`` tells the spec's from the image's."""
    own = dict(spec.labels)
    return {**own, "mlgym": "1", "mlgym.role": "sandbox", "mlgym.sandbox": spec.name, "mlgym.labels": json.dumps(own)}


def container_options(client: docker.APIClient, plan: Plan) -> dict[str, Any]:
    """The arguments of ``create_container``, apart from the name."""
    spec, limits = plan.spec, plan.spec.limits
    # A fresh volume on disk belongs to root: copying the image's empty folder into it brings the owner along.
    in_memory = plan.memory.workspace_in_memory
    mounts = [Mount(WORKSPACE, plan.workspace, type="volume", no_copy=in_memory)]
    mounts += [
        Mount(target, volume, type="volume", read_only=True, no_copy=True) for target, volume in plan.data.items()
    ]
    mounts += [Mount(bind.target, bind.source, type="bind", read_only=True) for bind in plan.binds]
    memory = f"{limits.memory_mb}m"
    host = client.create_host_config(
        network_mode="none",
        mounts=mounts,
        read_only=True,
        tmpfs={
            "/tmp": f"{_bounds(plan.memory.tmp_mb)},mode=1777,exec,nosuid,nodev",  # noqa: S108 - inside
            "/dev/shm": f"{_bounds(plan.memory.shm_mb)},mode=1777,exec,nosuid,nodev",  # noqa: S108 - inside
            STATE_DIR: f"{_bounds(plan.memory.state_mb)},mode=0700,noexec,nosuid,nodev",
        },
        mem_limit=memory,
        memswap_limit=memory,  # equal: no swap on top
        nano_cpus=int(plan.cpus * 1e9),
        pids_limit=limits.pids + RUNNER_PROCESSES,
        ulimits=[
            Ulimit(name="nofile", soft=limits.open_files, hard=limits.open_files),
            Ulimit(name="core", soft=0, hard=0),
        ],
        ipc_mode="private",
        cap_drop=["ALL"],
        cap_add=["SETUID", "SETGID", "KILL"],
        security_opt=["no-new-privileges:true"],  # the default seccomp profile stays
        log_config=LogConfig(type="none"),
        init=False,
        **docker_gpus.options(spec.gpus, plan.runtimes, plan.cdi),
    )
    environment = {"MLGYM_SOURCE": encode_source(plan.source), **plan.runner}
    if not spec.gpus:
        # CUDA images say "all"; where NVIDIA's runtime is the engine's default that would hand in every GPU.
        environment["NVIDIA_VISIBLE_DEVICES"] = "void"
    return {
        "image": spec.image,
        "entrypoint": ["python3", "-I", "-S", "-B", "-c", LOADER],
        "command": [],
        "user": "0:0",
        "hostname": "sandbox",
        "working_dir": "/",
        # `detach` is what keeps StdinOnce off: stdin must survive the server that opened it.
        "detach": True,
        "stdin_open": True,
        "tty": False,
        "environment": environment,
        "labels": labels_of(spec),
        "stop_signal": "SIGKILL",  # there is nothing to say goodbye to, and an engine's stop must not take 10 s
        "healthcheck": {"test": ["NONE"]},
        "host_config": host,
        "use_config_proxy": False,
    }


def _bounds(size_mb: int) -> str:
    return f"size={size_mb}m,nr_inodes={inodes(size_mb)}"
