"""What starts quickly loads no library that it does without."""

from __future__ import annotations

import gc
import subprocess
import sys
from importlib import import_module

import pytest

from mlgym_mcp.loading import loading

SERVING = ["mcp", "fastapi", "uvicorn"]
HEAVY = [*SERVING, "docker", "httpx", "httpx2", "jinja2", "jwt", "matplotlib", "numpy", "opentelemetry"]


def loaded_by(program: str) -> set[str]:
    """Names of all modules in a process that has run a program."""
    show = "\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program + show], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("program", "unwanted"),
    [
        ("import mlgym_mcp.cli.app", HEAVY),
        ("from mlgym_mcp.cli.commands import make_app; make_app('host')", [*HEAVY, "pydantic"]),
        (
            "import mlgym_mcp.serving.process, mlgym_mcp.serving.desks",
            ["docker", "fastapi", "httpx", "jinja2", "jwt", "numpy", "rich", "typer"],
        ),
    ],
    ids=["the whole command line", "one light command", "the relays' host"],
)
def test_start_loads_no_library_that_it_does_without(program: str, unwanted: list[str]) -> None:
    assert loaded_by(program) & set(unwanted) == set()


def test_what_is_loaded_is_never_looked_through_for_garbage() -> None:
    before = gc.get_freeze_count()
    try:
        with loading():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()


def test_garbage_is_collected_again_after_a_library_that_is_not_there() -> None:
    try:
        with pytest.raises(ImportError), loading():
            import_module("mlgym_mcp.nothing_of_this_name")
        assert gc.isenabled()
    finally:
        gc.unfreeze()
