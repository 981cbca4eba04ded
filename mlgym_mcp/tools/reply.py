"""What a tool gets and gives: plain values, no MCP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlgym_mcp.session.session import Session

MAX_CHARS = 25_000
"""No reply's text is longer; what is cut says how to read the rest."""

Progress = Callable[[float, float | None, str], Awaitable[None]]


async def _silent(progress: float, total: float | None, message: str) -> None:
    """Report to nobody."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool: the session it works on, and where progress goes (done, total or ``None``, message)."""

    session: Session
    progress: Progress = _silent


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
