"""One call of a tool that may take long, whoever waits for it."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import anyio
from mcp.server.context import HandlerResult
from mcp.types import CallToolResult

from mlgym_mcp.serving.request_ids import RequestId
from mlgym_mcp.tools.reply import Patience, Progress

KEYS = ("dev.mlgym/call", "claudecode/toolUseId")
"""Entries of a request's ``_meta`` that name a call: the same when it is sent again, else never the same."""
_TELL_S = 1.0
_SHORT = 100

State = Literal["working", "completed", "failed", "cancelled"]


@dataclass(eq=False)
class LongCall:
    """One call of a tool that may take long, and its answer once there is one.

    Attributes:
        arguments: digest of the arguments.
        key: the caller's own name for it.
        request: what the protocol names the request that began it, where there are such names.
        change: how many changing calls had been made when it began.
        lost: when nobody waited for its answer any more, seconds of the monotonic clock.
        is_task: it was handed out as a task.
        resumed: it goes on with a job that an earlier server began.
        cancelled: the task was cancelled; the work goes on, but nobody will be told.
    """

    name: str
    arguments: str
    key: str | None
    request: RequestId | None
    change: int
    id: str = field(default_factory=lambda: secrets.token_urlsafe(18))
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    updated: datetime = field(default_factory=lambda: datetime.now(UTC))
    message: str = "begun"
    result: HandlerResult = None
    failure: Exception | None = None
    done: anyio.Event = field(default_factory=anyio.Event)
    patience: Patience = field(default_factory=Patience)
    ended: float | None = None
    lost: float | None = None
    is_task: bool = False
    cancelled: bool = False
    resumed: bool = False
    listeners: list[Progress] = field(default_factory=list)

    @property
    def state(self) -> State:
        """Where it is, in the words of the Tasks extension."""
        if self.cancelled:
            return "cancelled"
        if not self.done.is_set():
            return "working"
        return "completed" if self.failure is None else "failed"

    @property
    def job(self) -> str | None:
        """The job that the answer left running, if it is such an answer."""
        return running_job(self.result)

    async def progress(self, done: float, total: float | None, message: str) -> None:
        """Tell all who wait; one who does not listen holds nobody up for long."""
        self.say(message)
        for listener in list(self.listeners):
            with anyio.move_on_after(_TELL_S):
                await listener(done, total, message)

    def say(self, message: str) -> None:
        """Note how it stands."""
        self.message, self.updated = message, datetime.now(UTC)

    def answer(self) -> HandlerResult:
        """Return the answer, or raise what the call raised."""
        if self.failure is not None:
            raise self.failure
        return self.result

    def cancel(self) -> None:
        """End the task, not the work."""
        if not self.done.is_set() and not self.cancelled:
            self.cancelled = True
            self.say(f"cancelled; what {self.name} began goes on (job_list shows it, job_stop ends it)")
            self.patience.end()


def key_of(meta: Mapping[str, Any] | None) -> str | None:
    """Return a request's own name for the call, if it has one."""
    for name in KEYS:
        if isinstance(value := (meta or {}).get(name), str) and value:
            digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
            return f"{name}={value if len(value) <= _SHORT else digest}"
    return None


def running_job(result: HandlerResult) -> str | None:
    """Return the job that a result says is still running."""
    meta = (result.meta if isinstance(result, CallToolResult) else None) or {}
    return str(meta["job_id"]) if meta.get("state") == "running" and "job_id" in meta else None


def digest_of(arguments: Mapping[str, Any]) -> str:
    """Return what tells a call's arguments from others, however long they are."""
    try:
        text = json.dumps(arguments, sort_keys=True)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or nested without end
        text = f"unlike any other: {secrets.token_hex()}"
    return hashlib.sha256(text.encode()).hexdigest()
