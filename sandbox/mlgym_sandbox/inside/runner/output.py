"""What jobs print, kept within limits."""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class OutputLog:
    """What a job printed: the first three quarters of ``limit`` and, rolling, the last quarter."""

    def __init__(self, folder: str, limit: int, make_room: Callable[[], bool]) -> None:
        self.head = limit * 3 // 4
        self.ring = limit - self.head
        self.total = 0
        self.make_room = make_room
        self.stuck: int | None = None
        """Where keeping ended because the disk was full."""
        self.folder = folder
        self.dropped = False
        self.fd = -1
        """Opened with the first byte: many commands print nothing."""

    @staticmethod
    def open(folder: str) -> int:
        try:
            return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:
            path = os.path.join(folder, os.urandom(8).hex())  # a file system without unnamed files
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
            os.unlink(path)
            return fd

    @property
    def kept(self) -> int:
        """Bytes on disk."""
        return 0 if self.fd < 0 else min(self.total, self.head + self.ring)

    def append(self, data: bytes) -> None:
        at, self.total = self.total, self.total + len(data)
        if self.stuck is not None or self.dropped:
            return
        while True:
            try:
                if self.fd < 0:
                    self.fd = self.open(self.folder)
                self.put(at, data)
                return
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self.make_room():
                    self.stuck = min(at, self.head)
                    return

    def put(self, at: int, data: bytes) -> None:
        if at < self.head:
            part = data[: self.head - at]
            pwrite_all(self.fd, part, at)
            at, data = at + len(part), data[len(part) :]
        if len(data) > self.ring:
            at, data = at + len(data) - self.ring, data[-self.ring :]
        while data:
            place = (at - self.head) % self.ring
            part = data[: self.ring - place]
            pwrite_all(self.fd, part, self.head + place)
            at, data = at + len(part), data[len(part) :]

    def read(self, offset: int, limit: int) -> tuple[int, bytes]:
        """Bytes from ``offset`` (negative: from the end), and where they really begin."""
        offset = max(0, self.total + offset) if offset < 0 else offset
        end = self.total if self.stuck is None else self.stuck
        if self.fd < 0 or offset >= end or limit <= 0:
            return (min(offset, self.total) if offset < end else self.total), b""
        parts: list[bytes] = []
        start = offset
        if offset < self.head:
            parts.append(os.pread(self.fd, min(limit, min(end, self.head) - offset), offset))
            offset += len(parts[0])
            limit -= len(parts[0])
            if end > self.head + self.ring:
                return start, parts[0]  # a gap follows
        else:
            start = offset = max(offset, end - self.ring)
        limit = min(limit, end - offset)
        while limit > 0 and offset >= self.head:
            place = (offset - self.head) % self.ring
            part = os.pread(self.fd, min(limit, self.ring - place), self.head + place)
            if not part:
                break
            parts.append(part)
            offset, limit = offset + len(part), limit - len(part)
        return start, b"".join(parts)

    def drop(self) -> None:
        self.dropped = True
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def pwrite_all(fd: int, data: bytes, at: int) -> None:
    while data:
        sent = os.pwrite(fd, data, at)
        data, at = data[sent:], at + sent
