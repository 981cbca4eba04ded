"""Sweeps over the toy task: in this process with a real server, or as the command itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from mlgym_clients.agents.agent import Agent
from mlgym_clients.sweep.attempt import Attempt, Lost
from mlgym_clients.sweep.board import Board
from mlgym_clients.sweep.engine import Engine
from mlgym_clients.sweep.local import LocalEngine, Own
from mlgym_clients.sweep.spec import SweepSpec, make_sweep
from mlgym_clients.sweep.sweeping import Surroundings
from tests.serving.conftest import CLI, backend, light, own_home
from tests.toy import CSV

__all__ = ["backend", "light", "own_home"]  # fixtures

GOOD = [
    {"tool": "write_file", "arguments": {"path": "submission.csv", "content": CSV}},
    {"tool": "submit", "until_done": True},
]
WRONG = [{"tool": "write_file", "arguments": {"path": "submission.csv", "content": "id,label\n"}}, {"tool": "submit"}]
LAZY = [{"tool": "status"}]


def busy(seconds: float) -> list[dict[str, Any]]:
    """A script that takes a while."""
    return [{"tool": "shell", "arguments": {"command": f"sleep {seconds}"}, "until_done": True}, *GOOD]


def sweep_of(scripts: Mapping[str, list[dict[str, Any]]], **options: Any) -> SweepSpec:
    """A sweep of scripted agents over the toy task."""
    agents = {name: {"agent": "scripted", "script": script} for name, script in scripts.items()}
    return make_sweep({"tasks": ["toy"], "agents": agents, **options})


@dataclass
class Seen:
    """A watcher that remembers."""

    lines: list[Mapping[str, Any]] = field(default_factory=list)
    losses: list[tuple[str, str, bool]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    on_finished: Callable[[], None] = lambda: None

    def finished(self, board: Board, line: Mapping[str, Any]) -> None:
        self.lines.append(line)
        self.on_finished()

    def lost(self, board: Board, attempt: Attempt, number: int, lost: Lost, again: bool) -> None:
        self.losses.append((attempt.id, lost.reason, again))

    def said(self, text: str) -> None:
        self.words.append(text)


def server_arguments(backend: str) -> list[str]:
    return ["--sandbox", backend, *(["--unsafe"] if backend == "process" else [])]


def around(place: Path, backend: str, seen: Seen) -> Surroundings:
    """This process, with a server of the sweep's own."""

    def make_engine(_: SweepSpec, agents: Mapping[str, Agent], __: str) -> Engine:
        return LocalEngine(agents, Own(place, server_arguments(backend)))

    return Surroundings(make_engine, seen, lambda _: nullcontext(), pause_s=0.05)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    file = folder / "attempts.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def ids(lines: Iterable[Mapping[str, Any]]) -> list[str]:
    return sorted(str(line["attempt"]) for line in lines)


def toml_of(spec: SweepSpec) -> str:
    """A sweep as its file."""
    plain = spec.model_dump(mode="json", exclude_none=True)
    agents = plain.pop("agents")
    text = "\n".join(f"{key} = {json.dumps(value)}" for key, value in plain.items() if value != {})
    for name, options in agents.items():
        text += f"\n[agents.{name}]\n"
        for key, value in options.items():
            text += f"{key} = {_inline(value)}\n"
    return text


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)


@contextmanager
def eval_process(
    *arguments: str, log: Path, environ: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """The command as a process; killed at the end if it still runs."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*CLI, "eval", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environ or {})},
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


async def until(what: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until something is so."""
    with anyio.fail_after(seconds):
        while not (found := what()):
            await anyio.sleep(0.02)
        return found


needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="no bubblewrap")
