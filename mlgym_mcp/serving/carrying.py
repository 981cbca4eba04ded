"""One tool call taken through its session, and its result as the journal and the client see it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mcp.server.context import HandlerResult
from mcp.types import CallToolResult, TextContent

from mlgym_mcp.serving.wrapping import failed, to_result
from mlgym_mcp.session.calls import CallSpec
from mlgym_mcp.session.errors import SessionError
from mlgym_mcp.session.journal import JournalError
from mlgym_mcp.session.session import Session
from mlgym_mcp.tools.reply import Call
from mlgym_mcp.tools.toolbox import ToolSpec


async def carry_out(
    session: Session,
    spec: ToolSpec,
    arguments: Mapping[str, Any],
    how: CallSpec,
    run: Callable[[], Awaitable[HandlerResult]],
    client: Mapping[str, Any],
) -> HandlerResult:
    """Take one call through its session (budget, order, journal); refusals become results.

    Raises:
        Exception: what nobody foresaw.
    """
    try:
        return await session.calls.perform(spec.name, arguments, how, run, _describe, client=client)
    except (SessionError, JournalError) as exc:
        return failed(spec, exc)


async def reply_of(spec: ToolSpec, call: Call, **arguments: Any) -> HandlerResult:
    """Run a tool; refusals become results.

    Raises:
        Exception: what nobody foresaw.
    """
    try:
        return to_result(await spec.run(call, **arguments))
    except Exception as exc:  # noqa: BLE001 - failed() raises it again unless it is one of ours
        return failed(spec, exc)


def _describe(result: HandlerResult) -> Mapping[str, Any]:
    """Return what the journal keeps of a result."""
    if not isinstance(result, CallToolResult):
        return {"type": type(result).__name__}
    text = "".join(block.text for block in result.content if isinstance(block, TextContent))
    record: dict[str, Any] = {"text": text}
    if result.is_error:
        record["is_error"] = True
    if result.meta:
        record["meta"] = result.meta
    return record
