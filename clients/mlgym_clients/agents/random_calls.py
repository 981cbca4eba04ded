"""The agent ``random``: valid tool calls drawn at random, for load, for soak tests and as the floor of a comparison."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from mcp import Client
from pydantic import BaseModel, ConfigDict, Field

from mlgym_clients.agents.agent import AgentResult, Assignment
from mlgym_clients.agents.calling import Caller

_COMMANDS = (
    "true", "false", "ls -la", "pwd", "echo hello | tr a-z A-Z", "python -c 'print(sum(range(100)))'", "cat *.py | wc",
    "export DRAWN=1; cd /tmp", "head -c 3000 /dev/urandom | base64", "exit 3", "no-such-program", "sleep 0.1",
)  # fmt: skip
_WORDS = ("accuracy", "baseline", "import", "def", "0.5", "a note", "", "naïve", "line\nbreak", "'\"$(x)", "seed")
_RARE = {"validate": 0.3, "job_wait": 0.3, "job_stop": 0.3}


class RandomOptions(BaseModel):
    """Options of the agent ``random``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    calls: int = Field(default=20, ge=0, le=100_000, description="How many calls to make before submitting.")
    submit: bool = Field(default=True, description="Whether to submit at the end.")
    avoid: tuple[str, ...] = Field(default=(), description="Tools never to call.")


class RandomAgent:
    """Draws tools and arguments that fit their schemas; the same seed draws the same as long as answers agree."""

    name = "random"

    def __init__(self, options: RandomOptions) -> None:
        self.options = options

    def describe(self) -> dict[str, Any]:
        """Return its options."""
        return {"agent": "random", **self.options.model_dump(mode="json")}

    async def play(self, client: Client, assignment: Assignment = Assignment()) -> AgentResult:  # noqa: B008 - frozen
        """Make the calls, then submit.

        Raises:
            ServerLostError: the session's server does not answer.
        """
        caller = Caller(client, on_call=assignment.on_call)
        draw = random.Random(assignment.seed)
        avoided = {"submit", *self.options.avoid}
        tools = [tool for tool in (await client.list_tools()).tools if tool.name not in avoided]
        task = (await caller.call("get_task")).structured
        paths = [*task.get("files", ())[:20], *task.get("data", ())[:20], "drawn.txt", "notes/drawn.md", "."]
        jobs = ["j0"]
        weights = [_RARE.get(tool.name, 1.0) for tool in tools]
        for _ in range(self.options.calls if tools else 0):
            (tool,) = draw.choices(tools, weights)
            pools = {"path": paths, "job_id": jobs, "command": _COMMANDS}
            result = await caller.call(tool.name, drawn_arguments(tool.input_schema, draw, pools))
            if isinstance(job := result.facts.get("job_id"), str) and job not in jobs:
                jobs.append(job)
            if result.refused and await caller.over():
                return AgentResult(caller.made, "over", result.text)
        if not self.options.submit:
            return AgentResult(caller.made, "done", "all calls were made")
        final = await caller.score("submit")
        if final.structured.get("valid"):
            return AgentResult(caller.made, "submitted", final.text)
        return AgentResult(caller.made, "over" if await caller.over() else "done", final.text)


def drawn_arguments(
    schema: Mapping[str, Any], draw: random.Random, pools: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
    """Return arguments that fit a tool's schema.

    Args:
        schema: the tool's input schema.
        draw: where chance comes from.
        pools: by the names of arguments, texts that make sense there.
    """
    required = schema.get("required", [])
    given: dict[str, Any] = {}
    for name, of in schema.get("properties", {}).items():
        if name not in required and draw.random() < 0.5:
            continue
        pool = (pools or {}).get(name)
        given[name] = draw.choice(pool) if pool else _drawn(of, draw, name)
    return given


def _drawn(schema: Mapping[str, Any], draw: random.Random, name: str) -> Any:
    if "enum" in schema:
        return draw.choice(schema["enum"])
    if options := schema.get("anyOf"):
        return _drawn(draw.choice(options), draw, name)
    kind = schema.get("type")
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
        high = min(schema.get("maximum", low + 50), low + (1 if name.endswith("_s") else 50))
        if kind == "integer":
            return draw.randint(int(low), int(high))
        return round(low + (high - low) * (1 - draw.random()), 3)
    if kind == "boolean":
        return draw.random() < 0.5
    if kind == "array":
        return [_drawn(schema.get("items", {}), draw, name) for _ in range(draw.randint(0, 3))]
    if kind == "object":
        return drawn_arguments(schema, draw)
    if kind == "null":
        return None
    return " ".join(draw.choice(_WORDS) for _ in range(draw.randint(1, 4)))[: schema.get("maxLength", 1000)]
