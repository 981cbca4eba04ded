"""``mlgym-mcp images``: what sandboxes are made from."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import anyio
import typer
from rich.markup import escape

from mlgym_mcp.cli.output import JsonOption, console, plain_errors, print_json

app = typer.Typer(help="Build the images that Docker sandboxes are made from.", no_args_is_help=True)
environments = typer.Typer(help="Prepare the Python environments of sandboxes.", no_args_is_help=True)


@app.command(
    epilog="Examples: 'mlgym-mcp images build'; 'mlgym-mcp images build --from-host'; "
    "'mlgym-mcp images build mlgym-torch --from-debian'"
)
def build(
    name: Annotated[str, typer.Argument(help="mlgym-light, mlgym-torch or mlgym-cuda.")] = "mlgym-light",
    base: Annotated[str | None, typer.Option(help="Build on this image instead of the public one.")] = None,
    from_debian: Annotated[bool, typer.Option("--from-debian", help="No registry: base from Debian packages.")] = False,
    from_host: Annotated[
        bool, typer.Option("--from-host", help="No registry: the host's own /usr, read-only. The quickest.")
    ] = False,
) -> None:
    """Build an image for the docker backend, with a registry or without one."""
    from mlgym_sandbox import images

    with plain_errors():

        def say(line: str) -> None:
            console.print(escape(line), style="dim", highlight=False)

        make = partial(images.build, name, base=base, from_debian=from_debian, from_host=from_host, progress=say)
        built = anyio.run(make)
    size = f"{built.size_bytes / 2**20:.0f} MiB" if built.size_bytes > 2**20 else f"{built.size_bytes} bytes"
    console.print(f"Built {built.name} ({size}) in {built.seconds:.1f} s.")


@app.command(name="list", epilog="Example: mlgym-mcp images list --json")
def list_(as_json: JsonOption = False) -> None:
    """List the images of ours that the engine has."""
    from mlgym_sandbox import images

    with plain_errors():
        found = anyio.run(images.installed)
    if as_json:
        print_json(found)
        return
    for image in found:
        console.print(image, highlight=False)
    if not found:
        console.print("The engine has none yet: 'mlgym-mcp images build' makes one.")


@environments.command(epilog="Example: mlgym-mcp environments prepare torch")
def prepare(
    name: Annotated[str, typer.Argument(help="light, torch, or data (for the generators of real data).")] = "light",
) -> None:
    """Prepare the Python environment that bubblewrap sandboxes and graders use (needs the package index)."""
    from mlgym_sandbox import environment

    with plain_errors(), console.status(f"preparing the environment {name}") as status:
        made = anyio.run(environment.prepare, name, lambda line: status.update(escape(line[-100:])))
    console.print(f"{made.name}: {made.path}", highlight=False)


@environments.command(name="list", epilog="Example: mlgym-mcp environments list --json")
def environments_list(as_json: JsonOption = False) -> None:
    """List the prepared environments."""
    from mlgym_sandbox import environment

    with plain_errors():
        found = {env.name: str(env.path) for env in environment.installed()}
    if as_json:
        print_json(found)
        return
    for name, path in found.items():
        console.print(f"{name}: {path}", highlight=False)
    if not found:
        console.print("None yet: 'mlgym-mcp environments prepare light' makes one; sessions do it by themselves.")
