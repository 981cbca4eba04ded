"""What can go wrong with a sandbox. Every message is one sentence for the person or agent who meant it."""

from __future__ import annotations


class SandboxError(Exception):
    """Base of all. Caught by the session, which tells the agent."""


class BackendUnavailableError(SandboxError):
    """The backend cannot run here; the message names what is missing and the command that mends it."""


class SandboxLostError(SandboxError):
    """The sandbox is gone (killed, engine stopped, no memory): an infrastructure failure, not the agent's."""


class SandboxFileError(SandboxError):
    """A file operation that cannot be done as asked: missing, a directory, not permitted, too large."""


class JobNotFoundError(SandboxError):
    """No job of that id in this sandbox."""


class TarLimitError(SandboxError):
    """What was to be copied out holds too many files, too many bytes, or something that is not a file."""
