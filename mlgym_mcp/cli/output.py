"""What all commands print through: one console, JSON when asked, one sentence on failure."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from mlgym_mcp.catalog import TaskError
from mlgym_mcp.session.errors import SessionError
from mlgym_mcp.session.journal import JournalError
from mlgym_sandbox.errors import SandboxError

console = Console(soft_wrap=True)
if not console.is_terminal and "COLUMNS" not in os.environ:
    console.width = 140  # a table in a file or a pipe need not be squeezed into eighty columns
errors = Console(stderr=True, soft_wrap=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
FoldersArgument = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="DIR",
        help="Folders with episodes below, such as a sweep's. Default: the episodes of this machine.",
        show_default=False,
    ),
]


def print_json(value: Any) -> None:
    """Print a value as JSON, for programs."""
    typer.echo(json.dumps(value, indent=1, default=str))


def markdown_rows(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = (columns, ("---",) * len(columns), *rows)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what can be foreseen to go wrong into one line on stderr and exit status 1."""
    try:
        yield
    except (TaskError, SandboxError, SessionError, JournalError, LookupError, OSError, ValueError) as exc:
        errors.print(f"[red]mlgym-mcp:[/red] {escape(str(exc))}", highlight=False, markup=True)
        raise typer.Exit(1) from exc


def number(value: float | None, digits: int = 4) -> str:
    """Return a figure for a table, or a dash."""
    return "-" if value is None else f"{value:.{digits}g}"
