"""A home with a toy task whose score is known beforehand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.frameworks.playing import GENERATOR
from tests.serving.conftest import backend, light, own_home

__all__ = ["backend", "light", "own_home"]


@pytest.fixture
def place(own_home: Path, tmp_path: Path) -> Path:
    """Where a framework lives: an empty folder, beside MLGYM_HOME."""
    (tmp_path / "tasks" / "toy" / "generator.py").write_text(GENERATOR)
    folder = tmp_path / "framework"
    folder.mkdir()
    return folder
