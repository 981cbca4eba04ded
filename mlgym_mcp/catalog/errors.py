"""What can go wrong with tasks and their data. Every message is one sentence for a person."""

from __future__ import annotations


class TaskError(Exception):
    """A task that is unknown, badly written, or whose data cannot be had. Caught by whoever asked for it.

    Args:
        problems: one sentence each; the message is all of them, a line each.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class DataError(TaskError):
    """A task's data cannot be prepared; nothing half-made is left, and trying again is safe."""


class SourceError(DataError):
    """A source file could not be had; ``kind`` says why.

    Attributes:
        kind: ``network`` (not reachable), ``missing`` (reachable, not there), ``truncated``, ``checksum``,
            ``disk`` or ``unusable`` (this way of getting it does not exist here).
    """

    def __init__(self, kind: str, problem: str) -> None:
        super().__init__(problem)
        self.kind = kind
