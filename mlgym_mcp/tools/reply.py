"""What a tool gets and gives: plain values, no MCP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import anyio

from mlgym_mcp.session.session import Session

MAX_CHARS = 20_400
"""No reply's text is longer; what is cut says how to read the rest. (Of what is longer than 20 KiB, GitHub Copilot CLI
shows its model 500 characters.)"""

Progress = Callable[[float, float | None, str], Awaitable[None]]


async def _silent(progress: float, total: float | None, message: str) -> None:
    """Report to nobody."""


class Patience:
    """Lets a call stop waiting at once, when nobody waits for its answer any more. What it waited for goes on."""

    def __init__(self) -> None:
        self.over = False
        self._waiting: set[anyio.CancelScope] = set()

    def end(self) -> None:
        """Stop all waiting, now and from now on."""
        self.over = True
        for scope in list(self._waiting):
            scope.cancel()

    @contextmanager
    def wait(self) -> Iterator[anyio.CancelScope]:
        """Wait within the body; it is left at once when the patience ends."""
        with anyio.CancelScope() as scope:
            self._waiting.add(scope)
            try:
                if self.over:
                    scope.cancel()
                yield scope
            finally:
                self._waiting.discard(scope)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool.

    Attributes:
        session: what it works on.
        progress: where progress goes (done, total or ``None``, message).
        patience: whether to go on waiting.
    """

    session: Session
    progress: Progress = _silent
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True, slots=True)
class Reply:
    """A tool's answer.

    Attributes:
        text: what a model reads; cut to ``MAX_CHARS`` on the way out.
        data: the same as JSON, for the tools that answer structured.
        meta: facts for the host program, not for the model (exit code, job id).
    """

    text: str
    data: Mapping[str, Any] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


def with_warning(reply: Reply, warning: str) -> Reply:
    """Return the reply with one more line; where clients show the model the JSON only, its ``message`` says it too."""
    separator = "" if reply.text.endswith("\n") or not reply.text else "\n"
    data = reply.data
    if data is not None and isinstance(message := data.get("message"), str):
        data = {**data, "message": f"{message} [{warning}]"}
    return replace(reply, text=f"{reply.text}{separator}[{warning}]", data=data)


def cut(text: str, how_to_read_on: str, limit: int = MAX_CHARS) -> str:
    """Return the text, or its head and tail with a line between them that says what is missing and how to read it."""
    if len(text) <= limit:
        return text
    room = limit - len(how_to_read_on) - 120
    head = text[: room * 2 // 5]
    tail = text[-(room * 3 // 5) :]
    if (end := head.rfind("\n")) > room // 5:
        head = head[: end + 1]
    if 0 <= (start := tail.find("\n")) < room // 5:
        tail = tail[start + 1 :]
    missing = len(text) - len(head) - len(tail)
    return f"{head}\n[... {missing} characters left out; {how_to_read_on} ...]\n{tail}"


def plural(count: int, noun: str) -> str:
    """Return ``1 file`` or ``3 files``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def size(count: float) -> str:
    """Return a number of bytes for people: ``1.5 KiB``."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")
