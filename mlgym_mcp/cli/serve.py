"""``mlgym-mcp serve``: one task as an MCP server, on stdio or over HTTP."""

from __future__ import annotations

import ipaddress
from typing import Annotated

import anyio
import typer
from mcp.server.transport_security import TransportSecuritySettings

from mlgym_mcp.catalog import Catalog
from mlgym_mcp.cli.output import console, errors, plain_errors
from mlgym_mcp.session.session import Session

EXAMPLES = (
    "Examples: 'mlgym-mcp serve fashion_mnist' in an MCP client's configuration; "
    "'mlgym-mcp serve fashion_mnist --http 127.0.0.1:8000'; "
    "'mlgym-mcp serve house_price --http 127.0.0.1:0 --sandbox docker --calls 30'"
)


def serve(
    task: Annotated[str, typer.Argument(help="The task's id: 'mlgym-mcp tasks list' shows them.")],
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
    allow_host: Annotated[
        list[str] | None, typer.Option(help="HTTP: a Host header to accept, for a public address. Repeatable.")
    ] = None,
) -> None:
    """Serve one task to an agent: on stdio for desktop clients, or over HTTP with --http."""
    budget = {"wall_s": wall, "calls": calls, "validations": validations, "cpu_s": cpu}
    limits = {name: value for name, value in budget.items() if value is not None}
    if http is None:
        from mlgym_mcp.serving.relay import relay

        key = None if session is None else f"session:{session}:{task}:{preset}"
        greeting = {"task": task, "preset": preset, "seed": seed, "sandbox": sandbox, "unsafe": unsafe, "key": key}
        raise typer.Exit(relay({**greeting, "budget": limits}))
    with plain_errors():
        address, port = parse_address(http)
        public = not _is_loopback(address)
        if public and not allow_host:
            raise ValueError(
                f"{address} can be reached from other machines: name the hosts that clients will use with --allow-host "
                "(the session then also needs its token), or bind to 127.0.0.1"
            )
        from mlgym_mcp.serving.process import loop_options

        arguments = (task, preset, address, port, sandbox, unsafe, seed, limits, allow_host or [], public)
        anyio.run(_serve_http, *arguments, backend_options=loop_options())


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``.

    Raises:
        ValueError: it is not of that form.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"--http wants HOST:PORT, for example 127.0.0.1:8000, not {text!r}")
    return host.strip("[]"), int(port)


def _is_loopback(address: str) -> bool:
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


async def _serve_http(
    task: str,
    preset: str,
    address: str,
    port: int,
    sandbox: str,
    unsafe: bool,
    seed: int,
    budget: dict[str, float],
    allowed: list[str],
    public: bool,
) -> None:
    from mlgym_mcp.serving.host import LOOPBACK, Host
    from mlgym_mcp.serving.process import run_foreground
    from mlgym_mcp.session.registry import SessionRegistry

    security = LOOPBACK
    if public:
        security = TransportSecuritySettings(
            allowed_hosts=[name if ":" in name else f"{name}:*" for name in allowed],
            allowed_origins=[f"http://{name}:*" for name in allowed] + [f"https://{name}" for name in allowed],
        )
    host = Host(
        SessionRegistry(Catalog.default(), sandbox=sandbox, unsafe=unsafe), security=security, require_token=public
    )

    async def ready(url: str) -> None:
        session: Session = await host.create(task, preset=preset, seed=seed, budget=budget)
        console.print(f"[bold]{session.task.spec.task.title}[/bold] ({preset}) for MCP clients at:")
        console.print(f"  {host.mcp_url(session)}", highlight=False)
        if public:
            console.print(f"  with the header 'Authorization: Bearer {session.token}'", highlight=False)
        console.print(f"Episode: {session.episode.folder}\nCtrl-C ends it.", highlight=False)
        while not session.ready and session.over is None:
            await anyio.sleep(0.1)
        if session.over is not None:
            errors.print(session.over_text(), highlight=False)
            host.stopping.set()
        else:
            console.print("The sandbox is ready.")

    await run_foreground(host, address, port, ready)
