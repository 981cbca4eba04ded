"""Clients that declare MCP Apps, and results as their hosts hand them to the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mcp import Client
from mcp.client.extension import advertise
from mcp.server.apps import APP_MIME_TYPE, EXTENSION_ID
from mcp.types import CallToolResult

from tests.conformance.conftest import node
from tests.serving.conftest import backend, light, own_home

__all__ = ["backend", "light", "node", "own_home"]


def rendering(where: str, mode: str = "auto") -> Client:
    """A client whose host shows pages."""
    return Client(where, mode=mode, extensions=[advertise(EXTENSION_ID, {"mimeTypes": [APP_MIME_TYPE]})])


def on_the_wire(result: CallToolResult) -> dict[str, Any]:
    """A result as a host passes it on."""
    return result.model_dump(by_alias=True, mode="json", exclude_none=True)


def coarser(tasks: Path) -> None:
    """Let the toy task show one digit of a validation: fewer than its scores have."""
    spec = tasks / "toy" / "task.toml"
    spec.write_text(spec.read_text().replace("digits_validate = 2", "digits_validate = 1"))
