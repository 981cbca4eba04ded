"""One job."""

from __future__ import annotations

import time

from mlgym_sandbox.inside.runner.feeding import Feeder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mlgym_sandbox.inside.runner.loop import Timer
    from mlgym_sandbox.inside.runner.output import OutputLog
    from mlgym_sandbox.inside.runner.peer import Peer
    from mlgym_sandbox.inside.runner.wire import Header

STREAM_WINDOW = 1 << 20
"""Bytes of a stream's stdout that may be under way unread."""


class Job:
    """One command, from its start to the end of everything it started."""

    def __init__(self, job_id: str, command: str, log: OutputLog, grace_s: float) -> None:
        self.id, self.log, self.grace_s = job_id, log, grace_s
        self.command = command if len(command) <= 500 else command[:499] + "\u2026"
        self.pid: int | None = None
        self.started, self.begun = time.time(), time.monotonic()
        self.seconds: float | None = None
        self.exit_code: int | None = None
        self.exited = False
        """The leader was reaped; the job is over when also nothing is left to kill."""
        self.reason: str | None = None
        self.oom = False
        self.oom_before = 0
        self.kill_at: float | None = None
        """Set from the decision to end the job until nothing of it is left."""
        self.give_up_at: float | None = None
        self.look: Timer | None = None
        self.gone: list[Callable[[], None]] = []
        """Called when nothing of the job is left; ``waiting`` when the job is over."""
        self.deadline: Timer | None = None
        self.output_fd = -1
        self.state_fd = -1
        self.waiting: list[Callable[[], None]] = []
        self.peer: Peer | None = None
        self.stdin: Feeder | None = None
        self.stdout_fd = -1
        self.credit = STREAM_WINDOW

    @property
    def over(self) -> bool:
        return self.seconds is not None

    @property
    def leader(self) -> int | None:
        """The first process's number, while it cannot belong to another."""
        return None if self.over else self.pid

    def status(self) -> Header:
        state = "running"
        if self.over:
            state = "killed" if self.reason is not None else "exited"
        return {
            "job": self.id,
            "command": self.command,
            "state": state,
            "exit_code": self.exit_code if self.over else None,
            "reason": None if self.reason == "signal" else self.reason,
            "started": self.started,
            "seconds": time.monotonic() - self.begun if self.seconds is None else self.seconds,
            "output_bytes": self.log.total,
            "oom": self.oom,
        }
