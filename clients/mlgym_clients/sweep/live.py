"""A sweep shown to people: a live table with bars on a terminal, a line for each attempt elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mlgym_clients.sweep.attempt import Attempt, Lost
from mlgym_clients.sweep.board import Board
from mlgym_mcp.records.attempts import plain_name, plain_reason

_A_SECOND = 4
_MOST_ROWS = 30
_MOST_PLAYING = 12


class Show:
    """Shows a sweep on a console.

    Args:
        console: where.
        quiet: whether to say nothing but what went wrong.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet

    @contextmanager
    def live(self, board: Board) -> Iterator[None]:
        """Show the board for as long as the block runs."""
        if self._quiet:
            yield
            return
        if not self._console.is_terminal:
            yield
            self._console.print(_rows(board))
            return
        with Live(
            console=self._console,
            get_renderable=lambda: picture(board, self._console.height),
            refresh_per_second=_A_SECOND,
            transient=True,
        ):
            yield
        self._console.print(_rows(board))

    def finished(self, board: Board, line: Mapping[str, Any]) -> None:
        """Say how an attempt ended."""
        if self._quiet:
            return
        score = line.get("score")
        ended = (
            f"{score:.4g}"
            if isinstance(score, int | float)
            else f"[yellow]{escape(plain_name(line.get('outcome')))}[/]"
        )
        found = " (had finished before)" if line.get("found") else ""
        name = escape(plain_reason(line.get("attempt")))
        self._print(f"[dim]{board.done}/{board.total}[/] {name}  {ended}  {line.get('calls')} calls{found}")

    def lost(self, board: Board, attempt: Attempt, number: int, lost: Lost, again: bool) -> None:
        """Say that a try was lost, and to what."""
        del board
        then = "it is tried again" if again else "it is given up for now"
        self._print(f"[red]lost[/] {attempt.id} (try {number}): {escape(plain_reason(lost.reason))}; {then}")

    def said(self, text: str) -> None:
        """Say it."""
        self._print(f"[bold]{escape(text)}[/]")

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False)


def picture(board: Board, height: int = 40) -> RenderableType:
    """Return the board as a table with bars, and what is being played, on so many lines."""
    seconds = time.monotonic() - board.began
    head = Text.assemble(
        (f"{board.done}", "bold"),
        f" of {board.total} attempts, {len(board.playing)} being played, {board.calls} calls, {_clock(seconds)}",
        f", {board.losses} lost tries" if board.losses else "",
        f", {board.cost:.2f} USD" if board.cost else "",
        (", draining", "yellow") if board.draining else "",
    )
    parts: list[RenderableType] = [head, ProgressBar(total=max(1, board.total), completed=board.done, width=60)]
    room = max(4, height - 4)
    if len(board.rows) <= min(_MOST_ROWS, room - 4):
        parts.append(_rows(board))
        room -= len(board.rows) + 3
    parts.append(_playing(board, max(1, min(_MOST_PLAYING, room - 4))))
    return Group(*parts)


def _rows(board: Board) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("task", "agent"):
        table.add_column(name)
    table.add_column("done", justify="right")
    table.add_column("", width=16)
    for name in ("best", "mean"):
        table.add_column(name, justify="right")
    for (task, agent), row in board.rows.items():
        bar = ProgressBar(total=row.total, completed=row.done, width=16)
        table.add_row(task, agent, f"{row.done}/{row.total}", bar, _number(row.best), _number(row.mean))
    return table


def _playing(board: Board, most: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    oldest = sorted(board.playing.values(), key=lambda playing: playing.since)
    for playing in oldest[:most]:
        attempt = playing.attempt
        again = f" (try {playing.number})" if playing.number > 1 else ""
        seed = f"seed {attempt.seed}{again}"
        spent = _clock(time.monotonic() - playing.since)
        tool = escape(plain_name(playing.tool, 24))  # a model may call whatever it thinks there is
        table.add_row(attempt.task, attempt.agent, seed, f"{playing.calls} calls", tool, spent)
    if len(oldest) > most:
        table.add_row(f"and {len(oldest) - most} more")
    return table


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
