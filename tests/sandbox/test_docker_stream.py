"""The demultiplexer of Docker's attach stream, and the stream built on it."""

from __future__ import annotations

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlgym_sandbox.backends.docker_stream import AttachStream, Demultiplexer, EngineAddress, FrameError, attach
from mlgym_sandbox.errors import BackendUnavailableError, SandboxError, SandboxLostError

FRAMES = st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.binary(max_size=300)), max_size=12)


def encode(frames: list[tuple[int, bytes]]) -> bytes:
    return b"".join(bytes((kind, 0, 0, 0)) + len(data).to_bytes(4, "big") + data for kind, data in frames)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


@given(FRAMES, st.lists(st.integers(0, 40), max_size=60))
def test_stdout_comes_out_whole_however_the_frames_are_split(frames: list[tuple[int, bytes]], sizes: list[int]) -> None:
    demultiplexer = Demultiplexer()
    out = b"".join(demultiplexer.feed(piece) for piece in cut(encode(frames), sizes))
    assert out == b"".join(data for kind, data in frames if kind == 1)


@given(FRAMES, st.integers(1, 64))
def test_only_the_end_of_stderr_is_kept(frames: list[tuple[int, bytes]], kept: int) -> None:
    demultiplexer = Demultiplexer(stderr_kept=kept)
    demultiplexer.feed(encode(frames))
    assert bytes(demultiplexer.stderr) == b"".join(data for kind, data in frames if kind == 2)[-kept:]


def test_a_piece_of_a_frame_is_not_held_back_until_the_frame_is_whole() -> None:
    demultiplexer = Demultiplexer()
    assert demultiplexer.feed(b"\1\0\0\0\0\0\0\5he") == b"he"
    assert demultiplexer.feed(b"ll") == b"ll"
    assert demultiplexer.feed(b"o\1\0\0\0") == b"o"


@pytest.mark.parametrize("header", [b"\3\0\0\0\0\0\0\1", b"\1\0\1\0\0\0\0\1", b"HTTP/1.1"])
def test_a_header_that_cannot_be_is_refused(header: bytes) -> None:
    with pytest.raises(FrameError, match=header.hex()):
        Demultiplexer().feed(header)


class Scripted(anyio.abc.ByteStream):
    """A connection that receives what it was told to and remembers what was sent."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.sent = b""
        self.closed = False

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if not self.pieces:
            raise anyio.EndOfStream
        piece, self.pieces[:1] = self.pieces[0][:max_bytes], [self.pieces[0][max_bytes:]]
        if not self.pieces[0]:
            del self.pieces[0]
        return piece

    async def send(self, item: bytes) -> None:
        self.sent += item

    async def send_eof(self) -> None:
        raise AssertionError("a container's stdin must stay open")

    async def aclose(self) -> None:
        self.closed = True


@pytest.mark.anyio
async def test_bytes_that_came_with_the_answer_head_are_not_lost() -> None:
    frames = encode([(1, b"abcdef"), (2, b"warning"), (1, b"gh")])
    stream = AttachStream(Scripted(frames[11:]), frames[:11])
    got = b""
    async for piece in stream:
        got += piece
    assert got == b"abcdefgh"
    assert stream.stderr == "warning"


@pytest.mark.anyio
async def test_stdin_is_sent_raw_and_never_ended() -> None:
    connection = Scripted()
    stream = AttachStream(connection)
    await stream.send(b"\0raw")
    await stream.send_eof()
    assert connection.sent == b"\0raw"


@pytest.mark.anyio
async def test_a_stream_of_something_else_breaks_and_is_closed() -> None:
    connection = Scripted(b"not frames at all")
    with pytest.raises(anyio.BrokenResourceError):
        await AttachStream(connection).receive()
    assert connection.closed


async def answer(listener: anyio.abc.Listener[anyio.abc.SocketStream], *pieces: bytes) -> None:
    async def handle(connection: anyio.abc.SocketStream) -> None:
        async with connection:
            request = b""
            while b"\r\n\r\n" not in request:
                request += await connection.receive()
            for piece in pieces:
                await connection.send(piece)
                await anyio.lowlevel.checkpoint()

    await listener.serve(handle)


@pytest.mark.anyio
@pytest.mark.parametrize("split", [5, 30, 70, 200])
async def test_attaching_reads_the_answer_head_exactly(split: int) -> None:
    head = b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nUpgrade: tcp\r\n\r\n"
    whole = head + encode([(1, b"first bytes")])
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(answer, listener, whole[:split], whole[split:])
        with anyio.fail_after(5):
            stream = await attach(EngineAddress(f"tcp://127.0.0.1:{port}"), "box")
            got = b""
            while got != b"first bytes":
                got += await stream.receive()
            await stream.aclose()
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        (b'HTTP/1.1 404 Not Found\r\n\r\n{"message":"No such container: box"}', SandboxLostError, "no container box"),
        (b"HTTP/1.1 409 Conflict\r\n\r\ncontainer is paused", SandboxError, "paused"),
        (b"HTTP/1.1 500 Interna", SandboxError, "closed the connection"),
    ],
)
async def test_a_refusal_to_attach_says_why(reply: bytes, error: type[Exception], words: str) -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(answer, listener, reply)
        with anyio.fail_after(5), pytest.raises(error, match=words):
            await attach(EngineAddress(f"tcp://127.0.0.1:{port}"), "box")
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_an_address_of_an_unknown_kind_is_refused_with_the_kinds_that_work() -> None:
    with pytest.raises(BackendUnavailableError, match="unix://, tcp:// or ssh://"):
        await EngineAddress("npipe:////./pipe/docker_engine").connect()
