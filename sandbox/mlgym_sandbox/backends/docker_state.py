"""What this machine remembers of a container: the secret without which its runner answers nobody."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlgym_sandbox.home import home

MAGIC_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class State:
    """The state of one sandbox: the handshake's secret and the engine's id of its container."""

    magic: bytes
    container: str


def folder() -> Path:
    """Where states are kept."""
    return home("run", "docker")


def _path(name: str) -> Path:
    return folder() / f"{name}.json"


def save(name: str, state: State) -> None:
    """Write a sandbox's state, readable by nobody else."""
    path = _path(name)
    fresh = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        json.dump({"magic": state.magic.hex(), "container": state.container}, stream)
    fresh.replace(path)


def load(name: str) -> State | None:
    """Read a sandbox's state; ``None`` when it was made on another machine or with another data folder."""
    try:
        said = json.loads(_path(name).read_text("ascii"))
        return State(bytes.fromhex(said["magic"]), str(said["container"]))
    except (FileNotFoundError, ValueError, KeyError):
        return None


def forget(name: str) -> None:
    """Remove a sandbox's state. No error if there is none."""
    _path(name).unlink(missing_ok=True)
