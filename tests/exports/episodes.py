"""Episodes with everything that exports must handle, written without a server."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mlgym_mcp.session.episode import Episode

SESSION = "0123456789abcdef0123456789abcdef"
TOKEN = "Ab3_-Cd5Ef6Gh7Ij8Kl9Mn0Op1Qr2St4"
PLANTED = (
    SESSION,
    TOKEN,
    "sk-ant-api03-PLANTEDplantedPLANTED",
    "ghp_PLANTEDplantedPLANTEDplantedPLANTED12",
    "planted-admin-token",
    "planted-by-environment",
    "0.87654321",  # a validation at full precision
    "planted-private-note",
    "planted-other-metric",
    "planted-node",
    "planted-owner",
    "/planted/server/path",
    SESSION[:24],  # of a sandbox's name
)
"""What must be in no export."""


def score(kind: str, shown: float, *, valid: bool = True) -> dict[str, Any]:
    return {
        "kind": kind,
        "valid": valid,
        "primary": "accuracy",
        "higher_is_better": True,
        "metrics": {"accuracy": 0.87654321 if kind == "validate" else shown, "planted-other-metric": 0.5},
        "se": {"accuracy": 0.01},
        "baseline": 0.5,
        "shown": shown if valid else None,
        "code": None if valid else "shape",
        "reason": None if valid else "9 rows, 10 were expected",
        "snapshot": "ab" * 32,
        "seconds": 1.5,
        "public": {"rows": 10},
        "private": {"log": "planted-private-note"},
    }


def write_hostile(root: Path, name: str = "20260101-000000-toy-01234567", **metadata: Any) -> Path:
    """An episode with secrets wherever one can be, calls in parallel, long arguments, odd letters, all outcomes."""
    episode = Episode(root / name)
    journal = episode.journal

    def call(tool: str, **arguments: Any) -> int:
        return journal.append("call", tool=tool, arguments=episode.shrink(arguments), counted=True).seq

    def result(seq: int, text: str | None = None, **more: Any) -> None:
        journal.append("result", call=seq, seconds=0.25, **({} if text is None else {"text": text}), **more)

    journal.append(
        "session",
        task="toy",
        task_version="1.0.0",
        preset="mini",
        seed=3,
        budget={"wall_s": 600.0, "calls": 40, "validations": 3, "cpu_s": None},
        sandbox="bubblewrap",
        server="0.1.0",
        host={"pid": 4, "node": "planted-node"},
        metadata={"agent": "a", "sweep": "s", "attempt": 7, "owner": "planted-owner", **metadata},
        digests={name: hashlib.sha256(value.encode()).hexdigest() for name, value in _SECRETS.items()},
    )
    journal.append("sandbox", state="started", name=f"mlgym-{SESSION[:24]}", data="cd" * 32)
    first = call("shell", command="env | grep KEY")
    result(first, f"A_KEY=sk-ant-api03-PLANTEDplantedPLANTED\nhostname mlgym-{SESSION[:24]}\n[exit 0 after 0.1 s]")
    both = [call("read_file", path="a"), call("read_file", path="b \ud800 \u202e")]
    result(both[1], "=1+1", meta={"planted-private-note": 1})
    result(both[0], f"url http://h/sessions/{SESSION}/mcp token {TOKEN} planted-admin-token", is_error=True)
    long = call("write_file", path="x" * 10, content="y" * 20_000 + " ghp_PLANTEDplantedPLANTEDplantedPLANTED12")
    result(long, "written")
    result(call("shell", command="boom"), error="OSError: /planted/server/path is full")
    result(call("shell", command="later"), refused="The budget of 40 tool calls is spent.")
    result(call("shell", command="cut"), cancelled=True)
    asked = call("validate")
    journal.append("score", **score("validate", 0.88))
    result(asked, "Validation score: accuracy 0.88")
    asked = call("submit")
    journal.append("score", **score("submit", 0.75))
    result(asked, "Submitted. Test score: accuracy 0.75", meta={"job_id": "j1"})
    reason = "the work was submitted planted-by-environment"
    journal.append("end", outcome="scored", reason=reason, score=score("submit", 0.75), spent={"cpu_s": 1.0})
    episode.close()
    return episode.folder


_SECRETS = {"session": SESSION, "token": TOKEN}


def write_messages(path: Path) -> Path:
    """What an agent with a model kept of that episode."""
    tool = json.dumps({"name": "shell", "description": "Run.", "parameters": {"type": "object", "properties": {}}})
    t = 4_000_000_000.0

    def call(name: str, identity: str, **arguments: Any) -> dict[str, Any]:
        return {"id": identity, "name": name, "arguments": arguments}

    used = {"in": 100, "out": 10, "cached": 40}
    lines: list[dict[str, Any]] = [
        {"role": "setup", "options": {"model": "openai:gpt-x"}, "tools": [tool]},
        {"role": "system", "content": "You are an agent."},
        {"role": "user", "content": f"The task. {TOKEN}"},
        {
            "role": "assistant",
            "content": "I look.",
            "thinking": "hm",
            "usage": used,
            "tool_calls": [call("shell", "same", command="env | grep KEY"), call("nothing", "other")],
        },
        {"role": "tool", "tool_call_id": "same", "name": "shell", "content": "A_KEY=[key]", "error": False},
        {"role": "tool", "tool_call_id": "other", "name": "nothing", "content": "There is no tool", "error": True},
        {"role": "note", "content": "no answer: 429"},
        {"role": "assistant", "content": "", "usage": used, "tool_calls": [call("submit", "same", confirm=True)]},
        {"role": "tool", "tool_call_id": "same", "name": "submit", "content": "Submitted.", "error": False},
        {"role": "note", "content": "stopped (submitted)", "stop": "submitted"},
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"t": t + i, **line}) + "\n" for i, line in enumerate(lines)))
    return path
