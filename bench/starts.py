"""How long programs take until they answer, and how much CPU that takes: commands, a server, a host with its relay.

    python bench/starts.py [--rounds N] [--task TASK] [--backends NAME] [--json FILE]

Each is started several times, in turn, in a home of its own that has the task's data. First two floors: Python that
does nothing, and one that loads the MCP SDK. CPU is user and system time of all its processes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
from procfs import look
from servers import CLI, TASK, own_home, relay_command

HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "bench", "version": "0"}},
}
Environment = Mapping[str, str]
Seconds = tuple[float, float]
"""Of CPU, and of wall time."""


def finish(command: list[str], environment: Environment) -> Seconds:
    """Run a command to its end and return what that took."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, time.perf_counter() - begin


def http_server(environment: Environment) -> Seconds:
    """Start a server over HTTP; return what it took until it listened."""
    begin = time.perf_counter()
    command = [*CLI, "serve", "--http", "127.0.0.1:0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            next(line for line in process.stdout if "SIGTERM" in line)  # the last one
            return look(process.pid).cpu_s, time.perf_counter() - begin
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate()


def relay_and_host(command: list[str], environment: Environment) -> Seconds:
    """Begin a session on stdio where no host runs; return what both took until the first reply."""
    begin, host = time.perf_counter(), 0
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    try:
        with subprocess.Popen(command, env=environment, **pipes) as relay:
            assert relay.stdin is not None
            assert relay.stdout is not None
            relay.stdin.write(json.dumps(HELLO) + "\n")
            relay.stdin.flush()
            reply, wall = json.loads(relay.stdout.readline()), time.perf_counter() - begin
            if "result" not in reply:
                raise RuntimeError("the host refuses the session")
            host = int((Path(environment["MLGYM_HOME"]) / "run" / "host.lock").read_text())
            return look(relay.pid).cpu_s + look(host).cpu_s, wall
    finally:
        subprocess.run([*CLI, "host", "stop"], env=environment, capture_output=True, check=False)
        while host and Path(f"/proc/{host}").exists():
            time.sleep(0.01)


def starts(backend: str, task: str, environment: Environment) -> dict[str, Callable[[], Seconds]]:
    """Return what is started, each by its name."""
    python = [sys.executable, "-c"]
    relay, _ = relay_command(backend, "starts", task)
    return {
        "floor: Python that does nothing": lambda: finish([*python, "pass"], environment),
        "floor: Python that loads the MCP SDK": lambda: finish([*python, "import mcp.server"], environment),
        "mlgym-mcp --help": lambda: finish([*CLI, "--help"], environment),
        "mlgym-mcp episodes list": lambda: finish([*CLI, "episodes", "list"], environment),
        "mlgym-mcp tasks list": lambda: finish([*CLI, "tasks", "list"], environment),
        "serve --http: until it listens": lambda: http_server(environment),
        "serve TASK on stdio, no host: until the first reply": lambda: relay_and_host(relay, environment),
    }


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--task", default=TASK)
    parser.add_argument("--backends", default="bubblewrap", help="of the session's sandbox: one of them")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    with own_home(arguments.task) as place:
        environment = {**os.environ, "MLGYM_HOME": str(place)}
        programs = starts(arguments.backends, arguments.task, environment)
        found: dict[str, dict[str, list[float]]] = {name: {"cpu_s": [], "wall_s": []} for name in programs}
        for _ in range(arguments.rounds):
            for name, start in programs.items():
                cpu_s, wall_s = start()
                found[name]["cpu_s"].append(cpu_s)
                found[name]["wall_s"].append(wall_s)
    table = Table("what", "CPU ms: median", "least", "wall ms: median", title=f"starts, {arguments.rounds} of each")
    for name, seen in found.items():
        cpu, wall = seen["cpu_s"], seen["wall_s"]
        table.add_row(name, *(f"{ms * 1e3:.0f}" for ms in (statistics.median(cpu), min(cpu), statistics.median(wall))))
    Console(width=150).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"cpus": os.cpu_count(), "figures": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
