"""Agents of others attempt a task, each with its own framework in its own environment, driven by a scripted model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.frameworks import matrix
from tests.frameworks.playing import FINAL, SCORE, play, script, version_of
from tests.frameworks.scripted_model import Does

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(300)]

TOOLS = ["get_task", "list_files", "status", "read_file", "write_file", "edit_file", "shell", "validate", "submit"]


@dataclass(frozen=True)
class Client:
    """A framework: its name, its example, its environment, and what is its own.

    Attributes:
        era: of the protocol that it speaks.
        structured: its models see structured results as JSON, not their text.
        command: what solves the task.
    """

    name: str
    example: str
    environment: str
    era: str = "2026-07-28"
    structured: bool = False
    command: str = "python solve.py"


CLIENTS = [
    Client("OpenAI Agents SDK", "openai_agents", "openai_agents", command="sleep 6; python solve.py"),  # default: 5 s
    Client("LangChain (langchain.mcp)", "langchain_mcp", "langchain_mcp"),
    Client("Pydantic AI", "pydantic_ai_agent", "pydantic_ai_agent", structured=True),
    Client("Inspect", "inspect_agent", "inspect", era="2025-11-25"),
    Client("Claude Agent SDK", "claude_agent", "claude_agent_sdk", structured=True),
    Client("mcp package, version 1", "old_protocol", "old_protocol", era="2025-11-25"),
    Client("AG2", "ag2_agent", "ag2_agent"),
]
CONNECTS_FOR_EVERY_CALL = ("ag2_agent",)


def plays() -> list[object]:
    """Every client over HTTP, but who connects for every call on stdio; the other way in ``make frameworks``."""
    found = []
    for client in CLIENTS:
        for transport in ("HTTP", "stdio"):
            usual = "stdio" if client.example in CONNECTS_FOR_EVERY_CALL else "HTTP"
            marks = () if transport == usual else (pytest.mark.frameworks,)
            found.append(pytest.param(client, transport, marks=marks, id=f"{client.example}-{transport}"))
    return found


@pytest.mark.parametrize(("client", "transport"), plays())
async def test_an_agent_plays_a_task_to_its_score(client: Client, transport: str, place: Path, backend: str) -> None:
    first, both, *rest = script(client.command)
    turns = (first, both, Does("read_file", {"path": "missing.py"}), *rest)
    played = await play(client.example, transport, place, backend, turns=turns, environment=client.environment)

    assert played.output.strip().splitlines()[-1] == FINAL
    assert sorted(played.tools[1:3]) == TOOLS[1:3], "two calls at once come in any order"
    assert [*played.tools[:1], *TOOLS[1:3], *played.tools[3:]] == TOOLS
    assert (played.outcome, played.score) == ("scored", SCORE)
    assert played.eras == client.era
    shown = json.dumps(played.model.asked[-1])
    assert str(SCORE) in shown
    assert ("Submitted. Test score" in shown) is not client.structured
    assert "/workspace/missing.py does not exist" in shown, "what a mistake was reaches the model"
    matrix.record(client.name, transport, played.eras, played.result, version=version_of(client.environment))
