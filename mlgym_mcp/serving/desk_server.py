"""The MCP server of a desk: its own tools, and those of its sessions with an optional ``session_id``."""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import cache
from typing import Annotated, Any

from mcp.server import MCPServer
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Extension
from mcp.server.mcpserver.exceptions import ResourceError
from mcp.server.mcpserver.prompts import Prompt
from mcp.server.mcpserver.resources import FunctionResource
from mcp.server.mcpserver.tools import Tool
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import CallToolRequestParams, CallToolResult, TextContent
from pydantic import Field

from mlgym_mcp import __version__
from mlgym_mcp.serving.apps import APPS, keep_from_others, with_facts
from mlgym_mcp.serving.desk import DESK_TOOLS, Desk, DeskCall
from mlgym_mcp.serving.long_call import key_of
from mlgym_mcp.serving.resources import CONTENTS, Content
from mlgym_mcp.serving.served import Served
from mlgym_mcp.serving.tasks_extension import TasksExtension, handle, takes_tasks
from mlgym_mcp.serving.wrapping import build, failed, unknown_tool
from mlgym_mcp.session.about import about
from mlgym_mcp.session.errors import MisuseError
from mlgym_mcp.tools.toolbox import BY_NAME, TOOLS

_INSTRUCTIONS = """\
Machine-learning tasks to attempt, each in a sandbox with a budget. Call list_tasks, then start_task: it begins a
session and says its session_id. Then call get_task: it tells what to do, where the data is and how to submit. Work
in /workspace with read_file, write_file, edit_file and shell. Commands that run longer than about 45 seconds go on as
jobs: wait for them with job_wait. validate scores your work on hidden data (limited in number); submit scores it for
good and ends the session, so call it once, at the end. Every tool works on the newest session, or on the one whose
session_id you pass; list_sessions shows them."""

_SESSION_ID = inspect.Parameter(
    "session_id",
    inspect.Parameter.KEYWORD_ONLY,
    default="",
    annotation=Annotated[
        str, Field(max_length=100, description="Which session, as start_task told it; default: the newest one.")
    ],
)
_OWN = {spec.name: spec for spec in DESK_TOOLS}
_KNOWN = ", ".join([*_OWN, *BY_NAME])


@cache
def _tools() -> list[Tool]:
    """Return the tools that all desks share. Made by the first desk: most servers never have one."""
    own = [build(spec, spec.function) for spec in DESK_TOOLS]
    return [*own, *(build(spec, spec.run, [_SESSION_ID]) for spec in TOOLS)]


class DeskExtension(Extension):
    """Takes every tool call to the desk, or to the session that it is meant for."""

    identifier = "dev.mlgym/desk"

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Find the session, and run the call in it as if it had come to the session's own endpoint."""
        if params.name in _OWN:
            return await call_next(replace(ctx, lifespan_context=DeskCall(self.desk, key_of(params.meta))))
        spec = BY_NAME.get(params.name)
        if spec is None:
            return unknown_tool(params.name, _KNOWN)
        arguments = dict(params.arguments or {})
        session_id = arguments.pop(_SESSION_ID.name, "")
        if not isinstance(session_id, str):
            return await call_next(ctx)  # which says what is wrong with it
        try:
            endpoint = self.desk.endpoint(session_id)
        except MisuseError as exc:
            return failed(spec, exc)
        endpoint.touch()
        own = params.model_copy(update={"arguments": arguments})
        with about(endpoint.session.id):
            result = await endpoint.calls.call(spec, own, ctx, call_next, as_task=handle if takes_tasks(ctx) else None)
            result = await with_facts(result, spec.name, ctx, endpoint.session, self.desk.name(endpoint.session))
        return _with_a_way_on(result) if endpoint.session.over is not None else result


class DeskEndpoint(Served):
    """One desk's MCP server and its connections."""

    def __init__(self, desk: Desk, security: TransportSecuritySettings) -> None:
        self.desk = desk
        self.last_used = time.monotonic()
        super().__init__(make_desk_server(desk), security)

    def touch(self) -> None:
        """Note that somebody uses the desk."""
        self.last_used = time.monotonic()


def make_desk_server(desk: Desk) -> MCPServer[Desk]:
    """Return the MCP server of a desk, for both protocol eras."""

    @contextlib.asynccontextmanager
    async def lifespan(_: MCPServer[Desk]) -> AsyncIterator[Desk]:
        yield desk

    server: MCPServer[Desk] = MCPServer(
        "mlgym",
        title="MLGym",
        instructions=_INSTRUCTIONS,
        version=__version__,
        tools=_tools(),
        extensions=[DeskExtension(desk), TasksExtension(desk.handed_out), APPS],
        lifespan=lifespan,
        log_level="WARNING",
    )
    keep_from_others(server)
    for content in CONTENTS:
        _offer(server, desk, content)
    server.add_prompt(
        Prompt.from_function(
            _attempt, name="attempt", title="Attempt a task", description="Begin an attempt at a task of your choice."
        )
    )
    return server


def _offer(server: MCPServer[Desk], desk: Desk, content: Content) -> None:
    """Offer one resource of the sessions: of the newest, and of each by its ``session_id``."""

    async def of_newest() -> str:
        return await of_one("")

    async def of_one(session_id: str) -> str:
        try:
            session = desk.find(session_id)
        except MisuseError as exc:
            raise ResourceError(str(exc)) from exc
        with about(session.id):
            return await content.read(session)

    server.add_resource(
        FunctionResource.from_function(
            fn=of_newest,
            uri=f"task://{content.name}",
            name=content.name,
            title=content.title,
            description=f"{content.title}. Of the newest session; of another at task://SESSION_ID/{content.name}.",
            mime_type=content.mime_type,
        )
    )
    server.resource(
        f"task://{{session_id}}/{content.name}",
        name=f"{content.name}_of_session",
        title=content.title,
        description=f"{content.title}. Of the session that start_task named.",
        mime_type=content.mime_type,
    )(of_one)


def _attempt(
    task: Annotated[str, Field(description="Its id, as list_tasks shows it; default: the agent chooses.")] = "",
    preset: Annotated[str, Field(description="Its size: mini or full.")] = "",
) -> str:
    chosen = f"the task {task!r}" if task else "one of them"
    size = f" in the preset {preset!r}" if preset else ""
    return (
        f"Attempt a machine-learning task. Call list_tasks, begin {chosen}{size} with start_task, then call get_task "
        "and look at the files and the baseline. Improve on it step by step, validate what you try, keep notes of the "
        "results, and call submit once when the budget is nearly spent or you cannot improve any more."
    )


def _with_a_way_on(result: HandlerResult) -> HandlerResult:
    """Say what can still be done when a session is over, in a text result."""
    if not isinstance(result, CallToolResult) or result.structured_content is not None:
        return result
    block = TextContent(type="text", text="[start_task begins another session.]")
    return result.model_copy(update={"content": [*result.content, block]})
