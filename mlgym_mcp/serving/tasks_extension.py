"""The Tasks extension of MCP 2026-07-28 (SEP-2663): long calls handed out as tasks to clients that take them.

A client that declares the extension on a request gets a handle in place of a result that takes a while, and asks
for the result with ``tasks/get``. Others get what the call has to say within one call's wait, as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from mcp import MCPError
from mcp.server.context import HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Extension, MethodBinding, require_client_extension
from mcp.types import HEADER_MISMATCH, INTERNAL_ERROR, INVALID_PARAMS, RequestParams
from pydantic import BaseModel, Field

from mlgym_mcp.serving.apps import with_facts
from mlgym_mcp.serving.long_call import LongCall
from mlgym_mcp.serving.long_calls import KEPT_S
from mlgym_mcp.session.session import Session

TASKS = "io.modelcontextprotocol/tasks"
_ERAS = frozenset({"2026-07-28"})
_POLL_S = 1.0


class TaskParams(RequestParams):
    """Parameters of ``tasks/get``, ``tasks/update`` and ``tasks/cancel``."""

    task_id: str = Field(max_length=200)


def takes_tasks(ctx: ServerRequestContext[Any, Any]) -> bool:
    """Return whether the client declared the extension on this request."""
    capabilities = ctx.session.client_capabilities
    declared = (capabilities.extensions if capabilities else None) or {}
    return TASKS in declared and ctx.protocol_version in _ERAS


def handle(call: LongCall) -> dict[str, Any]:
    """Return a call as the handle of a task."""
    return {"resultType": "task", **_facts(call)}


class HandedOut(NamedTuple):
    """A call that was handed out as a task.

    Attributes:
        call: the call.
        session: in which it is made.
        session_id: how the session is called where there is more than one.
    """

    call: LongCall
    session: Session
    session_id: str = ""


class TasksExtension(Extension):
    """Answers for tasks.

    Args:
        find: returns what was handed out under an id, among what this server's clients may see.
    """

    identifier = TASKS

    def __init__(self, find: Callable[[str], HandedOut | None]) -> None:
        self._find = find

    def methods(self) -> Sequence[MethodBinding]:
        """Serve ``tasks/get``, ``tasks/update`` and ``tasks/cancel``."""
        return [
            MethodBinding("tasks/get", TaskParams, self._get, _ERAS),
            MethodBinding("tasks/update", TaskParams, self._update, _ERAS),
            MethodBinding("tasks/cancel", TaskParams, self._cancel, _ERAS),
        ]

    async def _get(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        call, session, session_id = self._task(ctx, params)
        state = {"resultType": "complete", **_facts(call)}
        if call.state == "completed":
            result = await with_facts(call.result, call.name, ctx, session, session_id)
            state["result"] = {"resultType": "complete", **_dumped(result)}
        elif call.state == "failed":
            state["error"] = _error(call.failure)
        return state

    async def _update(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        """Acknowledge: no task of ours ever asks its client for anything."""
        self._task(ctx, params)
        return {"resultType": "complete"}

    async def _cancel(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        """End the wait. The command or grading goes on: ``job_stop`` stops a job."""
        self._task(ctx, params).call.cancel()
        return {"resultType": "complete"}

    def _task(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandedOut:
        require_client_extension(ctx, TASKS)
        headers = getattr(ctx.request, "headers", None) or {}
        if (named := headers.get("mcp-name")) is not None and named != params.task_id:
            raise MCPError(code=HEADER_MISMATCH, message="the Mcp-Name header names another task than taskId")
        found = self._find(params.task_id)
        if found is None:
            text = "There is no such task, or it ended long ago; job_list shows what is still running."
            raise MCPError(code=INVALID_PARAMS, message=text, data={"taskId": params.task_id})
        return found


def _facts(call: LongCall) -> dict[str, Any]:
    return {
        "taskId": call.id,
        "status": call.state,
        "statusMessage": call.message,
        "createdAt": _stamp(call.created),
        "lastUpdatedAt": _stamp(call.updated),
        "ttlMs": int(KEPT_S * 1000),
        "pollIntervalMs": int(_POLL_S * 1000),
    }


def _stamp(when: datetime) -> str:
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _dumped(result: HandlerResult) -> dict[str, Any]:
    if isinstance(result, BaseModel):
        return result.model_dump(by_alias=True, mode="json", exclude_none=True)
    return dict(result or {})


def _error(failure: Exception | None) -> dict[str, Any]:
    if isinstance(failure, MCPError):
        return {"code": failure.error.code, "message": failure.error.message}
    return {"code": INTERNAL_ERROR, "message": "an error in the server, see its log"}
