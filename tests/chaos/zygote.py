"""Starts server processes in no time: everything is imported once, each server is a fork that can be killed.

For each line on stdin a server is started as the JSON object in it says (``port``, ``backend``, ``wait_s``,
``environment``, ``log``), and its process id is printed; the server itself prints "ready" when it answers.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from typing import Any

import anyio

from mlgym_mcp.catalog import Catalog
from mlgym_mcp.serving.host import Host
from mlgym_mcp.serving.http_server import run_foreground
from mlgym_mcp.serving.logs import set_up_logging
from mlgym_mcp.session.registry import SessionRegistry


async def serve(port: int, backend: str, wait_s: float) -> None:
    registry = SessionRegistry(Catalog.default(), sandbox=backend, unsafe=backend == "process", wait_s=wait_s)
    host = Host(registry, require_token=True, on_sigterm="detach")
    host.desk = host.desks

    async def ready(_: str) -> None:
        os.write(1, b"ready\n")

    await run_foreground(host, "127.0.0.1", port, ready)


def be_server(order: dict[str, Any]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(order["environment"])
    for number, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (2, order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT),
    ):
        descriptor = os.open(path, flags, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    set_up_logging()
    anyio.run(serve, order["port"], order["backend"], order["wait_s"])


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # dead servers need no burial
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                be_server(json.loads(line))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        os.write(1, f"{pid}\n".encode())


if __name__ == "__main__":
    main()
