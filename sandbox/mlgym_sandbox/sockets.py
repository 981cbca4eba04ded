"""A connected socket as a byte stream whose waits may be cancelled at any moment.

anyio's own stream over a socket has a race: cancelled in the same turn of the loop in which data arrives, it
sets the result of a future that is done already. Requests here run under deadlines all the time, so this one
waits with ``anyio.wait_readable``, which does not mind.
"""

from __future__ import annotations

import socket

import anyio
from anyio.abc import ByteStream

_CHUNK = 1 << 18


class ConnectedSocket(ByteStream):
    """A byte stream over a connected, non-blocking stream socket; it owns the socket.

    One task may receive and one may send at a time.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._closed = False

    async def receive(self, max_bytes: int = _CHUNK) -> bytes:
        """Return some bytes.

        Raises:
            EndOfStream: the other side has closed.
            ClosedResourceError: this side has closed.
            BrokenResourceError: the connection broke.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        while True:
            self._check()
            try:
                data = self._socket.recv(max_bytes)
            except BlockingIOError:
                await self._wait(anyio.wait_readable)
                continue
            except OSError as exc:
                raise self._error() from exc
            if not data:
                raise anyio.EndOfStream
            return data

    def send_at_once(self, item: bytes) -> int:
        """Send what the kernel takes without a wait, which is nearly always all; returns how many bytes it took.

        Raises:
            ClosedResourceError: this side has closed.
            BrokenResourceError: the connection broke, or the other side has closed.
        """
        self._check()
        try:
            return self._socket.send(item)
        except BlockingIOError:
            return 0
        except OSError as exc:
            raise self._error() from exc

    async def send(self, item: bytes) -> None:
        """Send all of the bytes; cancelled, it may have sent some.

        Raises:
            ClosedResourceError: this side has closed.
            BrokenResourceError: the connection broke, or the other side has closed.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        view = memoryview(item)
        while view:
            self._check()
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                await self._wait(anyio.wait_writable)
            except OSError as exc:
                raise self._error() from exc

    async def send_fds(self, item: bytes, descriptors: list[int]) -> None:
        """Send bytes with file descriptors beside the first of them (unix sockets only).

        Raises:
            ClosedResourceError: this side has closed.
            BrokenResourceError: the connection broke.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        while True:
            self._check()
            try:
                sent = socket.send_fds(self._socket, [item], descriptors)
            except BlockingIOError:
                await self._wait(anyio.wait_writable)
                continue
            except OSError as exc:
                raise self._error() from exc
            await self.send(item[sent:])
            return

    async def send_eof(self) -> None:
        """Tell the other side that nothing more will come."""
        self._check()
        self._socket.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        """Close the connection; waits in progress end with ClosedResourceError."""
        if not self._closed:
            self._closed = True
            anyio.notify_closing(self._socket)
            self._socket.close()
        await anyio.lowlevel.checkpoint()

    async def _wait(self, ready: object) -> None:
        try:
            await ready(self._socket)  # type: ignore[operator]
        except (anyio.ClosedResourceError, OSError, ValueError) as exc:
            raise self._error() from exc

    def _check(self) -> None:
        if self._closed:
            raise anyio.ClosedResourceError

    def _error(self) -> Exception:
        return anyio.ClosedResourceError() if self._closed else anyio.BrokenResourceError()


async def connect_unix(path: str) -> ConnectedSocket:
    """Connect to a unix socket.

    Raises:
        OSError: nobody listens there.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.setblocking(False)  # a unix socket connects at once, or not at all
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return ConnectedSocket(connection)
