"""Templates, and what they may call."""

from __future__ import annotations

from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.types import Scope

from mlgym_mcp import __version__
from mlgym_mcp.records import tables
from mlgym_mcp.web.guard import POLICY
from mlgym_mcp.web.shelf import key_of
from mlgym_mcp.web.text import moment, one_line, size, visible


class Pages:
    """Renders templates of this package: whatever they are given is text, not markup."""

    def __init__(self) -> None:
        self._templates = Environment(
            loader=FunctionLoader(_template),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._templates.globals.update(
            version=__version__,
            key_of=key_of,
            figure=tables.figure,
            duration=tables.duration,
            count=tables.count,
            money=tables.money,
        )
        self._templates.filters.update(moment=moment, size=size, visible=visible, one_line=one_line)

    def page(
        self, request: Request, template: str, /, *, status: int = 200, policy: str = POLICY, **values: Any
    ) -> HTMLResponse:
        """Return a page as an answer to a request."""
        text = self.text(request.scope, template, **values)
        return HTMLResponse(text.encode("utf-8", "replace"), status, {"Content-Security-Policy": policy})

    def text(self, scope: Scope, template: str, /, **values: Any) -> str:
        """Return a rendered template, or a part of a page."""
        return self._templates.get_template(template).render(base=scope.get("root_path", ""), **values)


def _template(name: str) -> str | None:
    path = resources.files(__package__) / "templates" / name
    return path.read_text(encoding="utf-8") if path.is_file() else None
