"""Plays one of ``clients/examples`` in its framework's own environment, with a scripted model and a real session."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from mlgym_mcp.records.episodes import episode_folders, summarize
from mlgym_mcp.session.journal import read_journal
from tests.frameworks.environments import REQUIREMENTS, python_of
from tests.frameworks.scripted_model import FINAL, Does, Script, ScriptedModel, scripted_model
from tests.serving.conftest import running_host
from tests.serving.control_client import admin_of

EXAMPLES = REQUIREMENTS.parent

GENERATOR = """\
import json
def build(ctx):
    (ctx.public / "README.md").write_text("ids 0-19 are for validation, 20-39 for the test\\n")
    (ctx.private / "labels.json").write_text(json.dumps({s: [i % 2 for i in range(20)] for s in ("val", "test")}))
"""
"""Of the toy task, with a score that is known beforehand."""

SOLVE = """\
with open("submission.csv", "w") as file:
    file.write("id,label\\n")
    file.writelines(f"{i},{i % 2 if i < 37 else 1 - i % 2}\\n" for i in range(40))
"""
SCORE = 0.85
"""What SOLVE reaches on the test split; on the validation split it is 1."""


def script(command: str = "python solve.py") -> Script:
    """The model's: a whole attempt; ``command`` solves."""
    return (
        Does("get_task"),
        (Does("list_files"), Does("status")),
        Does("write_file", {"path": "solve.py", "content": SOLVE.replace("37", "30")}),
        Does("edit_file", {"path": "solve.py", "old": "30", "new": "37"}),
        Does("shell", {"command": command}),
        Does("validate"),
        Does("submit"),
    )


@dataclass(frozen=True)
class Played:
    """How it went.

    Attributes:
        output: what the example printed.
        calls: the tool calls in the journal, in order: the events that tell of them.
        score: the final one, from the journal.
        outcome: how the episode ended.
        model: what was asked of it is in here.
    """

    output: str
    calls: list[Mapping[str, Any]]
    score: float | None
    outcome: str
    model: ScriptedModel

    @property
    def tools(self) -> list[str]:
        return [str(call["tool"]) for call in self.calls]

    @property
    def eras(self) -> str:
        return ", ".join(sorted({str(call["era"]) for call in self.calls}))

    @property
    def result(self) -> str:
        """For the matrix."""
        return f"{self.outcome}: {len(self.calls)} calls"


async def play(example: str, transport: str, place: Path, backend: str, *, turns: Script, environment: str) -> Played:
    """Play an example.

    Args:
        example: its file's name, without the ending.
        transport: ``HTTP``, to a session made through the control API, or ``stdio``.
        place: a home for the framework, and where it runs.
        backend: the sandbox of a session over HTTP.
        turns: what the model does.
        environment: the name of the framework's environment.
    """
    python = await anyio.to_thread.run_sync(python_of, environment)
    command = [str(python), str(EXAMPLES / f"{example}.py")]
    async with scripted_model(player=turns) as model:
        settings = _settings(place, model)
        if transport == "stdio":
            mine = {name: value for name, value in os.environ.items() if name.startswith("MLGYM_")}
            settings |= {**mine, "MLGYM_COMMAND": str(Path(sys.executable).with_name("mlgym-mcp"))}
            output = await _run([*command, "--stdio", "toy"], settings, place)
        else:
            async with running_host(backend, require_token=True) as host, admin_of(host) as admin:
                made = (await admin.post("/api/sessions", json={"task": "toy"})).json()
                settings |= {"MLGYM_URL": made["mcp_url"], "MLGYM_TOKEN": made["token"]}
                output = await _run(command, settings, place)
    (folder,) = episode_folders()
    calls = [event.fields for event in read_journal(folder) if event.type == "call"]
    summary = summarize(folder)
    return Played(output, calls, summary.value, summary.outcome, model)


def _settings(place: Path, model: ScriptedModel) -> dict[str, str]:
    """Nothing of this process's environment but where programs are; and nobody but loopback is reached."""
    nowhere = "http://127.0.0.1:9"
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(place),
        "LANG": "C.UTF-8",
        "MODEL": "player",
        "OPENAI_API_KEY": "sk-scripted",
        "OPENAI_BASE_URL": f"{model.url}/v1",
        "ANTHROPIC_API_KEY": "sk-ant-scripted",
        "ANTHROPIC_BASE_URL": model.url,
        "HTTP_PROXY": nowhere,
        "HTTPS_PROXY": nowhere,
        "NO_PROXY": "127.0.0.1,localhost",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks for a newer one, three times
        "CREWAI_DISABLE_TELEMETRY": "true",
        "OTEL_SDK_DISABLED": "true",
        "MCP_USE_ANONYMIZED_TELEMETRY": "false",
    }


async def _run(command: list[str], settings: Mapping[str, str], place: Path) -> str:
    with anyio.fail_after(100):
        done = await anyio.run_process(command, check=False, env=settings, cwd=place)
    output = done.stdout.decode()
    assert done.returncode == 0, f"{output}\n{done.stderr.decode()}"
    return output


def version_of(environment: str) -> str:
    """The version of what an environment is for: its first requirement."""
    found = re.match(r"[\w.\[\],-]+==(\S+)", (REQUIREMENTS / f"{environment}.txt").read_text())
    assert found is not None, environment
    return found[1]


__all__ = ["FINAL", "SCORE", "Played", "play", "script", "version_of"]
