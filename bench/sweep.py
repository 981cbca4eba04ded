"""What the evaluation client costs: attempts at a time, by scripted agents, on a server of the sweep's own.

    python bench/sweep.py [--attempts N] [--at-once N] [--calls N] [--task ID] [--sandbox NAME] [--json FILE]

The sweep runs in this process, as ``mlgym-mcp eval`` runs it: sessions made, agents connected, calls made, results
read and committed. Its CPU is divided by the tool calls. Beside it a floor from the same run: the same calls by the
same MCP client on one session, with nothing of the sweep around them. Quote the difference: it is the sweep's own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
from rich.console import Console
from rich.table import Table

from mlgym_clients.agents.agent import Agent
from mlgym_clients.agents.registry import make_agent
from mlgym_clients.episode_player import play_session
from mlgym_clients.sweep.attempt import Attempt, Lost
from mlgym_clients.sweep.board import Board
from mlgym_clients.sweep.control import Control
from mlgym_clients.sweep.local import LocalEngine, Own
from mlgym_clients.sweep.own_server import own_server
from mlgym_clients.sweep.spec import SweepSpec, make_sweep
from mlgym_clients.sweep.sweeping import Surroundings, begin_sweep
from mlgym_mcp.api import SessionRequest


class Watcher:
    """Counts calls and keeps what went wrong."""

    def __init__(self) -> None:
        self.calls = 0
        self.errors: list[str] = []

    def finished(self, board: Board, line: Mapping[str, Any]) -> None:
        """Count an attempt's calls."""
        self.calls = board.calls
        if line.get("stop") not in ("done", "submitted"):
            self.errors.append(f"{line['attempt']}: {line.get('stop')}: {line.get('detail')}")

    def lost(self, board: Board, attempt: Attempt, number: int, lost: Lost, again: bool) -> None:
        """Keep why."""
        self.errors.append(f"{attempt.id}, try {number}: {lost.reason}")

    def said(self, text: str) -> None:
        """Keep it."""
        self.errors.append(text)


def script(calls: int) -> list[dict[str, Any]]:
    """Return so many calls, as an agent might make them."""
    kinds = [
        {"tool": "shell", "arguments": {"command": "true"}},
        {"tool": "read_file", "arguments": {"path": "notes.txt"}},
        {"tool": "write_file", "arguments": {"path": "notes.txt", "content": "0123456789abcde\n" * 64}},
        {"tool": "list_files"},
    ]
    first = {"tool": "write_file", "arguments": {"path": "notes.txt", "content": "nothing yet\n"}}
    return [first, *(kinds[i % len(kinds)] for i in range(calls - 1))]


async def measure_floor(arguments: argparse.Namespace, place: Path) -> float:
    """Return CPU milliseconds of this process per call, without a sweep."""
    agent = make_agent("scripted", script=script(arguments.floor_calls))
    async with (
        own_server(place, ["--sandbox", arguments.sandbox]) as server,
        Control(server.url, server.token) as control,
    ):
        view = await control.create(SessionRequest(task=arguments.task, budget={"calls": 10_000_000}))
        warm = make_agent("scripted", script=script(4))
        await play_session(warm, view.mcp_url, token=view.token)
        before = time.process_time()
        result = await play_session(agent, view.mcp_url, token=view.token)
        spent = time.process_time() - before
        await control.end(view.id)
    return spent / result.steps * 1e3


async def measure(arguments: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Run the sweep and return its figures."""
    agents = {"scripted": {"agent": "scripted", "script": script(arguments.calls)}}
    given = {"tasks": [arguments.task], "agents": agents, "seeds": arguments.attempts}
    spec = make_sweep({**given, "budget": {"calls": 10_000_000}, "max_sessions": arguments.at_once})
    watcher = Watcher()

    def make_engine(_: SweepSpec, made: Mapping[str, Agent], __: str) -> LocalEngine:
        return LocalEngine(made, Own(place / "sweep", ["--sandbox", arguments.sandbox]))

    begun = [0.0, 0.0]

    @contextmanager
    def show(_: Board) -> Iterator[None]:
        begun[:] = [time.process_time(), time.perf_counter()]
        yield
        begun[:] = [time.process_time() - begun[0], time.perf_counter() - begun[1]]

    summary = await begin_sweep(place / "sweep", spec, Surroundings(make_engine, watcher, show))
    cpu, wall = begun
    return {
        "attempts": summary.finished,
        "at_once": arguments.at_once,
        "calls": watcher.calls,
        "seconds": wall,
        "client_s": cpu,
        "client_ms_per_call": cpu / max(1, watcher.calls) * 1e3,
        "calls_per_s": watcher.calls / wall,
        "errors": watcher.errors,
    }


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attempts", type=int, default=128)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--floor-calls", type=int, default=200)
    parser.add_argument("--task", default="house_price")
    parser.add_argument("--sandbox", default="bubblewrap")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mlgym-bench-") as name:
        place = Path(name)
        figures = anyio.run(measure, arguments, place)
        figures["floor_ms_per_call"] = anyio.run(measure_floor, arguments, place)
    figures["own_ms_per_call"] = figures["client_ms_per_call"] - figures["floor_ms_per_call"]
    table = Table("what", "figure", "budget")
    table.add_row(f"attempts, {arguments.at_once} at a time", str(figures["attempts"]), str(arguments.attempts))
    table.add_row("tool calls", str(figures["calls"]), "")
    table.add_row("errors", str(len(figures["errors"])), "0")
    table.add_row("wall time", f"{figures['seconds']:.1f} s ({figures['calls_per_s']:.0f} calls/s)", "")
    table.add_row("client CPU per call, all of it", f"{figures['client_ms_per_call']:.2f} ms", "")
    table.add_row("floor: the MCP client alone", f"{figures['floor_ms_per_call']:.2f} ms", "")
    table.add_row("the sweep's own", f"{figures['own_ms_per_call']:.2f} ms", "5 ms")
    console = Console(width=110)
    console.print(table)
    for error in figures["errors"][:10]:
        console.print(error, markup=False)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"figures": figures}, indent=1))


if __name__ == "__main__":
    main()
