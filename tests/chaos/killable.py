"""A server at one address and one home that is killed and started again, and its clients' way to it."""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

ADMIN = "an-admin-token-for-tests-only-0123456789"


def free_port() -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@cache
def zygote() -> subprocess.Popen[bytes]:
    """The one process from which all servers of this test run are forked; it ends with the run, and has no home."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLGYM")}
    made = subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.zygote"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )

    def end() -> None:
        assert made.stdin is not None
        assert made.stdout is not None
        made.stdin.close()
        made.wait(10)
        made.stdout.close()

    atexit.register(end)
    return made


class Killable:
    """One address at which a server comes and goes."""

    def __init__(self, home: Path, backend: str, *, wait_s: float = 45.0, port: int | None = None) -> None:
        self.home = home
        self.port = free_port() if port is None else port
        self.url = f"http://127.0.0.1:{self.port}"
        self.pid = 0
        self.lives = 0
        self.log = home / "server.log"
        self._order = {"port": self.port, "backend": backend, "wait_s": wait_s, "log": str(self.log)}
        self._order["environment"] = {**os.environ, "MLGYM_ADMIN_TOKEN": ADMIN}
        self._zygote = zygote()

    def _line(self) -> bytes:
        assert self._zygote.stdout is not None
        line = self._zygote.stdout.readline()
        assert line, self.log.read_text()[-3000:]
        return line

    def spawn(self) -> None:
        """Start a server and do not wait until it answers."""
        assert self._zygote.stdin is not None
        assert not self.pid
        self._zygote.stdin.write(json.dumps(self._order).encode() + b"\n")
        self._zygote.stdin.flush()
        while not (line := self._line().strip()).isdigit():
            pass  # "ready" of one that was killed then
        self.pid = int(line)
        self.lives += 1

    async def start(self) -> None:
        """Start a server; returns when it answers."""
        self.spawn()
        with anyio.fail_after(30):
            assert await anyio.to_thread.run_sync(self._line) == b"ready\n"

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Kill the server; returns when it is dead."""
        os.kill(self.pid, number)
        deadline = time.monotonic() + 30
        while Path(f"/proc/{self.pid}").exists():
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.002)
        self.pid = 0

    def close(self) -> None:
        """Stop what runs."""
        if self.pid:
            self.kill()

    def errors(self) -> list[str]:
        """What went wrong in our own code, by the server's log.

        The mcp package logs a race of its own: a 2025 client that says goodbye while a notification is under way.
        """
        lines = [line for line in self.log.read_text().splitlines() if '"level": "error"' in line]
        loggers = [json.loads(line)["logger"] for line in lines]
        return [line for line, logger in zip(lines, loggers, strict=True) if logger.startswith("mlgym")]

    async def api(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Call the control API."""
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {ADMIN}"}, timeout=60) as http:
            answer = await http.request(method, f"{self.url}/api{path}", json=body)
        assert answer.status_code < 300, answer.text
        return answer.json()

    @asynccontextmanager
    async def playing(self, made: Mapping[str, Any], mode: str = "auto", **options: Any) -> AsyncIterator[Client]:
        """A client of a session, with its token, at the URL that it was given when the session was made."""
        headers = {"Authorization": f"Bearer {made['token']}"}
        async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
            transport = streamable_http_client(made["mcp_url"], http_client=http)
            async with Client(transport, mode=mode, **options) as client:
                yield client
