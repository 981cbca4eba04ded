"""Actions: how a learner says which tool it calls. Whatever cannot be understood is answered, never raised."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from mlgym_clients.gym.text import AnyText

ActionKind = Literal["json", "shell", "calls"]

TOOLS = (
    *("get_task", "status", "read_file", "write_file", "edit_file", "list_files", "search_files"),
    *("shell", "job_wait", "job_output", "job_list", "job_stop"),
    *("validate", "submit", "note_write", "note_search"),
)
"""The tools of a session, in the order of their numbers in the action kind ``calls``."""

WORDS = ("validate", "submit", "status", "get_task")
"""In the action kind ``shell`` these are tools, not commands."""

_EXAMPLE = '{"tool": "shell", "arguments": {"command": "ls"}}'
_LONGEST = 100_000
_MOST_SENT = 4_000_000
"""A server takes 8 MiB; escapes double what JSON has to carry."""

_DEEPEST = 16
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool and its arguments."""

    tool: str
    arguments: Mapping[str, Any]


class UnclearActionError(ValueError):
    """An action is no tool call; the message says so to the learner."""


def action_space(kind: ActionKind) -> spaces.Space[Any]:
    """Return the space of a kind of actions.

    ``json``: a text, ``{"tool": NAME, "arguments": {...}}``. ``shell``: a text, a command line, or one of the words
    ``validate``, ``submit``, ``status`` and ``get_task``. ``calls``: a dictionary of a tool's number and its
    arguments, a JSON text.

    Raises:
        ValueError: there is no such kind.
    """
    if kind in ("json", "shell"):
        return AnyText(_LONGEST)
    if kind == "calls":
        return spaces.Dict({"arguments": AnyText(_LONGEST), "tool": spaces.Discrete(len(TOOLS))})
    raise ValueError(f"there is no action kind {kind!r}: use 'json', 'shell' or 'calls'")


def read_action(action: Any, kind: ActionKind) -> ToolCall:
    """Return the tool call that an action is. Dictionaries and pairs are understood whatever the kind.

    Raises:
        UnclearActionError: it is none.
    """
    if isinstance(action, np.ndarray) and action.ndim == 0:
        action = action.item()
    if isinstance(action, tuple | list) and len(action) == 2:
        action = {"tool": action[0], "arguments": action[1]}
    if isinstance(action, str):
        if kind == "shell":
            word = action.strip()
            return ToolCall(word, {}) if word in WORDS else ToolCall("shell", {"command": action})
        action = _parsed(action)
    if not isinstance(action, Mapping):
        raise UnclearActionError(_unclear(f"it is {_named(action)}"))
    tool, arguments = action.get("tool"), action.get("arguments")
    if unknown := sorted(map(str, action.keys() - {"tool", "arguments"})):
        raise UnclearActionError(_unclear(f"it has the unknown keys {', '.join(unknown)[:_SHOWN]}"))
    if isinstance(tool, np.integer | int) and not isinstance(tool, bool) and 0 <= tool < len(TOOLS):
        tool = TOOLS[int(tool)]
    if not isinstance(tool, str) or tool not in TOOLS:
        said = "it names no tool" if tool is None else f"there is no tool {str(tool)[:_SHOWN]!r}"
        raise UnclearActionError(_unclear(f"{said}; the tools are {', '.join(TOOLS)}"))
    if isinstance(arguments, str):
        arguments = _parsed(arguments) if arguments.strip() else {}
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise UnclearActionError(_unclear(f"its arguments are {_named(arguments)}, not an object"))
    return ToolCall(tool, _sendable(arguments))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        where = f"at character {exc.pos}: {exc.msg}" if isinstance(exc, json.JSONDecodeError) else "it is too deep"
        raise UnclearActionError(_unclear(f"it is not JSON ({where})")) from None


def _sendable(arguments: Mapping[Any, Any]) -> dict[str, Any]:
    """Return arguments as JSON has them."""
    try:
        text = json.dumps(dict(arguments), allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        raise UnclearActionError(_unclear("its arguments hold what JSON cannot")) from None
    if len(text) > _MOST_SENT:
        raise UnclearActionError(_unclear(f"its arguments are longer than {_MOST_SENT} characters"))
    if _too_deep(arguments):
        raise UnclearActionError(_unclear(f"its arguments are nested deeper than {_DEEPEST} levels"))
    sendable: dict[str, Any] = json.loads(text)
    return sendable


def _too_deep(value: Any, left: int = _DEEPEST) -> bool:
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return left < 0 or any(_too_deep(item, left - 1) for item in inner)


def _unclear(why: str) -> str:
    return f"This action was not understood: {why}. An action looks like {_EXAMPLE}."


def _named(value: Any) -> str:
    names = {list: "a list", str: "a text", type(None): "null", bool: "true or false", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")
