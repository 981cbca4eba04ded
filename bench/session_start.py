"""How long it takes from asking for a session to the first reply of its sandbox, cold and from a warm pool.

    python bench/session_start.py [--rounds N] [--backends bubblewrap,docker] [--warm N] [--json FILE]

Against a server process of its own, over HTTP: session created (its MCP endpoint answers), first ``shell true``
answered, session deleted and everything of it removed. Data and environment are prepared before the clock starts.
Each round of the warm half begins with a full pool and a server that rests.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import anyio
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
from servers import TASK, UNLIMITED, many_server, own_home
from wire import Control

CREATED, FIRST, ENDED = "created: the MCP endpoint answers", "first `shell true` answered", "ended, everything removed"
_REST_S = 0.1


async def full_pool(control: Control, size: int) -> None:
    """Wait until the server has so many sandboxes ready."""
    with anyio.fail_after(120):
        while f"\nmlgym_pool_ready {float(size)}\n" not in (await control.request("GET", "/metrics")).body.decode():
            await anyio.sleep(0.02)


async def measure(backend: str, warm: int, arguments: argparse.Namespace, place: Path) -> dict[str, list[float]]:
    """Make, use and end sessions one after another, after one that does not count; return the seconds of each step."""
    samples: dict[str, list[float]] = {CREATED: [], FIRST: [], ENDED: []}
    async with many_server(place, backend, ("--warm", str(warm))) as server:
        control = Control(server.port, server.token)
        for number in range(arguments.rounds + 1):
            if number:
                await full_pool(control, warm)
                await anyio.sleep(_REST_S)
            begin = time.perf_counter()
            session = await control.create(arguments.task, budget=UNLIMITED)
            created = time.perf_counter()
            result = await session.call("shell", {"command": "true"})
            first = time.perf_counter()
            assert "exit 0" in result["content"][0]["text"], result
            session.close()
            ending = time.perf_counter()
            await control.delete(session.id)
            if number:
                samples[CREATED].append(created - begin)
                samples[FIRST].append(first - begin)
                samples[ENDED].append(time.perf_counter() - ending)
        control.close()
    return samples


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--backends", default="bubblewrap,docker")
    parser.add_argument("--warm", type=int, default=2, help="size of the warm pool; 0 measures cold starts only")
    parser.add_argument("--task", default=TASK)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    table = Table("backend", "start", "what", "min ms", "median ms", "max ms", "n")
    figures = []
    with own_home(arguments.task) as place:
        for backend in arguments.backends.split(","):
            for warm in sorted({0, arguments.warm}):
                start = "warm" if warm else "cold"
                for what, seconds in anyio.run(measure, backend, warm, arguments, place).items():
                    ordered = [min(seconds), statistics.median(seconds), max(seconds)]
                    table.add_row(backend, start, what, *(f"{each * 1e3:.1f}" for each in ordered), str(len(seconds)))
                    figures.append({"backend": backend, "start": start, "what": what, "seconds": seconds})
    console = Console(width=100)
    console.print(table)
    console.print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the end")
    if arguments.json:
        arguments.json.write_text(json.dumps({"cpus": os.cpu_count(), "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
