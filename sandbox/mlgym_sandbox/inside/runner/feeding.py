"""Pipes that the runner writes to."""

from __future__ import annotations

import os

from mlgym_sandbox.inside.runner.loop import WRITE, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Feeder:
    """Writes to a pipe as fast as its reader takes it; answers each piece when it has gone in."""

    def __init__(self, loop: Loop, fd: int) -> None:
        self.loop, self.fd = loop, fd
        os.set_blocking(fd, False)
        self.queue: list[tuple[bytes, Callable[[bool], None]]] = []
        self.ending = False

    def put(self, data: bytes, done: Callable[[bool], None]) -> None:
        if self.fd < 0 or self.ending:
            done(False)
            return
        self.queue.append((data, done))
        if len(self.queue) == 1:
            self.flush()

    def finish(self) -> None:
        """Close the pipe after all that was put."""
        self.ending = True
        if not self.queue:
            self.close()

    def flush(self) -> None:
        try:
            while self.queue:
                data, done = self.queue[0]
                sent = os.write(self.fd, data) if data else 0
                if sent < len(data):
                    self.queue[0] = (data[sent:], done)
                    continue
                del self.queue[0]
                done(True)
        except BlockingIOError:
            self.loop.watch(self.fd, WRITE, self.flush)
            return
        except OSError:
            self.close()  # the reader has gone
            return
        if self.ending:
            self.close()
        else:
            self.loop.unwatch(self.fd)

    def close(self) -> None:
        if self.fd >= 0:
            self.loop.unwatch(self.fd)
            os.close(self.fd)
            self.fd = -1
        while self.queue:
            self.queue.pop(0)[1](False)
