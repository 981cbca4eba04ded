"""How servers reach the runner: over descriptors 0 and 1, or over a listening socket."""

from __future__ import annotations

import fcntl
import os
import select

from mlgym_sandbox.inside.runner.loop import READ
from mlgym_sandbox.inside.runner.native import accept
from mlgym_sandbox.inside.runner.peer import Peer
from mlgym_sandbox.inside.runner.wire import CHUNK, MAGIC_BYTES, Decoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from mlgym_sandbox.inside.runner.loop import Loop
    from mlgym_sandbox.inside.runner.wire import Header

    class Host(Protocol):
        """Who is told what arrives."""

        loop: Loop
        magic: bytes | None
        peer: Peer | None

        def adopt(self, peer: Peer) -> None: ...
        def forget(self, peer: Peer) -> None: ...
        def dispatch(self, peer: Peer, header: Header, payload: bytes) -> None: ...


class Stdio:
    """Frames on descriptors 0 and 1, which outlive every server; each new one announces itself by the magic."""

    def __init__(self, runner: Host) -> None:
        self.runner, self.loop = runner, runner.loop
        self.read_fd = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
        self.write_fd = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)
        os.set_blocking(self.read_fd, False)
        os.set_blocking(self.write_fd, False)
        self.tail = b""
        self.first = b""
        self.decoder: Decoder | None = None
        self.listen()

    def listen(self) -> None:
        self.loop.watch(self.read_fd, READ, self.on_bytes)

    def on_bytes(self) -> None:
        try:
            data = os.read(self.read_fd, CHUNK)
        except BlockingIOError:
            return
        if not data:  # nobody is attached; a later server may be
            self.loop.unwatch(self.read_fd)
            self.loop.after(0.5, self.listen)
            return
        magic = self.runner.magic
        if magic is None:
            self.first += data
            if len(self.first) < MAGIC_BYTES:
                return
            self.runner.magic, data = self.first[:MAGIC_BYTES], self.first[MAGIC_BYTES:]
            self.greet()
        else:
            data = self.rest_of_magic(data, magic)
            seen = self.tail + data
            at = seen.rfind(magic)
            if at >= 0:
                self.feed(data[: max(0, at - len(self.tail))])
                data = seen[at + MAGIC_BYTES :]
                self.tail = b""
                self.greet()
        self.tail = (self.tail + data)[-(MAGIC_BYTES - 1) :]
        self.feed(data)

    def rest_of_magic(self, data: bytes, magic: bytes) -> bytes:
        """Wait a moment for the rest when the bytes seem to break off within the magic.

        Else its beginning could complete a frame that a dead server left unfinished.
        """
        for size in range(min(len(data), MAGIC_BYTES - 1), 0, -1):
            if data.endswith(magic[:size]):
                try:
                    if readable(self.read_fd, 5):
                        data += os.read(self.read_fd, CHUNK)
                except BlockingIOError:
                    pass
                break
        return data

    def greet(self) -> None:
        self.decoder = Decoder()
        peer = Peer(self.loop, self.write_fd, lambda: None)
        self.runner.adopt(peer)

    def feed(self, data: bytes) -> None:
        peer = self.runner.peer
        if self.decoder is None or peer is None:
            return
        try:
            for header, payload in self.decoder.feed(data):
                self.runner.dispatch(peer, header, payload)
        except ValueError:
            self.decoder = None  # deaf until the next magic


def readable(fd: int, milliseconds: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(milliseconds))


class Listener:
    """An inherited listening unix socket; the latest server that knows the magic is the one listened to."""

    def __init__(self, runner: Host, fd: int) -> None:
        self.runner, self.loop = runner, runner.loop
        self.fd = fd
        os.set_blocking(fd, False)
        os.set_inheritable(fd, False)
        self.loop.watch(fd, READ, self.accept)

    def accept(self) -> None:
        try:
            link = accept(self.fd)
        except OSError:
            return
        os.set_blocking(link, False)
        Link(self.runner, link)


class Link:
    """One accepted connection."""

    def __init__(self, runner: Host, fd: int) -> None:
        self.runner, self.loop, self.fd = runner, runner.loop, fd
        self.first = b""
        self.decoder = Decoder()
        self.peer: Peer | None = None
        self.write_fd = -1
        self.loop.watch(fd, READ, self.on_bytes)
        self.loop.after(10.0, lambda: self.close() if self.peer is None else None)

    def on_bytes(self) -> None:
        try:
            data = os.read(self.fd, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        if self.peer is None:
            self.first += data
            if len(self.first) < MAGIC_BYTES:
                return
            magic, data = self.first[:MAGIC_BYTES], self.first[MAGIC_BYTES:]
            if self.runner.magic is None:
                self.runner.magic = magic
            if magic != self.runner.magic:
                self.close()
                return
            self.write_fd = os.dup(self.fd)  # read and write are watched apart
            self.peer = Peer(self.loop, self.write_fd, self.close)
            self.runner.adopt(self.peer)
        try:
            for header, payload in self.decoder.feed(data):
                if not self.peer.alive:
                    break
                self.runner.dispatch(self.peer, header, payload)
        except ValueError:
            self.close()
            return
        if not self.peer.alive:
            self.close()

    def close(self) -> None:
        if self.fd < 0:
            return
        self.loop.unwatch(self.fd)
        os.close(self.fd)
        self.fd = -1
        if self.peer is not None:
            self.runner.forget(self.peer)
            os.close(self.write_fd)
