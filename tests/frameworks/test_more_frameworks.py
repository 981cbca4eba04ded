"""The other frameworks, which ``make frameworks`` plays with: heavier, or like one of those that CI plays with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.frameworks import matrix
from tests.frameworks.playing import FINAL, SCORE, Played, play, script, version_of
from tests.frameworks.scripted_model import Does, Script

pytestmark = [pytest.mark.anyio, pytest.mark.frameworks, pytest.mark.timeout(600)]

IN_TURN = ["get_task", "read_file", "write_file", "edit_file", "shell", "validate", "submit"]


@dataclass(frozen=True)
class Client:
    """A framework.

    Attributes:
        name: for the matrix.
        example: and the name of its requirements.
        era: of the protocol that it speaks.
        structured: shows that its models see structured results, if they do.
        mistake: what its models read when they call a tool in vain.
        at_once: the calls that are made at the same time, in the journal in any order.
    """

    name: str
    example: str
    era: str = "2025-11-25"
    structured: str = ""
    mistake: str = "/workspace/missing.py does not exist"
    at_once: tuple[str, ...] = ("list_files", "status")


CLIENTS = [
    Client("smolagents", "smolagents_agent"),
    Client("LangGraph (langchain-mcp-adapters)", "langgraph_agent"),
    Client("LlamaIndex (llama-index-tools-mcp)", "llama_index_agent", structured="structured_content={"),
    Client("CrewAI", "crewai_agent"),
    Client("Google ADK", "google_adk", structured='"structuredContent": {'),
    Client("Strands", "strands_agent", era="2026-07-28"),
    Client("Agno", "agno_agent", era="2026-07-28"),
    Client("Microsoft Agent Framework", "agent_framework_agent", era="2026-07-28", mistake="Error: Function failed."),
    Client("mcp-use", "mcp_use_agent", at_once=("list_files",)),  # it takes the resource "status" for the tool
    Client("AutoGen", "autogen_agent"),
]
BY_EXAMPLE = {client.example: client for client in CLIENTS}


def turns(command: str = "python solve.py") -> Script:
    """A whole attempt, with a mistake in it."""
    first, both, *rest = script(command)
    return (first, both, Does("read_file", {"path": "missing.py"}), *rest)


def check(client: Client, played: Played, transport: str) -> str:
    """Check that a whole attempt was made, note it, and return what the model was shown."""
    assert played.output.strip().splitlines()[-1] == FINAL
    assert sorted(played.tools[1 : 1 + len(client.at_once)]) == sorted(client.at_once)
    assert [tool for tool in played.tools if tool not in client.at_once] == IN_TURN
    assert (played.outcome, played.score, played.eras) == ("scored", SCORE, client.era)
    shown = json.dumps(played.model.asked[-1], ensure_ascii=False).replace("\\", "")
    assert "Submitted. Test score" in shown
    assert (client.structured in shown) if client.structured else ("against_baseline" not in shown)
    assert client.mistake in shown
    matrix.record(client.name, transport, played.eras, played.result, version=version_of(client.example))
    return shown


@pytest.mark.parametrize("transport", ["HTTP", "stdio"])
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.example)
async def test_an_agent_plays_a_task_to_its_score(client: Client, transport: str, place: Path, backend: str) -> None:
    played = await play(client.example, transport, place, backend, turns=turns(), environment=client.example)
    check(client, played, transport)


@pytest.mark.parametrize(
    ("example", "transport", "seconds"),
    [
        ("google_adk", "stdio", 6),  # by itself it would wait for 5 seconds
        ("autogen_agent", "stdio", 6),  # 5 seconds
        ("agno_agent", "HTTP", 11),  # 10 seconds
        ("llama_index_agent", "HTTP", 31),  # 30 seconds
    ],
)
async def test_a_training_may_take_longer_than_a_client_waits_unless_it_is_told_otherwise(
    example: str, transport: str, seconds: int, place: Path, backend: str
) -> None:
    training = turns(f"sleep {seconds}; python solve.py")
    played = await play(example, transport, place, backend, turns=training, environment=example)
    shown = check(BY_EXAMPLE[example], played, transport)
    assert f"[exit 0 after {seconds}." in shown
