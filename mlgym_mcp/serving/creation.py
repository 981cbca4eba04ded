"""What may go wrong when a session is made."""

from __future__ import annotations

from mlgym_mcp.catalog import TaskError
from mlgym_mcp.session.errors import SessionError
from mlgym_mcp.session.journal import JournalError
from mlgym_sandbox.errors import SandboxError

CREATION_ERRORS = (TaskError, SandboxError, SessionError, JournalError, ValueError, OSError)
"""Each says in one sentence why there is no session."""
