"""The MCP server of one session."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from mcp.server import MCPServer
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Extension
from mcp.server.mcpserver.prompts import Prompt
from mcp.server.mcpserver.resources import FunctionResource, Resource
from mcp.types import CallToolRequestParams

from mlgym_mcp import __version__
from mlgym_mcp.serving.apps import APPS, keep_from_others, with_facts
from mlgym_mcp.serving.long_calls import LongCalls
from mlgym_mcp.serving.resources import CONTENTS
from mlgym_mcp.serving.tasks_extension import HandedOut, TasksExtension, handle, takes_tasks
from mlgym_mcp.serving.wrapping import KNOWN, MCP_TOOLS, unknown_tool
from mlgym_mcp.session.session import Session
from mlgym_mcp.tools.toolbox import BY_NAME

_INSTRUCTIONS = """\
You are attempting a machine-learning task in a sandbox with a budget. Call get_task first: it tells what to do,
where the data is and how to submit. Work in /workspace with read_file, write_file, edit_file and shell. Commands
that run longer than about 45 seconds go on as jobs: wait for them with job_wait. validate scores your work on
hidden data (limited in number); submit scores it for good and ends the episode, so call it once, at the end."""


class EpisodeExtension(Extension):
    """Takes every tool call through the session: budget, order, journal, and the answer when it is over."""

    identifier = "dev.mlgym/episode"

    def __init__(self, calls: LongCalls) -> None:
        self.calls = calls

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Run one tool call in the session's order and turn its refusals into results."""
        spec = BY_NAME.get(params.name)
        if spec is None:
            return unknown_tool(params.name, KNOWN)
        result = await self.calls.call(spec, params, ctx, call_next, as_task=handle if takes_tasks(ctx) else None)
        return await with_facts(result, spec.name, ctx, self.calls.session)


def make_server(calls: LongCalls) -> MCPServer[Session]:
    """Return the MCP server of a session: its tools, resources and prompt, for both protocol eras."""
    session = calls.session

    @contextlib.asynccontextmanager
    async def lifespan(_: MCPServer[Session]) -> AsyncIterator[Session]:
        yield session

    def task(task_id: str) -> HandedOut | None:
        return None if (call := calls.task(task_id)) is None else HandedOut(call, session)

    server: MCPServer[Session] = MCPServer(
        "mlgym",
        title=f"MLGym: {session.task.spec.task.title}",
        instructions=f"Task: {session.task.spec.task.title}.\n{_INSTRUCTIONS}",
        version=__version__,
        tools=MCP_TOOLS,
        resources=_resources(session),
        extensions=[EpisodeExtension(calls), TasksExtension(task), APPS],
        lifespan=lifespan,
        log_level="WARNING",
    )
    server.add_prompt(_ATTEMPT)
    keep_from_others(server)
    return server


def _attempt() -> str:
    return (
        "Attempt the machine-learning task of this session. Call get_task, look at the files and the baseline, improve "
        "on it step by step, validate what you try, keep notes of the results, and call submit once when the budget "
        "is nearly spent or you cannot improve any more."
    )


_ATTEMPT = Prompt.from_function(
    _attempt, name="attempt", title="Attempt the task", description="Begin an attempt at this session's task."
)
"""Made once, as the tools are: a prompt of one's own costs a session 10 KiB and a millisecond."""


def _resources(session: Session) -> list[Resource]:
    return [
        FunctionResource(  # not from_function: that compiles a check of the arguments, of which there are none
            fn=partial(content.read, session),
            uri=f"task://{content.name}",
            name=content.name,
            title=content.title,
            description=f"{content.title}.",
            mime_type=content.mime_type,
        )
        for content in CONTENTS
    ]


__all__ = ["EpisodeExtension", "make_server"]
