"""``mlgym-mcp doctor``: what is here, and the command that mends what is not."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence

import anyio
import typer
from rich.markup import escape

from mlgym_mcp.catalog import Catalog, state
from mlgym_mcp.cli.output import JsonOption, console, plain_errors, print_json
from mlgym_sandbox import environment, get_backend, gpus
from mlgym_sandbox.errors import SandboxError
from mlgym_sandbox.home import home
from mlgym_sandbox.spec import Check

EXAMPLES = "Examples: 'mlgym-mcp doctor'; 'mlgym-mcp doctor --json'"

_LOW_DISK = 5 << 30


async def _backend_checks(name: str) -> list[Check]:
    try:
        with anyio.fail_after(30):
            return list(await get_backend(name).probe())
    except (SandboxError, OSError, TimeoutError) as exc:
        return [Check(name, ok=False, detail=str(exc) or "it did not answer within 30 seconds")]


def _gpus() -> Check:
    found = gpus.discover()
    if not found.gpus:
        what, _, mend = str(found.problem).partition("; ")
        return Check("GPUs", False, f"none: {what} (the mini presets need none)", mend or None)
    seen = "; ".join(f"{gpu.name}, {gpu.memory_gb:.0f} GB, {gpu.id}" for gpu in found.gpus)
    return Check("GPUs", True, f"{seen} (told by {found.source})")


def _environments() -> list[Check]:
    checks = []
    for name in ("light", "torch", "data"):
        found = environment.find(name)
        mend = f"mlgym-mcp environments prepare {name}"
        detail = "prepared when first needed" if found is None else str(found.path)
        checks.append(Check(f"environment {name}", found is not None, detail, None if found else mend))
    return checks


def _data() -> list[Check]:
    checks = []
    for task in Catalog.default().tasks():
        for preset in task.spec.presets:
            found = state(task, preset)
            mend = None if found == "ready" else f"mlgym-mcp tasks prepare {task.id} --preset {preset}"
            checks.append(Check(f"data {task.id}/{preset}", found == "ready", found, mend))
    return checks


def _disk() -> Check:
    free = shutil.disk_usage(home()).free
    detail = f"{free / 2**30:.1f} GiB free at {home()}"
    return Check("disk", free > _LOW_DISK, detail, None if free > _LOW_DISK else "free some space, or set MLGYM_HOME")


async def _all() -> dict[str, Sequence[Check]]:
    return {
        "bubblewrap": await _backend_checks("bubblewrap"),
        "docker": await _backend_checks("docker"),
        "machine": [_gpus(), _disk()],
        "environments": _environments(),
        "data": _data(),
    }


def doctor(as_json: JsonOption = False) -> None:
    """Look at this machine: engine, bubblewrap, GPUs, images, data, disk. Each line is ok or says what mends it."""
    with plain_errors():
        groups = anyio.run(_all)
    if as_json:
        print_json({group: [dataclasses.asdict(c) for c in checks] for group, checks in groups.items()})
    else:
        for group, checks in groups.items():
            console.print(f"[bold]{group}[/bold]")
            for check in checks:
                mark = "[green]ok[/green]     " if check.ok else "[yellow]missing[/yellow]"
                console.print(f"  {mark} {escape(check.name)}: {escape(check.detail)}", highlight=False)
                if check.mend and not check.ok:
                    console.print(f"          [dim]mend:[/dim] {escape(check.mend)}", highlight=False)
    usable = [name for name in ("bubblewrap", "docker") if groups[name] and groups[name][-1].ok]
    if not as_json:
        console.print(f"Sandboxes can run with: {', '.join(usable) or 'nothing yet'}.")
    raise typer.Exit(0 if usable else 1)
