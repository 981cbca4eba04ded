"""Secret worlds: 32 random bytes per task and installation, from which splits, seeds and coefficients are drawn."""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from mlgym_mcp.catalog.errors import DataError
from mlgym_sandbox.home import home

SIZE: Final = 32


def find_world(task_id: str) -> bytes | None:
    """Return a task's secret, or ``None`` if none was drawn yet.

    Raises:
        DataError: the file is damaged.
    """
    path = _path(task_id)
    try:
        secret = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(secret) != SIZE:
        raise DataError(f"{path}: expected {SIZE} bytes, found {len(secret)}; remove it to draw a new world")
    return secret


def make_world(task_id: str) -> bytes:
    """Return a task's secret, drawing it first if need be; never half-written, never drawn twice.

    Raises:
        DataError: the file is damaged.
        OSError: no disk.
    """
    if (known := find_world(task_id)) is not None:
        return known
    path = _path(task_id)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(SIZE))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process drew it first: theirs counts
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    made = find_world(task_id)
    assert made is not None
    return made


def fingerprint(secret: bytes) -> str:
    """Return what tells one world from another without giving it away."""
    return hashlib.sha256(b"mlgym world\0" + secret).hexdigest()


def _path(task_id: str) -> Path:
    home()
    return home("worlds") / task_id
