"""Tools as MCP sees them: strict schemas, one clear sentence for wrong arguments, results cut and marked."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp.types import CallToolResult, TextContent, ToolAnnotations
from pydantic import ConfigDict, ValidationError, create_model

from mlgym_mcp.api import ScoreView
from mlgym_mcp.serving.apps import tool_meta
from mlgym_mcp.session.errors import RefusedError, SessionError
from mlgym_mcp.session.journal import JournalError
from mlgym_mcp.tools.reply import Reply, cut
from mlgym_mcp.tools.toolbox import BY_NAME, TOOLS, ToolSpec
from mlgym_sandbox.errors import SandboxError

ToolContext = Context[Any, Any]
_SHOWN = 10
"""Of so many wrong arguments the agent is told."""


class _Arguments(ArgModelBase):
    """What a tool takes, and nothing else."""

    model_config = ConfigDict(extra="forbid")


class TaskTool(Tool):
    """A tool whose wrong arguments are answered with what was expected."""

    async def run(self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False) -> Any:
        """Check the arguments, then run.

        Raises:
            ToolError: an argument is unknown, missing or of the wrong type; the message says which and what fits.
        """
        try:
            return await super().run(arguments, context, convert_result)
        except ToolError as exc:
            # Whatever else a tool may raise comes as a subclass, or with an error of its own as the cause.
            if type(exc) is ToolError and isinstance(exc.__cause__, ValidationError):
                raise ToolError(wrong_arguments(self, exc.__cause__)) from exc.__cause__
            raise


def wrong_arguments(tool: Tool, error: ValidationError) -> str:
    """Return one sentence per wrong argument, and the arguments that the tool takes."""
    problems = []
    wrong = error.errors()
    for item in wrong[:_SHOWN]:
        where = ".".join(str(part) for part in item["loc"]) or "arguments"
        where = where if len(where) <= 60 else f"{where[:57]}..."
        if item["type"] == "extra_forbidden":
            problems.append(f"{where} is not an argument of {tool.name}")
        elif item["type"] == "missing":
            problems.append(f"{where} is missing")
        else:
            shown = repr(item["input"])
            shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
            problems.append(f"{where} is {shown}, but: {item['msg'].lower()}")
    if len(wrong) > _SHOWN:
        problems.append(f"and {len(wrong) - _SHOWN} more")
    takes = []
    required = tool.parameters.get("required", [])
    for name, schema in tool.parameters.get("properties", {}).items():
        takes.append(f"{name} ({schema.get('type', 'any')}{'' if name in required else ', optional'})")
    return f"{'; '.join(problems)}. {tool.name} takes {', '.join(takes) or 'no arguments'}."


def unknown_tool(name: str, known: str) -> CallToolResult:
    """Return what a call of a tool that does not exist is answered with."""
    text = f"There is no tool {name[:60]!r}. The tools are: {known}."
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)


def to_result(reply: Reply) -> CallToolResult:
    """Return a reply as MCP's result: text cut to size, structured only where the tool answers structured."""
    text = cut(reply.text, "ask for a smaller piece")
    return CallToolResult(
        content=[TextContent(type="text", text=text)],
        structured_content=None if reply.data is None else dict(reply.data),
        _meta=dict(reply.meta) or None,
    )


def failed(spec: ToolSpec, error: Exception) -> CallToolResult:
    """Return what the agent reads in place of a reply.

    A refusal is an ordinary result (some clients hide the text of errors); misuse and our own failures are errors.

    Raises:
        Exception: the error itself, when nobody foresaw it: the SDK logs it and tells the agent no details.
    """
    refused = isinstance(error, RefusedError)
    if not isinstance(error, SessionError | SandboxError | JournalError):
        raise error
    structured = None
    if refused and spec.result is ScoreView:
        kind: Any = spec.name
        view = ScoreView(kind=kind, valid=False, metric="", code="refused", reason=str(error), message=str(error))
        structured = view.model_dump(mode="json")
    return CallToolResult(
        content=[TextContent(type="text", text=cut(str(error), "the rest is of no use"))],
        structured_content=structured,
        # A tool that promised structure may leave it out only in an error.
        is_error=not refused or (spec.result is not None and structured is None),
        _meta={"refused": True} if refused else None,
    )


def build(spec: ToolSpec, run: Callable[..., Awaitable[Reply]], more: Sequence[inspect.Parameter] = ()) -> Tool:
    """Make an MCP tool: its function's parameters but the first, no unknown arguments, no schema noise.

    Args:
        spec: the tool.
        run: carries it out; its first argument is what stands in place of the lifespan's context.
        more: keyword parameters that it takes besides, for whoever calls it.
    """
    function = spec.function

    async def call(*, ctx: ToolContext, **arguments: Any) -> CallToolResult:
        for parameter in more:
            arguments.pop(parameter.name, None)
        try:
            reply = await run(ctx.request_context.lifespan_context, **arguments)
        except Exception as exc:  # noqa: BLE001 - failed() raises it again unless it is one of ours
            return failed(spec, exc)
        return to_result(reply)

    parameters = [*list(inspect.signature(function, eval_str=True).parameters.values())[1:], *more]
    fields: Any = {p.name: (p.annotation, ... if p.default is p.empty else p.default) for p in parameters}
    arguments_model = create_model(f"{spec.name}Arguments", __base__=_Arguments, **fields)
    # Not Tool.from_function: it would build the model and its schema a first time, without its being strict.
    return TaskTool(
        fn=call,
        name=spec.name,
        title=spec.title,
        description=inspect.getdoc(function) or "",
        parameters=_plain(arguments_model.model_json_schema(by_alias=True)),
        fn_metadata=FuncMetadata(arg_model=arguments_model, output_model=spec.result),
        is_async=True,
        context_kwarg="ctx",
        annotations=ToolAnnotations(
            title=spec.title,
            read_only_hint=spec.read_only,
            destructive_hint=spec.destructive,
            idempotent_hint=spec.idempotent,
            open_world_hint=False,
        ),
        meta={"anthropic/alwaysLoad": True, **tool_meta(spec.name)},
    )


def _plain(schema: Any) -> Any:
    """Drop the generated titles: they only cost the model tokens."""
    if isinstance(schema, dict):
        return {k: _plain(v) for k, v in schema.items() if not (k == "title" and isinstance(v, str))}
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    return schema


MCP_TOOLS: list[Tool] = [build(spec, spec.run) for spec in TOOLS]
"""Made once, shared by all sessions' servers."""

KNOWN = ", ".join(BY_NAME)
