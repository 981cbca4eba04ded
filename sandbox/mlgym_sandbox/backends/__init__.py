"""Ways to run a sandbox; each is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from mlgym_sandbox.backends.base import Backend, Found

BackendName = Literal["docker", "bubblewrap", "process"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)

__all__ = ["BACKENDS", "Backend", "BackendName", "Found", "get_backend"]


def get_backend(name: str, *, unsafe: bool = False, environ: Mapping[str, str] | None = None) -> Backend:
    """Return a backend by name; making one is cheap and starts nothing.

    Args:
        name: ``docker``, ``bubblewrap`` or ``process``.
        unsafe: allows ``process``, which isolates nothing.
        environ: where ``docker`` finds ``DOCKER_HOST``; default: the process's environment.

    Raises:
        ValueError: no backend of that name.
        BackendUnavailableError: ``process`` without ``unsafe=True``.
    """
    if name == "docker":
        from mlgym_sandbox.backends.docker import DockerBackend

        return DockerBackend(environ=environ)
    if name == "bubblewrap":
        from mlgym_sandbox.backends.bubblewrap import BubblewrapBackend

        return BubblewrapBackend()
    if name == "process":
        from mlgym_sandbox.backends.process import ProcessBackend

        return ProcessBackend(unsafe=unsafe)
    raise ValueError(f"no sandbox backend is called {name!r}; choose one of: {', '.join(BACKENDS)}")
