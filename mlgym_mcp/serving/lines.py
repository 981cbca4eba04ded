"""MCP's stdio framing (one JSON-RPC message a line) over any byte stream of the host's."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp.shared.message import SessionMessage
from mcp.types import jsonrpc_message_adapter

MAX_LINE = 8 << 20
"""A longer message ends the connection: nothing a tool takes is nearly so long."""


@contextlib.asynccontextmanager
async def line_streams(stream: anyio.abc.ByteStream, received: bytes = b"") -> AsyncIterator[tuple[Any, Any]]:
    """Serve MCP messages over a byte stream; yields the read and write streams that a server's ``run`` takes.

    Args:
        stream: the connection.
        received: bytes that were already read from it.
    """
    incoming_writer, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    outgoing, outgoing_reader = anyio.create_memory_object_stream[SessionMessage](0)
    buffered = BufferedByteReceiveStream(stream)
    if received:
        buffered.feed_data(received)

    async def read() -> None:
        async with incoming_writer:
            with contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
                while True:
                    try:
                        line = await buffered.receive_until(b"\n", MAX_LINE)
                    except (anyio.EndOfStream, anyio.IncompleteRead, anyio.DelimiterNotFound):
                        return
                    if not line.strip():
                        continue
                    try:
                        message = jsonrpc_message_adapter.validate_json(line, by_name=False)
                    except ValueError as exc:
                        await incoming_writer.send(exc)
                    else:
                        await incoming_writer.send(SessionMessage(message))

    async def write() -> None:
        async with outgoing_reader:
            with contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
                async for item in outgoing_reader:
                    text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
                    await stream.send(text.encode() + b"\n")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        tasks.start_soon(write)
        try:
            yield incoming, outgoing
        finally:
            tasks.cancel_scope.cancel()
