"""Waiting: for descriptors and for moments; everything the runner does is a callback of this loop."""

from __future__ import annotations

import heapq
import itertools
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ, WRITE = select.EPOLLIN, select.EPOLLOUT


class Timer:
    """A callback at a moment of the monotonic clock, until cancelled."""

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        self.action = None


class Loop:
    """Descriptors and timers; every callback runs here, one at a time."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.watched: dict[int, tuple[Callable[[], None]]] = {}
        """By descriptor; every call of ``watch`` makes another tuple."""
        self.timers: list[tuple[float, int, Timer]] = []
        self.order = itertools.count()

    def watch(self, fd: int, events: int, action: Callable[[], None]) -> None:
        if fd in self.watched:
            self.epoll.modify(fd, events)
        else:
            self.epoll.register(fd, events)
        self.watched[fd] = (action,)

    def unwatch(self, fd: int) -> None:
        if self.watched.pop(fd, None) is not None:
            self.epoll.unregister(fd)

    def after(self, seconds: float, action: Callable[[], None]) -> Timer:
        timer = Timer(action)
        heapq.heappush(self.timers, (time.monotonic() + seconds, next(self.order), timer))
        return timer

    def turn(self) -> None:
        """Wait for something to happen and deal with it."""
        while self.timers and self.timers[0][2].action is None:
            heapq.heappop(self.timers)
        timeout = min(max(0.0, self.timers[0][0] - time.monotonic()), 3600.0) if self.timers else None
        ready = [(fd, self.watched.get(fd)) for fd, _ in self.epoll.poll(timeout)]
        for fd, watch in ready:
            if watch is not None and self.watched.get(fd) is watch:  # else: an earlier callback of this turn changed it
                watch[0]()
        now = time.monotonic()
        while self.timers and self.timers[0][0] <= now:
            action = heapq.heappop(self.timers)[2].action
            if action is not None:
                action()
