"""Starts server processes in no time: everything is imported once, each server is a fork that can be killed.

``python -m tests.chaos.zygote PORT BACKEND [WAIT_S]``; for each line on stdin a server is started, and its process
id is printed; the server itself prints "ready" when it answers.
"""

from __future__ import annotations

import os
import signal
import sys

import anyio

from mlgym_mcp.catalog import Catalog
from mlgym_mcp.serving import app
from mlgym_mcp.serving.host import Host
from mlgym_mcp.serving.logs import set_up_logging
from mlgym_mcp.serving.process import run_foreground
from mlgym_mcp.session.registry import SessionRegistry

assert app, "the server imports it when it starts"


async def serve(port: int, backend: str, wait_s: float) -> None:
    registry = SessionRegistry(Catalog.default(), sandbox=backend, unsafe=backend == "process", wait_s=wait_s)
    host = Host(registry, require_token=True, on_sigterm="detach")

    async def ready(_: str) -> None:
        os.write(1, b"ready\n")

    await run_foreground(host, "127.0.0.1", port, ready)


def main(port: int, backend: str, wait_s: float = 45.0) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # dead servers need no burial
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(0)
            os.open(os.devnull, os.O_RDONLY)
            set_up_logging()
            anyio.run(serve, port, backend, wait_s)
            os._exit(0)
        os.write(1, f"{pid}\n".encode())


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], *map(float, sys.argv[3:]))
