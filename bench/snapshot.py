"""What it costs to keep a workspace, to go back to it and to fork it, beside copying all of it out as a tar.

    python bench/snapshot.py [--sizes 10x100,100x1000,250x10000] [--rounds N] [--backend bubblewrap]
                             [--docker-image IMAGE] [--json FILE]

Each workspace has as many files of random bytes in folders of fifty. Measured in the server's process, without HTTP:
the first snapshot; one after 64 KiB were changed; one after nothing was; the restore that takes the change back; a
fork, from asking for it to its sandbox holding the files. With ``--docker-image`` also ``docker commit`` of a
container of that image which holds the same workspace, which is what a snapshot is elsewhere.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
from servers import TASK, UNLIMITED, own_home

from mlgym_mcp.catalog import Catalog
from mlgym_mcp.session.forking import parent_of
from mlgym_mcp.session.registry import SessionRegistry

FILL = """
import os
for i in range({files}):
    if i % 50 == 0:
        os.makedirs("d%d" % (i // 50))
    with open("d%d/f%d" % (i // 50, i), "wb") as file:
        file.write(os.urandom({size}))
"""
CHANGE = "head -c 65536 /dev/urandom > d0/changed"
FIRST, CHANGED, SAME = "first snapshot", "snapshot after 64 KiB changed", "snapshot after nothing changed"
RESTORE, FORK, TAR, COMMIT = (
    "restore, 64 KiB back",
    "fork, until its files are there",
    "floor: tar of all",
    "docker commit",
)


async def timed(samples: dict[str, list[float]], what: str, work: Callable[[], Awaitable[Any]]) -> Any:
    """Do something and note how many seconds it took."""
    begun = time.perf_counter()
    result = await work()
    samples.setdefault(what, []).append(time.perf_counter() - begun)
    return result


async def measure(backend: str, megabytes: int, files: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds that each kind of work took on a workspace of this size."""
    samples: dict[str, list[float]] = {}
    registry = SessionRegistry(Catalog.default(), sandbox=backend, unsafe=True)
    async with registry.run():
        session = await registry.create(TASK, budget=UNLIMITED)
        sandbox = await session.sandbox()
        await sandbox.write_file("/tmp/fill.py", FILL.format(files=files, size=(megabytes << 20) // files).encode())
        status, output = await sandbox.run("python3 -B /tmp/fill.py", wait_s=300)
        assert status.exit_code == 0, output.data
        taken = await timed(samples, FIRST, session.checkpoints.take)
        for _ in range(rounds):
            await sandbox.run(CHANGE, wait_s=30)
            await timed(samples, CHANGED, session.checkpoints.take)
            await timed(samples, SAME, session.checkpoints.take)
            await timed(samples, RESTORE, lambda: session.checkpoints.restore(taken.id))
        for _ in range(max(1, rounds // 5)):
            fork = parent_of(session, taken.id).options()

            async def forked(fork: dict[str, Any] = fork) -> Any:
                child = await registry.create(TASK, **fork)
                await child.sandbox()
                return child

            child = await timed(samples, FORK, forked)
            await child.end("abandoned", "measured")
            await child.wait_ended()
            await timed(samples, TAR, lambda: sandbox.tar(["*"], max_bytes=4 << 30, max_files=1_000_000))
    return samples


def committed(image: str, megabytes: int, files: int, rounds: int) -> list[float]:
    """Return the seconds of ``docker commit`` after 64 KiB were changed in a container with the same files."""

    def docker(*words: str) -> str:
        return subprocess.run(["docker", *words], check=True, capture_output=True, text=True).stdout.strip()

    program = FILL.format(files=files, size=(megabytes << 20) // files)
    name = docker("run", "-d", "--rm", "--network", "none", "-w", "/tmp", "--entrypoint", "sleep", image, "3600")
    try:
        docker("exec", "-w", "/tmp", name, "python3", "-c", program)
        seconds = []
        for _ in range(rounds):
            docker("exec", "-w", "/tmp", name, "sh", "-c", CHANGE)
            begun = time.perf_counter()
            made = docker("commit", name)
            seconds.append(time.perf_counter() - begun)
            docker("rmi", made)
        return seconds
    finally:
        docker("rm", "-f", name)


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10x100,100x1000,250x10000", help="MB and files of each workspace")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--backend", default="bubblewrap")
    parser.add_argument("--docker-image", help="measure docker commit with this image")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    table = Table("workspace", "what", "min ms", "median ms", "max ms", "n")
    figures = []
    with own_home(TASK) as place:
        os.environ["MLGYM_HOME"] = str(place)
        for size in arguments.sizes.split(","):
            megabytes, files = map(int, size.split("x"))
            samples = anyio.run(measure, arguments.backend, megabytes, files, arguments.rounds)
            if arguments.docker_image:
                samples[COMMIT] = committed(arguments.docker_image, megabytes, files, max(1, arguments.rounds // 5))
            for what, seconds in samples.items():
                ordered = [min(seconds), statistics.median(seconds), max(seconds)]
                shown = (f"{each * 1e3:.1f}" for each in ordered)
                table.add_row(f"{megabytes} MB, {files} files", what, *shown, str(len(seconds)))
                figures.append({"mb": megabytes, "files": files, "what": what, "seconds": seconds})
    console = Console(width=110)
    console.print(table)
    console.print(f"{arguments.backend}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the end")
    if arguments.json:
        arguments.json.write_text(json.dumps({"cpus": os.cpu_count(), "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
