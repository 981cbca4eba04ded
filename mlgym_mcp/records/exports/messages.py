"""The messages that an agent kept of its own play, see ``clients/mlgym_clients/agents/transcript.py``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from mlgym_mcp.records.attempts import finite, plain_name, whole
from mlgym_mcp.records.exports.trajectory import Call, Said, Tokens, Turn

FILE_NAME = "messages.jsonl"
_LONGEST_LINE = 16 << 20
_UNANSWERED = "(There was no answer.)"


@dataclass(slots=True)
class Heard:
    """What a file of messages tells.

    Attributes:
        model: which model spoke.
        tools: the definitions that it had.
        steps: what was said and done.
        damage: what could not be read.
    """

    model: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    steps: list[Said | Turn] = field(default_factory=list)
    damage: str = ""


def read_messages(path: Path) -> Heard:
    """Read a file of messages; lines that cannot be read are told in ``damage``.

    Raises:
        OSError: it cannot be read at all.
    """
    heard, broken, number = Heard(), 0, 0
    waiting: dict[str, tuple[int, int]] = {}
    """By the model's own id: the step and the place in it of a call without an answer."""
    with path.open("rb") as file:
        while raw := file.readline(_LONGEST_LINE):
            try:
                line = json.loads(raw)
                role, t = line["role"], finite(line.get("t")) or 0.0
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                broken += bool(raw.strip())
                continue
            if role == "setup":
                options = line.get("options")
                heard.model = plain_name(options.get("model")) if isinstance(options, Mapping) else ""
                heard.tools = _definitions(line.get("tools"))
            elif role in ("system", "user"):
                heard.steps.append(Said(role, _text(line.get("content")), t))
            elif role == "assistant":
                turn, ids = _turn(line, t, number)
                number += len(ids)
                heard.steps.append(turn)
                waiting |= {given: (len(heard.steps) - 1, place) for place, given in enumerate(ids)}
            elif role == "tool":
                _answer(heard.steps, waiting.pop(_text(line.get("tool_call_id")), None), line, t)
    if broken:
        heard.damage = f"{broken} line{'s'[: broken > 1]} of {path.name} could not be read"
    return heard


def _turn(line: Mapping[str, Any], t: float, number: int) -> tuple[Turn, list[str]]:
    """Return an answer of the model, and the ids that it gave its calls; ours are unique where those are not."""
    calls: list[Call] = []
    ids: list[str] = []
    given = line.get("tool_calls")
    for item in given if isinstance(given, list) else []:
        if not isinstance(item, Mapping):
            continue
        arguments = item.get("arguments")
        arguments = dict(arguments) if isinstance(arguments, Mapping) else {}
        name = plain_name(item.get("name")) or "unnamed"
        calls.append(Call(f"call_{number + len(calls)}", name, arguments, _UNANSWERED, "cancelled", t))
        ids.append(_text(item.get("id")))
    turn = Turn(_text(line.get("content")), tuple(calls), t, _text(line.get("thinking")), _tokens(line.get("usage")))
    return turn, ids


def _answer(steps: list[Said | Turn], where: tuple[int, int] | None, line: Mapping[str, Any], t: float) -> None:
    if where is None:
        return
    step, place = where
    turn = steps[step]
    assert isinstance(turn, Turn)
    calls = list(turn.calls)
    outcome: Any = "error" if line.get("error") is True else "ok"
    seconds = max(t - calls[place].started, 0.0)
    calls[place] = replace(calls[place], text=_text(line.get("content")), outcome=outcome, seconds=seconds)
    steps[step] = replace(turn, calls=tuple(calls))


def _tokens(usage: Any) -> Tokens | None:
    if not isinstance(usage, Mapping):
        return None
    read, written, cached = (whole(usage.get(name)) for name in ("in", "out", "cached"))
    if read is None and written is None:
        return None
    return Tokens(max(read or 0, 0), max(written or 0, 0), max(cached or 0, 0))


def _definitions(given: Any) -> tuple[Mapping[str, Any], ...]:
    found = []
    for item in given if isinstance(given, list) else []:
        try:
            tool = json.loads(item) if isinstance(item, str) else item
        except (ValueError, RecursionError):
            continue
        if isinstance(tool, Mapping) and isinstance(tool.get("name"), str):
            found.append({name: tool.get(name) for name in ("name", "description", "parameters")})
    return tuple(found)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def messages_of(folder: Path, known: Mapping[str, Path]) -> Path | None:
    """Return the messages of an episode: beside its journal, or where a sweep says; ``None`` if none were kept."""
    beside = folder / FILE_NAME
    path = beside if beside.is_file() else known.get(folder.name)
    return path if path is not None and path.is_file() else None


def messages_in_sweeps(ledgers: Sequence[Path]) -> dict[str, Path]:
    """Return where sweeps keep messages, by the episode's name, from their ``attempts.jsonl``.

    A line's ``messages`` is a path below the sweep's folder; what leads out of it is nobody's business.

    Raises:
        OSError: a ledger cannot be read.
    """
    found: dict[str, Path] = {}
    for ledger in ledgers:
        root = ledger.parent.resolve()
        with ledger.open("rb") as file:
            while raw := file.readline(_LONGEST_LINE):
                try:
                    line = json.loads(raw)
                    path = (root / line["messages"]).resolve()
                    name = PurePosixPath(line["episode"]).name
                except (ValueError, LookupError, TypeError, RecursionError, OSError):
                    continue
                if path.is_relative_to(root) and path.name == FILE_NAME:
                    found[name] = path
    return found
