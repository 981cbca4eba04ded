"""Sandboxes: commands, files and snapshots behind one small interface. Knows neither MCP nor tasks.

Names are loaded when first used: programs that want one small module of this package do not pay for all of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlgym_sandbox.backends import BACKENDS, Backend, BackendName, Found, get_backend
    from mlgym_sandbox.errors import (
        BackendUnavailableError,
        JobNotFoundError,
        SandboxError,
        SandboxFileError,
        SandboxLostError,
        TarLimitError,
    )
    from mlgym_sandbox.sandbox import Sandbox
    from mlgym_sandbox.spec import (
        DATA,
        WORKSPACE,
        Check,
        FileChunk,
        FileEntry,
        JobState,
        JobStatus,
        Limits,
        Listing,
        Match,
        Matches,
        Mount,
        Output,
        SandboxSpec,
        Usage,
    )
    from mlgym_sandbox.streams import JobStream

__all__ = [
    "BACKENDS",
    "DATA",
    "WORKSPACE",
    "Backend",
    "BackendName",
    "BackendUnavailableError",
    "Check",
    "FileChunk",
    "FileEntry",
    "Found",
    "JobNotFoundError",
    "JobState",
    "JobStatus",
    "JobStream",
    "Limits",
    "Listing",
    "Match",
    "Matches",
    "Mount",
    "Output",
    "Sandbox",
    "SandboxError",
    "SandboxFileError",
    "SandboxLostError",
    "SandboxSpec",
    "TarLimitError",
    "Usage",
    "get_backend",
]

_HOMES = {
    "BACKENDS": "backends",
    "Backend": "backends",
    "BackendName": "backends",
    "BackendUnavailableError": "errors",
    "Check": "spec",
    "DATA": "spec",
    "FileChunk": "spec",
    "FileEntry": "spec",
    "Found": "backends",
    "JobNotFoundError": "errors",
    "JobState": "spec",
    "JobStatus": "spec",
    "JobStream": "streams",
    "Limits": "spec",
    "Listing": "spec",
    "Match": "spec",
    "Matches": "spec",
    "Mount": "spec",
    "Output": "spec",
    "Sandbox": "sandbox",
    "SandboxError": "errors",
    "SandboxFileError": "errors",
    "SandboxLostError": "errors",
    "SandboxSpec": "spec",
    "TarLimitError": "errors",
    "Usage": "spec",
    "WORKSPACE": "spec",
    "get_backend": "backends",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
