"""Sandboxes: commands, files and snapshots behind one small interface. Knows neither MCP nor tasks."""

from __future__ import annotations

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
