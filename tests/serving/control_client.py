"""The control API as tests use it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx

from mlgym_mcp.serving.auth import load_admin_token
from mlgym_mcp.serving.host import Host

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}
ACCEPT = {"Accept": "application/json, text/event-stream"}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@asynccontextmanager
async def admin_of(host: Host) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the admin token."""
    headers = bearer(load_admin_token().value)
    async with httpx.AsyncClient(base_url=host.base_url, headers=headers, timeout=60) as http:
        yield http


async def until_ready(http: httpx.AsyncClient, session_id: str) -> dict[str, Any]:
    with anyio.fail_after(60):
        while True:
            view: dict[str, Any] = (await http.get(f"/api/sessions/{session_id}")).json()
            if view["state"] != "preparing":
                return view
            await anyio.sleep(0.02)


async def events_of(http: httpx.AsyncClient, url: str, **headers: str) -> AsyncIterator[dict[str, Any]]:
    """Follow a stream of events; yields their data, with ``id`` and ``event`` as they were framed."""
    async with http.stream("GET", url, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        frame: dict[str, str] = {}
        async for line in answer.aiter_lines():
            if line:
                name, _, value = line.partition(":")
                frame[name] = value.strip()
                continue
            if "data" in frame:
                yield {**json.loads(frame["data"]), "id": frame.get("id"), "event": frame.get("event")}
            frame = {}


async def raw(host: Host, sent: bytes, *, seconds: float = 20) -> bytes:
    """Send bytes and return what comes back until the server closes the connection."""
    port = int(host.base_url.rpartition(":")[2])
    received = b""
    with anyio.fail_after(seconds):
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            try:
                await stream.send(sent)
                while True:
                    received += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return received
