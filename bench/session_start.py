"""How long it takes from asking for a session to the first reply of its sandbox.

    python bench/session_start.py [--rounds N] [--backends bubblewrap,docker] [--warm N]

Prints, per backend: session created (the MCP endpoint answers), first ``shell true`` answered, and the session
ended and removed. Data and environment are prepared before the clock starts. With ``--warm N`` also the same with a
warm pool of N sandboxes, each round beginning with a full one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import anyio
from mcp import Client
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
from servers import TASK, UNLIMITED, bench_home, running_host


async def measure(backend: str, rounds: int, warm: int) -> dict[str, list[float]]:
    """Create, use and end ``rounds`` sessions one after another, after one that does not count."""
    samples: dict[str, list[float]] = {"created": [], "first reply": [], "ended": []}
    async with running_host(backend, warm=warm) as host:
        for i in range(rounds + 1):
            if i:
                with anyio.fail_after(120):
                    while host.registry.pool.ready < warm:
                        await anyio.sleep(0.01)
                await anyio.sleep(0.1)  # what filled the pool has come to rest
            begin = time.perf_counter()
            session = await host.create(TASK, budget=UNLIMITED)
            created = time.perf_counter()
            async with Client(host.mcp_url(session)) as client:
                result = await client.call_tool("shell", {"command": "true"})
                assert not result.is_error, result.content
                first = time.perf_counter()
            ending = time.perf_counter()
            await session.end("abandoned", "the benchmark is done with it")
            await session.wait_ended()
            if i:
                samples["created"].append(created - begin)
                samples["first reply"].append(first - begin)
                samples["ended"].append(time.perf_counter() - ending)
    return samples


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--backends", default="bubblewrap,docker")
    parser.add_argument("--warm", type=int, default=0)
    arguments = parser.parse_args()
    table = Table("backend", "what", "median ms", "max ms", "n")
    with bench_home():
        for backend in arguments.backends.split(","):
            for warm in sorted({0, arguments.warm}):
                for name, values in anyio.run(measure, backend, arguments.rounds, warm).items():
                    median, most = statistics.median(values) * 1e3, max(values) * 1e3
                    what = f"{name}, {'warm' if warm else 'cold'}"
                    table.add_row(backend, what, f"{median:.1f}", f"{most:.1f}", str(len(values)))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
