"""``mlgym-mcp images``: what sandboxes are made from."""

from __future__ import annotations

from typing import Annotated

import anyio
import typer
from mlgym_sandbox import environment, images

from mlgym_mcp.cli.output import JsonOption, console, plain_errors, print_json

app = typer.Typer(help="Build the images and environments that sandboxes are made from.", no_args_is_help=True)


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
    with plain_errors():

        async def run() -> str:
            return await images.build(
                name, base=base, from_debian=from_debian, from_host=from_host, progress=lambda line: console.print(line)
            )

        console.print(f"Built {anyio.run(run)}.")


@app.command(name="list", epilog="Example: mlgym-mcp images list --json")
def list_(as_json: JsonOption = False) -> None:
    """List the images of ours that the engine has, and the prepared environments."""
    with plain_errors():
        found = anyio.run(images.installed)
        environments = [env.name for env in environment.installed()]
    if as_json:
        print_json({"images": found, "environments": environments})
        return
    for image in found:
        console.print(image)
    console.print(f"environments: {', '.join(environments) or 'none'}")


@app.command(name="environment", epilog="Example: mlgym-mcp images environment torch")
def environment_(
    name: Annotated[str, typer.Argument(help="light or torch.")] = "light",
) -> None:
    """Prepare the Python environment that bubblewrap sandboxes use (needs the package index)."""
    with plain_errors(), console.status(f"preparing the environment {name}"):
        made = anyio.run(environment.prepare, name)
    console.print(f"{made.name}: {made.path}")
