"""``mlgym-mcp serve`` with no task, as a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx

from tests.serving.conftest import CLI


@dataclass
class ServerProcess:
    """A server that runs.

    Attributes:
        pid: its process.
        url: where it answers.
        log: the file with its output.
    """

    pid: int
    url: str
    log: Path

    def memory_mb(self) -> float:
        """Its resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(
    port: int,
    sandbox: str,
    log: Path,
    stop: signal.Signals = signal.SIGINT,
    *,
    options: tuple[str, ...] = (),
    environ: dict[str, str] | None = None,
) -> Iterator[ServerProcess]:
    """Start one; it must end well when it is sent ``stop``."""
    command = [*CLI, "serve", "--http", f"127.0.0.1:{port}", "--sandbox", sandbox, "--unsafe", *options]
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", **(environ or {})}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=variables)
        try:
            yield ServerProcess(process.pid, f"http://127.0.0.1:{port}", log)
        finally:
            process.send_signal(stop)
            assert process.wait(60) == 0, log.read_text()


async def until_listening(http: httpx.AsyncClient) -> None:
    with anyio.fail_after(60):
        while True:
            try:
                await http.get("/api/health")
            except httpx.TransportError:
                await anyio.sleep(0.05)
            else:
                return
