"""Calling the tools of one session, for every agent: counted, with results as agents use them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import anyio
import httpx2
from mcp import Client, MCPError
from mcp.shared.dispatcher import ProgressFnT
from mcp.types import INVALID_PARAMS, CallToolResult, TextContent

_PREPARING = "The session is still "
_ANEW = "again, just like this, to get its result"
"""How the server says that a call has to be made again; nothing was done yet, or it goes on."""

_LOOK_S = 0.5


class ServerLostError(Exception):
    """The session's server does not answer: not the agent's failure. Whoever runs the agent catches it."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a call: its text, whether it was an error, the facts for programs, the structured answer."""

    text: str
    is_error: bool
    facts: Mapping[str, Any]
    structured: Mapping[str, Any]

    @property
    def refused(self) -> bool:
        """Whether the call was not carried out: the budget or the episode is over, or a grading still runs."""
        return self.facts.get("refused") is True


class Caller:
    """Calls tools over a connected client.

    Args:
        client: connected.
        on_call: told of every answer.
        on_progress: told what the server reports while a call waits.
    """

    def __init__(
        self,
        client: Client,
        *,
        on_call: Callable[[str, Mapping[str, Any], Result], None] | None = None,
        on_progress: ProgressFnT | None = None,
    ) -> None:
        self.client = client
        self.made = 0
        """Calls that were answered."""
        self._on_call = on_call
        self._on_progress = on_progress

    async def call(self, tool: str, arguments: Mapping[str, Any] | None = None) -> Result:
        """Make one call. Characters that no wire can carry arrive as U+FFFD.

        Raises:
            ServerLostError: there was no answer.
        """
        given = {str(clean(name)): clean(value) for name, value in (arguments or {}).items()}
        result = await self._ask(tool, given)
        while result.refused and (result.text.startswith(_PREPARING) or _ANEW in result.text):
            if result.text.startswith(_PREPARING):
                await self._prepared()
            result = await self._ask(tool, given)
        self.made += 1
        if self._on_call is not None:
            self._on_call(tool, given, result)
        return result

    async def _ask(self, tool: str, arguments: dict[str, Any]) -> Result:
        try:
            answer = await self.client.call_tool(tool, arguments, progress_callback=self._on_progress)
        except MCPError as exc:
            if exc.error.code != INVALID_PARAMS:
                raise ServerLostError(f"{tool} was not answered: {exc.error.message}") from exc
            return Result(exc.error.message, True, {}, {})
        except (OSError, httpx2.HTTPError, anyio.BrokenResourceError, anyio.ClosedResourceError) as exc:
            raise ServerLostError(f"{tool} was not answered: {exc or type(exc).__name__}") from exc
        assert isinstance(answer, CallToolResult)
        return _result(answer)

    async def finished(self, result: Result) -> Result:
        """Return the result, or, when it is a running job's, what ``job_wait`` says once the job has ended.

        Raises:
            ServerLostError: there was no answer.
        """
        while result.facts.get("state") == "running" and not result.is_error:
            result = await self.call("job_wait", {"job_id": result.facts["job_id"]})
        return result

    async def score(self, kind: Literal["validate", "submit"]) -> Result:
        """Validate or submit, and wait for as long as the grading takes.

        Raises:
            ServerLostError: there was no answer.
        """
        while True:
            result = await self.call(kind)
            if not result.refused or f"Call {kind} again" not in result.text:
                return result

    async def _prepared(self) -> None:
        """Wait until the sandbox is there: asking for the status costs nothing, other calls do."""
        while (await self._ask("status", {})).structured.get("state") == "preparing":
            await anyio.sleep(_LOOK_S)

    async def over(self) -> bool:
        """Whether the episode has ended; asking is not counted.

        Raises:
            ServerLostError: there was no answer.
        """
        return (await self._ask("status", {})).structured.get("state") == "over"


def _result(answer: CallToolResult) -> Result:
    text = "\n".join(block.text for block in answer.content if isinstance(block, TextContent))
    structured = answer.structured_content
    facts = {name: value for name, value in (answer.meta or {}).items() if "/" not in name}
    return Result(text, bool(answer.is_error), facts, structured if isinstance(structured, dict) else {})


def clean(value: Any) -> Any:
    """Return a value with U+FFFD for lone surrogates, which JSON can spell and UTF-8 cannot."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {str(clean(name)): clean(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return value
