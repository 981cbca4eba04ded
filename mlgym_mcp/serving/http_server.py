"""Running a host with HTTP, in the foreground."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import anyio.abc
import uvicorn

from mlgym_mcp.serving.app import HostApp
from mlgym_mcp.serving.auth import AdminToken, load_admin_token
from mlgym_mcp.serving.host import Host
from mlgym_mcp.serving.limits import impatient
from mlgym_mcp.serving.listening import listen
from mlgym_mcp.serving.process import allow_many_files, until_signalled
from mlgym_mcp.session.owning import owned_tasks

_GRACE_S = 5


class HttpServer(uvicorn.Server):
    """uvicorn without signal handlers of its own: the host decides when to stop."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # noqa: ANN201 - as the base class has it
        """Leave signals alone."""
        yield


@contextlib.asynccontextmanager
async def serve_http(
    host: Host,
    address: str,
    port: int,
    *,
    admin: AdminToken | None = None,
    public_url: str | None = None,
    behind_proxy: bool = False,
) -> AsyncIterator[str]:
    """Serve a running host over HTTP; yields the base URL (with the real port when ``port`` is 0).

    Args:
        host: what to serve.
        address: where to listen.
        port: where to listen; 0 for a free one.
        admin: the control API's token; default: this installation's.
        public_url: how clients reach the server, where that is not the address it listens on.
        behind_proxy: whether a reverse proxy on this machine says who the client is (X-Forwarded-For).

    Raises:
        OSError: the address cannot be listened on.
    """
    listener = listen(address, port)
    config = uvicorn.Config(
        HostApp(host, (admin or load_admin_token()).value),
        http=impatient(host.limits.head_s),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=behind_proxy,
        limit_concurrency=host.limits.connections,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=_GRACE_S,
        h11_max_incomplete_event_size=65_536,
    )
    server = HttpServer(config)
    stopped = anyio.Event()

    async def run() -> None:
        try:
            await server.serve([listener])
        finally:
            stopped.set()

    async with owned_tasks() as tasks:
        tasks.start_soon(run)
        with anyio.fail_after(20):
            while not server.started:
                await anyio.sleep(0.005)
        shown = f"[{address}]" if ":" in address else address
        host.base_url = (public_url or f"http://{shown}:{listener.getsockname()[1]}").rstrip("/")
        try:
            yield host.base_url
        finally:
            host.stopping.set()  # streams that never end by themselves end now
            server.should_exit = True
            with anyio.move_on_after(_GRACE_S + 5, shield=True):
                await stopped.wait()


async def run_foreground(
    host: Host, address: str, port: int, ready: Callable[[str], Awaitable[None]], **options: Any
) -> None:
    """Run a host with HTTP until it is told to stop; ``ready`` is called with its base URL.

    The next server at the same address goes on with the sessions if this one dies. At a port that nobody chose
    there is no next one.

    Args:
        host: what to run.
        address: where to listen.
        port: where to listen.
        ready: called when requests are answered.
        options: as ``serve_http`` takes them.
    """
    allow_many_files()
    place = f"{address}:{port}" if port else None
    async with host.run(address=place), serve_http(host, address, port, **options) as url:
        await ready(url)
        await until_signalled(host)
