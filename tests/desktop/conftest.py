"""The clients' programs, and a home where a real task and the toy task are."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlgym_mcp.catalog.catalog import shipped_tasks
from mlgym_sandbox import environment
from tests.desktop.more_clients import CLIENTS
from tests.frameworks.playing import GENERATOR
from tests.serving.conftest import backend, light, make_home
from tests.toy import make_toy

__all__ = ["backend", "light"]


@pytest.fixture
def program(title: str) -> list[str]:
    """The words that start the client of this title; skipped where it cannot be had or cut off, but never in CI."""
    if os.environ.get("CI") != "true" and shutil.which("bwrap") is None:
        pytest.skip("needs bubblewrap")
    try:
        return _installed(title)
    except (OSError, subprocess.CalledProcessError) as exc:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"{title} could not be installed: {exc}")


@functools.cache
def _installed(title: str) -> list[str]:
    return CLIENTS[title].installed()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, light: environment.Environment) -> Iterator[Path]:
    """An MLGYM_HOME for all tests of a module, so that the real task's data is prepared once; no engine is named."""
    place = make_home(tmp_path_factory.mktemp("home"), light)
    toy = make_toy(tmp_path_factory.mktemp("tasks"))
    (toy / "toy" / "generator.py").write_text(GENERATOR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLGYM_HOME", str(place))
        patch.setenv("MLGYM_TASKS", f"{toy}{os.pathsep}{shipped_tasks()}")
        patch.delenv("DOCKER_HOST", raising=False)
        yield place


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty folder of a short name: sockets want that."""
    with tempfile.TemporaryDirectory(prefix="mlgym-") as folder:
        yield Path(folder)
