"""``python -m mlgym_clients.facades``: serve a facade until told to stop."""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette

from mlgym_clients.facades.episodes import Episodes, playing
from mlgym_clients.facades.guard import LARGEST_BYTES, LOOPBACK, Guard
from mlgym_clients.facades.openenv import openenv_app
from mlgym_clients.facades.openreward import openreward_app
from mlgym_clients.rl.rewards import REWARDS, reward_function
from mlgym_clients.rl.servers import Lease
from mlgym_clients.sweep.own_server import ServerStartError

TOKEN = "MLGYM_FACADE_TOKEN"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mlgym_clients.facades", description=__doc__)
    parser.add_argument("standard", choices=("openenv", "openreward"), help="whose clients are to be served")
    parser.add_argument("--listen", default="127.0.0.1:8770", metavar="HOST:PORT", help="port 0: a free one")
    parser.add_argument("--server", help="URL of the server; default: $MLGYM_SERVER, else one of its own")
    parser.add_argument("--token-file", type=Path, help="that server's admin token; default: $MLGYM_ADMIN_TOKEN")
    parser.add_argument("--task", help="what is played where a client does not say")
    parser.add_argument("--preset", default="mini", help="its size")
    parser.add_argument("--reward", choices=sorted(REWARDS), default="score_change", help="what a step is worth")
    parser.add_argument("--max-episodes", type=int, default=64, metavar="N", help="at a time")
    parser.add_argument("--idle", type=float, default=900, metavar="SECONDS", help="then a client is taken for gone")
    parser.add_argument("--patience", type=float, default=60, metavar="SECONDS", help="so long its server may be away")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help=f"for clients of other machines; needs ${TOKEN}",
    )
    return parser


@asynccontextmanager
async def _application(standard: str, episodes: Episodes, idle_s: float) -> AsyncIterator[Starlette]:
    made = openenv_app(episodes, idle_s) if standard == "openenv" else openreward_app(episodes, idle_s)
    async with made as app:
        yield app


async def serve(options: argparse.Namespace, listening: socket.socket, token: str | None) -> None:
    """Serve until SIGINT or SIGTERM; all episodes end then.

    Raises:
        ServerStartError: an own server did not come up.
        OSError: the token's file cannot be read.
    """
    default: Mapping[str, Any] = {"preset": options.preset, **({"task": options.task} if options.task else {})}
    lease = await anyio.to_thread.run_sync(Lease, options.server, options.token_file)
    try:
        reward = reward_function(options.reward)
        most, patience_s = options.max_episodes, options.patience
        async with playing(lease.renewed, default, reward=reward, most=most, patience_s=patience_s) as episodes:
            async with _application(options.standard, episodes, options.idle) as app:
                guarded = Guard(app, token, options.allow_host)
                config = uvicorn.Config(guarded, log_level="warning", lifespan="off", ws_max_size=LARGEST_BYTES)
                server = Stoppable(config)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_stop, server)
                    host, port = listening.getsockname()[:2]
                    print(f"http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)  # noqa: T201
                    await server.serve(sockets=[listening])
                    tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(lease.close)


class Stoppable(uvicorn.Server):
    """Leaves signals to us: after its own handling of them nothing would be tidied up."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


async def _stop(server: uvicorn.Server) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            server.force_exit = server.should_exit
            server.should_exit = True


def main(arguments: list[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    host, _, port = options.listen.rpartition(":")
    host = host.strip("[]")
    token = os.environ.get(TOKEN) or None
    if not host or not port.isdigit() or int(port) > 65535:
        parser.error(f"--listen wants HOST:PORT, not {options.listen!r}")
    if (host not in LOOPBACK or options.allow_host) and not (token and options.allow_host):
        parser.error(f"clients of other machines need --allow-host NAME and a token in ${TOKEN}")
    if options.max_episodes < 1 or options.idle <= 0 or options.patience < 0:
        parser.error("--max-episodes and --idle must be positive, and --patience must not be negative")
    if options.standard == "openenv" and importlib.util.find_spec("websockets") is None:
        parser.error("OpenEnv's clients come by WebSocket: pip install 'mlgym-mcp[facades]'")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, int(port)), family=family, backlog=1024) as listening:
            anyio.run(serve, options, listening, token)
    except (ServerStartError, OSError) as exc:
        print(f"facade: {exc}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
