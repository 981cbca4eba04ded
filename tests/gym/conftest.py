"""A server with the toy task, for all tests of a module."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mlgym_clients.rl.servers import Address, running_server
from mlgym_sandbox import environment
from tests.serving.conftest import light, make_home
from tests.sweep.conftest import server_arguments
from tests.toy import make_toy

__all__ = ["light"]  # fixtures


@pytest.fixture(scope="module")
def serve() -> list[str]:
    """Arguments of ``mlgym-mcp serve`` for the quickest sandbox that is here."""
    import shutil

    return server_arguments("bubblewrap" if shutil.which("bwrap") else "process")


@pytest.fixture(scope="module")
def home_of_module(tmp_path_factory: pytest.TempPathFactory, light: environment.Environment) -> Iterator[None]:
    """An MLGYM_HOME with the prepared environment and the toy task."""
    place = tmp_path_factory.mktemp("gym")
    make_home(place / "home", light)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLGYM_HOME", str(place / "home"))
        patch.setenv("MLGYM_TASKS", str(make_toy(place / "tasks")))
        patch.delenv("MLGYM_SERVER", raising=False)
        patch.delenv("MLGYM_ADMIN_TOKEN", raising=False)
        yield


@pytest.fixture(scope="module")
def server(home_of_module: None, serve: list[str]) -> Iterator[Address]:
    """A server that runs for the module."""
    with running_server(*serve) as address:
        yield address


@pytest.fixture
def asked(server: Address) -> Callable[..., Any]:
    """Asks the server's control API."""

    def ask(path: str, method: str = "GET") -> Any:
        request = urllib.request.Request(
            f"{server.url}/api/{path}", method=method, headers={"Authorization": f"Bearer {server.token}"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    return ask
