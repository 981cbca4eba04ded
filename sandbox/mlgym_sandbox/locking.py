"""A lock among processes that the kernel drops when its holder dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

_LOOK_AGAIN_S = 0.1


@asynccontextmanager
async def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> AsyncIterator[None]:
    """Hold the lock of a file, made if missing; ``waiting`` is called once if somebody else has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        told = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    waiting()
                told = True
                await anyio.sleep(_LOOK_AGAIN_S)
        yield
    finally:
        os.close(descriptor)
