"""The clients' programs, and a home where a real task and the toy task are."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlgym_mcp.catalog.catalog import shipped_tasks
from mlgym_sandbox import environment
from tests.desktop.clients import claude_code_binary, codex_binary
from tests.frameworks.playing import GENERATOR
from tests.serving.conftest import backend, light, make_home
from tests.toy import make_toy

__all__ = ["backend", "light"]


@pytest.fixture(scope="module")
def binaries() -> dict[str, Path]:
    """The programs of the clients; skipped where they cannot be had or cut off, but never in CI."""
    if os.environ.get("CI") != "true" and shutil.which("bwrap") is None:
        pytest.skip("needs bubblewrap")
    try:
        return {"Claude Code": claude_code_binary(), "Codex": codex_binary()}
    except (OSError, subprocess.CalledProcessError) as exc:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"the clients could not be installed: {exc}")


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
