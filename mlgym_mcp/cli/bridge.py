"""``mlgym-mcp bridge``: a server over HTTP for clients that only start commands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import anyio
import typer

from mlgym_mcp.cli.output import plain_errors

EXAMPLES = "Example: 'mlgym-mcp bridge http://127.0.0.1:8000/mcp --token-file admin.token' in a client's configuration"


def bridge(
    url: Annotated[str, typer.Argument(metavar="URL", help="The server's MCP endpoint.")],
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Holds its token. Default: $MLGYM_TOKEN, or none.")
    ] = None,
) -> None:
    """Connect stdin and stdout with a server that runs elsewhere. It holds nothing and may be ended at any moment."""
    from mlgym_mcp.connecting.bridge import bridge as run
    from mlgym_mcp.connecting.servers import checked_address, read_token

    with plain_errors():
        token = os.environ.get("MLGYM_TOKEN") if token_file is None else read_token(token_file)
        anyio.run(run, checked_address(url), token or None)
