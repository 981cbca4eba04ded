"""The server, as one to send to."""

from __future__ import annotations

import os

from mlgym_sandbox.inside.runner.loop import WRITE, Loop
from mlgym_sandbox.inside.runner.wire import BACKLOG, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mlgym_sandbox.inside.runner.wire import Header


class Peer:
    """The server at the other end, for as long as it is the one that is listened to."""

    def __init__(self, loop: Loop, fd: int, lost: Callable[[], None]) -> None:
        self.loop, self.fd, self.lost = loop, fd, lost
        self.alive = True
        self.pending = 0
        self.queue: list[memoryview] = []
        self.when_drained: list[Callable[[], None]] = []

    def send(self, header: Header, payload: bytes = b"") -> None:
        if self.alive:
            self.raw(encode(header, payload))

    def raw(self, data: bytes) -> None:
        self.queue.append(memoryview(data))
        self.pending += len(data)
        if len(self.queue) == 1:
            self.flush()

    def flush(self) -> None:
        try:
            while self.queue:
                sent = os.write(self.fd, self.queue[0])
                self.pending -= sent
                if sent < len(self.queue[0]):
                    self.queue[0] = self.queue[0][sent:]
                else:
                    del self.queue[0]
            self.loop.unwatch(self.fd)
        except BlockingIOError:
            self.loop.watch(self.fd, WRITE, self.flush)
        except OSError:
            self.loop.unwatch(self.fd)
            self.queue.clear()
            self.pending = 0
            self.lost()
        if self.pending <= BACKLOG // 4 and self.when_drained:
            actions, self.when_drained = self.when_drained, []
            for action in actions:
                action()

    def retire(self) -> None:
        """Send nothing more to it."""
        self.alive = False
        self.loop.unwatch(self.fd)
        self.queue.clear()
        self.pending = 0
        actions, self.when_drained = self.when_drained, []
        for action in actions:
            action()
