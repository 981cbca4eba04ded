"""An agent that plays a fixed list of tool calls: for demonstrations, tests and comparisons."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcp import Client
from mcp.shared.dispatcher import ProgressFnT
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from mlgym_clients.agents.agent import AgentResult, Assignment
from mlgym_clients.agents.calling import Caller, Result

_REFERENCE = re.compile(r"\$?\$\{(\w+)\.(\w+)\}")


@dataclass(frozen=True, slots=True)
class Step:
    """One tool call of a script.

    Attributes:
        tool: the tool's name.
        arguments: its arguments; ``${name.key}`` in a text stands for a fact of an earlier step's result, or for
            its ``text``; ``$${name.key}`` for itself with one dollar less.
        say: what the agent is up to, for people.
        save: a name under which later steps refer to this one's result.
        until_done: when the answer is a running job, call ``job_wait`` until it has ended; when it is a grading
            that goes on, ask again until it has.
    """

    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    say: str = ""
    save: str = ""
    until_done: bool = False


class ScriptError(ValueError):
    """A script cannot be read, or a step refers to what there is not; the message says where."""


class ScriptedAgent:
    """Plays a script over a connected MCP client.

    Args:
        client: connected, or a caller of one.
        on_progress: told what the server reports while a call waits.
    """

    def __init__(self, client: Client | Caller, *, on_progress: ProgressFnT | None = None) -> None:
        self._caller = client if isinstance(client, Caller) else Caller(client, on_progress=on_progress)
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
            ScriptError: a step refers to what there is not.
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
        """Make one call; with ``until_done`` wait for the job that it started.

        Raises:
            ScriptError: the step refers to what there is not.
        """
        if step.until_done and step.tool in ("validate", "submit"):
            result = await self._caller.score("validate" if step.tool == "validate" else "submit")
        else:
            result = await self._caller.call(step.tool, self._filled(dict(step.arguments)))
            if step.until_done:
                result = await self._caller.finished(result)
        if step.save:
            self._saved[step.save] = result
        return result

    def _filled(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: self._filled(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self._filled(item) for item in value]
        return _REFERENCE.sub(self._fact, value) if isinstance(value, str) else value

    def _fact(self, match: re.Match[str]) -> str:
        if match[0].startswith("$$"):
            return match[0][1:]
        saved = self._saved.get(match[1])
        if saved is None:
            there = ", ".join(self._saved) or "none"
            raise ScriptError(f"{match[0]}: no earlier step was saved as {match[1]!r} (saved: {there})")
        facts = {"text": saved.text, **saved.structured, **saved.facts}
        if match[2] not in facts:
            raise ScriptError(f"{match[0]}: the result has no {match[2]!r}; it has: {', '.join(facts)}")
        return str(facts[match[2]])


class ScriptedOptions(BaseModel):
    """Options of the agent ``scripted``: the calls themselves, or the JSON file that holds their list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    script: Path | list[dict[str, Any]] = Field(description="The calls, or the path of a JSON file with them.")
    keep_going: bool = Field(default=False, description="Whether to go on after a call that was an error.")


class Scripted:
    """The agent ``scripted``.

    Raises:
        ScriptError: the script cannot be read.
    """

    def __init__(self, options: ScriptedOptions) -> None:
        self.options = options
        self.script = read_script(options.script)
        self.name = f"scripted:{options.script.stem}" if isinstance(options.script, Path) else "scripted"

    def describe(self) -> dict[str, Any]:
        """Return the script as it will be played."""
        steps: list[Any] = TypeAdapter(list[Step]).dump_python(list(self.script), mode="json", exclude_defaults=True)
        return {"agent": "scripted", "script": steps, "keep_going": self.options.keep_going}

    async def play(self, client: Client, assignment: Assignment = Assignment()) -> AgentResult:  # noqa: B008 - frozen
        """Play the script.

        Raises:
            ServerLostError: the session's server does not answer.
        """
        caller = Caller(client, on_call=assignment.on_call)
        player = ScriptedAgent(caller)
        for number, step in enumerate(self.script, 1):
            try:
                result = await player.step(step)
            except ScriptError as exc:
                return AgentResult(caller.made, "failed", f"step {number} ({step.tool}): {exc}")
            if step.tool == "submit" and result.structured.get("valid"):
                return AgentResult(caller.made, "submitted", result.text)
            if result.refused and await caller.over():
                return AgentResult(caller.made, "over", result.text)
            if result.is_error and not self.options.keep_going:
                return AgentResult(caller.made, "failed", f"step {number} ({step.tool}): {result.text}")
        return AgentResult(caller.made, "done", "the script is at its end")


def read_script(source: Path | Sequence[Mapping[str, Any]]) -> tuple[Step, ...]:
    """Return the steps of a script: of a list of objects with the fields of ``Step``, or of a JSON file of one.

    Raises:
        ScriptError: it cannot be read; the message says which step and what was expected.
    """
    where = str(source) if isinstance(source, Path) else "script"
    try:
        items = json.loads(source.read_text("utf-8")) if isinstance(source, Path) else source
    except (OSError, ValueError) as exc:
        raise ScriptError(f"{where}: {exc}") from exc
    if not isinstance(items, Sequence) or isinstance(items, str):
        raise ScriptError(f"{where}: expected a list of steps, found {type(items).__name__}")
    steps = []
    for number, item in enumerate(items, 1):
        if isinstance(item, Mapping) and (unknown := item.keys() - Step.__dataclass_fields__.keys()):
            there = ", ".join(Step.__dataclass_fields__)
            raise ScriptError(f"{where}: step {number} has unknown keys {sorted(unknown)}; known: {there}")
        try:
            steps.append(_STEP.validate_python(item))
        except ValidationError as exc:
            (first, *_) = exc.errors()
            raise ScriptError(f"{where}: step {number}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from exc
    return tuple(steps)


_STEP = TypeAdapter(Step)

__all__ = ["Result", "ScriptError", "Scripted", "ScriptedAgent", "ScriptedOptions", "Step", "read_script"]
