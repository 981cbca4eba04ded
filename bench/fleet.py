"""How many sessions one server carries, and what each costs it.

    python bench/fleet.py [--sizes 1,16,64,256] [--backends bubblewrap,docker] [--calls N] [--json FILE]

For every number of sessions: a server process of its own (``mlgym-mcp serve --http``), its sessions made by the
control API and left alone for some seconds (memory per idle session, what idling costs), then all of them at once
make N mixed calls each over a connection of their own, one after another, as 64 busy agents would who need no time
to think. The client is this process: its CPU is in no figure but the wall time. First of all a floor: a server by the
SDK alone, whose only tool does nothing. Quote CPU per call beside that floor, and memory: wall time and calls per
second drift with what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import anyio
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
from procfs import look
from servers import TASK, UNLIMITED, ManyServer, many_server, own_home
from wire import Control, Session, WireError

from mlgym_mcp.session.journal import read_journal

_TEXT = "0123456789abcde\n" * 64
_MADE_AT_ONCE = 16
_ENDED_AT_ONCE = 16
Call = tuple[str, dict[str, Any]]


def mixed_calls(number: int, seed: int) -> Iterator[Call]:
    """Yield what an agent might call, in an order of its own."""
    choice = random.Random(seed)
    yield "write_file", {"path": "notes.txt", "content": _TEXT}
    kinds: list[tuple[int, Call]] = [
        (10, ("shell", {"command": "true"})),
        (5, ("shell", {"command": "ls -l /data; wc -c notes.txt; head -3 notes.txt"})),
        (10, ("read_file", {"path": "notes.txt"})),
        (8, ("write_file", {"path": "notes.txt", "content": _TEXT})),
        (5, ("list_files", {"path": "."})),
        (6, ("status", {})),
        (3, ("note_write", {"text": "The learning rate of 0.1 is too large.", "tags": "lr"})),
        (2, ("search_files", {"pattern": "abc"})),
        (1, ("get_task", {})),
    ]
    weights = [weight for weight, _ in kinds]
    for _ in range(number - 1):
        yield choice.choices(kinds, weights)[0][1]


@dataclass
class Figures:
    """What was seen with one number of sessions.

    Attributes:
        backend: of the sandboxes.
        sessions: how many.
        made_s: from the first request until all were ready.
        refused: how often the server said "come back in a moment" meanwhile.
        idle_kib: the server's memory per session, KiB, when all were ready and had rested.
        idle_ms: CPU of the server per session and second, ms, while nobody did anything.
        calls: how many were made.
        errors: what went wrong with them.
        seconds: wall time of the calls.
        samples: seconds of each call.
        server_s: CPU of the server process for all of them.
        client_s: CPU of the client.
        sandbox_s: CPU of all sandboxes over their whole lives, their starts left out.
    """

    backend: str
    sessions: int
    made_s: float = 0.0
    refused: int = 0
    idle_kib: float = 0.0
    idle_ms: float = 0.0
    calls: int = 0
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0
    samples: list[float] = field(default_factory=list)
    server_s: float = 0.0
    client_s: float = 0.0
    sandbox_s: float = 0.0

    def summary(self) -> dict[str, Any]:
        """Return the figures without the single samples."""
        ordered = sorted(self.samples) or [0.0]
        counted = max(1, self.calls)
        plain = asdict(self)
        del plain["samples"]
        return plain | {
            "calls_per_s": self.calls / self.seconds if self.seconds else 0.0,
            "p50_ms": statistics.median(ordered) * 1e3,
            "p99_ms": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1e3,
            "server_ms_per_call": self.server_s / counted * 1e3,
            "client_ms_per_call": self.client_s / counted * 1e3,
            "sandbox_ms_per_call": self.sandbox_s / counted * 1e3,
        }


async def make(server: ManyServer, task: str, number: int, figures: Figures) -> list[Session]:
    """Make sessions, some at a time, and wait until all are ready."""
    sessions: list[Session] = []
    waiting = list(range(number))

    async def some() -> None:
        control = Control(server.port, server.token)
        while waiting:
            waiting.pop()
            session = await control.create(task, budget=UNLIMITED)
            await control.until_ready(session)
            sessions.append(session)
        figures.refused += control.refusals
        control.close()

    async with anyio.create_task_group() as tasks:
        for _ in range(min(_MADE_AT_ONCE, number)):
            tasks.start_soon(some)
    return sessions


async def end(server: ManyServer, sessions: Sequence[Session]) -> None:
    """End sessions, some at a time."""
    waiting = list(sessions)

    async def some() -> None:
        control = Control(server.port, server.token)
        while waiting:
            session = waiting.pop()
            session.close()
            await control.delete(session.id)
        control.close()

    async with anyio.create_task_group() as tasks:
        for _ in range(min(_ENDED_AT_ONCE, len(sessions))):
            tasks.start_soon(some)


async def play(session: Session, calls: Iterator[Call], figures: Figures) -> None:
    """Make one session's calls, one after another."""
    for tool, arguments in calls:
        begin = time.perf_counter()
        try:
            result = await session.call(tool, arguments)
            if result.get("isError") or result.get("_meta", {}).get("refused"):
                figures.errors.append(f"{tool}: {result['content'][0]['text'][:200]}")
        except WireError as exc:
            figures.errors.append(str(exc))
        figures.samples.append(time.perf_counter() - begin)
        figures.calls += 1


async def measure_floor(calls: int) -> Figures:
    """Measure an MCP tool that does nothing."""
    figures = Figures("floor: SDK", 1)
    command = [sys.executable, str(Path(__file__).with_name("echo_server.py"))]
    async with await anyio.open_process(command, stderr=None) as process:
        try:
            assert process.stdout is not None
            with anyio.fail_after(60):
                port = int(await process.stdout.receive())
            client = Session(port, {"id": "", "token": "none", "episode": "", "path": "/mcp"})
            nothing: Call = ("echo", {"text": "x"})
            await play(client, iter([nothing] * 20), Figures("", 1))
            before, begin = look(process.pid).cpu_s, time.perf_counter()
            await play(client, iter([nothing] * calls), figures)
            figures.seconds = time.perf_counter() - begin
            figures.server_s = look(process.pid).cpu_s - before
            client.close()
        finally:
            process.kill()
    return figures


def sandbox_cpu(server: ManyServer, sessions: Sequence[Session]) -> float:
    """Return the CPU seconds that ended sessions' sandboxes have used, as their journals have it."""
    total = 0.0
    for session in sessions:
        for event in read_journal(server.home / "episodes" / session.episode):
            if event.type == "end":
                total += float(event["spent"]["cpu_s"])
    return total


async def measure(backend: str, size: int, arguments: argparse.Namespace, place: Path) -> Figures:
    """Measure one number of sessions with a fresh server."""
    figures = Figures(backend, size)
    async with many_server(place, backend, ("--max-sessions", str(size + 8))) as server:
        first = await make(server, arguments.task, 1, Figures(backend, 1))  # what is loaded once is no session's
        await play(first[0], mixed_calls(20, 0), Figures(backend, 1))
        await end(server, first)
        await anyio.sleep(arguments.rest)
        floor = look(server.pid).resident

        begin = time.perf_counter()
        sessions = await make(server, arguments.task, size, figures)
        figures.made_s = time.perf_counter() - begin
        await anyio.sleep(arguments.rest)
        before = look(server.pid)
        await anyio.sleep(arguments.rest)
        after = look(server.pid)
        figures.idle_kib = (after.resident - floor) / size / 1024
        figures.idle_ms = (after.cpu_s - before.cpu_s) / size / arguments.rest * 1e3

        mine, begin = time.process_time(), time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for number, session in enumerate(sessions):
                tasks.start_soon(play, session, mixed_calls(arguments.calls, number), figures)
        figures.seconds = time.perf_counter() - begin
        figures.client_s = time.process_time() - mine
        figures.server_s = look(server.pid).cpu_s - after.cpu_s
        await end(server, sessions)
        figures.sandbox_s = sandbox_cpu(server, sessions)
        if any(word in (said := server.log.read_text()) for word in ("Traceback", '"error"', "ERROR")):
            figures.errors.append(f"the server's log: {said[-2000:]}")
    return figures


def show(console: Console, found: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    table = Table(title="mixed calls of all sessions at once")
    for name in ("backend", "sessions", "ready in s", "calls/s", "p50 ms", "p99 ms", "errors"):
        table.add_column(name)
    for name in ("server CPU ms/call", "sandbox CPU ms/call", "idle KiB/session", "idle CPU ms/s/session"):
        table.add_column(name)
    for row in found:
        cells = [row["backend"], row["sessions"], f"{row['made_s']:.1f}", f"{row['calls_per_s']:.0f}"]
        cells += [f"{row['p50_ms']:.1f}", f"{row['p99_ms']:.1f}", len(row["errors"])]
        cells += [f"{row['server_ms_per_call']:.2f}", f"{row['sandbox_ms_per_call']:.2f}"]
        cells += [f"{row['idle_kib']:.0f}", f"{row['idle_ms']:.2f}"]
        table.add_row(*map(str, cells))
    console.print(table)
    console.print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the end")
    for row in found:
        for error in row["errors"][:3]:
            console.print(f"{row['backend']}, {row['sessions']}: {error}", style="red", markup=False)


def main() -> None:
    """Run the benchmark, print the table, exit with 1 if any call failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1,16,64,256", help="numbers of sessions")
    parser.add_argument("--backends", default="bubblewrap")
    parser.add_argument("--calls", type=int, default=50, help="of each session")
    parser.add_argument("--rest", type=float, default=5.0, help="seconds that the server is left alone")
    parser.add_argument("--task", default=TASK)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    found = [anyio.run(measure_floor, 20 * arguments.calls).summary()]
    for backend in arguments.backends.split(","):
        for size in map(int, arguments.sizes.split(",")):
            with own_home(arguments.task) as place:
                found.append(anyio.run(measure, backend, size, arguments, place).summary())
    show(Console(width=150), found)
    if arguments.json:
        arguments.json.write_text(json.dumps({"cpus": os.cpu_count(), "figures": found}, indent=1) + "\n")
    if any(row["errors"] for row in found):
        sys.exit(1)


if __name__ == "__main__":
    main()
