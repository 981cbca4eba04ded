"""Calling the tools of one session, for every agent: counted, with results as agents use them."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import anyio
import httpx2
from mcp import Client, MCPError
from mcp.shared.dispatcher import ProgressFnT
from mcp.types import CONNECTION_CLOSED, INVALID_PARAMS, METHOD_NOT_FOUND, CallToolResult, TextContent

_PREPARING = "The session is still "
_ANEW = "again, just like this, to get its result"
"""How the server says that a call has to be made again; nothing was done yet, or it goes on."""

_LEAVING = "The server is being restarted."
_LOOK_S = 0.5
_NAME = "dev.mlgym/call"
"""The entry of a request's ``_meta`` that names the call: sent again, it is the same one, also to the next server."""
_TWICE = frozenset({"edit_file", "note_write"})
"""What is not the same done twice, and whose names only the server knows that has heard them."""
_UNSURE = (
    "The connection to the server broke during this call, and is there again. Whether the call was carried out is "
    "not known: look, and call again if it was not."
)
_MOST_LOSSES = 10
"""Of one call: a server that comes back so often and dies of it every time is given up."""
_LONGEST_PAUSE_S = 2.0


_NO_ANSWER = "Server returned an error response"
"""What the mcp package says of a status without an answer of ours, as a proxy's is while the server is away."""


class ServerLostError(Exception):
    """The session's server does not answer: not the agent's failure. Whoever runs the agent catches it."""


class _BrokenError(ServerLostError):
    """It may be there again."""


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


class Regained(NamedTuple):
    """A connection in place of one that broke; ``sent``: whether the server may have heard of the call."""

    client: Client
    sent: bool


class Caller:
    """Calls tools over a connected client.

    Args:
        client: connected.
        on_call: told of every answer.
        on_progress: told what the server reports while a call waits.
        on_lost: connects anew when the connection is lost, or raises ``ServerLostError``. What was asked is then asked
            again: nothing that the server had begun is done twice. Without it a lost connection is the end.
    """

    def __init__(
        self,
        client: Client,
        *,
        on_call: Callable[[str, Mapping[str, Any], Result], None] | None = None,
        on_progress: ProgressFnT | None = None,
        on_lost: Callable[[], Awaitable[Regained]] | None = None,
    ) -> None:
        self.client = client
        self.made = 0
        """Calls that were answered."""
        self._on_call = on_call
        self._on_progress = on_progress
        self._on_lost = on_lost

    async def call(self, tool: str, arguments: Mapping[str, Any] | None = None) -> Result:
        """Make one call. Characters that no wire can carry arrive as U+FFFD.

        Raises:
            ServerLostError: there was no answer.
        """
        given = {str(clean(name)): clean(value) for name, value in (arguments or {}).items()}
        name = secrets.token_hex(12)
        result = await self._ask(tool, given, name)
        while result.refused and (result.text.startswith(_PREPARING) or _ANEW in result.text):
            if result.text.startswith(_PREPARING):
                await self._prepared()
                name = secrets.token_hex(12)  # under the name that it had, it has been answered
            result = await self._ask(tool, given, name)
        self.made += 1
        if self._on_call is not None:
            self._on_call(tool, given, result)
        return result

    async def _ask(self, tool: str, arguments: dict[str, Any], name: str | None = None) -> Result:
        """Ask the server, and again the one that comes after it."""
        pause = 0.1
        for losses in range(_MOST_LOSSES + 1):
            try:
                return await self._asked(tool, arguments, name)
            except _BrokenError:
                if self._on_lost is None or losses == _MOST_LOSSES:
                    raise
            regained = await self._on_lost()
            self.client = regained.client
            if tool in _TWICE and regained.sent:
                return Result(_UNSURE, True, {}, {})
            if losses:
                await anyio.sleep(pause)
                pause = min(_LONGEST_PAUSE_S, 2 * pause)
        raise AssertionError

    async def _asked(self, tool: str, arguments: dict[str, Any], name: str | None) -> Result:
        meta: Any = None if name is None or self._on_lost is None else {_NAME: name}
        try:
            answer = await self.client.call_tool(tool, arguments, progress_callback=self._on_progress, meta=meta)
        except MCPError as exc:
            code, message = exc.error.code, exc.error.message
            if code == INVALID_PARAMS:
                return Result(message, True, {}, {})
            broken = code in (CONNECTION_CLOSED, METHOD_NOT_FOUND) or message == _NO_ANSWER
            raise (_BrokenError if broken else ServerLostError)(f"{tool} was not answered: {message}") from exc
        except (OSError, httpx2.HTTPError, anyio.BrokenResourceError, anyio.ClosedResourceError) as exc:
            raise _BrokenError(f"{tool} was not answered: {exc or type(exc).__name__}") from exc
        assert isinstance(answer, CallToolResult)
        result = _result(answer)
        if self._on_lost is not None and tool not in _TWICE and result.text.startswith(_LEAVING) and result.refused:
            raise _BrokenError(f"{tool} was not answered: {result.text}")
        return result

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
