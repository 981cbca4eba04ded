"""How long a tool call takes, beside what it cannot be quicker than.

    python bench/tool_call.py [--rounds N] [--backends bubblewrap,docker] [--json FILE]

Prints medians and 99th percentiles, in milliseconds, of ``shell true``, ``read_file`` and ``write_file`` of 10 KB
through a real MCP client over stdio and HTTP; and from the same run three floors: ``bash -c true`` spawned
directly, the same by ``docker exec`` through the docker SDK, and an MCP tool that does nothing. Quote ratios of
one run: absolute times drift with the machine.
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
from mcp import Client, StdioServerParameters
from mcp.server import MCPServer
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
from servers import TASK, bench_home, http_server, relay_command, task_session

Row = tuple[str, list[float]]


def quantiles(samples: list[float]) -> tuple[float, float]:
    """Return median and 99th percentile, in milliseconds."""
    ordered = sorted(samples)
    return statistics.median(ordered) * 1e3, ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1e3


async def timed(call: Callable[[], Awaitable[Any]], rounds: int) -> list[float]:
    """Return the seconds of each of ``rounds`` calls, after three that do not count."""
    for _ in range(3):
        await call()
    samples = []
    for _ in range(rounds):
        begin = time.perf_counter()
        await call()
        samples.append(time.perf_counter() - begin)
    return samples


def spawn_floor(rounds: int) -> list[float]:
    """``bash -c true``, spawned by this process."""
    samples = []
    for _ in range(rounds):
        begin = time.perf_counter()
        subprocess.run(["bash", "-c", "true"], check=True)
        samples.append(time.perf_counter() - begin)
    return samples


def docker_exec_floor(session_id: str, rounds: int) -> list[float]:
    """``bash -c true`` by docker exec through the SDK, in a session's own container."""
    import docker

    client = docker.from_env()
    (container,) = client.api.containers(filters={"label": f"mlgym.session={session_id}"})
    samples = []
    for _ in range(rounds):
        begin = time.perf_counter()
        exec_id = client.api.exec_create(container["Id"], ["bash", "-c", "true"])["Id"]
        client.api.exec_start(exec_id)
        client.api.exec_inspect(exec_id)
        samples.append(time.perf_counter() - begin)
    client.close()
    return samples


async def echo_floor(rounds: int) -> list[float]:
    """An MCP tool that returns its argument, over HTTP, by the SDK alone."""
    server = MCPServer("echo", log_level="ERROR")

    @server.tool(structured_output=False)
    async def echo(text: str) -> str:
        """Return the text."""
        return text

    async with http_server(server.streamable_http_app()) as url, Client(f"{url}/mcp") as client:
        return await timed(lambda: client.call_tool("echo", {"text": "x"}), rounds)


async def tool_rows(label: str, client: Client, rounds: int) -> list[Row]:
    """Time the three tools over one connection."""
    text = "0123456789abcde\n" * 640  # 10 KiB
    await client.call_tool("write_file", {"path": "bench.txt", "content": text})
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("shell true", "shell", {"command": "true"}),
        ("read_file 10 KB", "read_file", {"path": "bench.txt", "limit": 1000}),
        ("write_file 10 KB", "write_file", {"path": "bench.txt", "content": text}),
    ]
    rows = []
    for name, tool, arguments in calls:

        async def call(tool: str = tool, arguments: dict[str, Any] = arguments) -> None:
            result = await client.call_tool(tool, arguments)
            assert not result.is_error, result.content

        rows.append((f"{label} {name}", await timed(call, rounds)))
    return rows


async def wait_ready(client: Client) -> None:
    """Return when the session's sandbox answers."""
    with anyio.fail_after(180):
        while (await client.call_tool("status", {})).structured_content["state"] != "ready":  # type: ignore[index]
            await anyio.sleep(0.2)


def relay_start(backend: str, rounds: int, task: str) -> list[float]:
    """From starting a relay's process to its first reply, while the host runs."""
    command, environment = relay_command(backend, "bench-start", task)
    hello = json.dumps(
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": {"name": "b", "version": "1"},
            },
        }
    )
    samples = []
    for _ in range(rounds):
        begin = time.perf_counter()
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(hello.encode() + b"\n")
            process.stdin.flush()
            process.stdout.readline()
            samples.append(time.perf_counter() - begin)
            process.kill()
    return samples


async def measure(backends: list[str], rounds: int, task: str) -> list[Row]:
    """Take all measurements."""
    rows: list[Row] = [("floor: bash -c true, spawned", spawn_floor(rounds))]
    rows.append(("floor: MCP echo over HTTP", await echo_floor(rounds)))
    for backend in backends:
        command, environment = relay_command(backend, "bench", task)
        parameters = StdioServerParameters(command=command[0], args=command[1:], env=environment)
        async with Client(parameters) as client:
            await wait_ready(client)
            rows += await tool_rows(f"{backend}, stdio:", client, rounds)
            starts = await anyio.to_thread.run_sync(relay_start, backend, min(rounds, 20), task)
            rows.append((f"{backend}: relay start to first reply", starts))
        async with task_session(backend, task) as (url, session_id), Client(url) as client:
            await wait_ready(client)
            rows += await tool_rows(f"{backend}, HTTP:", client, rounds)
            if backend == "docker":
                samples = await anyio.to_thread.run_sync(docker_exec_floor, session_id, min(rounds, 100))
                rows.append(("floor: docker exec of bash -c true", samples))
    return rows


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--backends", default="bubblewrap,docker")
    parser.add_argument("--task", default=TASK)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with bench_home():
        rows = anyio.run(measure, arguments.backends.split(","), arguments.rounds, arguments.task)
    table = Table("what", "median ms", "p99 ms", "n")
    figures = {}
    for name, samples in rows:
        median, p99 = quantiles(samples)
        figures[name] = {"median_ms": round(median, 3), "p99_ms": round(p99, 3), "n": len(samples)}
        table.add_row(name, f"{median:.2f}", f"{p99:.2f}", str(len(samples)))
    console = Console(width=100)
    console.print(table)
    floor = figures["floor: bash -c true, spawned"]["median_ms"]
    for backend in arguments.backends.split(","):
        shell = figures[f"{backend}, HTTP: shell true"]["median_ms"]
        console.print(f"{backend}: shell over HTTP is {shell - floor:.2f} ms above the direct spawn")
        if backend == "docker":
            by_exec = figures["floor: docker exec of bash -c true"]["median_ms"]
            console.print(f"docker: shell over HTTP is {by_exec / shell:.1f} times faster than docker exec")
    if arguments.json:
        arguments.json.write_text(json.dumps({"cpus": os.cpu_count(), "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
