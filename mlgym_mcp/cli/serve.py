"""``mlgym-mcp serve``: one task as an MCP server, on stdio or over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import anyio
import typer

from mlgym_mcp.cli.output import errors, plain_errors
from mlgym_mcp.loading import loading

EXAMPLES = (
    "Examples: 'mlgym-mcp serve fashion_mnist' in an MCP client's configuration; "
    "'mlgym-mcp serve fashion_mnist --http 127.0.0.1:8000'; "
    "'mlgym-mcp serve house_price --http 127.0.0.1:0 --sandbox docker --calls 30'"
)


def serve(
    task: Annotated[
        str | None, typer.Argument(help="The task's id: 'mlgym-mcp tasks list' shows them. Default: any task.")
    ] = None,
    preset: Annotated[str, typer.Option(help="Its size: mini or full.")] = "mini",
    http: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Serve over HTTP, not stdio.")] = None,
    session: Annotated[str | None, typer.Option(help="stdio: share the session of this name.")] = None,
    sandbox: Annotated[str, typer.Option(help="auto, docker, bubblewrap, or process (isolates nothing).")] = "auto",
    unsafe: Annotated[bool, typer.Option("--unsafe", help="Allow --sandbox process.")] = False,
    seed: Annotated[int, typer.Option(help="Handed to the agent's programs as MLGYM_SEED.")] = 0,
    wall: Annotated[float | None, typer.Option(help="Budget: seconds.")] = None,
    calls: Annotated[int | None, typer.Option(help="Budget: tool calls.")] = None,
    validations: Annotated[int | None, typer.Option(help="Budget: validations.")] = None,
    cpu: Annotated[float | None, typer.Option(help="Budget: CPU seconds in the sandbox.")] = None,
    idle: Annotated[float | None, typer.Option(help="Budget: unused for so many seconds, it ends.")] = None,
    disk: Annotated[int | None, typer.Option(help="Budget: MiB of the workspace.")] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="HTTP: a Host header to accept, for a public address. Repeatable.")
    ] = None,
    public_url: Annotated[str | None, typer.Option(help="HTTP: how clients reach it, behind a reverse proxy.")] = None,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="HTTP: believe a proxy on this machine who the client is.")
    ] = False,
    admin_token_file: Annotated[
        Path | None, typer.Option(help="HTTP: holds the control API's token. Default: $MLGYM_ADMIN_TOKEN, or made.")
    ] = None,
    session_tokens: Annotated[bool, typer.Option(help="HTTP, no task: sessions want their bearer tokens.")] = True,
    max_sessions: Annotated[int | None, typer.Option(help="HTTP: live sessions at most.")] = None,
    max_preparing: Annotated[int | None, typer.Option(help="HTTP: sessions prepared at the same time.")] = None,
    warm: Annotated[int, typer.Option(min=0, help="HTTP: sandboxes kept ready, of each kind asked for last.")] = 0,
    rate: Annotated[float | None, typer.Option(help="HTTP: requests a second of one client.")] = None,
    oauth_issuer: Annotated[
        str | None, typer.Option(help="HTTP: authorization server whose tokens open their owner's sessions.")
    ] = None,
    oauth_keys: Annotated[str | None, typer.Option(help="HTTP: URL of that server's public keys (JWKS).")] = None,
) -> None:
    """Serve one task to an agent: on stdio for desktop clients, or over HTTP with --http.

    With --http and no task it hosts many sessions, made through its control API.
    """
    budget = {
        "wall_s": wall,
        "calls": calls,
        "validations": validations,
        "cpu_s": cpu,
        "idle_s": idle,
        "disk_mb": disk,
    }
    limits = {name: value for name, value in budget.items() if value is not None}
    if http is None:
        from mlgym_mcp.serving.relay import relay

        if task is None:
            if preset != "mini" or seed or limits:
                errors.print(
                    "mlgym-mcp: --preset, --seed and budgets are of one task: name it, or let the agent choose"
                )
                raise typer.Exit(2)
            desk = None if session is None else f"session:{session}:desk"
            raise typer.Exit(relay({"sandbox": sandbox, "unsafe": unsafe, "key": desk}))
        key = None if session is None else f"session:{session}:{task}:{preset}"
        greeting = {"task": task, "preset": preset, "seed": seed, "sandbox": sandbox, "unsafe": unsafe, "key": key}
        raise typer.Exit(relay({**greeting, "budget": limits}))
    with plain_errors():
        with loading():
            from mlgym_mcp.cli.http_server import HttpOptions, parse_address, serve_many, serve_one
            from mlgym_mcp.serving.logs import set_up_logging
            from mlgym_mcp.serving.process import loop_options
            from mlgym_mcp.serving.traces import set_up_traces

        caps = {"sessions": max_sessions, "preparing": max_preparing, "rate": rate}
        options = HttpOptions(
            *parse_address(http),
            allowed=allow_host or [],
            public_url=public_url,
            behind_proxy=behind_proxy,
            session_tokens=session_tokens,
            admin_token_file=admin_token_file,
            oauth_issuer=oauth_issuer,
            oauth_keys=oauth_keys,
            warm=warm,
            limits={name: value for name, value in caps.items() if value is not None},
        )
        options.check()
        set_up_logging()
        set_up_traces()
        if task is None:
            if limits or session is not None:
                raise ValueError("a budget or a session's name belongs to one task: name it, or use the control API")
            anyio.run(serve_many, options, sandbox, unsafe, backend_options=loop_options())
        else:
            arguments = (options, task, preset, seed, limits, sandbox, unsafe)
            anyio.run(serve_one, *arguments, backend_options=loop_options())
