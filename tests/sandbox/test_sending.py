"""Requests leave at once where the kernel takes them, and whole where it does not."""

from __future__ import annotations

import socket

import anyio
import pytest

from mlgym_sandbox.channel import Channel
from mlgym_sandbox.errors import SandboxLostError
from mlgym_sandbox.frames import Decoder, encode
from mlgym_sandbox.sockets import ConnectedSocket

pytestmark = pytest.mark.anyio
MAGIC = b"m" * 32
LARGE = bytes(range(256)) * 4096
"""More than a socket holds."""


def pair() -> tuple[ConnectedSocket, ConnectedSocket]:
    mine, theirs = socket.socketpair()
    mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return ConnectedSocket(mine), ConnectedSocket(theirs)


async def answer(runner: ConnectedSocket, number: int, after: anyio.Event | None = None) -> list[bytes]:
    """Answer so many requests as a runner does, but begin to read only after something; returns their payloads."""
    decoder, seen = Decoder(), []
    if after is not None:
        await after.wait()
    while len(seen) < number:
        for frame in decoder.feed(await runner.receive()):
            seen.append(frame.payload)
            await runner.send(encode({"id": frame.header["id"], "ok": True}))
    return seen


async def test_a_request_larger_than_the_socket_holds_arrives_whole() -> None:
    mine, theirs = pair()
    async with mine, theirs:
        channel, full, seen = Channel(mine, MAGIC), anyio.Event(), []

        async def runner() -> None:
            seen.extend(await answer(theirs, 2, full))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner)
            tasks.start_soon(channel.request, "write", None, LARGE)
            while not channel._send_lock.locked():
                await anyio.lowlevel.checkpoint()
            full.set()
            await channel.request("ping")
        assert seen == [LARGE, b""]


async def test_sending_to_a_runner_that_is_gone_says_so() -> None:
    mine, theirs = pair()
    await theirs.aclose()
    async with mine:
        with pytest.raises(anyio.BrokenResourceError):
            mine.send_at_once(b"x")


async def test_a_connection_that_broke_while_sending_is_closed_though_nobody_closes_the_channel() -> None:
    mine, theirs = pair()
    await theirs.aclose()
    with pytest.raises(SandboxLostError, match="broke"):
        await Channel(mine, MAGIC).request("ping")
    with pytest.raises(anyio.ClosedResourceError):
        mine.send_at_once(b"x")


async def test_a_full_socket_takes_nothing_at_once() -> None:
    mine, theirs = pair()
    async with mine, theirs:
        while mine.send_at_once(LARGE):
            pass
        assert mine.send_at_once(b"x") == 0


async def test_a_request_that_is_not_answered_in_time_gives_up() -> None:
    mine, theirs = pair()
    async with mine, theirs:
        with pytest.raises(SandboxLostError, match="did not answer 'ping' within 0 s"):
            await Channel(mine, MAGIC).request("ping", timeout_s=0)
