"""Requests and replies with a runner over any byte stream, many at a time.

There is no background task: whoever waits for a reply and finds nobody reading reads for all, and hands the
reading on when its own reply has come. A channel therefore needs no task group and belongs to no task.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any

import anyio
from anyio.abc import ByteStream

from mlgym_sandbox.errors import (
    JobNotFoundError,
    SandboxError,
    SandboxFileError,
    SandboxLostError,
    TarLimitError,
)
from mlgym_sandbox.frames import MAGIC_BYTES, Decoder, Frame, FrameError, encode

CHUNK = 256 * 1024
"""Payload size of transfers that take several frames, bytes."""
SEND_TIMEOUT_S = 60.0
"""A stream that takes no bytes for so long is dead, seconds."""
REPLY_TIMEOUT_S = 30.0
"""How long a runner may think about anything that does not wait by design, seconds."""

_ERRORS: Mapping[str, type[SandboxError]] = {
    "file": SandboxFileError,
    "job": JobNotFoundError,
    "tar": TarLimitError,
}


class Inbox:
    """Where the frames of one call or of one job's stream arrive."""

    def __init__(self) -> None:
        self.frames: deque[Frame] = deque()
        self.event: anyio.Event | None = None

    def wake(self) -> None:
        """Let the one who waits look again."""
        if self.event is not None:
            self.event.set()


class Channel:
    """One connection to a runner.

    Args:
        stream: bytes to and from the runner; owned by the channel from now on.
        magic: the sandbox's secret of 32 bytes.
    """

    def __init__(self, stream: ByteStream, magic: bytes) -> None:
        if len(magic) != MAGIC_BYTES:
            raise ValueError(f"the magic of a sandbox has {MAGIC_BYTES} bytes, not {len(magic)}")
        self.magic = magic
        self._stream = stream
        self._send_at_once: Callable[[bytes], int] | None = getattr(stream, "send_at_once", None)
        self._decoder = Decoder()
        self._send_lock = anyio.Lock(fast_acquire=True)
        self._calls: dict[int, Inbox] = {}
        self._streams: dict[str, Inbox] = {}
        self._waiting: dict[Inbox, None] = {}
        self._reading = False
        self._next_id = 0
        self._lost: str | None = None

    @property
    def lost(self) -> str | None:
        """Why nothing can be asked any more; ``None`` while the connection stands."""
        return self._lost

    async def handshake(self, timeout_s: float = REPLY_TIMEOUT_S) -> None:
        """Open the conversation: send the magic, throw away everything until it comes back.

        Raises:
            SandboxLostError: the runner did not echo it in time, or the stream ended.
        """
        try:
            with anyio.fail_after(timeout_s):
                await self._stream.send(self.magic)
                seen = bytearray()
                while (at := seen.find(self.magic)) < 0:
                    del seen[: max(0, len(seen) - MAGIC_BYTES + 1)]
                    seen += await self._stream.receive()
        except TimeoutError:
            raise self._fail(f"the sandbox did not answer within {timeout_s:g} s") from None
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
            raise self._fail(f"the connection to the sandbox ended before it answered ({error!r})") from error
        except BaseException:
            self._fail("the connection was given up before the sandbox answered")
            raise
        self._dispatch(bytes(seen[at + MAGIC_BYTES :]))

    async def request(
        self,
        op: str,
        args: Mapping[str, Any] | None = None,
        payload: bytes = b"",
        *,
        timeout_s: float = REPLY_TIMEOUT_S,
    ) -> Frame:
        """Ask one thing and return the one frame that answers it.

        Raises:
            SandboxLostError: the connection broke or no answer came in time.
            SandboxError: what the runner refused, by kind.
        """
        number, inbox = self._register()
        try:
            await self._send({"id": number, "op": op, **(args or {})}, payload)
            frame = await self._reply(inbox, op, timeout_s)
        finally:
            self._calls.pop(number, None)
        return _checked(frame)

    async def transfer(
        self,
        op: str,
        args: Mapping[str, Any] | None = None,
        payload: bytes = b"",
        *,
        feed: Iterable[bytes] | AsyncIterable[bytes] | None = None,
        take: Callable[[bytes], Awaitable[None]] | None = None,
        timeout_s: float = REPLY_TIMEOUT_S,
    ) -> tuple[Frame, bytes]:
        """Ask for something that takes or gives more than one frame.

        ``feed`` is sent piece by piece, each when the one before was taken. Returns the last frame and the
        payloads of all frames joined; with ``take`` it is given them one by one instead.

        Raises:
            SandboxLostError: the connection broke or the last frame did not come in time.
            SandboxError: what the runner refused, by kind.
        """
        number, inbox = self._register()
        parts: list[bytes] = []
        frame: Frame | None = None
        deadline = anyio.current_time() + timeout_s
        try:
            await self._send({"id": number, "op": op, **(args or {})}, payload)
            async for piece in _pieces(feed):
                taken = await self.request("feed", {"target": number}, piece, timeout_s=timeout_s)
                if not taken.header.get("taken", True):
                    break  # the other side has already ended and says why in its last frame
            if feed is not None:
                await self.request("feed_end", {"target": number}, timeout_s=timeout_s)
            while frame is None or frame.header.get("more"):
                frame = await self._reply(inbox, op, max(0.0, deadline - anyio.current_time()))
                if take is None:
                    parts.append(frame.payload)
                elif frame.payload:
                    await take(frame.payload)
        finally:
            self._calls.pop(number, None)
            if (frame is None or frame.header.get("more")) and self._lost is None:
                await self._abandon(number)
        return _checked(frame), b"".join(parts)

    async def notify(self, op: str, args: Mapping[str, Any]) -> None:
        """Send something that has no answer."""
        await self._send({"op": op, **args}, b"")

    def open_stream(self, key: str) -> Inbox:
        """Collect the events of the job ``key`` from now on."""
        inbox = self._streams[key] = Inbox()
        return inbox

    def close_stream(self, key: str) -> None:
        """Forget the events of the job ``key``."""
        self._streams.pop(key, None)

    async def next_event(self, inbox: Inbox) -> Frame:
        """Wait, without a limit, for the next frame of a stream.

        Raises:
            SandboxLostError: the connection broke.
        """
        return await self._next(inbox)

    async def aclose(self) -> None:
        """Drop the connection; every pending and later call raises SandboxLostError."""
        await self._give_up("the connection to the sandbox was closed")

    # --- inner works

    def _register(self) -> tuple[int, Inbox]:
        self._next_id += 1
        inbox = self._calls[self._next_id] = Inbox()
        return self._next_id, inbox

    async def _reply(self, inbox: Inbox, op: str, timeout_s: float) -> Frame:
        if inbox.frames:
            return inbox.frames.popleft()
        with anyio.move_on_after(timeout_s):
            return await self._next(inbox)
        raise SandboxLostError(f"the sandbox did not answer {op!r} within {timeout_s:g} s")

    async def _next(self, inbox: Inbox) -> Frame:
        try:
            while not inbox.frames:
                if self._lost is not None:
                    raise SandboxLostError(self._lost)
                if self._reading:
                    await self._follow(inbox)
                else:
                    self._reading = True
                    try:
                        await self._pump()
                    finally:
                        self._reading = False
        finally:
            # Also when cancelled: the one woken may have been this one, and somebody must read on.
            self._hand_over()
        return inbox.frames.popleft()

    async def _follow(self, inbox: Inbox) -> None:
        inbox.event = anyio.Event()
        self._waiting[inbox] = None
        try:
            await inbox.event.wait()
        finally:
            self._waiting.pop(inbox, None)
            inbox.event = None

    def _hand_over(self) -> None:
        if not self._reading:
            for inbox in self._waiting:
                inbox.wake()
                return

    async def _pump(self) -> None:
        try:
            data = await self._stream.receive()
        except anyio.EndOfStream:
            await self._give_up("the sandbox has ended or was killed: its connection closed")
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
            await self._give_up(f"the connection to the sandbox broke: {error!r}")
        except SandboxLostError as error:  # a stream that knows better why it ended
            await self._give_up(str(error))
        else:
            self._dispatch(data)
            if self._lost is not None:
                await self._give_up(self._lost)

    def _dispatch(self, data: bytes) -> None:
        try:
            for frame in self._decoder.feed(data):
                if "event" in frame.header:
                    inbox = self._streams.get(str(frame.header.get("job")))
                else:
                    inbox = self._calls.get(frame.header.get("id", 0))
                if inbox is not None:  # else: its caller has gone
                    inbox.frames.append(frame)
                    inbox.wake()
        except FrameError as error:
            self._fail(f"the sandbox sent something that is no frame: {error}")

    async def _send(self, header: Mapping[str, Any], payload: bytes) -> None:
        try:
            data = encode(header, payload)
        except FrameError as error:
            raise SandboxError(f"the request is too large: {error}") from error
        async with self._send_lock:
            if self._lost is not None:
                raise SandboxLostError(self._lost)
            try:
                if self._send_at_once is not None:  # a deadline costs more than the sending itself
                    data = data[self._send_at_once(data) :]
                if data:
                    # Half a frame would make everything after it unreadable: once begun, it is sent to its end.
                    with anyio.fail_after(SEND_TIMEOUT_S, shield=True):
                        await self._stream.send(data)
            except TimeoutError:
                raise await self._give_up(f"the sandbox took no request for {SEND_TIMEOUT_S:g} s") from None
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
                raise await self._give_up(f"the connection to the sandbox broke: {error!r}") from error
            except SandboxLostError as error:
                raise await self._give_up(str(error)) from error
            except BaseException:
                await self._give_up("a request was broken off half way")
                raise

    async def _abandon(self, number: int) -> None:
        with anyio.move_on_after(1, shield=True):
            try:
                await self.notify("abandon", {"target": number})
            except SandboxError:
                pass

    async def _give_up(self, why: str) -> SandboxLostError:
        error = self._fail(why)
        with anyio.move_on_after(2, shield=True):
            try:
                await self._stream.aclose()
            except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass
        return error

    def _fail(self, why: str) -> SandboxLostError:
        if self._lost is None:
            self._lost = why
        for inbox in list(self._waiting):
            inbox.wake()
        return SandboxLostError(self._lost)


async def _pieces(feed: Iterable[bytes] | AsyncIterable[bytes] | None) -> AsyncIterator[bytes]:
    if isinstance(feed, AsyncIterable):
        async for piece in feed:
            yield piece
    else:
        for piece in feed or ():
            yield piece


def _checked(frame: Frame) -> Frame:
    if frame.header.get("ok"):
        return frame
    kind = _ERRORS.get(str(frame.header.get("kind")), SandboxError)
    raise kind(str(frame.header.get("message", "the sandbox refused without a reason")))
