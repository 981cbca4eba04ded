"""What this machine remembers of a container: the secret without which its runner answers nobody."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from mlgym_sandbox.home import home

MAGIC_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class State:
    """The state of one sandbox.

    Attributes:
        magic: the handshake's secret.
        container: the engine's id of its container.
        labels: what it is to be found by, when that changed since the container was made: no engine changes
            the labels of a container.
    """

    magic: bytes
    container: str
    labels: Mapping[str, str] | None = None


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
        json.dump({**asdict(state), "magic": state.magic.hex()}, stream)
    fresh.replace(path)


def load(name: str) -> State | None:
    """Read a sandbox's state; ``None`` when it was made on another machine or with another data folder."""
    try:
        said = json.loads(_path(name).read_text("ascii"))
        return State(bytes.fromhex(said["magic"]), str(said["container"]), said.get("labels"))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def relabel(name: str, labels: Mapping[str, str]) -> bool:
    """Remember other labels than the container has; whether anything was known of the sandbox."""
    state = load(name)
    if state is not None:
        save(name, replace(state, labels=dict(labels)))
    return state is not None


def forget(name: str) -> None:
    """Remove a sandbox's state. No error if there is none."""
    _path(name).unlink(missing_ok=True)
