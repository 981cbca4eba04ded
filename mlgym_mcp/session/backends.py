"""The sandbox backends of one server, each made once and lent through the warm pool."""

from __future__ import annotations

import json
from collections.abc import Mapping

import anyio

from mlgym_sandbox import get_backend
from mlgym_sandbox.backends.base import Backend
from mlgym_sandbox.errors import SandboxError
from mlgym_sandbox.pool import WarmPool


async def choose_backend(engine: Mapping[str, str] | None = None) -> str:
    """Return which backend to use when nobody chose: docker if it is wholly ready, else bubblewrap.

    Args:
        engine: where ``DOCKER_HOST`` is read; default: the process's environment.
    """
    try:
        with anyio.fail_after(5):
            checks = await get_backend("docker", environ=engine).probe()
        return "docker" if checks and all(check.ok for check in checks if check.name != "gpu") else "bubblewrap"
    except (SandboxError, TimeoutError, OSError):
        return "bubblewrap"


class Backends:
    """Finds backends by name and engine.

    Args:
        pool: what stands before each of them.
        unsafe: allow ``process``, which isolates nothing.
    """

    def __init__(self, pool: WarmPool, *, unsafe: bool = False) -> None:
        self._pool = pool
        self._unsafe = unsafe
        self._made: dict[tuple[str, str], Backend] = {}
        self._auto: dict[str, str] = {}

    def made(self) -> tuple[Backend, ...]:
        """Return those that were asked for."""
        return tuple(self._made.values())

    async def get(self, name: str, *, unsafe: bool = False, engine: Mapping[str, str] | None = None) -> Backend:
        """Return a backend by name; ``auto`` takes docker where an engine with our image answers, else bubblewrap.

        Args:
            name: which.
            unsafe: allows ``process``.
            engine: where ``DOCKER_HOST`` is read; default: the process's environment.

        Raises:
            BackendUnavailableError: it cannot be used here, or is unsafe and was not allowed.
            ValueError: no such backend.
        """
        where = "" if engine is None else json.dumps(engine, sort_keys=True)
        if name == "auto":
            if where not in self._auto:
                self._auto[where] = await choose_backend(engine)
            name = self._auto[where]
        unsafe = unsafe or self._unsafe
        key = (name, where if name == "docker" else "")
        if key not in self._made or (name == "process" and not unsafe):
            self._made[key] = self._pool.over(get_backend(name, unsafe=unsafe, environ=engine))
        return self._made[key]
