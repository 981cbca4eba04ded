"""The attach stream of a container: a hijacked HTTP connection that carries multiplexed frames.

Docker sends ``{stream type, 0, 0, 0, u32 big-endian size}`` before each piece of stdout or stderr and takes
stdin raw. The connection is made here, on the event loop, and not by the SDK: the SDK reads the response's
head through a buffer that may swallow the first frames, and hides the socket in private attributes.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlsplit

import anyio
import anyio.abc
from anyio.streams.stapled import StapledByteStream

from mlgym_sandbox.errors import BackendUnavailableError, SandboxError, SandboxLostError
from mlgym_sandbox.sockets import connect_unix

HEADER_BYTES: Final = 8
STDERR_KEPT: Final = 8192
HEAD_LIMIT: Final = 65536


class FrameError(Exception):
    """The engine sent bytes that are no frame. Caught by ``AttachStream``, which closes."""


class Demultiplexer:
    """Splits an attach stream into stdout, which is returned, and the end of stderr, which is kept.

    Pieces of a frame are handed on as they come: no frame is ever held back until it is complete.
    """

    def __init__(self, stderr_kept: int = STDERR_KEPT) -> None:
        self.stderr = bytearray()
        self._stderr_kept = stderr_kept
        self._head = bytearray()
        self._left = 0
        self._kind = 0

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the connection and return the stdout bytes among them.

        Raises:
            FrameError: a frame's header is impossible.
        """
        if self._kind == 1 and len(data) <= self._left:  # the usual case while a large frame streams by
            self._left -= len(data)
            return data
        out = bytearray()
        view = memoryview(data)
        while view:
            if not self._left:
                need = HEADER_BYTES - len(self._head)
                self._head += view[:need]
                view = view[need:]
                if len(self._head) < HEADER_BYTES:
                    break
                self._begin()
                continue
            piece = view[: self._left]
            self._left -= len(piece)
            view = view[len(piece) :]
            if self._kind == 1:
                out += piece
            elif self._kind == 2:
                self.stderr += piece
                del self.stderr[: -self._stderr_kept]
        return bytes(out)

    def _begin(self) -> None:
        kind, padding = self._head[0], self._head[1:4]
        if kind > 2 or any(padding):
            raise FrameError(f"expected the header of an attach frame, got {bytes(self._head).hex()}")
        self._kind = kind
        self._left = int.from_bytes(self._head[4:], "big")
        self._head.clear()


class AttachStream(anyio.abc.ByteStream):
    """A container's stdin (send) and stdout (receive) over one connection to the engine.

    Closing it neither ends the container nor closes its stdin: another server may attach later.

    ``explain``, when set, is asked for a sentence when the connection ends, which is then raised as
    ``SandboxLostError`` instead of anyio's errors: the stream's end alone says nothing.
    """

    def __init__(self, connection: anyio.abc.ByteStream, leftover: bytes = b"") -> None:
        self.explain: Callable[[], Awaitable[str]] | None = None
        self._connection = connection
        self._lost: str | None = None
        self._frames = Demultiplexer()
        self._leftover = leftover
        self._ready = b""

    @property
    def stderr(self) -> str:
        """The last kilobytes of what the container's first process wrote to stderr, for diagnosis."""
        return self._frames.stderr.decode("utf-8", "replace")

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return the next stdout bytes.

        Raises:
            anyio.EndOfStream: the engine closed the connection: the container ended, or the engine did.
            anyio.BrokenResourceError: the connection broke, or carries something that is no frame.
            SandboxLostError: instead of these, when ``explain`` is set.
        """
        try:
            return await self._receive(max_bytes)
        except (anyio.EndOfStream, anyio.BrokenResourceError, OSError) as error:
            await self._raise_lost(error)
            raise

    async def _receive(self, max_bytes: int) -> bytes:
        while not self._ready:
            data, self._leftover = self._leftover, b""
            if not data:
                data = await self._connection.receive(max_bytes)
            try:
                self._ready = self._frames.feed(data)
            except FrameError as error:
                await anyio.aclose_forcefully(self._connection)
                raise anyio.BrokenResourceError from error
        data, self._ready = self._ready[:max_bytes], self._ready[max_bytes:]
        return data

    async def send(self, item: bytes) -> None:
        """Write to the container's stdin. Raises as ``receive`` does."""
        try:
            await self._connection.send(item)
        except (anyio.BrokenResourceError, OSError) as error:
            await self._raise_lost(error)
            raise

    async def _raise_lost(self, error: Exception) -> None:
        if self._lost is None and self.explain is not None:
            self._lost = await self.explain()
        if self._lost is not None:
            raise SandboxLostError(self._lost) from error

    async def send_eof(self) -> None:
        """Do nothing: the container's stdin stays open for the next server."""

    async def aclose(self) -> None:
        """Close the connection."""
        await self._connection.aclose()


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """Where the engine listens: ``unix://``, ``tcp://``, ``http(s)://`` or ``ssh://``, and the TLS to use."""

    url: str
    tls: ssl.SSLContext | None = None

    @property
    def local(self) -> bool:
        """Whether the engine surely shares this machine's files (a unix socket)."""
        return self.url.startswith("unix:")

    async def connect(self) -> anyio.abc.ByteStream:
        """Open a raw connection.

        Raises:
            OSError: nothing listens there.
            BackendUnavailableError: an address of a kind that cannot be used.
        """
        parts = urlsplit(self.url)
        if parts.scheme in ("unix", "http+unix"):
            return await connect_unix(f"{parts.netloc}{parts.path}")
        if parts.scheme in ("tcp", "http", "https"):
            host, port = parts.hostname or "localhost", parts.port or (2376 if self.tls else 2375)
            if self.tls is None:
                return await anyio.connect_tcp(host, port)
            return await anyio.connect_tcp(host, port, tls=True, ssl_context=self.tls, tls_standard_compatible=False)
        if parts.scheme == "ssh":
            return await _dial_ssh(parts.hostname or "localhost", parts.port, parts.username)
        raise BackendUnavailableError(
            f"cannot attach to a Docker engine at {self.url!r}: expected a unix://, tcp:// or ssh:// address; "
            "set DOCKER_HOST"
        )


class _ProcessStream(StapledByteStream):
    """The stdin and stdout of a helper process as one stream that ends the process when closed."""

    def __init__(self, process: anyio.abc.Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise ValueError("the process needs pipes for stdin and stdout")
        super().__init__(process.stdin, process.stdout)
        self._process = process

    async def aclose(self) -> None:
        """Close the pipes and end the process."""
        try:
            await super().aclose()
        finally:
            if self._process.returncode is None:
                self._process.kill()
            with anyio.CancelScope(shield=True), anyio.move_on_after(5):
                await self._process.wait()


async def _dial_ssh(host: str, port: int | None, user: str | None) -> anyio.abc.ByteStream:
    """Reach an engine through ``ssh``, as the Docker command line does."""
    command = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20"]
    if user:
        command += ["-l", user]
    if port:
        command += ["-p", str(port)]
    process = await anyio.open_process([*command, "--", host, "docker", "system", "dial-stdio"], stderr=None)
    return _ProcessStream(process)


async def attach(address: EngineAddress, container: str) -> AttachStream:
    """Attach to a container that exists, started or not.

    Raises:
        SandboxLostError: there is no such container.
        SandboxError: the engine refused, with its words.
        OSError: the engine does not answer.
    """
    connection = await address.connect()
    try:
        query = "stream=1&stdin=1&stdout=1&stderr=1"
        await connection.send(
            f"POST /containers/{quote(container, safe='')}/attach?{query} HTTP/1.1\r\n"
            "Host: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n".encode("ascii")
        )
        head, leftover = await _read_head(connection.receive)
        status = head.split(None, 2)[1:2]
        if status in ([b"101"], [b"200"]):  # 200: engines that hijack without saying so
            return AttachStream(connection, leftover)
        words = leftover.decode("utf-8", "replace").strip() or head.split(b"\r\n")[0].decode("latin-1")
        if status == [b"404"]:
            raise SandboxLostError(f"there is no container {container}")
        raise SandboxError(f"the Docker engine would not attach to {container}: {words}")
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.aclose_forcefully(connection)
        raise


async def _read_head(receive: Callable[[int], Awaitable[bytes]]) -> tuple[bytes, bytes]:
    """Read up to the blank line; return the head and whatever came after it."""
    data = b""
    while b"\r\n\r\n" not in data:
        if len(data) > HEAD_LIMIT:
            raise SandboxError("the Docker engine's answer to an attach request has no end")
        try:
            data += await receive(65536)
        except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
            raise SandboxError("the Docker engine closed the connection instead of attaching") from error
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest
