"""The tools of a session as Inspect's log shows them well: results as they read, files as code, changes as changes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from inspect_ai.model import ContentText
from inspect_ai.tool import MCPServer, Tool, ToolCall, ToolCallContent, ToolCallView, ToolDef, ToolResult

_AS_LONG_AS_IT_IS = 0
"""What Inspect may cut of a result: nothing. The server has cut it, and said how to read the rest."""
_MARKDOWN = ("get_task",)
"""Results that may be drawn as Markdown, as lists are; there code loses its indentation, and comments are headings."""


def readable(server: MCPServer) -> MCPServer:
    """Return a server whose tools are shown well. It stays what it was: Inspect takes no class of ours for a server."""
    plain = server.tools

    async def tools() -> list[Tool]:
        return [_readable(tool) for tool in await plain()]

    server.tools = tools
    return server


def _readable(tool: Tool) -> Tool:
    about = ToolDef(tool)

    async def execute(**arguments: Any) -> ToolResult:
        result = await tool(**arguments)
        if about.name in _MARKDOWN or not isinstance(result, list):
            return result
        if all(isinstance(part, ContentText) for part in result):
            return "\n".join(part.text for part in result)
        return result

    return ToolDef(
        execute,
        name=about.name,
        description=about.description,
        parameters=about.parameters,
        viewer=_VIEWERS.get(about.name),
        max_output=_AS_LONG_AS_IT_IS,
    ).as_tool()


def _written(call: ToolCall) -> ToolCallView:
    path, content = (str(call.arguments.get(name, "")) for name in ("path", "content"))
    return _shown(f"write_file {path}", PurePosixPath(path).suffix[1:], content)


def _edited(call: ToolCall) -> ToolCallView:
    path, old, new = (str(call.arguments.get(name) or "") for name in ("path", "old", "new"))
    title = f"edit_file {path}"
    if not old and "first_line" in call.arguments:
        title += f", lines {call.arguments.get('first_line')} to {call.arguments.get('last_line')}"
    lines = [*(f"-{line}" for line in old.splitlines()), *(f"+{line}" for line in new.splitlines())]
    return _shown(title, "diff", "\n".join(lines))


def _shown(title: str, language: str, code: str) -> ToolCallView:
    """Show code between fences that nothing in it can close."""
    fence = "`" * max([3, *(1 + len(run) for run in re.findall("`+", code))])
    content = f"{fence}{language if language.isalnum() else ''}\n{code}\n{fence}\n"
    return ToolCallView(call=ToolCallContent(title=title, format="markdown", content=content))


_VIEWERS: dict[str, Callable[[ToolCall], ToolCallView]] = {"write_file": _written, "edit_file": _edited}
