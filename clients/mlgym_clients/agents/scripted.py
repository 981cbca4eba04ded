"""An agent that plays a fixed list of tool calls: for demonstrations, tests and comparisons."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mcp import Client
from mcp.shared.dispatcher import ProgressFnT
from mcp.types import CallToolResult, TextContent

_REFERENCE = re.compile(r"\$\{(\w+)\.(\w+)\}")


@dataclass(frozen=True, slots=True)
class Step:
    """One tool call of a script.

    Attributes:
        tool: the tool's name.
        arguments: its arguments; ``${name.key}`` in a text stands for a fact of an earlier step's result.
        say: what the agent is up to, for people.
        save: a name under which later steps refer to this one's result.
        until_done: when the answer is a running job, call ``job_wait`` until it has ended.
    """

    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    say: str = ""
    save: str = ""
    until_done: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a step: its text, whether it was an error, the facts for programs, the structured answer."""

    text: str
    is_error: bool
    facts: Mapping[str, Any]
    structured: Mapping[str, Any]


class ScriptedAgent:
    """Plays a script over a connected MCP client.

    Args:
        client: connected.
        on_progress: told what the server reports while a call waits.
    """

    def __init__(self, client: Client, *, on_progress: ProgressFnT | None = None) -> None:
        self._client = client
        self._progress = on_progress
        self._saved: dict[str, Result] = {}

    async def play(
        self,
        script: Sequence[Step],
        *,
        before: Callable[[Step], None] | None = None,
        after: Callable[[Step, Result], None] | None = None,
    ) -> list[Result]:
        """Make the calls one after another and return their results; stops at the first error.

        Args:
            script: the calls.
            before: called as each step begins.
            after: called as each step ends.

        Raises:
            RuntimeError: a call was an error; the message is the server's.
        """
        results = []
        for step in script:
            if before is not None:
                before(step)
            result = await self.step(step)
            results.append(result)
            if after is not None:
                after(step, result)
            if result.is_error:
                raise RuntimeError(f"{step.tool} failed: {result.text}")
        return results

    async def step(self, step: Step) -> Result:
        """Make one call; with ``until_done`` wait for the job that it started."""
        result = await self._call(step.tool, {k: self._filled(v) for k, v in step.arguments.items()})
        while step.until_done and result.facts.get("state") == "running":
            result = await self._call("job_wait", {"job_id": result.facts["job_id"]})
        if step.save:
            self._saved[step.save] = result
        return result

    async def _call(self, tool: str, arguments: dict[str, Any]) -> Result:
        answer = await self._client.call_tool(tool, arguments, progress_callback=self._progress)
        assert isinstance(answer, CallToolResult)
        text = "\n".join(block.text for block in answer.content if isinstance(block, TextContent))
        structured = answer.structured_content
        return Result(
            text,
            bool(answer.is_error),
            dict(answer.meta or {}),
            structured if isinstance(structured, dict) else {},
        )

    def _filled(self, value: Any) -> Any:
        if not isinstance(value, str):
            return value

        def fact(match: re.Match[str]) -> str:
            saved = self._saved[match[1]]
            return str({**saved.structured, **saved.facts}[match[2]])

        return _REFERENCE.sub(fact, value)
