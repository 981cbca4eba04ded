"""``mlgym-mcp view``: the page over episodes and live sessions."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import anyio
import typer
from rich.markup import escape

from mlgym_mcp.cli.output import FoldersArgument, console, errors, plain_errors
from mlgym_mcp.serving.listening import is_loopback, listen
from mlgym_sandbox.home import home

EXAMPLES = """Examples:

  mlgym-mcp view

  mlgym-mcp view sweeps/monday --port 8800

  mlgym-mcp view --host 0.0.0.0 --allow-host lab.example --token-file view.token
"""
_GRACE_S = 2


def view(
    folders: FoldersArgument = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen; 0 for a free port.")] = 8642,
    host: Annotated[
        str, typer.Option(help="The address to listen on; other than loopback needs a token.")
    ] = "127.0.0.1",
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Browsers must give the token in this file.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Browsers may call the server so; may be repeated.")
    ] = None,
) -> None:
    """Show episodes and live sessions as a web page, until stopped. It reads what is on disk and changes nothing."""
    with plain_errors():
        token = None if token_file is None else _token(token_file)
        if not is_loopback(host) and (token is None or not allow_host):
            raise ValueError(
                f"{host} can be reached from other machines: give a token with --token-file and name the hosts that "
                "browsers will use with --allow-host, or stay on 127.0.0.1"
            )
        with contextlib.suppress(KeyboardInterrupt):
            anyio.run(_serve, folders or [home("episodes")], host, port, token, allow_host or [])


def _token(path: Path) -> str:
    token = path.read_text(encoding="utf-8", errors="replace").strip()
    if not 16 <= len(token) <= 512 or not all("!" <= letter <= "~" for letter in token):
        raise ValueError(
            f"the token in {path} is not usable: it wants 16 to 512 visible ASCII characters without spaces, for "
            "example from 'openssl rand -base64 24'"
        )
    return token


async def _serve(roots: Sequence[Path], address: str, port: int, token: str | None, names: Sequence[str]) -> None:
    import uvicorn

    from mlgym_mcp.records.plots import MissingExtraError
    from mlgym_mcp.web.guard import LOOPBACK
    from mlgym_mcp.web.shelf import Shelf

    try:
        from mlgym_mcp.web.app import make_app
    except ImportError as exc:
        raise MissingExtraError(exc.name or "jinja2") from exc
    listener = listen(address, port)
    shelf = Shelf(roots)
    try:
        with errors.status("Reading episodes...") if errors.is_terminal else contextlib.nullcontext():
            await shelf.refresh()
        app = make_app(
            shelf,
            token=token,
            hosts=[*(LOOPBACK if is_loopback(address) else ()), *names],
            stopping=lambda: server.should_exit,
        )
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=_GRACE_S,
        )
        server = uvicorn.Server(config)
        bound = listener.getsockname()[1]
        name = f"[{address}]" if ":" in address else address
        console.print(f"Episodes: http://{escape(name)}:{bound}/", highlight=False)
        console.print("Ctrl-C stops it.", highlight=False)
        await server.serve(sockets=[listener])
    finally:
        shelf.close()
        listener.close()
