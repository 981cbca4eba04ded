"""What a sweep ran on: versions and hardware, for its manifest."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_DISTRIBUTIONS = ("mlgym-mcp", "mcp", "pydantic", "httpx2", "anyio", "pydantic-ai-slim", "ray")


def versions() -> dict[str, str]:
    """Return the versions of this program and of what it stands on."""
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Return what this machine is; asks ``nvidia-smi`` where there is one."""
    return {
        "system": platform.platform(),
        "machine": platform.machine(),
        "processor": _first(Path("/proc/cpuinfo"), "model name"),
        "cpus": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "memory_mb": _kib(_first(Path("/proc/meminfo"), "MemTotal")),
        "gpus": _gpus(),
    }


def _first(path: Path, name: str) -> str | None:
    try:
        lines: Iterable[str] = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)


def _kib(text: str | None) -> int | None:
    number = (text or "").partition(" ")[0]
    return int(number) // 1024 if number.isdigit() else None


def _gpus() -> list[str]:
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in said.splitlines() if line.strip()]
