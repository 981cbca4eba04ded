"""How much the server takes on: sessions, requests of one client, the size and the time of a request."""

from __future__ import annotations

import importlib.util
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
from starlette.types import Message, Receive

from mlgym_mcp.session.errors import RefusedError

if TYPE_CHECKING:
    import asyncio


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server takes on at most.

    Attributes:
        sessions: live sessions.
        preparing: sessions that are being prepared at the same time.
        rate: requests a second of one client (an address, or all users of one session's endpoint), on average.
        burst: requests that a client may make at once after a rest.
        clients: clients that are remembered; beyond them the one that was quiet for longest is forgotten.
        body: bytes of a request to the control API.
        body_s: seconds in which a request's body has to arrive.
        head_s: seconds in which a request's head has to arrive.
        connections: connections at a time.
    """

    sessions: int = 512
    preparing: int = 64
    rate: float = 1000.0
    burst: int = 2000
    clients: int = 10_000
    body: int = 1 << 20
    body_s: float = 30.0
    head_s: float = 10.0
    connections: int = 4096

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"the limit {name} must be a positive number, got {value!r}")


class FullError(RefusedError):
    """The server has as much to do as it takes on; ``status`` is the answer over HTTP."""

    def __init__(self, message: str, retry_after_s: float, *, status: int = 429) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.status = status


class Admission:
    """Lets a session be made while there is room.

    Args:
        limits: how many.
        count: returns how many sessions live, and how many of them are being prepared.
    """

    def __init__(self, limits: Limits, count: Callable[[], tuple[int, int]]) -> None:
        self._limits = limits
        self._count = count
        self._coming = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a place for a session until it is counted among the others.

        Raises:
            FullError: there is no room now.
        """
        live, preparing = self._count()
        if live + self._coming >= self._limits.sessions:
            raise FullError(f"the server is full: it hosts {self._limits.sessions} live sessions", 30)
        if preparing + self._coming >= self._limits.preparing:
            raise FullError(f"{self._limits.preparing} sessions are being prepared: try again in a moment", 2)
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1


class RateLimiter:
    """A bucket of requests for each client, which fills at a steady rate; memory is bounded.

    Args:
        limits: rate, burst, and how many clients are remembered.
        clock: seconds.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def wait_s(self, client: str) -> float:
        """Take one request from a client's bucket; returns 0, or after how many seconds there will be one to take."""
        now = self._clock()
        left, then = self._buckets.pop(client, (float(self._limits.burst), now))
        left = min(float(self._limits.burst), left + max(0.0, now - then) * self._limits.rate)
        enough = left >= 1
        self._buckets[client] = (left - 1 if enough else left, now)
        if len(self._buckets) > self._limits.clients:
            self._buckets.popitem(last=False)
        return 0.0 if enough else (1 - left) / self._limits.rate


_LONGEST_HEAD = 8 << 20
"""Where a head is cut off, bytes. An endpoint refuses in words what is over 64 KiB, so more has to get there."""


class BodyError(Exception):
    """A request's body cannot be had; ``status`` is the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


async def take_body(headers: list[tuple[bytes, bytes]], receive: Receive, limit: int, seconds: float) -> Receive:
    """Read a request's whole body and return a ``receive`` that hands it on.

    Args:
        headers: the request's.
        receive: where the body comes from.
        limit: bytes; a body that says it is larger is not read at all, one that is, no further than that.
        seconds: in which it has to arrive.

    Raises:
        BodyError: it is too large, or came too slowly.
    """
    too_large = BodyError(413, f"the body is larger than {limit} bytes")
    for name, value in headers:
        if name == b"content-length" and (len(value) > 18 or not value.isdigit() or int(value) > limit):
            raise too_large
    parts: list[bytes] = []
    size = 0
    last: Message | None = None
    with anyio.move_on_after(seconds) as scope:
        while last is None:
            message = await receive()
            if message["type"] != "http.request":
                last = message
                break
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise too_large
            if not message.get("more_body", False):
                break
    if scope.cancelled_caught:
        raise BodyError(408, f"the body did not arrive within {seconds:g} seconds")
    waiting: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": last is not None}]
    if last is not None:
        waiting.append(last)

    async def replay() -> Message:
        return waiting.pop(0) if waiting else await receive()

    return replay


def _trimming(base: Any) -> Any:
    """Return uvicorn's httptools protocol, made to drop the spaces around a header's value, as HTTP wants."""

    class Trimming(base):  # type: ignore[misc]
        """Hands on what a header says, which h11 does by itself."""

        def on_header(self, name: bytes, value: bytes) -> None:
            super().on_header(name, value.strip(b" \t"))

    return Trimming


def impatient(head_s: float) -> type[asyncio.Protocol]:
    """Return uvicorn's quickest HTTP protocol that is installed, made to close connections whose head comes slowly.

    uvicorn itself waits for the rest of a request's head for ever, and takes one without an end.
    """
    base: Any
    if importlib.util.find_spec("httptools") is not None:
        base = _trimming(importlib.import_module("uvicorn.protocols.http.httptools_impl").HttpToolsProtocol)
    else:
        base = importlib.import_module("uvicorn.protocols.http.h11_impl").H11Protocol

    class Impatient(base):  # type: ignore[misc]
        """Closes the connection when a request's head does not arrive in time, or is too long."""

        _deadline: asyncio.TimerHandle | None = None
        _head = 0

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self._look()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._head += len(data)
            self._look()

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            super().connection_lost(exc)

        def _look(self) -> None:
            if self.transport.is_closing() or (self.cycle is not None and not self.cycle.response_complete):
                self._disarm()
                self._head = 0
            elif self._head > _LONGEST_HEAD:
                self._late()
            elif self._deadline is None:
                self._deadline = self.loop.call_later(head_s, self._late)

        def _disarm(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _late(self) -> None:
            self._disarm()
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return Impatient
