"""The conformance suite and the Inspector, as the lock file beside this pins them, and what they are run against."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from tests.serving.conftest import backend, light, own_home

__all__ = ["backend", "light", "own_home"]

INSTALL = Path(__file__).parents[2] / ".ci" / "node"


@dataclass(frozen=True)
class Ran:
    """How a program ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Node:
    """Runs the programs that ``.ci/node`` installed."""

    folder: Path

    async def run(self, program: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Ran:
        """Run a program of ``node_modules`` to its end."""
        command: Sequence[str] = (str(self.folder / "node"), str(self.folder / program), *arguments)
        settings = {**os.environ, "NO_COLOR": "1", **(environment or {})}
        done = await anyio.run_process(command, check=False, env=settings, stdin=subprocess.DEVNULL)
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture(scope="session")
def node() -> Node:
    """Node and the programs; skipped where npm is not to be had, but never in CI."""
    if os.environ.get("CI") != "true" and shutil.which("npm") is None:
        pytest.skip("needs npm")
    done = subprocess.run([INSTALL], capture_output=True, text=True)
    if done.returncode and os.environ.get("CI") != "true":
        pytest.skip(f"npm could not install the programs: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    return Node(Path(done.stdout.strip().splitlines()[-1]))
